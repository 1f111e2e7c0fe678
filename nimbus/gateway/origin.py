# SPDX-License-Identifier: Apache-2.0
"""Where a call comes from, and the names it goes by on its way.

An `Origin` is the caller's address as far as it can be trusted, with what follows from it: the
limit per address and the lines that tell it to whoever is behind us. Request ids are UUIDv7,
made by counting: the time, bits that are this process's own, and a number that never repeats.
"""

import itertools
import os
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from nimbus.base import clock
from nimbus.gateway.head import Block
from nimbus.gateway.upstream import Address, Network
from nimbus.gateway.windows import PER_ADDRESS, RateWindows, Window
from nimbus.rules.metering import IPV6

MAX_ORIGINS: Final = 4_096  # remembered, of callers behind trusted proxies


class Origin:
    """A caller's address and scheme. `lines` are the X-Forwarded-For and -Proto header lines,
    `packed` and `flags` the address as the journal has it.
    """

    __slots__ = ("_generation", "_limiter", "address", "flags", "lines", "packed")

    def __init__(self, address: Address, scheme: bytes) -> None:
        self.address = address
        self.packed = address.packed
        self.flags = IPV6 if address.version == 6 else 0
        self.lines = b"X-Forwarded-For: %s\r\nX-Forwarded-Proto: %s\r\n" % (
            str(address).encode(),
            scheme,
        )
        self._limiter: Window | None = None
        self._generation = -1

    def limiter(self, windows: RateWindows, now: int) -> Window:
        """The limit per address; `now` in microseconds of machine time."""
        limiter = self._limiter
        if limiter is None or self._generation != windows.generation:
            limiter = windows.limiter(("address", self.address, PER_ADDRESS), now)
            self._limiter, self._generation = limiter, windows.generation
        return limiter


class Origins:
    """Finds a call's origin: the peer, or what trusted proxies say."""

    def __init__(self, scheme: bytes, trusted_proxies: tuple[Network, ...]) -> None:
        self._scheme = scheme
        self._trusted = trusted_proxies
        self._known: dict[tuple[Address, bytes], Origin] = {}

    def of_peer(self, text: str) -> Origin:
        """The origin of a connection: the peer's address."""
        return Origin(plain_address(text), self._scheme)

    def trusts(self, peer: Origin) -> bool:
        """Whether a connection is that of a trusted proxy."""
        return bool(self._trusted) and _is_in(peer.address, self._trusted)

    def of_call(self, peer: Origin, block: Block) -> Origin:
        """The peer, or the last address that trusted proxies did not vouch for."""
        if not self._trusted or not self.trusts(peer):
            return peer
        named = [
            part.strip() for value in block.values(b"x-forwarded-for") for part in value.split(b",")
        ]
        address, scheme = peer.address, self._scheme
        while named and _is_in(address, self._trusted):
            try:
                address = plain_address(named.pop().decode("ascii"))
            except ValueError:
                break
        schemes = block.values(b"x-forwarded-proto")
        if schemes and schemes[0] in {b"http", b"https"}:
            scheme = schemes[0]
        return self._origin(address, scheme)

    def _origin(self, address: Address, scheme: bytes) -> Origin:
        found = self._known.get((address, scheme))
        if found is None:
            if len(self._known) >= MAX_ORIGINS:
                self._known.clear()
            found = self._known[address, scheme] = Origin(address, scheme)
        return found


def plain_address(text: str) -> Address:
    """An address, with an IPv4 one mapped into IPv6 made plain; raises ValueError."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


_ENDS: Final = tuple(b"%03x" % number for number in range(4_096))
_own: Final = int.from_bytes(os.urandom(4), "big")
_blocks: Final = itertools.count(int.from_bytes(os.urandom(4), "big"))
_ends: Iterator[bytes] = iter(())
_prefix = _trace = b""
_until = 0


def new_request_id(now: int) -> bytes:
    """A request's id: a UUIDv7 in its usual text form, unique beyond this process; `now` in
    microseconds of machine time.
    """
    if now < _until:
        for end in _ends:
            return _prefix + end
    _renew(now)
    return new_request_id(now)


def trace_line(request_id: bytes) -> bytes:
    """The traceparent header line of a request that brought none of its own."""
    if request_id.startswith(_prefix):
        end = request_id[-3:]
        return _trace % (end, end)
    trace = request_id.replace(b"-", b"")
    return b"traceparent: 00-%b-%b-01\r\n" % (trace, trace[16:])


def _renew(now: int) -> None:
    """What the ids of the next millisecond begin with: the time, what is this process's own, and a
    number that comes once; each has another end.
    """
    global _prefix, _trace, _ends, _until  # noqa: PLW0603 - one sequence a process
    high, low = divmod(clock.machine_ns() // 1_000_000, 0x10000)
    own = (_own & 0xFFF, 0x8000 | _own >> 12 & 0x3FFF)
    _prefix = b"%08x-%04x-7%03x-%04x-%09x" % (high, low, *own, next(_blocks))
    plain = _prefix.replace(b"-", b"")
    _trace = b"traceparent: 00-%b%%b-%b%%b-01\r\n" % (plain, plain[16:])
    _ends, _until = iter(_ENDS), now + 1_000


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address.version == each.version and address in each for each in networks)
