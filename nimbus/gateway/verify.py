# SPDX-License-Identifier: Apache-2.0
"""The caller's one credential: reading it, hashing it, and looking up what the feed has not
brought yet.

A secret is used once, for its keyed hash, and kept nowhere. What is not known and has not the form
and checksum of a key is refused without a question to the house. A well-formed key that is not
known here may be a new one: it is asked for once, however many calls bring it, and only so many
at a time.
"""

import asyncio
import re
from collections.abc import Callable
from hashlib import sha256

from nimbus.base import clock
from nimbus.gateway.head import RequestHead
from nimbus.gateway.route import parameter_values

KEY_PARAMETER = b"api_key"
MAX_LOOKUPS = 64  # at a time
LOOKUP_SECONDS = 2
UNKNOWN_SECONDS = 1  # how long an unknown key is not asked for again
MAX_UNKNOWN = 10_000

_BLOCK = 64  # bytes of a block of SHA-256
_BEARER = re.compile(rb"(?i:bearer) +([!-~]+)")


def read_secret(head: RequestHead, *, key_in_query: bool) -> bytes | str:
    """The secret that the caller gives, or the code of the refusal. Source: spec 03 step 2."""
    block, query = head.block, head.line.query
    if head.secret is not None and not block.credentials and not (key_in_query and query):
        return head.secret
    authorizations = block.values(b"authorization")
    found = authorizations + block.values(b"x-api-key")
    if head.secret is not None:
        found.append(head.secret)
    if key_in_query:
        found += parameter_values(query, KEY_PARAMETER)
    if not found:
        return "missing_api_key"
    if len(found) > 1:
        return "ambiguous_credentials"
    if authorizations:
        match = _BEARER.fullmatch(found[0])
        return match[1] if match else "invalid_api_key"
    return found[0]


class KeyedHash:
    """The hash under which keys are stored, HMAC-SHA256 of the whole secret with one pepper, whose
    part of the work is done beforehand.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, pepper: bytes) -> None:
        block = sha256(pepper).digest() if len(pepper) > _BLOCK else pepper
        block = block.ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block)).copy
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block)).copy

    def digest(self, secret: bytes) -> bytes:
        """HMAC-SHA256 of the secret. Source: RFC 2104."""
        inner, outer = self._inner(), self._outer()
        inner.update(secret)
        outer.update(inner.digest())
        return outer.digest()


class KeyLookups:
    """Asks the house for keys that are not known here. `ask(digest)` starts a look-up, whose
    answer comes to `answer` once the key's records were applied.
    """

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._running: dict[bytes, list[asyncio.Future[bool | None]]] = {}
        self._unknown: dict[bytes, float] = {}

    async def find(self, digest: bytes) -> bool | None:
        """Whether there is such a key; None when nobody can say now."""
        if self._unknown.get(digest, 0) > clock.monotonic():
            return False
        waiters = self._running.get(digest)
        if waiters is None:
            if len(self._running) >= MAX_LOOKUPS:
                return None
            waiters = self._running[digest] = []
            self._ask(digest)
        waiter: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await waiter
        except TimeoutError:
            return None

    def answer(self, digest: bytes, *, found: bool | None) -> None:
        """The house has answered: there is one, there is none, or it could not say (None)."""
        if found is False:
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[digest] = clock.monotonic() + UNKNOWN_SECONDS
        for waiter in self._running.pop(digest, []):
            if not waiter.done():
                waiter.set_result(found)
