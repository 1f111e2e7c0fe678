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
from typing import Final, Protocol, cast

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.gateway.body import BodyReader
from nimbus.gateway.head import BadMessageError, ResponseHead, known_answer, read_response
from nimbus.gateway.reading import BUFFER, BoundedReads
from nimbus.gateway.respond import Refused, retry_after, seconds
from nimbus.gateway.upstream import Network, UnreachableError, Upstream, vetted_addresses
from nimbus.rules.breaker import Breaker
from nimbus.rules.limits import SECOND

log = get_logger("gateway.forward")

MAX_INTERIM = 8
MAX_IDLE_PER_PLACE = 64
IDLE_SECONDS = 30
STREAM_IDLE = 300 * SECOND  # between two pieces of an answer's body

WRITE_BUFFER: Final = 16_384  # bytes a socket may owe us before its source is paused
_COPIED: Final = 16_384  # bytes: more of a payload is passed on without a copy
_NO_LENGTH: Final = -1

Place = tuple[str, bool, str, int, str | None]

_TOO_MANY: Final = Refused("unavailable", "Too many calls are under way there.", retry_after(1))
_FAILING: Final = "It has failed several times and is tried again soon."


class Carried(Protocol):
    """What a connection carries: an exchange, or a usual call, which can become one."""

    @property
    def takes_whole(self) -> bool:
        """Whether its request is sent and an answer to it may have a payload."""

    def general(self) -> "Exchange":
        """Itself, or what goes on with a call that is no usual one any more."""

    def upstream_whole(self, head: ResponseHead, payload: bytes) -> None:
        """The final answer, all at once, on a connection that is free again."""


class Exchange(Carried, Protocol):
    """One request and its answer, as the pool sees it."""

    method: bytes
    request_sent: bool
    retryable: bool

    def upstream_ready(self, connection: "UpstreamConnection") -> bytes:
        """A connection is there: what is sent of the request now. More goes to its `write`."""

    def upstream_head(self, head: ResponseHead) -> None:
        """The final answer begins."""

    def upstream_switched(self, head: ResponseHead) -> bool:
        """An answer of 101 has come: whether it was asked for. Then payload is what follows."""

    def upstream_data(self, piece: bytes | memoryview) -> None:
        """A piece of the answer's payload; more follows."""

    def upstream_flush(self) -> None:
        """All that has come so far was handed over."""

    def upstream_last(self, piece: bytes | memoryview) -> None:
        """What was missing of the answer's payload."""

    def upstream_failed(self, code: str) -> None:
        """There will be no (complete) answer: a code of spec 08."""

    def upstream_writable(self, *, writable: bool) -> None:
        """Whether more of the request's body should be written now."""


class Lane:
    """One upstream of one product: its idle connections, how many calls are under way, and the
    breaker. Nobody else's calls touch any of them, also where two upstreams are at one address.
    """

    __slots__ = ("breaker", "busy", "idle")

    def __init__(self) -> None:
        self.idle: list[UpstreamConnection] = []
        self.busy = 0
        self.breaker = Breaker()

    def refusal(self, upstream: Upstream, now: int) -> Refused | None:
        """Why no further call goes there now; `now` in microseconds of machine time."""
        if self.busy >= upstream.max_concurrent:
            return _TOO_MANY
        pause = self.breaker.wait(now) if self.breaker.failures else 0
        if pause:
            return Refused("upstream_unreachable", _FAILING, retry_after(seconds(pause)))
        return None


class UpstreamConnection(BoundedReads):
    """One connection; carries one exchange at a time. `deadline` (0: none) and `idle_since` are
    microseconds of machine time; the latter is 0 before it has carried an exchange.
    """

    __slots__ = (
        "_answered",
        "_buffer",
        "_head",
        "_held",
        "_interim",
        "_left",
        "_pool",
        "_reader",
        "_transport",
        "deadline",
        "exchange",
        "idle_since",
        "lane",
        "upstream",
    )

    def __init__(self, pool: "Pool", upstream: Upstream, lane: Lane) -> None:
        self.upstream = upstream
        self.lane = lane
        self.deadline = 0
        self.idle_since = 0
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self.exchange: Carried | None = None
        self._buffer = bytearray()
        self._head: ResponseHead | None = None
        self._reader: BodyReader | None = None
        self._left = _NO_LENGTH  # bytes of an answer's payload that says its length
        self._answered = False  # a byte of the answer has come
        self._interim = 0
        self._held = False  # the caller does not take more of the answer now

    @property
    def usable(self) -> bool:
        """Whether a request may be written to it."""
        transport = self._transport
        return transport is not None and not transport.is_closing()

    def start(self, exchange: Exchange) -> bool:
        """Carry this exchange from now on; False when the connection is closed."""
        return self.usable and self.take(exchange, exchange.upstream_ready(self))

    def take(self, exchange: Carried, request: bytes) -> bool:
        """The same of an exchange whose first bytes are there."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        self.exchange = exchange
        transport.write(request)
        self.deadline = self._pool.now + self.upstream.answer_us
        return True

    def write(self, data: bytes) -> None:
        """Send a part of the request; the answer is due from now on."""
        if self._transport is not None:
            self._transport.write(data)
        if self._head is None:
            self.deadline = self._pool.now + self.upstream.answer_us

    def relay(self, data: bytes) -> None:
        """Send what a caller says over its WebSocket."""
        if self._transport is not None:
            self._transport.write(data)
            if self.deadline:
                self.deadline = self._pool.now + STREAM_IDLE

    def pause(self) -> None:
        """Read no more of the answer for now."""
        self._held = True
        if self.usable and self._transport is not None:
            self.deadline = 0
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._held = False
        if self.usable and self._transport is not None:
            self.deadline = self._pool.now + STREAM_IDLE
            self._transport.resume_reading()

    def breathe(self) -> None:
        """Let others have their turn before the next read."""
        if self.usable and self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._held and self.usable and self._transport is not None:
            self._transport.resume_reading()

    def abandon(self) -> None:
        """The exchange is not wanted any more: close, tell nobody."""
        self.exchange = None
        self._discard()

    def expire(self) -> None:
        """The deadline has passed."""
        self._fail("upstream_timeout")

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)

    def buffer_updated(self, nbytes: int) -> None:
        exchange = self.exchange
        if exchange is not None and not self._answered and nbytes <= _COPIED:
            data = BUFFER[:nbytes].tobytes()
            known = known_answer(data)
            if known is not None and known.whole == nbytes and exchange.takes_whole:
                self.exchange = None
                self._pool.release(self)
                exchange.upstream_whole(known, data[known.size :])
                return
        super().buffer_updated(nbytes)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self._discard()
            return
        known = None if self._answered else known_answer(data)
        self._answered = True
        general = exchange.general()
        try:
            if self._head is not None:
                self._take_payload(general, data)
            elif known is None or general.method == b"HEAD":
                self._read_head(general, data)
            else:
                self._begin(general, known)
                large = len(data) > _COPIED
                rest = memoryview(data)[known.size :] if large else data[known.size :]
                if self.exchange is general:
                    self._take_payload(general, rest)
        except BadMessageError:
            self._fail("upstream_unreachable")

    def eof_received(self) -> None:
        exchange, head = self.exchange, self._head
        until_close = head is not None and self._left == _NO_LENGTH and self._reader is None
        if exchange is not None and until_close:
            general = exchange.general()
            self.exchange = None
            self._discard()
            general.upstream_last(b"")

    def connection_lost(self, _: Exception | None) -> None:
        self._pool.forget(self)
        self._transport = None
        self._fail("upstream_unreachable")

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.general().upstream_writable(writable=False)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.general().upstream_writable(writable=True)

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        self._buffer += data
        while True:
            head = read_response(self._buffer, exchange.method)
            if head is None:
                return
            if head.status >= 200:
                break
            self._interim += 1
            if head.status == 101 and exchange.upstream_switched(head):
                self._head, self._left, self._reader = head, _NO_LENGTH, None
                break
            if head.status == 101 or self._interim > MAX_INTERIM:
                raise BadMessageError("upstream_unreachable", "interim answers")
        if self._head is None:
            self._begin(exchange, head)
        rest, self._buffer = bytes(self._buffer), bytearray()
        if self.exchange is exchange:
            self._take_payload(exchange, rest)

    def _begin(self, exchange: Exchange, head: ResponseHead) -> None:
        """The final answer's head has come: how its payload is read follows from it."""
        self._head = head
        if head.length is None:
            self._left = _NO_LENGTH
            self._reader = BodyReader(None, limit=None) if head.chunked else None
        else:
            self._left = head.length
        exchange.upstream_head(head)

    def _take_payload(self, exchange: Exchange, data: bytes | memoryview) -> None:
        size, left = len(data), self._left
        if left == size:
            self._finish(exchange)
            exchange.upstream_last(data)
        elif 0 <= left < size:
            self._discard_answered()
            exchange.upstream_last(data[:left])
        else:
            self.deadline = self._pool.now + STREAM_IDLE
            if left < 0 and self._reader is not None:
                self._take_chunks(exchange, self._reader, data)
            elif size:
                if left > 0:
                    self._left = left - size
                exchange.upstream_data(data)
            if self.exchange is exchange:  # else it is complete, and knows when to let it go
                exchange.upstream_flush()

    def _take_chunks(
        self, exchange: Exchange, reader: BodyReader, data: bytes | memoryview
    ) -> None:
        self._buffer += data
        piece = reader.read(self._buffer)
        if not reader.done:
            if piece:
                exchange.upstream_data(piece)
            return
        if self._buffer:
            self._discard_answered()
        else:
            self._finish(exchange)
        exchange.upstream_last(piece)

    def _finish(self, exchange: Exchange) -> None:
        """The answer is complete, and no byte came after it."""
        self.exchange = None
        head = self._head
        if head is not None and head.keep_alive and exchange.request_sent:
            self._head = None
            self._answered = self._held = False
            self._interim = 0
            self._pool.release(self)
        else:
            self._discard()

    def _discard_answered(self) -> None:
        """Bytes came after the answer: what it says holds, the connection is not used again."""
        self.exchange = None
        self._discard()

    def _fail(self, code: str) -> None:
        exchange = None if self.exchange is None else self.exchange.general()
        self.exchange = None
        self._discard()
        if exchange is None:
            return
        stale = self.idle_since and not self._answered and code == "upstream_unreachable"
        if stale and exchange.retryable:
            exchange.retryable = False
            self._pool.send(exchange, self.upstream, self.lane, True)
        else:
            exchange.upstream_failed(code)

    def _discard(self) -> None:
        self.deadline = 0
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
        self.now = clock.monotonic_us()  # as of the last look; close enough for deadlines
        self._private_networks = private_networks
        self._tls = tls or ssl.create_default_context()
        self.lanes: dict[Place, Lane] = {}
        self._open: set[UpstreamConnection] = set()
        self._connecting: dict[Exchange, asyncio.Task[None]] = {}

    def lane(self, upstream: Upstream) -> Lane:
        """The lane to an upstream."""
        lane = self.lanes.get(upstream.place)
        if lane is None:
            lane = self.lanes[upstream.place] = Lane()
        return lane

    def send(self, exchange: Exchange, upstream: Upstream, lane: Lane, fresh: bool) -> None:
        """Give the exchange a connection: an idle one now, else a new one soon. It hears of it
        by `upstream_ready` or `upstream_failed`.
        """
        while lane.idle and not fresh:
            connection = lane.idle.pop()
            connection.upstream = upstream
            if connection.start(exchange):
                return
        task = asyncio.get_running_loop().create_task(self._connect(exchange, upstream, lane))
        self._connecting[exchange] = task

    def cancel(self, exchange: Exchange) -> None:
        """The exchange does not want its connection any more."""
        task = self._connecting.pop(exchange, None)
        if task is not None:
            task.cancel()

    def release(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request to its place."""
        connection.deadline = 0
        connection.idle_since = self.now
        idle = connection.lane.idle
        if len(idle) < MAX_IDLE_PER_PLACE:
            idle.append(connection)
        else:
            connection.abandon()

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection is closed."""
        self._open.discard(connection)
        if connection in connection.lane.idle:
            connection.lane.idle.remove(connection)

    def sweep(self, now: int) -> None:
        """End what is overdue and what was idle for too long; `now` in microseconds of machine
        time.
        """
        self.now = now
        for connection in list(self._open):
            if 0 < connection.deadline < now:
                connection.expire()
        for place, lane in list(self.lanes.items()):
            for connection in list(lane.idle):
                if connection.idle_since + IDLE_SECONDS * SECOND < now:
                    connection.abandon()
            if not (lane.idle or lane.busy or lane.breaker.failures):
                del self.lanes[place]

    def close(self) -> None:
        """Close every connection."""
        for task in self._connecting.values():
            task.cancel()
        for connection in list(self._open):
            connection.abandon()

    async def _connect(self, exchange: Exchange, upstream: Upstream, lane: Lane) -> None:
        try:
            async with asyncio.timeout(upstream.connect_timeout):
                connection = await self._dial(upstream, lane)
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
        elif not connection.start(exchange):
            exchange.upstream_failed("upstream_unreachable")

    async def _dial(self, upstream: Upstream, lane: Lane) -> UpstreamConnection:
        loop = asyncio.get_running_loop()

        def make() -> UpstreamConnection:
            return UpstreamConnection(self, upstream, lane)

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
