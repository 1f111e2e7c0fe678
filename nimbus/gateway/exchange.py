# SPDX-License-Identifier: Apache-2.0
"""One request on its way to an upstream and its answer on its way back.

The same streaming serves metered calls and the management API; what differs is which header
lines pass, and that a call's journal slot is completed before its last byte is handed to the
client's socket. Each direction holds at most what one read brought plus PENDING bytes: a sink
that queues pauses its source.
"""

import asyncio
from decimal import Decimal
from typing import Final, Protocol

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.errors import CATALOGUE
from nimbus.gateway import websocket
from nimbus.gateway.call import CLIENT_GONE, CLIENT_GONE_CODE, NOT_KEPT, Call
from nimbus.gateway.forward import Lane, Pool, UpstreamConnection
from nimbus.gateway.head import RequestHead, ResponseHead
from nimbus.gateway.headers import (
    FROM_UPSTREAM,
    USAGE,
    head_for_api,
    head_for_upstream,
    start_from_api,
    start_from_upstream,
)
from nimbus.gateway.origin import Origin
from nimbus.gateway.respond import Refused
from nimbus.gateway.tap import Tap, join, open_tap, reported
from nimbus.gateway.upstream import Upstream
from nimbus.gateway.websocket import METER, has_switched

log = get_logger("gateway.exchange")

PENDING: Final = 65_536
_RETRYABLE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_JOIN_MAX: Final = 16_384  # bytes of a body that are copied into one write with their head


class Client(Protocol):
    """The caller's connection, as an exchange sees it."""

    request_id: bytes
    origin: Origin

    def write(self, data: bytes | memoryview) -> None:
        """Send a part of the answer."""

    def refuse(self, refused: Refused, *, close: bool) -> None:
        """Answer with a problem; nothing of an answer was sent before."""

    def finished(self) -> None:
        """The answer is complete: on to the next request."""

    def ended(self) -> None:
        """The answer is complete, and was the last."""

    def cut(self) -> None:
        """Close at once, so that the caller can tell that the answer is not whole."""

    def hold(self, *, paused: bool) -> None:
        """Read no more of the request's body for now, or read on."""

    def switched(self) -> None:
        """The answer was 101: what the caller sends from now on is its WebSocket's."""


class ClientExchange:
    """Streams one request and its answer; `call` is None for the management API."""

    __slots__ = (
        "_chunked",
        "_client",
        "_connection",
        "_head",
        "_keep_alive",
        "_lane",
        "_out",
        "_pending",
        "_pending_bytes",
        "_pool",
        "_request",
        "_sent_head",
        "_switched",
        "_tap",
        "_upstream",
        "call",
        "method",
        "over",
        "request_sent",
        "retryable",
    )

    def __init__(  # noqa: PLR0917 - one is made for each call, and names cost time
        self,
        client: Client,
        pool: Pool,
        upstream: Upstream,
        lane: Lane,
        request: RequestHead,
        call: Call | None,
    ) -> None:
        self.call = call
        self.method = method = request.line.method
        self.request_sent = whole = request.block.length == 0
        self.retryable = whole and method in _RETRYABLE
        self.over = False
        self._client = client
        self._pool = pool
        self._upstream = upstream
        self._lane = lane
        self._request = request
        self._connection: UpstreamConnection | None = None
        self._pending: list[bytes] | None = None
        self._pending_bytes = 0
        self._head: ResponseHead | None = None
        self._sent_head = False
        self._switched = False
        self._tap: Tap | None = None
        self._chunked = False
        self._keep_alive = request.line.minor == 1 and request.block.stays
        self._out: list[bytes | memoryview] = []

    def sent(self, connection: UpstreamConnection) -> None:
        """The request went out over this connection, as a usual call."""
        self._connection = connection

    def general(self) -> "ClientExchange":
        """This is the general way already."""
        return self

    def start(self) -> None:
        """Ask for a connection; the rest happens as bytes come."""
        lane = self._lane
        lane.busy += 1
        if lane.breaker.failures:
            lane.breaker.start()
        upgrades = self.call is not None and self._request.block.websocket
        self._pool.send(self, self._upstream, lane, upgrades)

    @property
    def takes_whole(self) -> bool:
        """Whether its request is sent and an answer to it may have a payload."""
        return self.request_sent and self.method != b"HEAD"

    @property
    def upgrades(self) -> bool:
        """Whether the caller asks for a WebSocket."""
        return self._request.block.websocket

    def write_down(self, before: int) -> None:
        """Write down what a stream has carried, if its last record began before this instant of
        machine time (microseconds).
        """
        call, head = self.call, self._head
        if call is not None and head is not None and call.started < before:
            self._count_bytes(call)
            call.go_on(head.status)

    # What the client's side calls.

    def request_data(self, piece: bytes, *, last: bool) -> None:
        """A piece of the request's payload; `last` when the body is complete with it."""
        if self.over:
            return
        if self.call is not None:
            self.call.bytes_in += len(piece)
        if self._request.block.length is None:
            chunk = b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b""
            piece = chunk + b"0\r\n\r\n" if last else chunk
        self.request_sent = last
        if self._connection is not None:
            self._connection.write(piece)
        elif piece:
            if self._pending is None:
                self._pending = []
            self._pending.append(piece)
            self._pending_bytes += len(piece)
            if self._pending_bytes > PENDING:
                self._client.hold(paused=True)

    def tunnel_data(self, data: bytes) -> None:
        """What the caller sends over its WebSocket."""
        if self._connection is not None and self.call is not None:
            self.call.bytes_in += len(data)
            self._connection.relay(data)

    def request_broken(self, code: str) -> None:
        """The rest of the request can't be had: its body is malformed, cut or too slow. The
        upstream must not take what it got for the whole; what it has answered by then counts.
        """
        if self.over:
            return
        status = CATALOGUE[code].status if self._head is None else self._head.status
        self._end(status, served=self._head is not None, code=code)
        if self._sent_head:
            self._client.cut()
        else:
            self._client.refuse(Refused(code), close=True)

    def client_gone(self) -> None:
        """The caller's connection is lost. What the upstream has answered by then counts."""
        if not self.over:
            status = CLIENT_GONE if self._head is None else self._head.status
            self._end(status, served=self._head is not None, code=CLIENT_GONE_CODE)

    def client_writable(self, *, writable: bool) -> None:
        """Whether more of the answer should be written now."""
        if self._connection is not None and not self.over:
            self._connection.resume() if writable else self._connection.pause()

    # What the upstream's side calls.

    def upstream_ready(self, connection: UpstreamConnection) -> bytes:
        """The request's head, and the body as far as it has come."""
        self._connection = connection
        call = self.call
        if call is None:
            head = head_for_api(self._request, self._client)
        else:
            call.forwarded = True
            call.forwarded_at = clock.monotonic_ns() // 1000
            head = head_for_upstream(self._request, call)
        if self._pending:
            head += b"".join(self._pending)
            if self._pending_bytes > PENDING:
                self._client.hold(paused=False)
            self._pending, self._pending_bytes = None, 0
        return head

    def upstream_head(self, head: ResponseHead) -> None:
        """Translate the answer's head; it leaves with the first bytes of the body."""
        self._head = head
        call, breaker = self.call, self._lane.breaker
        if breaker.failures:
            breaker.succeed()
        if not self.request_sent:
            self._keep_alive = False  # an early answer: the rest of the body is not wanted
        if call is None:
            start, limits = start_from_api(head), b""
        else:
            start = head.made.get(FROM_UPSTREAM) or start_from_upstream(head)
            if head.made[USAGE]:
                call.meters = reported(head.made[USAGE], call)
            if call.match.route.taps:
                self._tap = open_tap(call.match.route.taps, head)
            call.answered_at = now = clock.monotonic_ns() // 1000
            limits = call.answer_lines(now)
        end = _END if self._keep_alive and head.length is not None else self._framing(head)
        self._out += (start, limits, b"X-Request-Id: ", self._client.request_id, end)

    def upstream_whole(self, head: ResponseHead, payload: bytes) -> None:
        """A whole answer at once, which is the usual one: all steps in one, and one write."""
        call = self.call
        if call is None or not self._keep_alive or call.match.route.in_steps:
            self.upstream_head(head)
            self.upstream_last(payload)
            return
        lane, client = self._lane, self._client
        if lane.breaker.failures:
            lane.breaker.succeed()
        lane.busy -= 1
        self.over = True
        self._connection = None
        start = head.made.get(FROM_UPSTREAM) or start_from_upstream(head)
        if head.made[USAGE]:
            call.meters = reported(head.made[USAGE], call)
        call.bytes_out = len(payload)
        call.answered_at = now = clock.monotonic_ns() // 1000
        limits = call.answer_lines(now)
        call.complete(head.status, True, "", now)
        client.write(
            b"%b%bX-Request-Id: %b\r\n\r\n%b" % (start, limits, client.request_id, payload)
        )
        client.finished()

    def upstream_switched(self, head: ResponseHead) -> bool:
        """The upstream answers 101: whether it opens the WebSocket that the caller wants."""
        call = self.call
        if call is None or not self.upgrades or not has_switched(head, self._request.block):
            return False
        self._switched = True
        self._keep_alive = False
        self.upstream_head(head)
        self.upstream_flush()
        self._client.switched()
        return True

    def upstream_data(self, piece: bytes | memoryview) -> None:
        """Pass a piece of the answer on, at the next flush."""
        if self.call is not None:
            self.call.bytes_out += len(piece)
            if self._tap is not None:
                self._tap.take(piece)
        if self._chunked:
            self._out += (b"%x\r\n" % len(piece), piece, b"\r\n")
        else:
            self._out.append(piece)

    def upstream_last(self, piece: bytes | memoryview) -> None:
        """Complete the call, then pass the last piece of the answer on."""
        head, call = self._head, self.call
        assert head is not None
        if piece:
            self.upstream_data(piece)
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        self._connection = None
        self.over = True
        self._lane.busy -= 1
        if call is not None:
            self._count_last(call)
            call.complete(head.status, True)
            if call.match.route.strict_journal:
                call.gate.journal.sync_soon().add_done_callback(self._synced)
                return
        self._release()

    def _release(self) -> None:
        """Hand over the end of the answer."""
        self.upstream_flush()
        if self._keep_alive:
            self._client.finished()
        else:
            self._client.ended()

    def _synced(self, done: asyncio.Future[bool]) -> None:
        """The call of a strict route is on the disk, or the disk has failed."""
        if done.result():
            self._release()
        elif self._sent_head:
            self._client.cut()
        else:
            self._client.refuse(Refused("unavailable", NOT_KEPT), close=True)

    def upstream_flush(self) -> None:
        """Hand over what has come."""
        out = self._out
        if out:
            self._out = []
            self._sent_head = True
            if len(out[-1]) > _JOIN_MAX:
                large = out.pop()
                self._client.write(b"".join(out))
                self._client.write(large)
            else:
                self._client.write(b"".join(out))

    def upstream_failed(self, code: str) -> None:
        """No answer, or one that breaks off: never billed. The caller hears of it, or sees the
        answer cut.
        """
        if self.over:
            return
        if self._switched:
            self._end(101, served=True)
            self._client.cut()
            return
        self._connection = None
        self._lane.breaker.fail(self._pool.now)
        if self.call is None:
            code = "unavailable"
        self._end(CATALOGUE[code].status, served=False, code=code)
        if self._sent_head:
            self._client.cut()
        else:
            close = not self.request_sent or not self._keep_alive
            self._client.refuse(Refused(code), close=close)

    def upstream_writable(self, *, writable: bool) -> None:
        """Pass the upstream's pace on to the caller."""
        self._client.hold(paused=not writable)

    def _end(self, status: int, *, served: bool, code: str = "") -> None:
        self.over = True
        self._lane.busy -= 1
        self._lane.breaker.abandon()
        if self.call is not None:
            self._count_last(self.call)
            self.call.complete(status, served, code)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._pool.cancel(self)

    def _count_bytes(self, call: Call) -> None:
        """What a WebSocket carries is a meter of its own."""
        carried = call.bytes_in + call.bytes_out
        if self._switched and carried:
            call.meters += ((METER, Decimal(carried)),)

    def _count_last(self, call: Call) -> None:
        """The same, and what the answer's payload says was used."""
        self._count_bytes(call)
        if self._tap is not None:
            call.meters = join(call, self._tap)

    def _framing(self, head: ResponseHead) -> bytes:
        """The last lines of the answer's head, from the end of the request id on."""
        if head.status == 101:
            return b"\r\n" + websocket.LINES + b"\r\n"
        if head.length is None and self.method != b"HEAD" and head.status not in {204, 304}:
            if self._request.line.minor == 1:
                self._chunked = True
                return _CHUNKED if self._keep_alive else _CHUNKED_CLOSE
            self._keep_alive = False
        return _END if self._keep_alive else b"\r\nConnection: close\r\n\r\n"


_END = b"\r\n\r\n"
_CHUNKED = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNKED_CLOSE = b"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
