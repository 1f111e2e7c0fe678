# SPDX-License-Identifier: Apache-2.0
"""Callers' connections: their life, their pace, and which way each request goes.

A connection reads one head at a time and answers in order; what is pipelined behind it waits in
the buffer. It is in one of these states:

    HEAD     waiting for a request, or in the middle of its head
    POLICY   a look-up or a lease is awaited; nothing of the body was taken
    BODY     the request's body is streamed to the upstream
    ANSWER   the request is whole, the answer is on its way
    LINGER   we have said all; what still comes is thrown away until the caller closes
"""

import asyncio
import re
from collections.abc import Coroutine
from enum import Enum
from ipaddress import ip_address
from typing import Final, cast
from uuid import UUID

from nimbus.base import clock
from nimbus.base.ids import new_id
from nimbus.base.log import get_logger
from nimbus.gateway import respond
from nimbus.gateway.call import (
    Admission,
    Call,
    Gate,
    Located,
    Refused,
    admit,
    answer_fields,
    locate,
    note_refused,
    open_call,
)
from nimbus.gateway.exchange import PENDING, ClientExchange
from nimbus.gateway.forward import Pool
from nimbus.gateway.head import MAX_BODY, BadMessageError, BodyReader, HeadReader, RequestHead
from nimbus.gateway.leases import Shortage
from nimbus.gateway.respond import Pair
from nimbus.gateway.route import split_data_path
from nimbus.gateway.upstream import Address, Network, Upstream

log = get_logger("gateway.server")

HEAD_SECONDS: Final = 10
IDLE_SECONDS: Final = 75
API_BODY: Final = 1_048_576  # what the API takes; said here, or it is lost while the body comes
BODY_SECONDS: Final = 30  # without a byte of the body
STALL_SECONDS: Final = 60  # without the caller reading a byte of the answer
LINGER_SECONDS: Final = 2
LINGER_BYTES: Final = 4_194_304
SWEEP_SECONDS: Final = 0.25
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class _State(Enum):
    HEAD = 1
    POLICY = 2
    BODY = 3
    ANSWER = 4
    LINGER = 5


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
        self.trusted_proxies = trusted_proxies
        self.scheme = b"https" if tls else b"http"
        self.connections: set[ClientConnection] = set()
        self.stopping = False
        self.empty = asyncio.Event()  # stopping, and the last connection is gone

    def sweep(self) -> None:
        """End what is overdue, on both sides."""
        now = clock.monotonic()
        for connection in list(self.connections):
            if connection.deadline is not None and connection.deadline < now:
                connection.expire()
        self.pool.sweep(now)

    def stop(self) -> None:
        """Take no further request: idle connections close, the others after their answer."""
        self.stopping = True
        for connection in list(self.connections):
            connection.stop()
        if not self.connections:
            self.empty.set()

    def left(self, connection: "ClientConnection") -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if self.stopping and not self.connections:
            self.empty.set()


class ClientConnection(asyncio.Protocol):
    """One connection of a caller."""

    def __init__(self, door: Door) -> None:
        self.deadline: float | None = None
        self.request_id = ""
        self.forwarded: list[Pair] = []
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._peer: Address = ip_address("0.0.0.0")  # noqa: S104 - until connected
        self._reader = HeadReader()
        self._state = _State.HEAD
        self._request: RequestHead | None = None
        self._body: BodyReader | None = None
        self._exchange: ClientExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._advancing = False
        self._ended = False  # the caller sends no more
        self._full = False  # the caller does not read what we write
        self._held = False  # the upstream does not take what the caller sends
        self._reading = True
        self._thrown_away = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer = _plain_address(peer[0])
        self._door.connections.add(self)
        self._due(IDLE_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._state is _State.LINGER:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self.cut()
            return
        buffer = self._reader.buffer
        if self._state is _State.HEAD and not buffer:
            self._due(HEAD_SECONDS)
        elif self._state is _State.BODY:
            self._due(BODY_SECONDS)
        buffer += data
        self._advance()

    def eof_received(self) -> bool:
        self._ended = True
        if self._state is _State.BODY and self._exchange is not None:
            self._exchange.request_broken("malformed_request")
        elif self._state is _State.HEAD and self._reader.started:
            self._refuse_message("malformed_request", "The request is cut.")
        elif self._state not in {_State.POLICY, _State.ANSWER} and self._transport is not None:
            self._transport.close()
        # A caller may end its side and still read; under TLS it can't.
        return self._transport is not None and self._transport.can_write_eof()

    def connection_lost(self, _: Exception | None) -> None:
        self._door.left(self)
        self._transport = None
        self.deadline = None
        if self._task is not None:
            self._task.cancel()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self._full = True
        self._due(STALL_SECONDS)
        if self._exchange is not None:
            self._exchange.client_writable(writable=False)

    def resume_writing(self) -> None:
        self._full = False
        self.deadline = None
        if self._state is _State.BODY:
            self._due(BODY_SECONDS)
        if self._exchange is not None:
            self._exchange.client_writable(writable=True)
        elif self._state is _State.HEAD:
            self._due(IDLE_SECONDS)
            self._advance()

    # What the exchange and the door call.

    def write(self, data: bytes) -> None:
        """Send a part of the answer."""
        if self._transport is not None:
            self._transport.write(data)

    def refuse(
        self, code: str, *, close: bool, detail: str = "", fields: tuple[Pair, ...] = ()
    ) -> None:
        """Answer the request with a problem, and go on with the next one unless `close`."""
        request = self._request
        keep_alive = request is not None and request.keep_alive and not close
        keep_alive = keep_alive and not self._ended and not self._door.stopping
        self.write(
            respond.refusal(
                code,
                self.request_id,
                detail=detail,
                fields=fields,
                close=not keep_alive,
                head_only=request is not None and request.method == b"HEAD",
            )
        )
        self.finished(keep_alive=keep_alive)

    def finished(self, *, keep_alive: bool) -> None:
        """The answer is written: on to the next request, or the end."""
        self._exchange, self._request, self._body = None, None, None
        self.hold(paused=False)
        if not keep_alive or self._ended or self._door.stopping:
            self._linger()
            return
        self._state = _State.HEAD
        self._due(HEAD_SECONDS if self._reader.started else IDLE_SECONDS)
        self._advance()

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
        self.deadline = None
        if self._full or self._state is _State.LINGER:
            self.cut()
        elif self._state is _State.HEAD and self._reader.started:
            self._refuse_message("request_timeout", "The request's head came too slowly.")
        elif self._state is _State.HEAD and self._transport is not None:
            self._transport.close()
        elif self._state is _State.BODY and self._exchange is not None and not self._held:
            self._exchange.request_broken("request_timeout")

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
            self.deadline = None
            self._begin(request)
            return True
        if self._state is _State.BODY:
            return self._read_body()
        return False

    def _read_body(self) -> bool:
        exchange, body = self._exchange, self._body
        if exchange is None or body is None:
            return False
        try:
            piece = body.read(self._reader.buffer)
        except BadMessageError as error:
            exchange.request_broken(error.code)
            return False
        if body.done:
            self._state = _State.ANSWER
            self.deadline = None
        if piece or body.done:
            exchange.request_data(piece, last=body.done)
        return body.done

    def _begin(self, request: RequestHead) -> None:
        self._request = request
        self.request_id = str(new_id())
        own = None
        if request.host not in self._door.hosts:
            own = self._door.gate.state.product_of_host(request.host)
            if own is None:
                self.refuse("unknown_host", close=request.has_body)
                return
        address = self._caller_address(request)
        self.forwarded = self._forwarded(request, address)
        if own is None and split_data_path(request.path) is None:
            if request.length is not None and request.length > API_BODY:
                self.refuse("payload_too_large", close=True, detail="The body is over 1 MiB.")
            else:
                self._forward(self._door.api, None)
            return
        located = locate(self._door.gate, request, address, self.request_id, own)
        if isinstance(located, Refused):
            self._refuse_call(located)
        elif self._door.gate.state.knows_key(located.digest):
            self._admit(located)
        else:
            self._await(self._look_up(located))

    def _admit(self, located: Located) -> None:
        """Steps 3 to 7, then the units: at once, or after a lease."""
        admission = admit(self._door.gate, located)
        if isinstance(admission, Refused):
            self._refuse_call(admission)
            return
        leased = self._door.gate.leases.take(admission.needs)
        if leased is None:
            self._await(self._borrow(admission))
        else:
            self._open(admission, leased)

    def _open(self, admission: Admission, leased: bool) -> None:
        call = open_call(self._door.gate, admission, leased)
        if isinstance(call, Refused):
            self._refuse_call(call)
        else:
            self._forward(admission.upstream, call)

    async def _look_up(self, located: Located) -> None:
        found = await self._door.gate.lookups.find(located.digest)
        if found is None:
            refused = Refused(
                "unavailable", "The key can't be checked now.", (respond.retry_after(1),)
            )
            self._refuse_call(refused)
        else:
            self._admit(located)

    async def _borrow(self, admission: Admission) -> None:
        gate, located = self._door.gate, admission.located
        leased = await gate.leases.wait_for(admission.needs, located.as_of)
        if not isinstance(leased, Shortage):
            self._open(admission, leased)
            return
        fields = (
            respond.retry_after(leased.retry_after),
            *answer_fields(gate, admission),
        )
        detail = "The quota of this period is used up."
        if leased.code == "unavailable":
            detail = "The quota can't be checked now."
        else:
            detail += f" It is renewed at {clock.to_wire(leased.resets_at)}."
        refused = Refused(leased.code, detail, fields)
        note_refused(gate, located, refused)
        self._refuse_call(refused)

    def _await(self, work: Coroutine[None, None, None]) -> None:
        self._state = _State.POLICY
        self._task = asyncio.get_running_loop().create_task(self._guard(work))

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """Let a fault of ours end this connection, not go unheard."""
        try:
            await work
        except Exception:
            log.exception("fault", request_id=self.request_id)
            self.cut()

    def _forward(self, upstream: Upstream, call: Call | None) -> None:
        request = self._request
        if request is None or self._transport is None:
            return
        exchange = ClientExchange(self, self._door.pool, upstream, request, call)
        self._exchange = exchange
        if request.has_body:
            self._state = _State.BODY
            self._body = BodyReader(request.length, API_BODY if call is None else MAX_BODY)
            self._due(BODY_SECONDS)
            if request.expects_continue and not self._reader.buffer:
                self.write(respond.CONTINUE)
        else:
            self._state = _State.ANSWER
        exchange.start()
        if self._full:
            exchange.client_writable(writable=False)
        self._advance()

    def _refuse_call(self, refused: Refused) -> None:
        # A body that was refused unread would be taken for the next request.
        body = self._request is not None and self._request.has_body
        self.refuse(refused.code, close=body, detail=refused.detail, fields=refused.fields)

    def _refuse_message(self, code: str, detail: str) -> None:
        """Refuse bytes that are no request: what follows them can't be trusted."""
        self._request = None
        self.request_id = str(new_id())
        self.refuse(code, close=True, detail=detail)

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
            waits or (self._held and self._state is _State.BODY)
        )
        if self._full and self._state is _State.HEAD:
            reading = False
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _due(self, seconds: float) -> None:
        self.deadline = clock.monotonic() + seconds

    def _caller_address(self, request: RequestHead) -> Address:
        """The peer's address, or what a trusted proxy says: the last one it did not vouch for."""
        address = self._peer
        named = [
            part.strip()
            for value in request.values(b"x-forwarded-for")
            for part in value.split(b",")
        ]
        while named and _is_in(address, self._door.trusted_proxies):
            try:
                address = _plain_address(named.pop().decode("ascii"))
            except ValueError:
                break
        return address

    def _forwarded(self, request: RequestHead, address: Address) -> list[Pair]:
        """What is told to whoever is behind us about the request's way here."""
        scheme = self._door.scheme
        if _is_in(self._peer, self._door.trusted_proxies):
            named = request.values(b"x-forwarded-proto")
            scheme = named[0] if named and named[0] in {b"http", b"https"} else scheme
        traces = request.values(b"traceparent")
        trace = traces[0] if len(traces) == 1 and _TRACEPARENT.fullmatch(traces[0]) else None
        return [
            (b"X-Request-Id", self.request_id.encode()),
            (b"X-Forwarded-For", str(address).encode()),
            (b"X-Forwarded-Proto", scheme),
            (b"X-Forwarded-Host", request.values(b"host")[0]),
            (b"traceparent", trace or _new_trace(self.request_id)),
        ]


def _new_trace(request_id: str) -> bytes:
    trace = UUID(request_id).hex
    return f"00-{trace}-{trace[16:]}-01".encode()


def _plain_address(text: str) -> Address:
    """An address, with an IPv4 one mapped into IPv6 made plain; raises ValueError."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address.version == each.version and address in each for each in networks)
