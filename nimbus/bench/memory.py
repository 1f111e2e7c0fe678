# SPDX-License-Identifier: Apache-2.0
"""Memory of a gateway: at rest with very many grants, of connections that stall, under load."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from nimbus.base import clock
from nimbus.bench import machine, market, openloop
from nimbus.bench.ground import Ground
from nimbus.bench.latency import PER_SECOND
from nimbus.bench.processes import LOOPBACK, BenchError
from nimbus.bench.targets import Running

GRANTS = 100_000
STALLED = 100
LOAD_SECONDS = 20.0
LOOK_SECONDS = 0.2
STILL_LOOKS = 10  # in a row, at which nothing moved
STILL_KIB = 128
PATIENCE_SECONDS = 60.0
WINDOW_BYTES = 4096  # of a caller that will not read


@dataclass(frozen=True, slots=True)
class Memory:
    """KiB. At rest: all resident pages, and of them the process's own; the others: own pages."""

    grants: int
    rest_kib: int
    rest_own_kib: int
    stalled_reading_kib: float
    stalled_sending_kib: float
    load_seconds: float
    load_calls: int
    load_growth_kib: int

    def facts(self) -> dict[str, float]:
        """For the record."""
        return {name: round(value, 1) for name, value in asdict(self).items()}


def measure(ground: Ground, gateway: Running, grants: int, say: Callable[[str], None]) -> Memory:
    """All of it, of a gateway that has just started with so many grants."""
    settle(gateway.pid)
    rest, own = machine.memory_kib(gateway.pid), machine.memory_kib(gateway.pid, "RssAnon")
    say(f"at rest with {grants:,} grants: {rest / 1024:.1f} MiB, {own / 1024:.1f} of its own")
    growth, calls = under_load(ground, gateway, LOAD_SECONDS)
    say(f"after {calls:,} calls in {LOAD_SECONDS:.0f} s: {growth:+,} KiB")
    reading = stalled(gateway, _readers(ground, gateway))
    sending = stalled(gateway, _senders(ground, gateway))
    say(f"a stalled connection: {reading:.0f} KiB reading, {sending:.0f} KiB sending")
    return Memory(grants, rest, own, reading, sending, LOAD_SECONDS, calls, growth)


def under_load(ground: Ground, gateway: Running, seconds: float) -> tuple[int, int]:
    """Growth of the gateway's own pages in KiB over a constant load, after a fifth of it first;
    and how many calls that were.
    """
    asked = openloop.requests(market.PREFIX + market.SMALL, gateway.port, ground.keys)
    before = calls = 0
    for share in (0.2, 1.0):
        before = machine.memory_kib(gateway.pid, "RssAnon")
        served = openloop.run(gateway.port, asked, per_second=PER_SECOND, seconds=seconds * share)
        calls += len(served.latencies_us)
    return machine.memory_kib(gateway.pid, "RssAnon") - before, calls


def stalled(gateway: Running, open_one: Callable[[], socket.socket]) -> float:
    """KiB of the gateway's own pages for each connection that `open_one` opens."""
    settle(gateway.pid)
    before = machine.memory_kib(gateway.pid, "RssAnon")
    with _several(open_one):
        settle(gateway.pid)
        return (machine.memory_kib(gateway.pid, "RssAnon") - before) / STALLED


def settle(pid: int) -> None:
    """Wait until the memory of a process stands still."""
    seen, looks = 0, 0
    deadline = clock.monotonic() + PATIENCE_SECONDS
    while looks < STILL_LOOKS:
        if clock.monotonic() > deadline:
            raise BenchError(f"the memory of process {pid} does not stand still")
        now = machine.memory_kib(pid)
        looks = looks + 1 if abs(now - seen) <= STILL_KIB else 0
        seen = now
        time.sleep(LOOK_SECONDS)


@contextmanager
def _several(open_one: Callable[[], socket.socket]) -> Iterator[None]:
    connections: list[socket.socket] = []
    try:
        connections.extend(open_one() for _ in range(STALLED))
        yield
    finally:
        for connection in connections:
            connection.close()


def _readers(ground: Ground, gateway: Running) -> Callable[[], socket.socket]:
    """Callers that ask for 8 MB and then read nothing."""
    (asked,) = openloop.requests(market.PREFIX + market.HUGE, gateway.port, ground.keys[:1])

    def open_one() -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
        connection.connect((LOOPBACK, gateway.port))
        connection.sendall(asked)
        return connection

    return open_one


def _senders(ground: Ground, gateway: Running) -> Callable[[], socket.socket]:
    """Callers that stop in the middle of a head."""
    (asked,) = openloop.requests(market.PREFIX + market.SMALL, gateway.port, ground.keys[:1])

    def open_one() -> socket.socket:
        connection = socket.create_connection((LOOPBACK, gateway.port))
        connection.sendall(asked[:-2])
        return connection

    return open_one
