# SPDX-License-Identifier: Apache-2.0
"""Callers' connections: their life, their pace, and which way each request goes.

A connection reads one head at a time and answers in order; what is pipelined behind it waits in
the buffer. It is in one of these states:

    HEAD     waiting for a request, or in the middle of its head
    POLICY   a look-up or a lease is awaited; nothing of the body was taken
    BODY     the request's body is streamed to the upstream
    ANSWER   the request is whole, the answer is on its way
    LINGER   we have said all; what still comes is thrown away until the caller closes
    TUNNEL   a WebSocket: bytes go both ways until one side ends
"""

import asyncio
from collections.abc import Coroutine
from enum import Enum
from ipaddress import ip_address
from typing import Final, cast

from nimbus.base import clock
from nimbus.base.log import get_logger
from nimbus.gateway import respond
from nimbus.gateway.body import BodyReader
from nimbus.gateway.call import (
    ASK_STORE,
    Call,
    admit,
    await_rates,
    borrow,
    locate,
    note_refused,
    open_call,
    suspected,
)
from nimbus.gateway.door import Door
from nimbus.gateway.exchange import PENDING, ClientExchange
from nimbus.gateway.forward import WRITE_BUFFER, Lane
from nimbus.gateway.head import MAX_BODY, BadMessageError, HeadReader, RequestHead, known_request
from nimbus.gateway.origin import Origin, new_request_id
from nimbus.gateway.reading import BUFFER, BoundedReads
from nimbus.gateway.respond import Refused
from nimbus.gateway.upstream import Upstream
from nimbus.gateway.usual import UsualCalls
from nimbus.rules.limits import SECOND

log = get_logger("gateway.server")

HEAD_SECONDS: Final = 10
IDLE_SECONDS: Final = 75  # between an answer and the next request
API_BODY: Final = 1_048_576  # what the API takes; said here, or it is lost while the body comes
BODY_SECONDS: Final = 30  # for a body to come at BODY_RATE or faster; what is ahead is not saved up
BODY_RATE: Final = 240  # bytes a second
STALL_SECONDS: Final = 60  # without the caller reading a byte of the answer
LINGER_SECONDS: Final = 2
LINGER_BYTES: Final = 4_194_304


class _State(Enum):
    HEAD = 1
    POLICY = 2
    BODY = 3
    ANSWER = 4
    LINGER = 5
    TUNNEL = 6


# The states of the common path, by names that are quick to find.
_HEAD, _ANSWER = _State.HEAD, _State.ANSWER


class ClientConnection(BoundedReads):
    """One connection of a caller. `deadline` is in microseconds of machine time; 0 is none."""

    __slots__ = (
        "_advancing",
        "_body",
        "_door",
        "_ended",
        "_full",
        "_held",
        "_peer",
        "_reader",
        "_reading",
        "_state",
        "_task",
        "_thrown_away",
        "_transport",
        "_usual",
        "deadline",
        "exchange",
        "origin",
        "request",
        "request_id",
    )

    def __init__(self, door: Door) -> None:
        self.deadline = 0
        self.request_id = b""
        self.origin: Origin = _NOWHERE
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._peer: Origin = _NOWHERE
        self._reader = HeadReader()
        self._state = _HEAD
        self.request: RequestHead | None = None
        self._body: BodyReader | None = None
        self.exchange: ClientExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._advancing = False
        self._ended = False  # the caller sends no more
        self._full = False  # the caller does not read what we write
        self._held = False  # the upstream does not take what the caller sends
        self._reading = True
        self._thrown_away = 0
        self._usual: UsualCalls | None = None  # once it had a call that may be one

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer = self._door.origins.of_peer(peer[0])
        self.deadline = self._door.pool.now + IDLE_SECONDS * SECOND
        if not self._door.came(self, self._peer):
            self.request_id = new_request_id(clock.monotonic_us())
            self.refuse(_TOO_MANY, close=True)

    def buffer_updated(self, nbytes: int) -> None:
        usual = self._usual
        if (
            usual is None
            or nbytes != usual.size
            or self._state is not _HEAD
            or self._reader.buffer
            or self._full
            or not usual.begin(BUFFER[:nbytes].tobytes())
        ):
            super().buffer_updated(nbytes)

    def data_received(self, data: bytes) -> None:
        buffer = self._reader.buffer
        if self._state is _HEAD and not buffer and not self._full:
            head = known_request(data)
            if head is not None:
                if len(data) > head.size:
                    buffer += data[head.size :]
                self.deadline = 0
                self._begin(head)
                self._learn(data, head)
                return
            self._due(HEAD_SECONDS)
        elif self._state is _State.BODY:
            self._earn(len(data))
        elif self._state is _State.TUNNEL:
            if self.exchange is not None:
                self.exchange.tunnel_data(data)
            return
        elif self._state is _State.LINGER:
            self._throw_away(data)
            return
        buffer += data
        self._advance()

    def breathe(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._pace)

    def eof_received(self) -> bool:
        self._ended = True
        if self._state is _State.BODY and self.exchange is not None:
            self.exchange.request_broken("malformed_request")
        elif self._state is _State.HEAD and self._reader.started:
            self._refuse_message("malformed_request", "The request is cut.")
        elif self._state not in {_State.POLICY, _State.ANSWER} and self._transport is not None:
            self._transport.close()
        # A caller may end its side and still read; under TLS it can't.
        return self._transport is not None and self._transport.can_write_eof()

    def connection_lost(self, _: Exception | None) -> None:
        self._door.left(self, self._peer)
        self._transport = None
        self.deadline = 0
        if self._task is not None:
            self._task.cancel()
        exchange, self.exchange = self._under_way(), None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self._full = True
        self._due(STALL_SECONDS)
        exchange = self._under_way()
        if exchange is not None:
            exchange.client_writable(writable=False)

    def resume_writing(self) -> None:
        self._full = False
        self.deadline = 0
        if self._state is _State.BODY:
            self._due(BODY_SECONDS)
        exchange = self._under_way()
        if exchange is not None:
            exchange.client_writable(writable=True)
        elif self._state is _State.HEAD:
            self.deadline = self._door.pool.now + IDLE_SECONDS * SECOND
            self._advance()

    # What the exchange and the door call.

    def forwards(self) -> None:
        """A usual call is on its way to its upstream."""
        self._state = _ANSWER
        self.deadline = 0

    def write(self, data: bytes | memoryview) -> None:
        """Send a part of the answer."""
        if self._transport is not None:
            self._transport.write(data)

    def answer(self, data: bytes) -> None:
        """Send the whole answer of a usual call."""
        if self._transport is not None:
            self._transport.write(data)
        door = self._door
        if self._reader.buffer or self._ended or not self._reading or door.stopping:
            self.finished()
        else:
            self._state = _HEAD
            self.deadline = door.pool.now + IDLE_SECONDS * SECOND

    def refuse(self, refused: Refused, *, close: bool) -> None:
        """Answer the request with a problem, and go on with the next one unless `close`."""
        request = self.request
        keep_alive = request is not None and request.keep_alive and not close
        keep_alive = keep_alive and not self._ended and not self._door.stopping
        head_only = request is not None and request.method == b"HEAD"
        self.write(
            respond.refusal(refused, self.request_id, close=not keep_alive, head_only=head_only)
        )
        if keep_alive:
            self.finished()
        else:
            self.ended()

    def switched(self) -> None:
        """The answer was 101: what the caller sends from now on is its WebSocket's."""
        self._state = _State.TUNNEL
        early = bytes(self._reader.buffer)
        if early and self.exchange is not None:
            self._reader.buffer.clear()
            self.exchange.tunnel_data(early)

    def write_down(self, before: int) -> None:
        """Let a long stream be written down as far as it has come."""
        if self.exchange is not None:
            self.exchange.write_down(before)

    def finished(self) -> None:
        """The answer is written: on to the next request, if there may be one."""
        if self._ended or self._door.stopping:
            self.ended()
            return
        self.exchange = self.request = self._body = None
        if self._held or not self._reading:
            self.hold(paused=False)
        self._state = _HEAD
        if self._reader.buffer:
            self._due(HEAD_SECONDS)
            self._advance()
        else:
            self.deadline = self._door.pool.now + IDLE_SECONDS * SECOND

    def ended(self) -> None:
        """The answer is written, and was the last."""
        self.exchange = self.request = self._body = None
        if self._held or not self._reading:
            self.hold(paused=False)
        self._linger()

    def cut(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def hold(self, *, paused: bool) -> None:
        """Read no more of the request's body for now, or read on."""
        self._held = paused
        if not paused and self._state is _State.BODY:
            self._due(BODY_SECONDS)
        self._pace()

    def expire(self) -> None:
        """The deadline has passed."""
        self.deadline = 0
        if self._full or self._state is _State.LINGER:
            self.cut()
        elif self._state is _State.HEAD and self._reader.started:
            self._refuse_message("request_timeout", "The request's head came too slowly.")
        elif self._state is _State.HEAD and self._transport is not None:
            self._transport.close()
        elif self._state is _State.BODY and self.exchange is not None and not self._held:
            self.exchange.request_broken("request_timeout")

    def stop(self) -> None:
        """The gateway stops: close when idle, else after the answer."""
        if self._state is _State.HEAD and not self._reader.started and self._transport:
            self._transport.close()

    # The way of a request.

    def _advance(self) -> None:
        """Do what the bytes in the buffer allow; never within itself."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._step():
                pass
        finally:
            self._advancing = False
        self._pace()

    def _step(self) -> bool:
        if self._state is _State.HEAD and not self._full and self._transport is not None:
            try:
                request = self._reader.next()
            except BadMessageError as error:
                self._refuse_message(error.code, error.detail)
                return False
            if request is None:
                return False
            self.deadline = 0
            self._begin(request)
            return True
        if self._state is _State.BODY:
            return self._read_body()
        return False

    def _read_body(self) -> bool:
        exchange, body = self.exchange, self._body
        if exchange is None or body is None:
            return False
        try:
            piece = body.read(self._reader.buffer)
        except BadMessageError as error:
            exchange.request_broken(error.code)
            return False
        if body.done:
            self._state = _State.ANSWER
            self.deadline = 0
        if piece or body.done:
            exchange.request_data(piece, last=body.done)
        return body.done

    def _begin(self, request: RequestHead) -> None:
        door, block = self._door, request.block
        self.request = request
        door.pool.now = now = clock.monotonic_us()
        self.request_id = request_id = new_request_id(now)
        self.origin = origin = door.origins.of_call(self._peer, block)
        state = door.gate.state
        place = request.line.place
        if block.host in door.hosts:
            if place is None:
                self._pass_to_api(request)
                return
            product, path = state.product(place[0]), place[1]
        else:
            product, path = state.product_of_host(block.host), request.line.path
            if product is None and state.complete:
                self.refuse(Refused("unknown_host"), close=request.has_body)
                return
        call = Call(door.gate, request, origin, request_id, clock.now_us(), now)
        refused = locate(call, product, path)
        if refused is not None:
            self._refuse_call(refused)
        elif call.grant is None:
            refused = suspected(call)
            if refused is None:
                self._await(self._look_up(call))
            else:
                self._refuse_call(refused)
        else:
            self.admit(call, call.started)

    def _under_way(self) -> ClientExchange | None:
        """The exchange of the request, in the general way."""
        if self._usual is not None and self._usual.under_way:
            return self._usual.general()
        return self.exchange

    def _learn(self, data: bytes, head: RequestHead) -> None:
        """See whether what comes over this connection is usual."""
        exchange = self.exchange
        if exchange is None or exchange.call is None or self._door.origins.trusts(self._peer):
            return
        if self._usual is None:
            self._usual = UsualCalls(self, self._door.gate, self._door.pool, self._peer)
        self._usual.learn(data, head, exchange.call)

    def _pass_to_api(self, request: RequestHead) -> None:
        if request.block.length is not None and request.block.length > API_BODY:
            self.refuse(Refused("payload_too_large", "The body is over 1 MiB."), close=True)
        else:
            api = self._door.api
            self._forward(api, self._door.pool.lane(api), None)

    def admit(self, call: Call, now: int) -> None:
        """Steps 3 to 7: at once, or after the store of shared limits was asked."""
        refused = admit(call, now)
        if refused is None:
            self.charge(call)
        elif refused is ASK_STORE:
            self._await(self._await_rates(call))
        else:
            self._refuse_call(refused)

    async def _await_rates(self, call: Call) -> None:
        refused = await await_rates(call)
        if refused is None:
            self.charge(call)
        else:
            self._refuse_call(refused)

    def charge(self, call: Call) -> None:
        """Step 8, the units: at once, or after a lease."""
        permit, leases = call.permit, call.gate.leases
        leased = call.leased = leases.take(permit.needs)
        if permit.held and leased is not None:
            call.held = leases.take(permit.held) or False
        if leased is None or (permit.held and not call.held):
            self.borrow(call)
        else:
            self.open(call)

    def borrow(self, call: Call) -> None:
        """Step 8, what is missing of the units: after a lease."""
        self._await(self._borrow(call))

    def open(self, call: Call) -> None:
        """Step 9: forward the call, if its upstream takes it and it can be written down."""
        upstream = call.permit.upstream
        assert upstream is not None, "a permit without an upstream refuses"
        lane = self._door.pool.lane(upstream)
        refused = None
        if lane.busy >= upstream.max_concurrent or lane.breaker.failures:
            refused = lane.refusal(upstream, call.started)
        if refused is not None:
            call.give_back()
            note_refused(call, refused)
        else:
            refused = open_call(call)
        if refused is not None:
            self._refuse_call(refused)
        else:
            self._forward(upstream, lane, call)

    async def _look_up(self, call: Call) -> None:
        found = await call.gate.lookups.find(call.digest)
        if found is None:
            lines = respond.retry_after(1)
            self._refuse_call(Refused("unavailable", "The key can't be checked now.", lines))
        else:
            call.grant = call.gate.state.grant(call.digest, call.product)
            self.admit(call, clock.monotonic_us())

    async def _borrow(self, call: Call) -> None:
        short = await borrow(call)
        if short is None:
            self.open(call)
            return
        lines = respond.retry_after(short.retry_after) if short.retry_after else b""
        lines += call.answer_lines(clock.monotonic_us())
        refused = Refused(short.code, short.detail(), lines)
        note_refused(call, refused)
        self._refuse_call(refused)

    def _await(self, work: Coroutine[None, None, None]) -> None:
        self._state = _State.POLICY
        self._task = asyncio.get_running_loop().create_task(self._guard(work))

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """Let a fault of ours end this connection, not go unheard."""
        try:
            await work
        except Exception:
            log.exception("fault", request_id=self.request_id.decode())
            self.cut()

    def _forward(self, upstream: Upstream, lane: Lane, call: Call | None) -> None:
        request = self.request
        if request is None or self._transport is None:
            return
        pool = self._door.pool
        exchange = self.exchange = ClientExchange(self, pool, upstream, lane, request, call)
        if request.block.length == 0:
            self._state = _ANSWER
        else:
            self._state = _State.BODY
            self._body = BodyReader(request.block.length, API_BODY if call is None else MAX_BODY)
            self._due(BODY_SECONDS)
            if request.expects_continue and not self._reader.buffer:
                self.write(respond.CONTINUE)
        exchange.start()
        if self._full:
            exchange.client_writable(writable=False)
        if self._reader.buffer:
            self._advance()

    def _refuse_call(self, refused: Refused) -> None:
        # A body that was refused unread would be taken for the next request.
        self.refuse(refused, close=self.request is not None and self.request.has_body)

    def _refuse_message(self, code: str, detail: str) -> None:
        """Refuse bytes that are no request: what follows them can't be trusted."""
        self.request = None
        self.request_id = new_request_id(clock.monotonic_us())
        self.refuse(Refused(code, detail), close=True)

    def _throw_away(self, data: bytes) -> None:
        self._thrown_away += len(data)
        if self._thrown_away > LINGER_BYTES:
            self.cut()

    def _linger(self) -> None:
        """End our side; give the caller time to read, and throw away what still comes."""
        self._state = _State.LINGER
        transport = self._transport
        if transport is None:
            return
        if self._ended or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self._reader.buffer.clear()
        self._due(LINGER_SECONDS)
        self._pace()

    def _pace(self) -> None:
        """Read from the caller only while somebody takes what is read."""
        if self._transport is None or self._transport.is_closing():
            return
        waits = len(self._reader.buffer) > PENDING and self._state is not _State.HEAD
        reading = self._state is _State.LINGER or not (
            waits or (self._held and self._state in {_State.BODY, _State.TUNNEL})
        )
        if self._full and self._state is _State.HEAD:
            reading = False
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _earn(self, size: int) -> None:
        """A piece of the body has come: time for the rest, as much as BODY_RATE gives for it."""
        latest = self._door.pool.now + BODY_SECONDS * SECOND
        self.deadline = min(self.deadline + size * SECOND // BODY_RATE, latest)

    def _due(self, seconds: float) -> None:
        self.deadline = self._door.pool.now + int(seconds * SECOND)


_NOWHERE: Final = Origin(ip_address("0.0.0.0"), b"http")  # noqa: S104 - until connected
_TOO_MANY: Final = Refused(
    "unavailable", "Too many connections come from this address.", respond.retry_after(1)
)
