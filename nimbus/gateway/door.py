# SPDX-License-Identifier: Apache-2.0
"""What all callers' connections of this process share, and what is done to all of them."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from nimbus.base import clock
from nimbus.gateway.call import Gate
from nimbus.gateway.forward import Pool
from nimbus.gateway.origin import Origin, Origins
from nimbus.gateway.upstream import Address, Network, Upstream
from nimbus.rules.limits import SECOND

if TYPE_CHECKING:
    from nimbus.gateway.server import ClientConnection

MAX_PER_ADDRESS: Final = 256  # connections of one address to this process
PART_SECONDS: Final = 30  # after which a stream's usage is written down, and again
SWEEP_SECONDS: Final = 0.25


class Door:
    """What all connections of this process share."""

    def __init__(
        self,
        gate: Gate,
        pool: Pool,
        api: Upstream,
        hosts: frozenset[bytes],
        trusted_proxies: tuple[Network, ...],
        *,
        tls: bool,
    ) -> None:
        self.gate = gate
        self.pool = pool
        self.api = api
        self.hosts = hosts
        self.origins = Origins(b"https" if tls else b"http", trusted_proxies)
        self.connections: set[ClientConnection] = set()
        self._from: Counter[Address] = Counter()
        self.stopping = False
        self.empty = asyncio.Event()  # stopping, and the last connection is gone

    def sweep(self) -> None:
        """End what is overdue, on both sides."""
        now = clock.monotonic_us()
        for connection in list(self.connections):
            if 0 < connection.deadline < now:
                connection.expire()
            connection.write_down(now - PART_SECONDS * SECOND)
        self.pool.sweep(now)

    def came(self, connection: "ClientConnection", peer: Origin) -> bool:
        """A connection is there: whether its address may have one more. Proxies may have any."""
        self.connections.add(connection)
        if self.origins.trusts(peer):
            return True
        self._from[peer.address] += 1
        return self._from[peer.address] <= MAX_PER_ADDRESS

    def stop(self) -> None:
        """Take no further request: idle connections close, the others after their answer."""
        self.stopping = True
        for connection in list(self.connections):
            connection.stop()
        if not self.connections:
            self.empty.set()

    def left(self, connection: "ClientConnection", peer: Origin) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if peer.address in self._from:
            self._from[peer.address] -= 1
            if not self._from[peer.address]:
                del self._from[peer.address]
        if self.stopping and not self.connections:
            self.empty.set()
