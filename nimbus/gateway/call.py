# SPDX-License-Identifier: Apache-2.0
"""One metered call: the pipeline of spec 03 up to forwarding, and what is recorded of it.

    locate   steps 0 to 2   address limit, product, route, credential   → Located
    admit    steps 3 to 7   decide(), environment, rate limits          → Admission
    (leases  step 8         see leases.Leases)
    open_call               the journal slot                            → Call

Each is a synchronous function that returns a value: what comes next, or a Refused.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from nimbus.base import clock
from nimbus.errors import CATALOGUE
from nimbus.gateway import respond
from nimbus.gateway.head import RequestHead
from nimbus.gateway.leases import Leases, Needs
from nimbus.gateway.meter import Journal
from nimbus.gateway.respond import Pair
from nimbus.gateway.route import Match, WrongMethod, split_data_path, without_parameter
from nimbus.gateway.state import Product, State
from nimbus.gateway.upstream import Address, Upstream
from nimbus.gateway.verify import KEY_PARAMETER, KeyLookups, digest_of, read_secret
from nimbus.gateway.windows import PER_ADDRESS, RateWindows, Subject, machine_microseconds
from nimbus.rules.grants import Grant, Standing, Subscription, decide
from nimbus.rules.limits import SECOND
from nimbus.rules.metering import NIL, UsageEvent

CALLS = "api_calls"  # the meter of calls, which every product has
Meters = tuple[tuple[str, Decimal], ...]

# What is recorded when the caller left before the upstream answered; nobody is told it.
CLIENT_GONE, CLIENT_GONE_CODE = 499, "client_gone"


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer is no: a code of spec 08, a sentence for strangers, further header lines."""

    code: str
    detail: str = ""
    fields: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """What calls are judged by."""

    state: State
    windows: RateWindows
    leases: Leases
    lookups: KeyLookups
    journal: Journal
    pepper: bytes


@dataclass(frozen=True, slots=True)
class Located:
    """A call to a known route with a well-formed key. `query` goes to the upstream."""

    request: RequestHead
    request_id: str
    address: Address
    product: Product
    match: Match
    digest: bytes
    query: bytes | None
    as_of: datetime
    started: float


@dataclass(frozen=True, slots=True)
class Admission:
    """A call that may be forwarded once its units are borrowed."""

    located: Located
    grant: Grant
    subscription: Subscription
    upstream: Upstream
    subjects: tuple[Subject, ...]
    needs: Needs
    units: int


@dataclass(slots=True)
class Call:
    """A call with a journal slot, on its way."""

    gate: Gate
    admission: Admission
    sequence: int
    leased: bool
    bytes_in: int = 0
    bytes_out: int = 0
    forwarded_at: float = field(default_factory=clock.monotonic)
    answered_at: float | None = None
    meters: Meters = ()
    forwarded: bool = False  # whether the upstream may have seen it
    open: bool = True

    def upstream_answered(self) -> None:
        """The answer's head has come: the upstream's part of the duration ends."""
        self.answered_at = clock.monotonic()

    def complete(self, status: int, *, served: bool, code: str = "") -> None:
        """Write down how the call ended, before its last byte leaves; later calls change
        nothing. `served` says that the upstream answered and its answer was passed on; `code`
        says why not. A call that never went to the upstream becomes a refused record.

        Billed is a live call that the upstream answered with a status below 500; everything
        else gives its units back. Source: spec 03 "What is billed".
        """
        if not self.open:
            return
        self.open = False
        admission = self.admission
        live = admission.grant.key.environment == "Live"
        billable = live and served and status < 500
        if not billable and self.leased:
            self.gate.leases.refund(admission.needs)
        ended = clock.monotonic()
        upstream = (self.answered_at or ended) - self.forwarded_at
        self.gate.journal.complete(
            self.sequence,
            _event(
                admission.located,
                admission.grant,
                status=status,
                refusal="" if self.forwarded else code,
                duration=ended - admission.located.started,
                upstream=upstream,
                bytes_in=self.bytes_in,
                bytes_out=self.bytes_out,
                units=admission.units if billable else 0,
                leased=admission.units if billable and self.leased else 0,
                billable=billable,
                meters=self.meters if served else (),
            ),
        )


def locate(
    gate: Gate, request: RequestHead, address: Address, request_id: str, own: Product | None = None
) -> Located | Refused:
    """Steps 0 to 2: the address's limit, product and route, and the one credential. `own` is the
    product whose host was asked: there a path is the route's.
    """
    now = machine_microseconds()
    pause = gate.windows.admit((("address", address, PER_ADDRESS),), now)
    if pause:
        return Refused(
            "rate_limited",
            "Too many requests come from this address.",
            (respond.retry_after(respond.seconds(pause)),),
        )
    if not gate.state.complete:
        return Refused("unavailable", "The gateway has just started.", (respond.retry_after(1),))
    product, path = own, request.path
    if own is None and (place := split_data_path(path)) is not None:
        product, path = gate.state.product(place[0]), place[1]
    if product is None:
        return Refused("route_not_found")
    match = product.routes.find(request.method, path)
    if match is None:
        return Refused("route_not_found")
    if isinstance(match, WrongMethod):
        return Refused("method_not_allowed", "", ((b"Allow", match.allow),))
    if b"websocket" in {value.lower() for value in request.values(b"upgrade")}:
        return Refused("not_implemented", "WebSockets are not served yet.")
    secret = read_secret(request, key_in_query=product.key_in_query)
    if isinstance(secret, str):
        return Refused(secret)
    return Located(
        request=request,
        request_id=request_id,
        address=address,
        product=product,
        match=match,
        digest=digest_of(gate.pepper, secret),
        query=without_parameter(request.query, KEY_PARAMETER),
        as_of=clock.now(),
        started=clock.monotonic(),
    )


def admit(gate: Gate, located: Located) -> Admission | Refused:
    """Steps 3 to 7. What is refused of a known key is written down as a refused record."""
    grant = gate.state.grant(located.digest, located.product)
    found = _judge(gate, located, grant)
    if isinstance(found, Refused):
        note_refused(gate, located, found)
    return found


def note_refused(gate: Gate, located: Located, refused: Refused) -> None:
    """Write down a refused call of a known key, for its owner's log."""
    grant = gate.state.grant(located.digest, located.product)
    if grant is None:
        return
    gate.journal.record_refused(
        _event(
            located,
            grant,
            status=CATALOGUE[refused.code].status,
            refusal=refused.code,
            duration=clock.monotonic() - located.started,
        )
    )


def open_call(gate: Gate, admission: Admission, leased: bool) -> Call | Refused:
    """Reserve the journal slot, without which nothing is forwarded."""
    sequence = gate.journal.reserve()
    if sequence is None:
        if leased:
            gate.leases.refund(admission.needs)
        return Refused("unavailable", "The call can't be metered now.", (respond.retry_after(1),))
    return Call(gate, admission, sequence, leased)


def answer_fields(gate: Gate, admission: Admission) -> list[Pair]:
    """RateLimit and quota header lines of an answer or refusal."""
    now = machine_microseconds()
    fields = respond.rate_fields(gate.windows.states(admission.subjects, now), now)
    return fields + _quota_fields(gate, admission.needs)


def _judge(gate: Gate, located: Located, grant: Grant | None) -> Admission | Refused:
    route = located.match.route
    verdict = decide(grant, route, located.address, located.as_of)
    if verdict.code or grant is None or grant.subscription is None:
        return Refused(verdict.code, verdict.detail)
    upstream = located.product.upstreams.get(grant.key.environment)
    if upstream is None:
        environment = grant.key.environment.lower()
        return Refused("unavailable", f"This product has no {environment} environment.")
    standings: tuple[Standing, ...] = ()
    if grant.key.environment == "Live" and route.weight:
        standings = grant.subscription.standings_at(CALLS, located.as_of)
        if not standings and _closed_between_periods(grant.subscription):
            return Refused("unavailable", "The next quota period opens.", (respond.retry_after(1),))
    admission = Admission(
        located=located,
        grant=grant,
        subscription=grant.subscription,
        upstream=upstream,
        subjects=_subjects(located, grant, grant.subscription),
        needs=tuple((standing, route.weight) for standing in standings),
        units=route.weight if grant.key.environment == "Live" else 0,
    )
    now = machine_microseconds()
    pause = gate.windows.admit(admission.subjects, now)
    if pause:
        fields = (
            respond.retry_after(respond.seconds(pause)),
            *answer_fields(gate, admission),
        )
        return Refused("rate_limited", "", fields)
    return admission


def _subjects(located: Located, grant: Grant, subscription: Subscription) -> tuple[Subject, ...]:
    """The limits a call counts against: its key's, its plan's, its route's."""
    route = located.match.route
    limits = (
        ("key", grant.key.id, grant.key.rate),
        ("plan", subscription.id, subscription.plan.rate),
        ("route", (subscription.id, route.id), route.rate),
    )
    return tuple((name, who, rate) for name, who, rate in limits if rate is not None)


def _closed_between_periods(subscription: Subscription) -> bool:
    """Whether the quota exists but no period is open now, and its policy is to deny."""
    return any(
        standing.policy == "deny" and standing.limit is not None
        for standing in subscription.standings
        if standing.meter_key == CALLS
    )


def _quota_fields(gate: Gate, needs: Needs) -> list[Pair]:
    """Of the standing with the least left; none while nothing is known yet."""
    known = [
        (remaining, standing)
        for standing, _ in needs
        if standing.limit is not None and (remaining := gate.leases.remaining(standing)) is not None
    ]
    if not known:
        return []
    remaining, standing = min(known, key=lambda pair: pair[0])
    return respond.quota_fields(standing.limit or 0, remaining, standing.ends_at)


def _event(
    located: Located,
    grant: Grant,
    *,
    status: int,
    duration: float,
    refusal: str = "",
    upstream: float = 0,
    bytes_in: int = 0,
    bytes_out: int = 0,
    units: int = 0,
    leased: int = 0,
    billable: bool = False,
    meters: Meters = (),
) -> UsageEvent:
    subscription = grant.subscription
    return UsageEvent(
        event_id=NIL,  # whoever reads the slot derives it from where the slot lies
        occurred_at=located.as_of,
        organization_id=grant.key.organization_id,
        provider_organization_id=located.product.provider_organization_id,
        key_id=grant.key.id,
        subscription_id=NIL if subscription is None else subscription.id,
        product_id=located.product.id,
        route_id=located.match.route.id,
        environment=grant.key.environment,
        method=located.request.method.decode(),
        status=status,
        refusal=refusal,
        duration_us=int(duration * SECOND),
        upstream_us=int(upstream * SECOND),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        units=units,
        leased=leased,
        billable=billable,
        ip=located.address,
        request_id=located.request_id,
        meters=meters,
    )
