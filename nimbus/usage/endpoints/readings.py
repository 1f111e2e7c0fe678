# SPDX-License-Identifier: Apache-2.0
"""What was called, what is left, the log."""

import base64
import binascii
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Page, Router, Session
from nimbus.errors import field_error
from nimbus.identity import Permission, allowed, organization_facts
from nimbus.rules.periods import Period
from nimbus.rules.spending import from_micro
from nimbus.usage import queries, schemas
from nimbus.usage.models import CallCounts, LoggedCall, QuotaState, SpendState
from nimbus.usage.service.readings import CurrentUse, current_use
from nimbus.usage.service.spending import spend_states

RANGE_DAYS_DEFAULT = 30
FIRST_YEAR, LAST_YEAR = 2000, 9000
RANGE_DAYS_MAX = 400

router = Router(tags=["usage"])
Reader = Annotated[Actor, allowed(Permission.SEE_USAGE, scope="billing.read")]
Payer = Annotated[Actor, allowed(Permission.SEE_INVOICES, scope="billing.read")]
LogReader = Annotated[Actor, allowed(Permission.READ_LOGS)]
ProductSlug = Annotated[str | None, Query(max_length=63, pattern=r"^[a-z0-9-]+$")]
Environment = Annotated[Literal["Live", "Test"], Query()]
Since = Annotated[datetime | None, Query(alias="from", description="Default: 30 days before `to`.")]
Until = Annotated[datetime | None, Query(alias="to", description="Default: now.")]


@router.get(
    "/api/developer/usage", operation_id="read_usage", responses=documented(401, 403, 404, 422)
)
async def read_usage(
    actor: Reader, session: Session, product: ProductSlug = None
) -> schemas.UsageList:
    """What each subscription used in its running period, and what is left of its quotas."""
    found = await _current(session, actor, product)
    return schemas.UsageList(
        data=[
            schemas.UsageShape(**_use(use), quotas=[_quota(use, state) for state in use.quotas])
            for use in found
        ]
    )


@router.get(
    "/api/billing/usage/current",
    operation_id="read_current_usage",
    responses=documented(401, 403, 404, 422),
)
async def read_current_usage(
    actor: Reader, session: Session, product: ProductSlug = None
) -> schemas.CurrentList:
    """What each subscription used in its running billing period: what its invoice will count."""
    found = await _current(session, actor, product)
    return schemas.CurrentList(data=[schemas.CurrentShape(**_use(use)) for use in found])


@router.get(
    "/api/billing/quota", operation_id="read_quota", responses=documented(401, 403, 404, 422)
)
async def read_quota(
    actor: Reader, session: Session, product: ProductSlug = None
) -> schemas.QuotaList:
    """Every quota: used, limit, what remains, and what happens over it."""
    found = await _current(session, actor, product)
    return schemas.QuotaList(data=[_quota(use, state) for use in found for state in use.quotas])


@router.get("/api/billing/spend", operation_id="read_spend", responses=documented(401, 403))
async def read_spend(actor: Payer, session: Session) -> schemas.SpendShape:
    """What this month's calls cost so far, by organization and key, and what limits and balance
    leave: the counters that stop calls.
    """
    currency = (await organization_facts(session, actor.organization_id)).currency
    found = await spend_states(session, actor.organization_id, clock.now())
    months = {state.key_id: _month(state, currency) for state in found if state.kind != "balance"}
    balances = [_spent(state, currency) for state in found if state.kind == "balance"]
    return schemas.SpendShape(
        currency=currency,
        month=months.get(None) and schemas.MonthShape(**months[None]),
        balance=schemas.SpentShape(**balances[0]) if balances else None,
        keys=[
            schemas.KeySpendShape(key_id=key_id, **month)
            for key_id, month in months.items()
            if key_id
        ],
    )


@router.get(
    "/api/developer/usage/summary",
    operation_id="read_usage_summary",
    responses=documented(401, 403, 422),
)
async def read_summary(
    actor: Reader,
    session: Session,
    since: Since = None,
    until: Until = None,
    environment: Environment = "Live",
) -> schemas.SummaryShape:
    """Calls by day and by status, in whole hours."""
    period = _range(since, until)
    organization = actor.organization_id
    facts = await organization_facts(session, organization)
    days = await queries.calls_by_day(session, organization, environment, period, facts.time_zone)
    statuses = await queries.calls_by_status(session, organization, environment, period)
    return schemas.SummaryShape(
        environment=environment,
        period=_period(period),
        total=schemas.CountsShape(**_counts(_total(days))),
        by_status={f"{first}xx": calls for first, calls in statuses.items()},
        days=[schemas.DayShape(day=str(one.day), **_counts(one)) for one in days],
    )


@router.get(
    "/api/developer/usage/by-endpoint",
    operation_id="read_usage_by_endpoint",
    responses=documented(401, 403, 422),
)
async def read_by_endpoint(
    actor: Reader,
    session: Session,
    since: Since = None,
    until: Until = None,
    environment: Environment = "Live",
) -> schemas.EndpointList:
    """Calls by operation, the most called first, in whole hours."""
    period = _range(since, until)
    found = await queries.calls_by_route(session, actor.organization_id, environment, period)
    routes = await catalog.route_facts(session, [one.route_id for one in found if one.route_id])
    data = []
    for one in found:
        route = routes.get(one.route_id) if one.route_id else None
        data.append(
            schemas.EndpointShape(
                product_id=one.product_id,
                route_id=one.route_id,
                method=route.method if route else None,
                path=route.path if route else None,
                title=route.title if route else None,
                **_counts(one),
            )
        )
    return schemas.EndpointList(environment=environment, period=_period(period), data=data)


@router.get(
    "/api/developer/usage/logs",
    operation_id="list_usage_logs",
    responses=documented(401, 403, 422),
)
async def list_logs(
    actor: LogReader, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.LoggedCallShape]:
    """Every call of my organization, served or refused, newest first."""
    before = None if cursor is None else _decode_cursor(cursor)
    found = await queries.logged_calls(session, actor.organization_id, limit + 1, before)
    page = found[:limit]
    routes = await catalog.route_facts(session, {one.route_id for one in page if one.route_id})
    paths = {route.id: route.path for route in routes.values()}
    return Page(
        data=[_logged(one, paths.get(one.route_id) if one.route_id else None) for one in page],
        next_cursor=_encode_cursor(page[-1]) if len(found) > limit else None,
    )


async def _current(session: AsyncSession, actor: Actor, product: str | None) -> list[CurrentUse]:
    product_id = None
    if product is not None:
        product_id = (await catalog.product_or_operators(session, product)).id
    return await current_use(session, actor.organization_id, clock.now(), product_id)


def _use(use: CurrentUse) -> dict[str, object]:
    return {
        "subscription_id": use.subscription.id,
        "product": _product(use),
        "plan": schemas.NamedShape(slug=use.plan.slug, name=use.plan.name),
        "period": _period(use.period),
        "meters": [
            schemas.MeterShape(meter=meter.key, unit=meter.unit, quantity=_plain(quantity))
            for meter, quantity in use.meters
        ],
    }


def _quota(use: CurrentUse, state: QuotaState) -> schemas.QuotaShape:
    return schemas.QuotaShape(
        subscription_id=state.subscription_id,
        product=_product(use),
        meter=state.meter_key,
        period=state.period,
        starts_at=clock.to_wire(state.window.starts_at),
        ends_at=clock.to_wire(state.window.ends_at),
        allowed=state.allowed,
        used=_plain(state.used),
        limit=None if state.limit is None else str(state.limit),
        remaining=None if state.remaining is None else _plain(state.remaining),
        behavior=state.behavior,
    )


def _month(state: SpendState, currency: str) -> dict[str, Any]:
    return {
        "starts_at": clock.to_wire(state.window.starts_at),
        "resets_at": clock.to_wire(state.window.ends_at),
        **_spent(state, currency),
    }


def _spent(state: SpendState, currency: str) -> dict[str, Any]:
    def whole(amount: Decimal | int) -> str:
        return _plain(from_micro(Decimal(amount), currency))

    return {
        "limit": None if state.limit is None else whole(state.limit),
        "used": whole(state.used),
        "held": whole(state.leased),
        "remaining": None if state.remaining is None else whole(state.remaining),
    }


def _product(use: CurrentUse) -> schemas.NamedShape:
    return schemas.NamedShape(slug=use.plan.product.slug, name=use.plan.product.name)


def _period(period: Period) -> schemas.PeriodShape:
    return schemas.PeriodShape(
        starts_at=clock.to_wire(period.starts_at), ends_at=clock.to_wire(period.ends_at)
    )


def _range(since: datetime | None, until: datetime | None) -> Period:
    """The range asked for, as whole hours."""
    for name, instant in (("from", since), ("to", until)):
        if instant is not None and instant.tzinfo is None:
            raise field_error(name, "no_time_zone", "Say the zone, such as 2026-05-01T00:00:00Z.")
        if instant is not None and not FIRST_YEAR <= instant.year <= LAST_YEAR:
            raise field_error(name, "out_of_range", f"From {FIRST_YEAR} to {LAST_YEAR}.")
    ends_at = (until or clock.now()).astimezone(UTC)
    starts_at = (since or ends_at - timedelta(days=RANGE_DAYS_DEFAULT)).astimezone(UTC)
    if not starts_at < ends_at <= starts_at + timedelta(days=RANGE_DAYS_MAX):
        raise field_error("from", "invalid_range", f"Before `to`, at most {RANGE_DAYS_MAX} days.")
    hour = timedelta(hours=1)
    starts_at = starts_at.replace(minute=0, second=0, microsecond=0)
    whole = ends_at.replace(minute=0, second=0, microsecond=0)
    return Period(starts_at, whole if whole == ends_at else whole + hour)


def _total(parts: Iterable[CallCounts]) -> CallCounts:
    total = CallCounts(calls=0, units=Decimal(0), errors=0, bytes_in=0, bytes_out=0, duration_us=0)
    for part in parts:
        total = CallCounts(
            calls=total.calls + part.calls,
            units=total.units + part.units,
            errors=total.errors + part.errors,
            bytes_in=total.bytes_in + part.bytes_in,
            bytes_out=total.bytes_out + part.bytes_out,
            duration_us=total.duration_us + part.duration_us,
        )
    return total


def _counts(counts: CallCounts) -> dict[str, object]:
    return {
        "calls": counts.calls,
        "units": _plain(counts.units),
        "errors": counts.errors,
        "bytes_in": counts.bytes_in,
        "bytes_out": counts.bytes_out,
        "duration_ms_mean": _milliseconds(counts.duration_us / counts.calls)
        if counts.calls
        else None,
    }


def _logged(call: LoggedCall, path: str | None) -> schemas.LoggedCallShape:
    return schemas.LoggedCallShape(
        id=call.event_id,
        at=clock.to_wire(call.occurred_at),
        subscription_id=call.subscription_id,
        product_id=call.product_id,
        key_id=call.key_id,
        route_id=call.route_id,
        environment=call.environment,
        method=call.method,
        path=path,
        status=call.status,
        code=call.code,
        billable=call.billable,
        continued=call.continued,
        units=call.units,
        meters=call.meters,
        duration_ms=_milliseconds(call.duration_us),
        upstream_ms=None if call.upstream_us is None else _milliseconds(call.upstream_us),
        bytes_in=call.bytes_in,
        bytes_out=call.bytes_out,
        ip=str(call.ip),
        request_id=call.request_id,
    )


def _milliseconds(microseconds: float) -> float:
    return round(microseconds / 1000, 3)


def _plain(quantity: Decimal) -> str:
    """A decimal string without trailing zeros: 22500, 0.5."""
    return format(quantity.normalize(), "f") if quantity else "0"


def _encode_cursor(call: LoggedCall) -> str:
    text = f"{clock.to_wire(call.occurred_at)} {call.event_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, _, event_id = base64.urlsafe_b64decode(padded).decode("ascii").partition(" ")
        return clock.from_wire(at), UUID(event_id)
    except (ValueError, binascii.Error):
        raise field_error("cursor", "invalid", "not a cursor of this list") from None
