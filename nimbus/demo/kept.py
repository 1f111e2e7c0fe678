# SPDX-License-Identifier: Apache-2.0
"""What `run.json` keeps of the demo: how to sign in, with which keys, where the upstreams are.

Nobody else knows the passwords and secrets: what is not in the file any more is made anew.
"""

import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PASSWORD_BYTES = 15
LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Where the two example servers answer. Test keys never reach the live one (K-06)."""

    live: str
    test: str

    def answer(self) -> bool:
        """Whether both take connections."""
        return all(_takes_connections(url) for url in (self.live, self.test))


class Kept:
    """The demo's part of `run.json`, to be read, added to and given back."""

    def __init__(self, content: Mapping[str, Any], demo_password: str | None) -> None:
        self._demo_password = demo_password
        self._accounts = {account["email"]: account for account in content.get("accounts", ())}
        self._passwords = {email: str(one["password"]) for email, one in self._accounts.items()}
        self._keys = {
            (key["organization"], key["environment"]): key for key in content.get("api_keys", ())
        }

    def password(self, email: str) -> str:
        """The password that an account has to have: the one that was set, kept, or a new one."""
        if email not in self._passwords:
            self._passwords[email] = secrets.token_urlsafe(PASSWORD_BYTES)
        return self._demo_password or self._passwords[email]

    def secret(self, organization: str, environment: str) -> str | None:
        """The secret of an organization's key, where it is known."""
        key = self._keys.get((organization, environment))
        return None if key is None else str(key["secret"])

    def add_account(self, role: str, email: str, password: str, organization: str | None) -> None:
        """Keep how to sign in."""
        values = {"role": role, "email": email, "password": password, "organization": organization}
        self._accounts[email] = values

    def add_key(self, organization: str, environment: str, secret: str) -> None:
        """Keep a key."""
        values = {"organization": organization, "environment": environment, "secret": secret}
        self._keys[organization, environment] = values

    def content(self) -> dict[str, Any]:
        """What `run.json` says of accounts and keys."""
        return {"accounts": list(self._accounts.values()), "api_keys": list(self._keys.values())}


def read(data_dir: Path) -> dict[str, Any]:
    """`run.json`; empty while there is none."""
    path = data_dir / "run.json"
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def known_upstreams(content: Mapping[str, Any]) -> Upstreams | None:
    """Where the example servers were at the last start with the demo."""
    live, test = content.get("wind_url"), content.get("wind_test_url")
    return Upstreams(live, test) if live and test else None


def given_upstreams(upstreams: Upstreams) -> dict[str, str]:
    """What `run.json` says of the example servers."""
    found = asdict(upstreams)
    return {"wind_url": found["live"], "wind_test_url": found["test"]}


def choose_upstreams(content: Mapping[str, Any]) -> Upstreams:
    """Where the example servers shall listen: as before, or at a free port where that is taken."""
    known = known_upstreams(content)
    wanted = (urlsplit(known.live).port, urlsplit(known.test).port) if known else (0, 0)
    with _listener(wanted[0] or 0) as live, _listener(wanted[1] or 0) as test:
        return Upstreams(*(f"http://{LOOPBACK}:{one.getsockname()[1]}" for one in (live, test)))


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(1)
    except OSError:
        listener.close()
        return _listener(0)
    return listener


def _takes_connections(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), CONNECT_SECONDS):
            return True
    except OSError:
        return False
