# SPDX-License-Identifier: Apache-2.0
"""Server-side secrets: files of the data folder, mode 0600, made at the first embedded start.

Sealing is AES-256-GCM under `seal_key`, with a version byte in front, so that a key can be
replaced while old values stay readable. Its library is imported where something is sealed or
unsealed: it is 8 MB, and most gateway processes need none of it.
"""

import os
import secrets as randomness
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nimbus.base.config import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DATABASE_NAMES = ("db_app", "db_system", "db_gateway", "db_owner")
NAMES = ("pepper_1", "token_key", "seal_key", "metrics_token", *DATABASE_NAMES)
SEAL_VERSION = b"\x01"
NONCE_BYTES = 12


class SecretMissingError(Exception):
    """A secret file is not there; production mode never makes one by itself."""


def make_missing(settings: Settings) -> None:
    """Make each secret that is not there yet: 32 random bytes as hex, readable by us alone."""
    settings.secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in NAMES:
        path = settings.secrets_dir / name
        if not path.exists():
            _write_private(path, randomness.token_hex(32))


def secret(settings: Settings, name: str) -> bytes:
    """The secret `name` as bytes of its hex text; raises `SecretMissingError`."""
    return _read(settings.secrets_dir / name)


def database_login(settings: Settings, role: str) -> dict[str, str]:
    """How to connect as `role` (app, system, gateway; owner: who may make roles and migrate).

    Keyword arguments of `psycopg.connect`. The embedded server is reached over its Unix socket
    only; of an ordinary one the address is taken and the role's own name and password put in.
    """
    if settings.database_url is None:
        user = "postgres" if role == "owner" else f"nimbus_{role}"
        place = {"host": str(settings.run_dir), "port": "5432", "dbname": "nimbus"}
    elif role == "owner":
        return {"conninfo": str(settings.database_owner_url)}
    else:
        user, place = f"nimbus_{role}", {"conninfo": settings.database_url}
    return {**place, "user": user, "password": secret(settings, f"db_{role}").decode()}


def seal(settings: Settings, plaintext: bytes) -> bytes:
    """Encrypt for storage: version, nonce, ciphertext with tag."""
    nonce = randomness.token_bytes(NONCE_BYTES)
    return SEAL_VERSION + nonce + _cipher(settings).encrypt(nonce, plaintext, SEAL_VERSION)


def unseal(settings: Settings, sealed: bytes) -> bytes:
    """The plaintext of `seal()`; raises ValueError when it was changed or is of another key."""
    from cryptography.exceptions import InvalidTag

    nonce, body = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    if sealed[:1] != SEAL_VERSION:
        raise ValueError("sealed by an unknown version")
    try:
        return _cipher(settings).decrypt(nonce, body, SEAL_VERSION)
    except InvalidTag:
        raise ValueError("sealed value does not verify") from None


def _cipher(settings: Settings) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(bytes.fromhex(secret(settings, "seal_key").decode()))


@lru_cache(maxsize=64)
def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        raise SecretMissingError(f"secret {path.name} is missing in {path.parent}") from None


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
