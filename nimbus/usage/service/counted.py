# SPDX-License-Identifier: Apache-2.0
"""What the drain tells Prometheus of the calls that it stored, so that no gateway has to count.

Names are looked up once; the plan of a subscription again each minute, for it may change.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from nimbus.base import clock, db, log, metrics, tracing
from nimbus.rules.blocks import Block, calls_of, kinds
from nimbus.rules.metering import CONTINUED, NIL, UsageEvent
from nimbus.usage.service.lots import Ready

logger = log.get_logger("drain")

UNKNOWN = ""
PLANS_SECONDS = 60.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
LIMITS = frozenset(("rate_limited", "quota_exceeded", "spend_limit_reached"))

_ROUTES = text(
    "SELECT r.id, p.slug, r.method || ' ' || r.path FROM routes r"
    " JOIN products p ON p.id = r.product_id WHERE r.id = ANY (CAST(:ids AS uuid[]))"
)
_PLANS = text(
    "SELECT s.id, l.slug FROM subscriptions s JOIN plans l ON l.id = s.plan_id"
    " WHERE s.id = ANY (CAST(:ids AS uuid[]))"
)


class Stored(NamedTuple):
    """Calls of one route, subscription, environment and status, or of one refusal; parts of a long
    stream are no calls. The times are of served calls alone, in microseconds.
    """

    route_id: UUID
    subscription_id: UUID
    environment: str
    status_class: int
    refusal: str
    calls: int
    added_us: list[int]
    upstream_us: list[int]


class _Names:
    """What routes and plans are called, as labels."""

    def __init__(self) -> None:
        self._routes: dict[UUID, tuple[str, str]] = {}
        self._plans: dict[UUID, str] = {}
        self._plans_until = 0.0

    async def learn(self, stored: Iterable["Stored"]) -> None:
        """Look up those that are not known yet."""
        if clock.monotonic() > self._plans_until:
            self._plans = {}
            self._plans_until = clock.monotonic() + PLANS_SECONDS
        routes = {each.route_id for each in stored} - self._routes.keys() - {NIL}
        plans = {each.subscription_id for each in stored} - self._plans.keys() - {NIL}
        if not routes and not plans:
            return
        async with db.system_session("metrics") as session:
            for route, product, name in await session.execute(_ROUTES, {"ids": list(routes)}):
                self._routes[route] = product, name
            for subscription, plan in await session.execute(_PLANS, {"ids": list(plans)}):
                self._plans[subscription] = plan

    def of(self, route: UUID, subscription: UUID) -> tuple[str, str, str]:
        """Product, route and plan; empty where a refused call did not come to know them."""
        product, name = self._routes.get(route, (UNKNOWN, UNKNOWN))
        return product, name, self._plans.get(subscription, UNKNOWN)


_names = _Names()


async def count_stored(
    events: Sequence[UsageEvent], block: Block | None, of_block: Sequence[Stored]
) -> None:
    """Count calls once they are stored: single ones, and those of a block, with what `stored_of`
    says of it.

    What fails here is told and else left alone: the calls themselves are safe.
    """
    stored = [*_single(events), *of_block]
    try:
        await _names.learn(stored)
    except (SQLAlchemyError, OSError) as error:
        logger.warning("not_counted", exc_info=error)
        return
    if tracing.is_on():
        _trace(events, block)
    for each in stored:
        names = _names.of(each.route_id, each.subscription_id)
        if each.refusal:
            metrics.refused_calls.labels(each.refusal).inc(each.calls)
            if each.refusal in LIMITS:
                metrics.rate_limit_hits.labels(*names, each.refusal).inc(each.calls)
            continue
        metrics.calls.labels(*names, each.environment, f"{each.status_class}xx").inc(each.calls)
        metrics.observe(metrics.added_seconds, each.added_us)
        metrics.observe(metrics.upstream_seconds.labels(names[0]), each.upstream_us)


def _single(events: Iterable[UsageEvent]) -> Iterator[Stored]:
    for event in events:
        if not event.continued:
            yield Stored(
                event.route_id,
                event.subscription_id,
                event.environment,
                event.status // 100,
                event.refusal,
                1,
                [event.duration_us - event.upstream_us],
                [event.upstream_us],
            )


def stored_of(ready: Ready) -> Iterator[Stored]:
    """What the calls of a block count for."""
    yield from _single(event for _, event in ready.odd)
    for calls in (ready.served, ready.refused):
        for kind, some in kinds(calls.where(calls.slots["flags"] & CONTINUED == 0)):
            upstream = some.slots["upstream_us"].astype(int)
            added = some.slots["duration_us"].astype(int) - upstream
            yield Stored(*kind, len(some), added.tolist(), upstream.tolist())


def _trace(events: Sequence[UsageEvent], block: Block | None) -> None:
    """The spans of some calls, from what is stored of them: no gateway has to do with it."""
    one_in = max(1, db.current().settings.traced_calls)
    some = [event for event in events if event.event_id.int % one_in == 0]
    if block is not None:
        wanted = np.arange(block.first, block.last + 1) % one_in == 0
        calls, odd = calls_of(block, wanted)
        some += [calls.event(place) for place in range(len(calls))]
        some += [event for _, event in odd]
    for event in some:
        product, route, _ = _names.of(event.route_id, event.subscription_id)
        tracing.call(
            f"{product} {route}".strip() or event.method,
            event.request_id,
            (event.occurred_at - _EPOCH) // _MICROSECOND * 1000,
            duration_us=event.duration_us,
            upstream_us=event.upstream_us,
            status=event.status,
        )
