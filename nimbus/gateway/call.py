# SPDX-License-Identifier: Apache-2.0
"""One metered call: the pipeline of spec 03 up to forwarding, and what is recorded of it.

    locate     steps 0 to 3   address limit, product, route, credential, its hash and grant
    admit      steps 3 to 7   the permit of grant and route, rate limits
    (leases    step 8         see leases.Leases)
    open_call                 the journal slot
    complete   step 10        what came of the call, in its slot

Each is a synchronous function that fills in the `Call` and returns a Refused, or None to go on.
"""

from decimal import Decimal

from nimbus.base import clock
from nimbus.errors import CATALOGUE
from nimbus.gateway import respond
from nimbus.gateway.head import RequestHead
from nimbus.gateway.leases import Leases, Shortage
from nimbus.gateway.meter import Journal
from nimbus.gateway.origin import Origin
from nimbus.gateway.permit import Permit, call_ids, compile_permit
from nimbus.gateway.respond import Refused
from nimbus.gateway.route import Match, WrongMethod, without_parameter
from nimbus.gateway.state import Product, State
from nimbus.gateway.suspects import Suspects
from nimbus.gateway.verify import KEY_PARAMETER, KeyedHash, KeyLookups, read_secret
from nimbus.gateway.websocket import handshake_fault
from nimbus.gateway.windows import NamedWindows, RateWindows, count, may_come
from nimbus.rules.abuse import ADDRESSES_OF_A_KEY
from nimbus.rules.grants import Grant, decide, parameter_verdict, well_formed
from nimbus.rules.limits import promise
from nimbus.rules.metering import BILLABLE, CONTINUED, LIVE, encode_call, meters_text

Meters = tuple[tuple[str, Decimal], ...]

# What is recorded when the caller left before the upstream answered; nobody is told it.
CLIENT_GONE, CLIENT_GONE_CODE = 499, "client_gone"
NOT_KEPT = "The call can't be kept safely now."
_UNLOCATED = Refused("route_not_found")
ASK_STORE = Refused("rate_limited")  # no refusal yet: limits that are shared have to be asked
_NOTHING: Meters = ()


class Gate:
    """What calls are judged by: the tables that any engine of the data path works with."""

    __slots__ = ("journal", "keyed_hash", "leases", "lookups", "state", "suspects", "windows")

    def __init__(  # noqa: PLR0917 - the tables, in the order of the pipeline
        self,
        state: State,
        windows: RateWindows,
        leases: Leases,
        lookups: KeyLookups,
        journal: Journal,
        pepper: bytes,
        suspects: Suspects,
    ) -> None:
        self.state = state
        self.windows = windows
        self.leases = leases
        self.lookups = lookups
        self.journal = journal
        self.keyed_hash = KeyedHash(pepper).digest
        self.suspects = suspects


class Call:
    """A call on its way through the gate. What a step finds out is there after that step.
    `leased` is None until the quota was asked; `held` says that what the permit holds was taken.

    `as_of` is business time in microseconds since 1970; `started`, `forwarded_at` and
    `answered_at` (0: not yet) machine time in microseconds. `forwarded` says that the upstream
    may have seen the call, `leased` that its units were borrowed.
    """

    __slots__ = (
        "answered_at",
        "as_of",
        "bytes_in",
        "bytes_out",
        "continued",
        "digest",
        "forwarded",
        "forwarded_at",
        "gate",
        "grant",
        "head",
        "held",
        "leased",
        "match",
        "meters",
        "open",
        "origin",
        "permit",
        "product",
        "query",
        "request_id",
        "sequence",
        "started",
    )

    digest: bytes
    grant: Grant | None
    match: Match
    permit: Permit
    product: Product
    query: bytes | None
    leased: bool | None
    sequence: int

    def __init__(  # noqa: PLR0917 - one is made for each call, and names cost time
        self,
        gate: Gate,
        head: RequestHead,
        origin: Origin,
        request_id: bytes,
        as_of: int,
        started: int,
    ) -> None:
        self.gate = gate
        self.head = head
        self.origin = origin
        self.request_id = request_id
        self.as_of = as_of
        self.started = started
        self.forwarded_at = 0
        self.answered_at = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.meters = _NOTHING
        self.forwarded = False
        self.continued = False
        self.held = False
        self.leased = None
        self.open = False

    def complete(self, status: int, served: bool, code: str = "", ended: int = 0) -> None:
        """Write down how the call ended, before its last byte leaves; later calls change
        nothing. `served` says that the upstream answered and its answer was passed on; `code`
        says why not. A call that never went to the upstream becomes a refused record. `ended` is
        machine time in microseconds, read here when the caller has no fresh reading.

        Billed is a live call that the upstream answered with a status that the product bills;
        everything else gives its units back. Source: spec 03 "What is billed".
        """
        if not self.open:
            return
        self.open = False
        permit, origin = self.permit, self.origin
        ended = ended or clock.monotonic_ns() // 1000
        flags = permit.flags | origin.flags
        units = leased = held = 0
        meters = holds = refusal = b""
        if self.continued:
            flags |= CONTINUED
        if served:
            if self.meters:
                meters = meters_text(self.meters)
        elif code and not self.forwarded:
            refusal = code.encode()
        if served and status in permit.billable:
            flags |= BILLABLE
            units = 0 if self.continued else permit.units
            leased = units if self.leased else 0
            if self.held:
                flags, held, holds = flags | permit.held_flags, permit.held_micro, permit.holds
        else:
            self.give_back()
        self.gate.journal.complete(
            self.sequence,
            encode_call(
                self.as_of,
                permit.ids,
                status,
                flags,
                ended - self.started,
                (self.answered_at or ended) - (self.forwarded_at or ended),
                self.bytes_in,
                self.bytes_out,
                units,
                leased,
                held,
                origin.packed,
                self.head.line.method,
                refusal,
                self.request_id,
                meters,
                holds,
            ),
        )

    def go_on(self, status: int) -> None:
        """Write down what a long stream has carried so far, and what it carries from now on in
        another slot. The first part is the call; it is billed and can't be given back any more.
        """
        sequence = self.gate.journal.reserve() if self.open else None
        if sequence is None:
            return
        self.complete(status, True)
        self.sequence, self.open, self.continued = sequence, True, True
        self.as_of = clock.now_us()
        self.started = self.forwarded_at = self.answered_at = clock.monotonic_us()
        self.bytes_in = self.bytes_out = 0
        self.meters = _NOTHING
        self.leased, self.held = False, False

    def give_back(self) -> None:
        """Return what was borrowed for the call: it is not billed, or not made."""
        if self.leased:
            self.leased = False
            self.gate.leases.refund(self.permit.needs)
        if self.held:
            self.held = False
            self.gate.leases.refund(self.permit.held)

    def answer_lines(self, now: int) -> bytes:
        """What is told of limits and quota in an answer or refusal; `now` in microseconds of
        machine time.
        """
        return answer_lines(self.gate, self.permit, now)


def answer_lines(gate: Gate, permit: Permit, now: int) -> bytes:
    """RateLimit and quota header lines of an answer or refusal; `now` in microseconds of
    machine time. Of several quotas the one with the least left is told, none while nothing
    is known.
    """
    limiters, lease = permit.limiters, permit.lease
    if permit.generation != gate.windows.generation:
        limiters = permit.limits(gate.windows, now)
    if len(limiters) == 1 and lease is not None and lease.known and lease.left is not None:
        calls, seconds = promise(limiters[0][1], now)
        least = lease.left + lease.available - permit.beyond
        return permit.told % (calls, seconds, max(0, least))
    promises: tuple[int, ...] = ()
    for _, limiter in limiters:
        promises += promise(limiter, now)
    scarcest, told = gate.leases.scarcest(permit.quotas)
    if scarcest is None:
        return permit.rate_lines % promises
    return b"%b%b%d\r\n" % (permit.rate_lines % promises, told, max(0, scarcest))


def locate(call: Call, product: Product | None, path: bytes) -> Refused | None:
    """Steps 0 to 3: the address's limit, the route at this path of the product, the one
    credential and its grant. A key that is not known here leaves `grant` None.
    """
    gate, head, now = call.gate, call.head, call.started
    pause = call.origin.limiter(gate.windows, now).admit(now)
    if pause:
        lines = respond.retry_after(respond.seconds(pause))
        return Refused("rate_limited", "Too many requests come from this address.", lines)
    if not gate.state.complete:
        return Refused("unavailable", "The gateway has just started.", respond.retry_after(1))
    if gate.state.blocks:
        until = gate.state.blocked_until(call.origin.address, call.as_of)
        if until is not None:
            lines = respond.retry_after(respond.seconds(clock.to_us(until) - call.as_of))
            return Refused("rate_limited", "This address is blocked for a time.", lines)
    match = None if product is None else product.routes.find(head.line.method, path)
    if product is None or match.__class__ is not Match:
        return _no_route(call, match)
    call.product, call.match = product, match
    if head.block.websocket:
        refused = _no_websocket(head, product)
        if refused is not None:
            return refused
    return _identify(call)


def admit(call: Call, now: int) -> Refused | None:
    """Steps 3 to 7; `now` in microseconds of machine time. ASK_STORE: await `await_rates`. What
    is refused of a known key is written down as a refused record.
    """
    grant, match = call.grant, call.match
    if grant is None:
        call.gate.suspects.refused_key(call.origin.address, call.digest, now)
        return Refused("invalid_api_key")
    permit = grant.permits.get(match.key)
    if (
        permit is None
        or permit.route is not match.route
        or not permit.since <= call.as_of < permit.until
    ):
        permit = compile_permit(grant, call.product, match.route, clock.from_us(call.as_of))
        grant.permits[match.key] = permit
    call.permit = permit
    if not permit.plain:
        refused = _judge(call, grant)
        if refused is not None:
            note_refused(call, refused)
            return refused
    windows = call.gate.windows
    limiters = permit.limiters
    if permit.generation != windows.generation:
        limiters = permit.limits(windows, now)
    # The usual call has one limit, which decides alone.
    if limiters[0][1].admit(now) if len(limiters) == 1 else count(limiters, now):
        return ASK_STORE if may_come(limiters, now) else _over_rate(call, limiters, now)
    if call.origin.packed not in permit.origins:
        _note_origin(call, permit.origins, now)
    return None


async def await_rates(call: Call) -> Refused | None:
    """Step 7 for a call that was told ASK_STORE: its tokens come, or they don't."""
    windows = call.gate.windows
    limiters = call.permit.limits(windows, clock.monotonic_us())
    if await windows.wait_for(limiters):
        return _over_rate(call, limiters, clock.monotonic_us())
    return None


def note_refused(call: Call, refused: Refused) -> None:
    """Write down a refused call of a known key, for its owner's log."""
    grant = call.grant
    if grant is None:
        return
    live = LIVE if grant.key.environment == "Live" else 0
    call.gate.journal.record_refused(
        encode_call(
            call.as_of,
            call_ids(grant, call.product, call.match.route),
            CATALOGUE[refused.code].status,
            live | call.origin.flags,
            clock.monotonic_us() - call.started,
            0,
            0,
            0,
            0,
            0,
            0,
            call.origin.packed,
            call.head.line.method,
            refused.code.encode(),
            call.request_id,
        )
    )


async def borrow(call: Call) -> Shortage | None:
    """Step 8: wait for the units of the call's quota, then for what it holds; why it can't have
    them, or None. A call that can't have all keeps nothing.
    """
    leases, permit, as_of = call.gate.leases, call.permit, clock.from_us(call.as_of)
    if call.leased is None:
        leased = await leases.wait_for(permit.needs, as_of)
        if isinstance(leased, Shortage):
            return leased
        call.leased = leased
    if permit.held:
        held = await leases.wait_for(permit.held, as_of)
        if isinstance(held, Shortage):
            call.give_back()
            return held
        call.held = held
    return None


def open_call(call: Call) -> Refused | None:
    """Reserve the journal slot, without which nothing is forwarded."""
    journal = call.gate.journal
    if call.match.route.strict_journal and not journal.syncs:
        call.give_back()
        return Refused("unavailable", NOT_KEPT, respond.retry_after(1))
    sequence = journal.reserve()
    if sequence is None:
        call.give_back()
        return Refused("unavailable", "The call can't be metered now.", respond.retry_after(1))
    call.sequence, call.open = sequence, True
    return None


def suspected(call: Call) -> Refused | None:
    """Why a key that is not known here is not even looked up: its address brings many such."""
    pause = call.gate.suspects.pause(call.origin.address, call.started)
    if not pause:
        return None
    lines = respond.retry_after(respond.seconds(pause))
    return Refused("rate_limited", "Many calls from this address were refused.", lines)


def _no_route(call: Call, match: object) -> Refused:
    if isinstance(match, WrongMethod):
        return Refused("method_not_allowed", "", b"Allow: %s\r\n" % match.allow)
    call.gate.suspects.unknown_path(call.origin.address, call.head.line.path, call.started)
    return _UNLOCATED


def _note_origin(call: Call, origins: set[bytes], now: int) -> None:
    """A key was used from an address that its permit has not seen, or has forgotten."""
    if len(origins) >= ADDRESSES_OF_A_KEY:
        origins.clear()
    origins.add(call.origin.packed)
    if call.grant is not None:
        call.gate.suspects.used_key(call.grant.key.id, call.origin.address, now)


def _no_websocket(head: RequestHead, product: Product) -> Refused | None:
    if not product.websockets:
        return Refused("not_implemented", "This product has no WebSockets.")
    fault = handshake_fault(head)
    return Refused("malformed_request", fault) if fault else None


def _identify(call: Call) -> Refused | None:
    """Steps 2 and 3: the hash of the one credential, and whose it is."""
    head, product, gate = call.head, call.product, call.gate
    secret = head.secret
    # The usual credential stands apart, alone; else all places are looked at.
    if secret is None or product.key_in_query or head.block.credentials:
        found = read_secret(head, key_in_query=product.key_in_query)
        if isinstance(found, str):
            return Refused(found)
        secret = found
    query = head.line.query
    call.query = None if query is None else without_parameter(query, KEY_PARAMETER)
    call.digest = gate.keyed_hash(secret)
    call.grant = gate.state.grant(call.digest, product)
    # Only a hash that is known proves what was hashed; of the others the form has to be a key's.
    if call.grant is None and not well_formed(secret):
        gate.suspects.refused_key(call.origin.address, call.digest, call.started)
        return Refused("invalid_api_key")
    return None


def _judge(call: Call, grant: Grant) -> Refused | None:
    """What a permit alone can't say, in the order of the pipeline."""
    permit, route = call.permit, call.match.route
    if permit.refused is not None:
        return permit.refused
    if permit.by_address:
        verdict = decide(grant, route, call.origin.address, clock.from_us(call.as_of))
        if verdict.code:
            return Refused(verdict.code, verdict.detail)
    missing = parameter_verdict(route, call.head.line.query)
    if missing is not None:
        return Refused(missing.code, missing.detail)
    return permit.closed


def _over_rate(call: Call, limiters: NamedWindows, now: int) -> Refused:
    pause = max(limiter.wait(now) for _, limiter in limiters)
    lines = respond.retry_after(respond.seconds(pause)) + call.answer_lines(now)
    refused = Refused("rate_limited", "", lines)
    note_refused(call, refused)
    return refused
