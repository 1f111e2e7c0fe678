# SPDX-License-Identifier: Apache-2.0
"""Signs of abuse in what a gateway sees: counts within ten minutes, and what they mean.

    refused_keys   an address brings many different keys that do not work: somebody guesses
    path_scan      an address asks for many paths that do not exist: somebody looks for holes
    many_addresses one key comes from many addresses: it may have leaked

A sign is given once a period for its subject. What is counted is bounded: a flood of new
addresses forgets old ones and never grows. An IPv6 caller is its /64, which is one customer's.

Instants are machine time in whole microseconds from any origin that only goes forward.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Literal, TypeVar
from uuid import UUID

from nimbus.rules.limits import SECOND

PERIOD = 600 * SECOND
REFUSED_KEYS = 50
UNKNOWN_PATHS = 100
ADDRESSES_OF_A_KEY = 50
MAX_SUBJECTS = 2_000

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Kind = Literal["refused_keys", "path_scan", "many_addresses"]
Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Sign:
    """What was seen: of an address (or its /64), or of a key; `count` is what was reached."""

    kind: Kind
    network: Network | None
    key_id: UUID | None
    count: int


@dataclass(slots=True)
class _Counts:
    began: int
    seen: dict[Kind, set[int]] = field(default_factory=dict)  # hashes: what is sent may be long


class Watch:
    """What one gateway process has seen lately.

    Fifty different refused keys from one address within ten minutes are a sign; the same wrong
    key fifty times is only a program that was set up wrong.
    """

    __slots__ = ("_addresses", "_keys")

    def __init__(self) -> None:
        self._addresses: dict[Network, _Counts] = {}
        self._keys: dict[UUID, _Counts] = {}

    def refused_key(self, address: Address, digest: bytes, now: int) -> Sign | None:
        """A key that does not work came from this address."""
        return self._address(address, "refused_keys", digest, REFUSED_KEYS, now)

    def unknown_path(self, address: Address, path: bytes, now: int) -> Sign | None:
        """A path that no product has was asked for."""
        return self._address(address, "path_scan", path, UNKNOWN_PATHS, now)

    def used_key(self, key_id: UUID, address: Address, now: int) -> Sign | None:
        """A key that works was used from this address."""
        counts = _current(self._keys, key_id, now)
        reached = _add(counts, "many_addresses", address.packed, ADDRESSES_OF_A_KEY)
        return Sign("many_addresses", None, key_id, ADDRESSES_OF_A_KEY) if reached else None

    def suspects(self, address: Address, now: int) -> int:
        """Microseconds for which the keys of this address are not looked up; 0: not suspected."""
        counts = self._addresses.get(network_of(address))
        if counts is None or counts.began + PERIOD <= now:
            return 0
        refused = len(counts.seen.get("refused_keys", ()))
        scanned = len(counts.seen.get("path_scan", ()))
        if refused < REFUSED_KEYS and scanned < UNKNOWN_PATHS:
            return 0
        return counts.began + PERIOD - now

    def _address(
        self, address: Address, kind: Kind, what: bytes, bound: int, now: int
    ) -> Sign | None:
        network = network_of(address)
        counts = _current(self._addresses, network, now)
        return Sign(kind, network, None, bound) if _add(counts, kind, what, bound) else None


def network_of(address: Address) -> Network:
    """Whom an address stands for: itself, or in IPv6 its /64 (2001:db8::1 → 2001:db8::/64)."""
    length = 32 if isinstance(address, IPv4Address) else 64
    return ip_network((address, length), strict=False)


def _current(known: dict[Subject, _Counts], subject: Subject, now: int) -> _Counts:
    counts = known.get(subject)
    if counts is None or counts.began + PERIOD <= now:
        if len(known) >= MAX_SUBJECTS:
            known.pop(next(iter(known)))
        known.pop(subject, None)
        counts = known[subject] = _Counts(now)
    return counts


def _add(counts: _Counts, kind: Kind, what: bytes, bound: int) -> bool:
    """Count it; whether the bound is reached with this one."""
    seen = counts.seen.setdefault(kind, set())
    if len(seen) >= bound or hash(what) in seen:
        return False
    seen.add(hash(what))
    return len(seen) == bound
