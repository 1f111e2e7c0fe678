# SPDX-License-Identifier: Apache-2.0
"""The usual call, in one step each way: known bytes, a known key, a permit without questions, units
at hand, an idle connection to the upstream; and its whole answer in one read.

It is the pipeline of `call`, `server` and `exchange` without what such a call does not need. What
is not usual is seen before anything was counted, and then the general way takes the bytes; or it
shows in a step that refuses without counting, and the general way goes on from that step; or the
answer is not usual, and then the call goes on as a `ClientExchange`. So each rule is decided in one
place, and `test_usual.py` holds both ways to the same outcome.
"""

from typing import TYPE_CHECKING

from nimbus.base import clock
from nimbus.gateway.call import Call, Gate, answer_lines
from nimbus.gateway.exchange import ClientExchange
from nimbus.gateway.forward import Lane, Pool, UpstreamConnection
from nimbus.gateway.head import RequestHead, ResponseHead
from nimbus.gateway.headers import UNREPORTED, start_for_upstream
from nimbus.gateway.origin import Origin, new_request_id, trace_line
from nimbus.gateway.permit import Permit
from nimbus.gateway.state import Way
from nimbus.gateway.upstream import Upstream
from nimbus.gateway.windows import Window, count
from nimbus.rules.grants import Grant
from nimbus.rules.metering import BILLABLE, CALL

if TYPE_CHECKING:
    from nimbus.gateway.server import ClientConnection

MAX_STARTS = 8  # remembered by a permit
_pack = CALL.pack


class UsualCalls:
    """The usual calls of one connection, whose caller is `origin`, one after the other. It knows
    where the credential of the last one stood. What it says of a call is as in `Call`.
    """

    __slots__ = (
        "_as_of",
        "_at",
        "_client",
        "_connection",
        "_gate",
        "_generation",
        "_grant",
        "_lane",
        "_leased",
        "_limiter",
        "_origin",
        "_past",
        "_permit",
        "_pool",
        "_sequence",
        "_started",
        "_way",
        "size",
        "under_way",
    )

    takes_whole = True
    _as_of: int
    _connection: UpstreamConnection
    _grant: Grant
    _lane: Lane
    _leased: bool | None
    _limiter: Window
    _permit: Permit
    _sequence: int
    _started: int
    _way: Way

    def __init__(self, client: "ClientConnection", gate: Gate, pool: Pool, origin: Origin) -> None:
        self._client = client
        self._gate = gate
        self._pool = pool
        self._origin = origin
        self._generation = -1
        self._at = self._past = 0
        self.size = 0  # of what may be a usual request
        self.under_way = False  # a call is with its upstream, and was usual up to now

    def learn(self, data: bytes, head: RequestHead, call: Call) -> None:
        """Remember a request that went the general way, if others like it may be usual ones."""
        block, secret, match, state = head.block, head.secret, call.match, self._gate.state
        if (
            secret is None
            or state.blocks
            or not state.complete
            or len(data) != head.size
            or block.length != 0
            or block.websocket
            or block.credentials
            or head.line.query is not None
            or head.line.method == b"HEAD"
            or not head.keep_alive
            or call.product.key_in_query
            or match.route.in_steps
        ):
            return
        self._at = at = data.index(head.prefix + secret) + len(head.prefix)
        self._past = past = at + len(secret)
        self.size = len(data)
        plain = RequestHead(head.line, block, head.prefix, None, head.size)
        number, method = call.product.id.int, plain.line.method
        way = Way(at, plain, method, block.trace, call.product, number, match)
        state.keep_way(data[:at] + data[past:], way)

    def begin(self, data: bytes) -> bool:
        """Take a whole request of `size` bytes, when it is a usual one; False leaves it to the
        general way.
        """
        at, past = self._at, self._past
        gate, pool = self._gate, self._pool
        state, windows = gate.state, gate.windows
        way = state.ways.get(data[:at] + data[past:])
        if way is None or way.at != at:
            return False
        # A hash that is known proves that what was cut out is that key, and nothing else.
        grant = state.grants.get((gate.keyed_hash(data[at:past]), way.number))
        if grant is None:
            return False
        permit = grant.permits.get(way.match.key)
        if permit is None:
            return False
        start = permit.starts.get(way)
        if start is None:
            if not permit.plain or permit.route is not way.match.route:
                return False
            start = _start(permit, way)
        as_of, generation = clock.now_us(), windows.generation
        if (
            permit.generation != generation
            or not permit.since <= as_of < permit.until
            or self._origin.packed not in permit.origins
        ):
            return False
        upstream = permit.upstream
        lane = pool.lanes.get(upstream.place)
        if (
            lane is None
            or not lane.idle
            or lane.busy >= upstream.max_concurrent
            or lane.breaker.failures
        ):
            return False
        pool.now = now = clock.monotonic_ns() // 1000
        if self._generation != generation:
            self._limiter, self._generation = self._origin.limiter(windows, now), generation
        if self._limiter.admit(now):
            return False  # refused without being counted; the general way refuses it, too

        # From here on the call is counted: only the general way's next step may take it over.
        client = self._client
        client.request_id = new_request_id(now)
        self._way, self._grant, self._permit = way, grant, permit
        self._as_of, self._started = as_of, now
        limiters = permit.limiters
        if limiters[0][1].admit(now) if len(limiters) == 1 else count(limiters, now):
            client.admit(self._call(), now)
            return True
        lease = permit.lease
        leased: bool | None = True
        if lease is None or not lease.take(permit.units):
            leased = gate.leases.take(permit.needs)
            permit.lease = gate.leases.only(permit.needs) if permit.told else None
        self._leased = leased
        if leased is None or (permit.held and not gate.leases.take(permit.held)):
            client.borrow(self._call(leased))
            return True
        sequence = gate.journal.reserve()
        if sequence is None:
            client.open(self._call(leased, held=bool(permit.held)))
            return True
        self._sequence = sequence

        self._send(client, start, upstream, lane)
        return True

    def _send(
        self, client: "ClientConnection", start: bytes, upstream: Upstream, lane: Lane
    ) -> None:
        request_id = client.request_id
        trace = self._way.trace or trace_line(request_id)
        lines = self._origin.lines
        request = b"".join((start, lines, b"X-Request-Id: ", request_id, b"\r\n", trace, b"\r\n"))
        self._lane = lane
        lane.busy += 1
        self._connection = connection = lane.idle.pop()
        connection.upstream = upstream
        self.under_way = True
        client.forwards()
        if not connection.take(self, request):
            self._pool.send(self.general(), upstream, lane, False)

    def upstream_whole(self, head: ResponseHead, payload: bytes) -> None:
        """The whole answer has come, which is the usual end: all steps in one, and one write."""
        gate, permit, lane = self._gate, self._permit, self._lane
        start = head.made.get(UNREPORTED)
        if start is None or lane.breaker.failures:
            self._exchange().upstream_whole(head, payload)
            return
        self.under_way = False
        lane.busy -= 1
        client, way, started, origin = self._client, self._way, self._started, self._origin
        request_id = client.request_id
        now = clock.monotonic_ns() // 1000
        duration = now - started
        limits = answer_lines(gate, permit, now)
        if head.status in permit.billable:
            flags, units = permit.flags | BILLABLE | permit.held_flags, permit.units
            held, holds = permit.held_micro, permit.holds
        else:
            flags, units, held, holds = permit.flags, 0, 0, b""
            self._give_back()
        fixed = _pack(
            self._as_of,
            permit.ids,
            head.status,
            flags | origin.flags,
            duration,
            duration,
            0,
            len(payload),
            units,
            units if self._leased else 0,
            held,
            origin.packed,
            len(way.method),
            0,
            len(request_id),
            0,
            len(holds),
        )
        gate.journal.complete(self._sequence, b"".join((fixed, way.method, request_id, holds)))
        client.answer(
            b"".join((start, limits, b"X-Request-Id: ", request_id, b"\r\n\r\n", payload))
        )

    def general(self) -> ClientExchange:
        """What goes on with the call that is under way, which is no usual one any more."""
        connection = self._connection
        exchange = self._exchange()
        exchange.sent(connection)
        connection.exchange = exchange
        return exchange

    def _give_back(self) -> None:
        """The call is not billed."""
        leases, permit = self._gate.leases, self._permit
        if self._leased:
            leases.refund(permit.needs)
        if permit.held:
            leases.refund(permit.held)

    def _call(self, leased: bool | None = None, *, held: bool = False) -> Call:
        """The call as far as it has come: admitted up to its limits, or also with its units."""
        client, head = self._client, self._way.head
        client.request = head
        call = Call(self._gate, head, self._origin, client.request_id, self._as_of, self._started)
        call.product, call.match, call.query = self._way.product, self._way.match, None
        call.grant, call.permit = self._grant, self._permit
        call.leased, call.held = leased, held
        return call

    def _exchange(self) -> ClientExchange:
        """The call under way, forwarded, with its caller waiting."""
        self.under_way = False
        client, permit = self._client, self._permit
        assert permit.upstream is not None, "the call was forwarded"
        call = self._call(self._leased, held=bool(permit.held))
        call.sequence, call.open = self._sequence, True
        call.forwarded, call.forwarded_at = True, self._started
        client.exchange = ClientExchange(
            client, self._pool, permit.upstream, self._lane, self._way.head, call
        )
        return client.exchange


def _start(permit: Permit, way: Way) -> bytes:
    """The head for the upstream up to the lines that differ with each call."""
    if len(permit.starts) >= MAX_STARTS:
        permit.starts.clear()
    start = permit.starts[way] = start_for_upstream(way.head, permit, way.match, None)
    return start
