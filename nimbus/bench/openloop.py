# SPDX-License-Identifier: Apache-2.0
"""The load that does not wait: calls at fixed instants, however long the answers take.

Latency runs from the instant at which a call was due, so a stall is seen by every call that was
due meanwhile, and none is left out (no coordinated omission). One thread, plain sockets: the
timer of `select` is finer than an event loop's millisecond.
"""

import re
import select
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from nimbus.base import clock
from nimbus.bench.processes import LOOPBACK, BenchError

PATIENCE_SECONDS = 10.0
READ_BYTES = 256 * 1024
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
END_OF_HEAD = b"\r\n\r\n"


@dataclass(slots=True)
class Served:
    """Latencies in microseconds, in the order of the answers, and how many were not 200."""

    latencies_us: list[float] = field(default_factory=list)
    refused: int = 0

    def percentile_us(self, share: float) -> float:
        """The latency that this share of the calls did not exceed; 0.99 of 1,000: the 990th."""
        ordered = sorted(self.latencies_us)
        return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    due: float = 0.0
    waits: bool = False
    received: bytearray = field(default_factory=bytearray)
    length: int = -1  # of the whole answer, once its head is there


def requests(path: str, port: int, keys: Sequence[str]) -> list[bytes]:
    """A GET with five header fields for each key."""
    return [
        (
            f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\nAuthorization: Bearer {key}\r\n"
            "User-Agent: bench/1\r\nAccept: application/json\r\nAccept-Language: en\r\n\r\n"
        ).encode("ascii")
        for key in keys
    ]


def run(
    port: int, asked: Sequence[bytes], *, per_second: float, seconds: float, connections: int = 64
) -> Served:
    """Make calls at a constant pace over kept connections, the requests in rotation.

    Raises `BenchError` when an answer does not come, has no Content-Length, or is cut.
    """
    pool = [_Connection(_connect(port)) for _ in range(connections)]
    try:
        return _Load(pool, asked, per_second, int(per_second * seconds)).serve()
    finally:
        for connection in pool:
            connection.socket.close()


class _Load:
    """One run: who is free, who waits, what is due next."""

    def __init__(
        self, pool: Sequence[_Connection], asked: Sequence[bytes], per_second: float, total: int
    ) -> None:
        self._by_number = {one.socket.fileno(): one for one in pool}
        self._free = deque(pool)
        self._asked = asked
        self._pause = 1 / per_second
        self._total = total
        self._sent = 0
        self._served = Served()
        self._answered = 0

    def serve(self) -> Served:
        started = clock.monotonic()
        heard = started
        numbers = list(self._by_number)
        while self._answered < self._total:
            now = clock.monotonic()
            due = started + self._sent * self._pause
            while due <= now and self._sent < self._total and self._free:
                self._send(due)
                due = started + self._sent * self._pause
            can_send = self._sent < self._total and self._free
            wait = max(0.0, due - clock.monotonic()) if can_send else 1.0
            readable, _, _ = select.select(numbers, (), (), wait)
            for number in readable:
                self._read(self._by_number[number])
            if readable:
                heard = clock.monotonic()
            elif clock.monotonic() - heard > PATIENCE_SECONDS:
                raise BenchError(f"no answer for {PATIENCE_SECONDS:.0f} s")
        return self._served

    def _send(self, due: float) -> None:
        connection = self._free.popleft()
        connection.due, connection.waits = due, True
        connection.socket.send(self._asked[self._sent % len(self._asked)])
        self._sent += 1

    def _read(self, connection: _Connection) -> None:
        data = connection.socket.recv(READ_BYTES)
        if not data or not connection.waits:
            raise BenchError("the connection was closed, or answered what nobody asked")
        received = connection.received
        received += data
        if connection.length < 0 and (end := received.find(END_OF_HEAD)) >= 0:
            found = LENGTH.search(received, 0, end)
            if found is None:
                raise BenchError(f"an answer without a length: {bytes(received[:300])!r}")
            connection.length = end + len(END_OF_HEAD) + int(found[1])
        if 0 <= connection.length <= len(received):
            self._served.latencies_us.append((clock.monotonic() - connection.due) * 1e6)
            self._served.refused += received[9:12] != b"200"
            received.clear()
            connection.length, connection.waits = -1, False
            self._free.append(connection)
            self._answered += 1


def _connect(port: int) -> socket.socket:
    made = socket.create_connection((LOOPBACK, port), PATIENCE_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
