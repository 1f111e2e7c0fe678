# SPDX-License-Identifier: Apache-2.0
"""Connections to upstreams: a pool per place, one request at a time on each, answers read
strictly and handed on as they come.

An `Exchange` is what wants an answer. A connection goes back to the pool only after a complete
answer that leaves no doubt: both sides keep it alive, the request was sent whole, no byte came
after the end. Any byte or end on an idle connection discards it. When a reused connection
breaks before the first byte of an answer, the exchange may be sent once more on a fresh one.
"""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Protocol, cast

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.gateway.head import (
    BadMessageError,
    BodyReader,
    CloseReader,
    ResponseHead,
    read_response,
)
from nimbus.gateway.upstream import Network, UnreachableError, Upstream, vetted_addresses

log = get_logger("gateway.forward")

MAX_INTERIM = 8
MAX_IDLE_PER_PLACE = 64
IDLE_SECONDS = 30
STREAM_IDLE_SECONDS = 300  # between two pieces of an answer's body

Place = tuple[bool, str, int, str | None]


class Exchange(Protocol):
    """One request and its answer, as the pool sees it."""

    method: bytes
    retryable: bool
    request_sent: bool

    def upstream_ready(self, connection: "UpstreamConnection") -> None:
        """A connection is there: write the request to it."""

    def upstream_head(self, head: ResponseHead) -> None:
        """The final answer begins."""

    def upstream_data(self, piece: bytes, *, last: bool) -> None:
        """A piece of the answer's payload; `last` when it is complete with this."""

    def upstream_flush(self) -> None:
        """All that has come so far was handed over."""

    def upstream_failed(self, code: str) -> None:
        """There will be no (complete) answer: a code of spec 08."""

    def upstream_writable(self, *, writable: bool) -> None:
        """Whether more of the request's body should be written now."""


class UpstreamConnection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    def __init__(self, pool: "Pool", upstream: Upstream) -> None:
        self.upstream = upstream
        self.deadline: float | None = None
        self.idle_since = 0.0
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._buffer = bytearray()
        self._head: ResponseHead | None = None
        self._reader: BodyReader | CloseReader | None = None
        self._reused = False
        self._answered = False  # a byte of the answer has come
        self._interim = 0

    @property
    def usable(self) -> bool:
        """Whether a request may be written to it."""
        return self._transport is not None and not self._transport.is_closing()

    def start(self, exchange: Exchange, *, reused: bool) -> None:
        """Carry this exchange from now on."""
        self._exchange, self._reused = exchange, reused
        self._head, self._reader = None, None
        self._answered, self._interim = False, 0
        self.extend(self.upstream.answer_timeout)
        exchange.upstream_ready(self)

    def write(self, data: bytes) -> None:
        """Send a part of the request."""
        if self._transport is not None:
            self._transport.write(data)
        if self._head is None:
            self.extend(self.upstream.answer_timeout)

    def extend(self, seconds: float) -> None:
        """The next sign of life is due within this time."""
        self.deadline = clock.monotonic() + seconds

    def pause(self) -> None:
        """Read no more of the answer for now."""
        if self.usable and self._transport is not None:
            self.deadline = None
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.usable and self._transport is not None:
            self.extend(STREAM_IDLE_SECONDS)
            self._transport.resume_reading()

    def abandon(self) -> None:
        """The exchange is not wanted any more: close, tell nobody."""
        self._exchange = None
        self._discard()

    def expire(self) -> None:
        """The deadline has passed."""
        self._fail("upstream_timeout")

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._discard()
            return
        self._answered = True
        self._buffer += data
        try:
            self._read(exchange)
        except BadMessageError:
            self._fail("upstream_unreachable")
            return
        exchange.upstream_flush()

    def eof_received(self) -> None:
        exchange = self._exchange
        if exchange is not None and isinstance(self._reader, CloseReader):
            self._exchange = None
            self._discard()
            exchange.upstream_data(b"", last=True)
            exchange.upstream_flush()

    def connection_lost(self, _: Exception | None) -> None:
        self._pool.forget(self)
        self._transport = None
        self._fail("upstream_unreachable")

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.upstream_writable(writable=False)

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.upstream_writable(writable=True)

    def _read(self, exchange: Exchange) -> None:
        while self._head is None:
            head = read_response(self._buffer, exchange.method)
            if head is None:
                return
            if head.status < 200:
                self._interim += 1
                if head.status == 101 or self._interim > MAX_INTERIM:
                    raise BadMessageError("upstream_unreachable", "interim answers")
                continue
            self._head = head
            if head.length is None and not head.chunked:
                self._reader = CloseReader()
            else:
                self._reader = BodyReader(head.length, limit=None)
            exchange.upstream_head(head)
            if self._exchange is not exchange:
                return
        self.extend(STREAM_IDLE_SECONDS)
        reader = self._reader
        assert reader is not None
        piece = b"" if reader.done else reader.read(self._buffer)
        if reader.done:
            self._finish(exchange)
            exchange.upstream_data(piece, last=True)
        elif piece:
            exchange.upstream_data(piece, last=False)

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        whole = self._head is not None and self._head.keep_alive and exchange.request_sent
        if whole and not self._buffer and self.usable:
            self._pool.release(self)
        else:
            self._discard()

    def _fail(self, code: str) -> None:
        exchange, self._exchange = self._exchange, None
        self._discard()
        if exchange is None:
            return
        stale = self._reused and not self._answered and code == "upstream_unreachable"
        if stale and exchange.retryable:
            exchange.retryable = False
            self._pool.send(exchange, self.upstream, fresh=True)
        else:
            exchange.upstream_failed(code)

    def _discard(self) -> None:
        self.deadline = None
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()


class Pool:
    """All upstream connections of this process."""

    def __init__(
        self,
        private_networks: tuple[Network, ...],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._private_networks = private_networks
        self._tls = tls or ssl.create_default_context()
        self._idle: dict[Place, list[UpstreamConnection]] = {}
        self._open: set[UpstreamConnection] = set()
        self._connecting: dict[Exchange, asyncio.Task[None]] = {}

    def send(self, exchange: Exchange, upstream: Upstream, *, fresh: bool = False) -> None:
        """Give the exchange a connection: an idle one now, else a new one soon. It hears of it
        by `upstream_ready` or `upstream_failed`.
        """
        idle = [] if fresh else self._idle.get(upstream.place, [])
        while idle:
            connection = idle.pop()
            if connection.usable:
                connection.upstream = upstream
                connection.start(exchange, reused=True)
                return
        task = asyncio.get_running_loop().create_task(self._connect(exchange, upstream))
        self._connecting[exchange] = task

    def cancel(self, exchange: Exchange) -> None:
        """The exchange does not want its connection any more."""
        task = self._connecting.pop(exchange, None)
        if task is not None:
            task.cancel()

    def release(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request to its place."""
        connection.deadline = None
        connection.idle_since = clock.monotonic()
        idle = self._idle.setdefault(connection.upstream.place, [])
        if len(idle) < MAX_IDLE_PER_PLACE:
            idle.append(connection)
        else:
            connection.abandon()

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection is closed."""
        self._open.discard(connection)
        idle = self._idle.get(connection.upstream.place)
        if idle and connection in idle:
            idle.remove(connection)

    def sweep(self, now: float) -> None:
        """End what is overdue and what was idle for too long."""
        for connection in list(self._open):
            if connection.deadline is not None and connection.deadline < now:
                connection.expire()
        for idle in self._idle.values():
            for connection in [each for each in idle if each.idle_since + IDLE_SECONDS < now]:
                connection.abandon()

    def close(self) -> None:
        """Close every connection."""
        for task in self._connecting.values():
            task.cancel()
        for connection in list(self._open):
            connection.abandon()

    async def _connect(self, exchange: Exchange, upstream: Upstream) -> None:
        try:
            async with asyncio.timeout(upstream.connect_timeout):
                connection = await self._dial(upstream)
        except (OSError, UnreachableError, TimeoutError):
            self._connecting.pop(exchange, None)
            exchange.upstream_failed("upstream_unreachable")
            return
        except Exception:
            log.exception("fault", upstream=upstream.host)
            self._connecting.pop(exchange, None)
            exchange.upstream_failed("upstream_unreachable")
            return
        self._open.add(connection)
        if self._connecting.pop(exchange, None) is None:
            connection.abandon()
        else:
            connection.start(exchange, reused=False)

    async def _dial(self, upstream: Upstream) -> UpstreamConnection:
        loop = asyncio.get_running_loop()

        def make() -> UpstreamConnection:
            return UpstreamConnection(self, upstream)

        if upstream.socket_path is not None:
            _, made = await loop.create_unix_connection(make, upstream.socket_path)
            return made
        addresses = await vetted_addresses(upstream.host, upstream.port, self._private_networks)
        for address, is_last in _with_last(addresses):
            try:
                _, made = await loop.create_connection(
                    make,
                    address,
                    upstream.port,
                    ssl=self._tls if upstream.tls else None,
                    server_hostname=upstream.host if upstream.tls else None,
                )
            except OSError:
                if is_last:
                    raise
            else:
                return made
        raise UnreachableError("no address answers")


def _with_last(items: list[str]) -> Iterable[tuple[str, bool]]:
    return ((item, number == len(items)) for number, item in enumerate(items, start=1))
