# SPDX-License-Identifier: Apache-2.0
"""Load for rigs: an upstream that writes down what reaches it, and callers that write down what
they sent and what they were answered. All instants are the machine's monotonic clock, which is
one for all its processes.

Every call carries a tag of its own in its path, so that what a caller knows and what the upstream
saw can be compared as sets.
"""

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

DEADLINE_SECONDS = 120
REFUSED_EARLY = 0.05  # seconds before a caller connects again where nobody listened
PIECE = bytes(65_536)
ENDLESS = 1 << 40
_TAG = re.compile(rb"/([a-z]+)/([^ /?]+)[ ?]")
_REQUEST_ID = re.compile(rb"\r\nx-request-id: ([^\r]+)\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that reached the upstream; `at` in seconds."""

    tag: str
    request_id: str
    at: float


@dataclass
class Upstream:
    """What the upstream saw, in order, and how many body bytes it answers to each call."""

    arrivals: list[Arrival] = field(default_factory=list)
    body_bytes: int = 40
    transports: set[asyncio.Transport] = field(default_factory=set)
    streamed: int = 0  # bytes written of answers without an end
    stalled: int = 0  # connections that take no more of them now

    def body(self, tag: str) -> bytes:
        """The body that it answers to a call: its own for each."""
        return f"{tag};".encode().ljust(self.body_bytes, b".")


class _UpstreamConnection(asyncio.Protocol):
    """Answers each call to `/calls/…`; to `/stream/…` it answers without an end, and of
    `/upload/…` it reads no more than the head.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._streaming = self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._upstream.transports.add(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._upstream.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._answer(head + b"\r\n")

    def _answer(self, head: bytes) -> None:
        found, marked = _TAG.search(head), _REQUEST_ID.search(head)
        assert found, head
        assert marked, head
        tag = found[2].decode()
        arrival = Arrival(tag, marked[1].decode(), time.monotonic())
        self._upstream.arrivals.append(arrival)
        if found[1] == b"upload":
            self._transport.pause_reading()
            return
        if found[1] == b"stream":
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ENDLESS)
            self._streaming = True
            self._stream()
            return
        body = self._upstream.body(tag)
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def pause_writing(self) -> None:
        self._full = True
        self._upstream.stalled += 1

    def resume_writing(self) -> None:
        self._full = False
        self._upstream.stalled -= 1
        self._stream()

    def _stream(self) -> None:
        while self._streaming and not self._full:
            self._transport.write(PIECE)
            self._upstream.streamed += len(PIECE)


async def open_upstream(upstream: Upstream, listener: socket.socket) -> asyncio.Server:
    """Serve on a socket that listens; the caller closes the server."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _UpstreamConnection(upstream), sock=listener)


@dataclass(slots=True)
class Attempt:
    """One call as its caller knows it. `status` None: no whole answer came."""

    tag: str
    sent: float
    done: float = 0
    status: int | None = None
    request_id: str = ""
    head: str = ""
    body: bytes = b""

    def field(self, name: str) -> str:
        """A header line's value, "" when it is not there; `name` in lower case."""
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return ""


@dataclass
class Caller:
    """One caller with one connection, made again when it is lost; one call at a time."""

    name: str
    port: int
    key: str
    source: str = "127.0.0.1"
    attempts: list[Attempt] = field(default_factory=list)
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def call(self, path: str = "calls") -> Attempt:
        """One call to `/{path}/{tag}`; whatever happens is written down and answered."""
        if self.writer is None:
            await self._connect()
        assert self.writer is not None
        assert self.reader is not None
        tag = f"{self.name}-{len(self.attempts)}"
        attempt = Attempt(tag, time.monotonic())
        self.attempts.append(attempt)
        self.writer.write(
            f"GET /api/v1/rig/{path}/{tag} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {self.key}\r\n\r\n".encode()
        )
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None, head
            attempt.body = await self.reader.readexactly(int(length[1]))
        except (asyncio.IncompleteReadError, OSError):
            self.hang_up()
        else:
            attempt.head = head.decode("latin-1")
            attempt.status = int(attempt.head[9:12])
            attempt.request_id = attempt.field("x-request-id")
            if attempt.field("connection") == "close":
                self.hang_up()
        attempt.done = time.monotonic()
        return attempt

    async def _connect(self) -> None:
        while True:
            try:
                self.reader, self.writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, local_addr=(self.source, 0)
                )
            except ConnectionError:
                await asyncio.sleep(REFUSED_EARLY)
            else:
                return

    def hang_up(self) -> None:
        """Close the connection; the next call makes another."""
        if self.writer is not None:
            self.writer.close()
        self.reader, self.writer = None, None


def answered(callers: list[Caller], status: int = 200) -> list[Attempt]:
    """The calls that were answered with this status, whole."""
    return [each for caller in callers for each in caller.attempts if each.status == status]


Flight = tuple[float, float]  # when a call was sent, and when it reached the upstream


def certainly_within(flights: Sequence[Flight], seconds: float) -> int:
    """The most flights that lie wholly within one window of this length: as many calls, at
    least, were admitted in it.
    """
    starts = sorted(flights)
    worst = 0
    for first, (sent, _) in enumerate(starts):
        end = sent + seconds
        worst = max(worst, sum(arrived < end for _, arrived in starts[first:]))
    return worst


async def call_until(
    callers: list[Caller],
    over: Callable[[], bool],
    meanwhile: Awaitable[None] | None = None,
    seconds_max: float = DEADLINE_SECONDS,
) -> None:
    """Let all callers call, each as soon as it is answered, until `over`; then hang up."""

    async def go_on(caller: Caller) -> None:
        while not over():
            await caller.call()

    async with asyncio.timeout(seconds_max), asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(go_on(caller))
        if meanwhile is not None:
            await meanwhile
    for caller in callers:
        caller.hang_up()
