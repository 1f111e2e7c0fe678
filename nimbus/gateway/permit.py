# SPDX-License-Identifier: Apache-2.0
"""What the law says of one grant and one route, compiled once and good for many calls.

`decide` in `rules/grants` remains the only law; a `Permit` is its answer with the span of
business time in which it holds, and everything that follows for a call: limiters, units, the
ids of its journal record, header lines ready to send. It is kept in `grant.permits`: whatever
changes what the grant says makes another grant, and the permits go with the old one.
"""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Final

from nimbus.base import clock
from nimbus.gateway import respond
from nimbus.gateway.leases import Needs
from nimbus.gateway.respond import Refused
from nimbus.gateway.state import Product
from nimbus.gateway.upstream import Address, Upstream
from nimbus.gateway.windows import RateWindows, Subject
from nimbus.rules.grants import Grant, Route, Standing, Subscription, decide, turning_points
from nimbus.rules.limits import Limiter
from nimbus.rules.metering import CALLS, LIVE, NIL, record_ids

FOREVER: Final = 1 << 62
_ANYWHERE: Final[Address] = ip_address("0.0.0.0")  # noqa: S104 - where no list asks for it
_NOT_BILLED: Final = frozenset[int]()


@dataclass(slots=True)
class Permit:
    """Good from `since` until before `until`, in microseconds of business time since 1970.

    `refused` is the law's no. `by_address`: some list has to be asked about the caller's address
    for each call, so `decide` is. `closed` is a no of the gate's own, after the law's yes.
    `plain`: every call goes on to the limits without a further look. `head` is what follows the
    target on the upstream's request line, and our lines that are the same for all calls.
    `limiters` are those of `subjects`, of windows' `generation`; `quotas` the limited standings
    with what is told of them. `billable` are the statuses that are billed, `ids` and `flags`
    those of the journal record.
    """

    route: Route
    since: int
    until: int
    refused: Refused | None
    by_address: bool
    closed: Refused | None
    plain: bool
    upstream: Upstream | None
    head: bytes
    subjects: tuple[Subject, ...]
    policy_line: bytes
    limiters: tuple[tuple[bytes, Limiter], ...]
    generation: int
    needs: Needs
    quotas: tuple[tuple[Standing, bytes], ...]
    units: int
    billable: frozenset[int]
    ids: bytes
    flags: int

    def limits(self, windows: RateWindows, now: int) -> tuple[tuple[bytes, Limiter], ...]:
        """The limiters in force, by name; `now` in microseconds of machine time."""
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
    closed = _closed(grant, upstream, needs_quota=asks_quota, open_=standings)
    return Permit(
        route=route,
        since=max((clock.to_us(turn) for turn in turns if turn <= as_of), default=-FOREVER),
        until=min((clock.to_us(turn) for turn in turns if turn > as_of), default=FOREVER),
        refused=refused,
        by_address=by_address,
        closed=closed,
        plain=not (refused or by_address or closed or route.required),
        upstream=upstream,
        head=b"" if upstream is None else _head(upstream, grant.subscription),
        subjects=subjects,
        policy_line=respond.policy_line((name, rate) for name, _, rate in subjects),
        limiters=(),
        generation=-1,
        needs=tuple((standing, route.weight) for standing in standings),
        quotas=tuple(
            (standing, respond.quota_lines(standing.limit, standing.ends_at))
            for standing in standings
            if standing.limit is not None
        ),
        units=route.weight if live else 0,
        billable=product.billable if live else _NOT_BILLED,
        ids=call_ids(grant, product, route),
        flags=LIVE if live else 0,
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


def _closed_between_periods(subscription: Subscription | None) -> bool:
    """Whether the quota exists but no period is open now, and its policy is to deny."""
    return subscription is not None and any(
        standing.policy == "deny" and standing.limit is not None
        for standing in subscription.standings
        if standing.meter_key == CALLS
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
