# SPDX-License-Identifier: Apache-2.0
"""What the law says of one grant and one route, compiled once and good for many calls.

`decide` in `rules/grants` remains the only law; a `Permit` is its answer with the span of
business time in which it holds, and everything that follows for a call: limiters, units, the
ids of its journal record, header lines ready to send. It is kept in `grant.permits`: whatever
changes what the grant says makes another grant, and the permits go with the old one.
"""

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Final, NamedTuple

from nimbus.base import clock
from nimbus.gateway import respond
from nimbus.gateway.leases import Lease, Needs
from nimbus.gateway.respond import Refused
from nimbus.gateway.state import Product, Way
from nimbus.gateway.upstream import Address, Upstream
from nimbus.gateway.windows import RateWindows, Subject, Window
from nimbus.rules.grants import Grant, Route, Standing, Subscription, decide, turning_points
from nimbus.rules.metering import CALLS, LIVE, NIL, Held, held_flags, record_ids
from nimbus.rules.spending import hold

FOREVER: Final = 1 << 62
_ANYWHERE: Final[Address] = ip_address("0.0.0.0")  # noqa: S104 - where no list asks for it
_NOT_BILLED: Final = frozenset[int]()


@dataclass(slots=True)
class Permit:
    """Good from `since` until before `until`, in microseconds of business time since 1970.

    `refused` is the law's no. `by_address`: some list has to be asked about the caller's address
    for each call, so `decide` is. `closed` is a no of the gate's own, after the law's yes.
    `plain`: every call goes on to the limits without a further look. `auth` names the
    upstream's own credential line, `base_path` (after a space) stands before the path on its
    request line, `head` is what follows the target there, with our lines that are the same for
    all calls. `limiters` are those of `subjects`, of windows' `generation`; `quotas` the limited
    standings with what is told of them. `rate_lines` are the header lines about limits, with places
    for what remains of each and for how many seconds. `billable` are the statuses that are billed,
    `ids` and `flags` those of the journal record. `held` is what a call takes beside its quota and
    whoever stores it gives back: `held_micro` of money, and `holds` of meters that only the answer
    tells.
    Where `needs` and `quotas` are about one and the same standing, `told` is all that is told of
    limits, with a place for what is left of the quota, too, which ends `beyond` units before what
    may be lent; and `lease` is what is borrowed on it, once a usual call has looked for it.
    `origins` are the addresses from which it was used, `starts` what an upstream is sent first of
    all for a request that comes again and again.
    """

    route: Route
    since: int
    until: int
    refused: Refused | None
    by_address: bool
    closed: Refused | None
    plain: bool
    upstream: Upstream | None
    auth: bytes
    base_path: bytes
    head: bytes
    subjects: tuple[Subject, ...]
    rate_lines: bytes
    limiters: tuple[tuple[bytes, Window], ...]
    generation: int
    needs: Needs
    quotas: tuple[tuple[Standing, bytes], ...]
    units: int
    billable: frozenset[int]
    ids: bytes
    flags: int
    held: Needs
    held_micro: int
    held_flags: int
    holds: bytes
    told: bytes
    beyond: int
    lease: Lease | None = None
    origins: set[bytes] = field(default_factory=set)
    starts: dict[Way, bytes] = field(default_factory=dict)

    def limits(self, windows: RateWindows, now: int) -> tuple[tuple[bytes, Window], ...]:
        """The limiters in force, by name; `now` in microseconds of machine time. Who sees that the
        generation is still the same takes `limiters` without asking.
        """
        if self.generation != windows.generation:
            self.limiters = tuple(
                (subject[0].encode(), windows.limiter(subject, now)) for subject in self.subjects
            )
            self.generation = windows.generation
        return self.limiters


def compile_permit(grant: Grant, product: Product, route: Route, as_of: datetime) -> Permit:
    """What `grant` means for calls of `route` at an instant of business time (aware, UTC)."""
    turns = turning_points(grant)
    by_address = bool(grant.key.networks or route.address_lists)
    verdict = decide(grant, route, _ANYWHERE, as_of)
    refused = None
    if verdict.code and not by_address:
        refused = Refused(verdict.code, verdict.detail)
    live = grant.key.environment == "Live"
    asks_quota = bool(live and route.weight)
    upstream = product.upstreams.get(grant.key.environment)
    standings: tuple[Standing, ...] = ()
    if asks_quota and grant.subscription is not None:
        standings = grant.subscription.standings_at(CALLS, as_of)
    subjects = _subjects(grant, route)
    held = _held(grant, route, as_of) if live else _NOTHING_HELD
    policy_line = respond.policy_line((name, rate) for name, _, rate in subjects)
    rate_lines = policy_line + respond.rate_template(name for name, _, _ in subjects)
    quotas = tuple(
        (standing, respond.quota_lines(standing.limit, standing.ends_at))
        for standing in (*standings, *(one for one, _ in held.needs if one.meter_key == CALLS))
        if standing.limit is not None
    )
    alone = quotas[0] if len(quotas) == 1 and standings == (quotas[0][0],) else None
    closed = _closed(grant, upstream, needs_quota=asks_quota, open_=standings) or held.closed
    return Permit(
        route=route,
        since=max((clock.to_us(turn) for turn in turns if turn <= as_of), default=-FOREVER),
        until=min((clock.to_us(turn) for turn in turns if turn > as_of), default=FOREVER),
        refused=refused,
        by_address=by_address,
        closed=closed,
        plain=not (refused or by_address or closed or route.required),
        upstream=upstream,
        auth=b"" if upstream is None or upstream.auth is None else upstream.auth[0].lower(),
        base_path=b" " if upstream is None else b" " + upstream.base_path,
        head=b"" if upstream is None else _head(upstream, grant.subscription),
        subjects=subjects,
        rate_lines=rate_lines,
        limiters=(),
        generation=-1,
        needs=tuple((standing, route.weight) for standing in standings),
        quotas=quotas,
        units=route.weight if live else 0,
        billable=product.billable if live else _NOT_BILLED,
        ids=call_ids(grant, product, route),
        flags=LIVE if live else 0,
        held=held.needs,
        held_micro=held.micro,
        held_flags=held.flags,
        holds=held.text,
        told=b"" if alone is None else b"%b%b%%d\r\n" % (rate_lines, alone[1]),
        beyond=0 if alone is None else alone[0].overage_cap or 0,
    )


def call_ids(grant: Grant, product: Product, route: Route) -> bytes:
    """The ids of a call's journal record."""
    subscription = grant.subscription
    return record_ids(
        grant.key.organization_id,
        product.provider_organization_id,
        grant.key.id,
        NIL if subscription is None else subscription.id,
        product.id,
        route.id,
    )


def _closed(
    grant: Grant, upstream: Upstream | None, *, needs_quota: bool, open_: tuple[Standing, ...]
) -> Refused | None:
    """Why the gate itself can't serve what the law allows."""
    if upstream is None:
        environment = grant.key.environment.lower()
        return Refused("unavailable", f"This product has no {environment} environment.")
    if needs_quota and not open_ and _closed_between_periods(grant.subscription):
        return Refused("unavailable", "The next quota period opens.", respond.retry_after(1))
    return None


class _Holds(NamedTuple):
    """What a call of a permit holds, see `Permit`; `closed` where a counter is not open yet."""

    needs: Needs = ()
    micro: int = 0
    flags: int = 0
    text: bytes = b""
    closed: Refused | None = None


_NOTHING_HELD: Final = _Holds()
_HELD_ON: Final = {
    "organization_spend": Held.ORGANIZATION_SPEND,
    "key_spend": Held.KEY_SPEND,
    "balance": Held.BALANCE,
    "key_quota": Held.KEY_QUOTA,
}
_ORDER: Final = ("key_quota", "organization_spend", "key_spend", "balance")  # of the pipeline


def _held(grant: Grant, route: Route, as_of: datetime) -> _Holds:
    """Its units, on the quota of the key; the most that a live call can cost, on each counter of
    money that limits it, and the most that it can use of meters that are denied beyond their quota.
    Source: spec 03 "Limits".
    """
    subscription = grant.subscription
    if subscription is None:
        return _NOTHING_HELD
    needs: Needs = ()
    text = b""
    for meter_key, units in route.holds:
        denied = [
            (standing, units)
            for standing in subscription.standings_at(meter_key, as_of)
            if standing.ends
        ]
        if denied:
            needs += tuple(denied)
            text += b"%s%s=%d" % (b"," if text else b"", meter_key.encode(), units)
    charges = subscription.plan.charges.get(subscription.currency, ())
    most = {CALLS: route.weight, **dict(route.holds)}
    amount = hold(charges, most, subscription.currency) if charges and grant.spending else 0
    concerned = [one for one in grant.spending if _units(one, route, amount)]
    limits = [one for one in concerned if one.starts_at <= as_of < one.ends_at]
    limits.sort(key=lambda one: _ORDER.index(one.kind))
    if {one.kind for one in limits} != {one.kind for one in concerned}:
        wait = Refused("unavailable", "The next month opens.", respond.retry_after(1))
        return _Holds(closed=wait)
    needs += tuple((one, _units(one, route, amount)) for one in limits)
    flags = held_flags(Held(sum(_HELD_ON[one.kind] for one in limits)))
    return _Holds(needs, amount, flags, text)


def _units(standing: Standing, route: Route, amount: int) -> int:
    """What a call holds of a counter: its units of a key's quota, else what it can cost."""
    return route.weight if standing.kind == "key_quota" else amount


def _closed_between_periods(subscription: Subscription | None) -> bool:
    """Whether the quota exists but no period is open now, and its policy is to deny."""
    return subscription is not None and any(
        standing.ends for standing in subscription.standings if standing.meter_key == CALLS
    )


def _subjects(grant: Grant, route: Route) -> tuple[Subject, ...]:
    """The limits a call counts against: its key's, its plan's, its route's."""
    subscription = grant.subscription
    if subscription is None:
        return ()
    limits = (
        ("key", grant.key.id, grant.key.rate),
        ("plan", subscription.id, subscription.plan.rate),
        ("route", (subscription.id, route.id), route.rate),
    )
    return tuple((name, who, rate) for name, who, rate in limits if rate is not None)


def _head(upstream: Upstream, subscription: Subscription | None) -> bytes:
    """Who calls, in the gateway's words, and the upstream's own credentials. Source: spec 03
    step 9.
    """
    lines = [b" HTTP/1.1\r\nHost: %s\r\n" % upstream.authority]
    if subscription is not None:
        lines += [
            b"X-Nimbus-Organization: %s\r\n" % str(subscription.organization_id).encode(),
            b"X-Nimbus-Subscription: %s\r\n" % str(subscription.id).encode(),
            b"X-Nimbus-Plan: %s\r\n" % subscription.plan.slug.encode(),
        ]
    if upstream.auth is not None:
        lines.append(b"%s: %s\r\n" % upstream.auth)
    return b"".join(lines)
