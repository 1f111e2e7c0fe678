# SPDX-License-Identifier: Apache-2.0
"""Secrets of people: password hashes, access tokens, refresh tokens, one-time links.

Refresh tokens and links are not stored: they are an id and an HMAC over it under `token_key`,
so that a stolen table opens nothing. Access tokens are JWTs (RFC 7519), HS256 with a key id.
"""

import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import anyio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from zxcvbn import zxcvbn

from nimbus.base import clock, db
from nimbus.base.ids import NIL
from nimbus.base.secrets import secret
from nimbus.errors import Refusal, field_error

ACCESS_SECONDS = 15 * 60
ISSUER = "nimbus"
AUDIENCE = "nimbus-api"
KEY_ID = "1"
MIN_PASSWORD = 12
MAX_PASSWORD = 200
ZXCVBN_CHARS = 72
GUESSABLE_SCORE = 2

_hasher = PasswordHasher()
# Of a random password that nobody kept; made beforehand, because making it takes as long as all
# imports of a process together. A test holds its parameters equal to the hasher's.
_NOBODY = (
    "$argon2id$v=19$m=65536,t=3,p=4$eGzjwiaLF7vb9A0DZjnLcA$Mbd+DB"
    "cBnpRvPe58Uomfd4qgC1rcUuMVC+NZaOw+6f0"
)


@lru_cache(maxsize=1)
def _cores() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(2)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What an access token says: who, for which organization, in which session."""

    user_id: UUID
    organization_id: UUID
    session_id: UUID


def check_password(password: str, *personal: str) -> None:
    """Refuse a weak password: 422 naming `password`.

    At least 12 characters, at most 200, and not easily guessed (common passwords and the
    person's own words count as guessed).
    """
    if len(password) < MIN_PASSWORD:
        raise field_error("password", "too_short", f"At least {MIN_PASSWORD} characters")
    if len(password) > MAX_PASSWORD:
        raise field_error("password", "too_long", f"At most {MAX_PASSWORD} characters")
    words = [word for word in personal if word]
    if zxcvbn(password[:ZXCVBN_CHARS], user_inputs=words)["score"] < GUESSABLE_SCORE:
        raise field_error("password", "too_common", "This password is easily guessed")


async def hash_password(password: str) -> str:
    """Argon2id, in a thread, two at a time."""
    return await anyio.to_thread.run_sync(_hasher.hash, password, limiter=_cores())


async def password_matches(password_hash: str | None, password: str) -> bool:
    """Whether it is the password; an unknown account takes as long as a known one."""

    def verify() -> bool:
        try:
            return _hasher.verify(password_hash or _NOBODY, password)
        except (VerifyMismatchError, InvalidHashError):
            return False

    matches = await anyio.to_thread.run_sync(verify, limiter=_cores())
    return matches and password_hash is not None


def access_token(token: AccessToken) -> str:
    """A signed JWT, valid for 15 minutes of machine time."""
    issued = int(clock.machine_now().timestamp())
    claims: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(token.user_id),
        "org": str(token.organization_id),
        "sid": str(token.session_id),
        "iat": issued,
        "nbf": issued,
        "exp": issued + ACCESS_SECONDS,
    }
    return jwt.encode({"alg": "HS256", "typ": "at+jwt", "kid": KEY_ID}, claims, _key())


def read_access_token(text: str) -> AccessToken:
    """What a token says; raises 401 `unauthenticated` for anything but a valid one of ours."""
    try:
        token = jwt.decode(text, _key(), algorithms=["HS256"])
        now = int(clock.machine_now().timestamp())
        jwt.JWTClaimsRegistry(
            now=now,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": AUDIENCE},
            exp={"essential": True},
            nbf={"essential": True},
        ).validate(token.claims)
        known = AccessToken(
            UUID(token.claims["sub"]), UUID(token.claims["org"]), UUID(token.claims["sid"])
        )
    except (JoseError, ValueError, KeyError, TypeError, AttributeError):
        raise Refusal("unauthenticated", "Sign in again.") from None
    if token.header.get("typ") != "at+jwt" or token.header.get("kid") != KEY_ID:
        raise Refusal("unauthenticated", "Sign in again.")
    return known


def refresh_token(session_id: UUID, number: int) -> str:
    """The refresh token number `number` of a session."""
    return _signed("refresh", f"{session_id.hex}.{number}")


def read_refresh_token(text: str) -> tuple[UUID, int] | None:
    """The session and the token's number, or None when it is not ours."""
    body = _verified("refresh", text)
    if body is None:
        return None
    session, _, number = body.partition(".")
    return UUID(session), int(number)


def link_token(link_id: UUID) -> str:
    """The secret of a one-time link or an invitation, made from its id."""
    return _signed("link", link_id.hex)


def read_link_token(text: str) -> UUID:
    """The link's id, NIL when it is not a link of ours."""
    body = _verified("link", text)
    return UUID(body) if body else NIL


def _signed(purpose: str, body: str) -> str:
    return f"{body}.{_mac(purpose, body)}"


def _verified(purpose: str, text: str) -> str | None:
    body, _, mac = text.rpartition(".")
    if not body.isascii() or not hmac.compare_digest(_mac(purpose, body).encode(), mac.encode()):
        return None
    return body


def _mac(purpose: str, body: str) -> str:
    key = secret(db.current().settings, "token_key")
    return hmac.new(key, f"{purpose}:{body}".encode(), hashlib.sha256).hexdigest()


def _key() -> OctKey:
    return OctKey.import_key(secret(db.current().settings, "token_key"))
