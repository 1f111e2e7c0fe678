# SPDX-License-Identifier: Apache-2.0
"""How products are used and what they bring in: for their provider, and for the operator."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Money, Router, Session, unit_of
from nimbus.identity import Permission, allowed, organization_facts, platform_reader
from nimbus.rules.periods import Period
from nimbus.usage import queries_rollup, schemas
from nimbus.usage.endpoints import shown
from nimbus.usage.endpoints.asked import (
    Environment,
    ProductSlug,
    WholeHours,
    product_id_of,
)
from nimbus.usage.endpoints.figures import by_endpoint
from nimbus.usage.queries_rollup import Grouping, Interval, Scope

router: APIRouter = Router(tags=["analytics"])
PLATFORM = "platform pages"
TOP = 20

Provider = Annotated[Actor, allowed(Permission.MANAGE_PRODUCTS)]
PlatformReader = Annotated[Actor, platform_reader()]
Top = Annotated[int, Query(ge=1, le=100)]


class SliceShape(schemas.CountsShape):
    """A day (of the reader's time zone, UTC for the operator) or an hour."""

    at: str


class ProductUse(schemas.CountsShape):
    """The calls of one product; its slug is null when it cannot be seen."""

    product_id: UUID
    slug: str | None
    name: str | None


class ConsumerUse(schemas.CountsShape):
    """The calls of one organization."""

    organization_id: UUID
    name: str | None


class UseShape(BaseModel):
    """The calls of a range, in whole hours, and how many organizations made them."""

    environment: str
    period: schemas.PeriodShape
    interval: str
    total: schemas.CountsShape
    consumers: int
    by_status: dict[str, int]
    slices: list[SliceShape]
    products: list[ProductUse]


class ProviderAnalytics(UseShape):
    """The same of one's own products, by operation and by who calls most."""

    endpoints: list[schemas.EndpointShape]
    top_consumers: list[ConsumerUse]


class TopUsers(BaseModel):
    """Who calls most, of all."""

    environment: str
    period: schemas.PeriodShape
    data: list[ConsumerUse]


class UserDay(BaseModel):
    """How many people and organizations came on a day of UTC."""

    day: str
    users: int
    organizations: int


class UserAnalytics(BaseModel):
    """People and organizations: how many there are, how many of them came in the range.
    `calling_organizations` made a live call in it.
    """

    period: schemas.PeriodShape
    users: int
    verified_users: int
    organizations: dict[str, int]
    live_subscriptions: int
    calling_organizations: int
    days: list[UserDay]


class RevenueSlice(BaseModel):
    """What the invoices finalized in a month of UTC ask for."""

    month: str
    invoices: int
    net: Money
    tax: Money
    total: Money


class RevenueAnalytics(BaseModel):
    """Revenue as invoiced, by month and currency: amounts of finalized invoices."""

    period: schemas.PeriodShape
    data: list[RevenueSlice]


@router.get(
    "/api/provider/analytics",
    operation_id="read_provider_analytics",
    responses=documented(401, 403, 404, 422),
)
async def read_provider_analytics(
    actor: Provider,
    session: Session,
    period: WholeHours,
    *,
    interval: Interval = "day",
    environment: Environment = "Live",
    product: ProductSlug = None,
) -> ProviderAnalytics:
    """How my products are used: calls, errors, answer times, by product, operation and caller."""
    scope = Scope(
        period=period,
        provider_organization_id=actor.organization_id,
        environment=environment,
        product_id=await product_id_of(session, product),
    )
    time_zone = (await organization_facts(session, actor.organization_id)).time_zone
    return ProviderAnalytics(
        **await _use(session, scope, interval, time_zone),
        endpoints=await by_endpoint(session, scope),
        top_consumers=await _top(session, scope, _CONSUMERS, TOP),
    )


@router.get(
    "/api/admin/analytics/usage",
    operation_id="admin_read_usage_analytics",
    responses=documented(401, 403, 404, 422),
)
async def read_usage_analytics(
    request: Request,
    _: PlatformReader,
    period: WholeHours,
    *,
    interval: Interval = "day",
    environment: Environment = "Live",
    product: ProductSlug = None,
) -> UseShape:
    """All calls of the installation: by day, status and product."""
    session = await unit_of(request).open_system(PLATFORM)
    scope = Scope(
        period=period,
        environment=environment,
        product_id=await product_id_of(session, product),
    )
    return UseShape(**await _use(session, scope, interval, "UTC"))


@router.get(
    "/api/admin/analytics/top-users",
    operation_id="admin_read_top_users",
    responses=documented(401, 403, 404, 422),
)
async def read_top_users(
    request: Request,
    _: PlatformReader,
    period: WholeHours,
    *,
    environment: Environment = "Live",
    product: ProductSlug = None,
    limit: Top = TOP,
) -> TopUsers:
    """The organizations that call most."""
    session = await unit_of(request).open_system(PLATFORM)
    scope = Scope(
        period=period,
        environment=environment,
        product_id=await product_id_of(session, product),
    )
    return TopUsers(
        environment=environment,
        period=shown.period(scope.period),
        data=await _top(session, scope, _ORGANIZATIONS, limit),
    )


@router.get(
    "/api/admin/analytics/users",
    operation_id="admin_read_user_analytics",
    responses=documented(401, 403, 422),
)
async def read_user_analytics(
    request: Request,
    _: PlatformReader,
    period: WholeHours,
) -> UserAnalytics:
    """How many people, organizations and live subscriptions there are, and who came when."""
    session = await unit_of(request).open_system(PLATFORM)
    counts = (await session.execute(_USERS)).one()
    statuses = await session.execute(_STATUSES)
    return UserAnalytics(
        period=shown.period(period),
        users=counts.users,
        verified_users=counts.verified,
        organizations={row.status: row.organizations for row in statuses},
        live_subscriptions=counts.subscriptions,
        calling_organizations=await queries_rollup.consumers(
            session, Scope(period=period, environment="Live")
        ),
        days=[
            UserDay(day=str(row.day), users=row.users, organizations=row.organizations)
            for row in await session.execute(_ARRIVALS, _range(period))
        ],
    )


@router.get(
    "/api/admin/analytics/revenue",
    operation_id="admin_read_revenue_analytics",
    responses=documented(401, 403, 422),
)
async def read_revenue_analytics(
    request: Request,
    _: PlatformReader,
    period: WholeHours,
) -> RevenueAnalytics:
    """Revenue as invoiced, by month and currency."""
    session = await unit_of(request).open_system(PLATFORM)
    return RevenueAnalytics(
        period=shown.period(period),
        data=[
            RevenueSlice(
                month=row.month,
                invoices=row.invoices,
                net=Money(amount_minor=row.net, currency=row.currency),
                tax=Money(amount_minor=row.tax, currency=row.currency),
                total=Money(amount_minor=row.total, currency=row.currency),
            )
            for row in await session.execute(_REVENUE, _range(period))
        ],
    )


_CONSUMERS = text("SELECT id, name FROM usage_consumers() WHERE id = ANY (:ids)")
_ORGANIZATIONS = text("SELECT id, name FROM organizations WHERE id = ANY (:ids)")
_PRODUCTS = text("SELECT id, slug, name FROM products WHERE id = ANY (:ids)")
_USERS = text(
    """SELECT
    (SELECT count(*) FROM users WHERE status <> 'deleted') AS users,
    (SELECT count(*) FROM users WHERE status <> 'deleted' AND email_verified_at IS NOT NULL)
        AS verified,
    (SELECT count(*) FROM subscriptions WHERE status <> 'Expired') AS subscriptions"""
)
_STATUSES = text(
    "SELECT status, count(*) AS organizations FROM organizations GROUP BY 1 ORDER BY 1"
)
_ARRIVALS = text(
    """SELECT (came.at AT TIME ZONE 'UTC')::date AS day,
        count(*) FILTER (WHERE kind = 'user') AS users,
        count(*) FILTER (WHERE kind = 'organization') AS organizations
    FROM (SELECT created_at AS at, 'user' AS kind FROM users
          UNION ALL SELECT created_at, 'organization' FROM organizations) came
    WHERE came.at >= :starts_at AND came.at < :ends_at GROUP BY 1 ORDER BY 1"""
)
_REVENUE = text(
    """SELECT to_char(i.finalized_at AT TIME ZONE 'UTC', 'YYYY-MM') AS month, i.currency,
        count(*) AS invoices, sum(i.subtotal_minor)::bigint AS net,
        sum(i.tax_minor)::bigint AS tax, sum(i.total_minor)::bigint AS total
    FROM invoices i WHERE i.status = 'Sent'
        AND i.finalized_at >= :starts_at AND i.finalized_at < :ends_at
    GROUP BY 1, 2 ORDER BY 1, 2"""
)


async def _use(
    session: AsyncSession, scope: Scope, interval: Interval, time_zone: str
) -> dict[str, Any]:
    """What both faces of use have in common."""
    by_time = Grouping(interval=interval, time_zone=time_zone)
    slices = await queries_rollup.counted(session, scope, by_time)
    waits = await queries_rollup.histograms(session, scope, by_time)
    statuses = await queries_rollup.counted(session, scope, Grouping(by=("status",)))
    return {
        "environment": scope.environment,
        "period": shown.period(scope.period),
        "interval": interval,
        "total": shown.counts(shown.total(slices), shown.added(waits.values())),
        "consumers": await queries_rollup.consumers(session, scope),
        "by_status": shown.by_status(statuses),
        "slices": [
            SliceShape(at=shown.moment(one.at), **dict(shown.counts(one, waits.get((one.at,)))))
            for one in slices
        ],
        "products": await _products(session, scope),
    }


async def _products(session: AsyncSession, scope: Scope) -> list[ProductUse]:
    grouping = Grouping(by=("product",))
    found = await queries_rollup.counted(session, scope, grouping)
    waits = await queries_rollup.histograms(session, scope, grouping)
    ids = [one.product_id for one in found]
    names = {row.id: row for row in await session.execute(_PRODUCTS, {"ids": ids})}
    return [
        ProductUse(
            product_id=one.product_id,
            slug=names[one.product_id].slug if one.product_id in names else None,
            name=names[one.product_id].name if one.product_id in names else None,
            **dict(shown.counts(one, waits.get((one.product_id,)))),
        )
        for one in found
        if one.product_id is not None
    ]


async def _top(
    session: AsyncSession, scope: Scope, naming: TextClause, limit: int
) -> list[ConsumerUse]:
    grouping = Grouping(by=("consumer",))
    found = await queries_rollup.counted(session, scope, grouping, limit)
    waits = await queries_rollup.histograms(session, scope, grouping)
    ids = [one.organization_id for one in found]
    names = {row.id: row.name for row in await session.execute(naming, {"ids": ids})}
    return [
        ConsumerUse(
            organization_id=one.organization_id,
            name=names.get(one.organization_id),
            **dict(shown.counts(one, waits.get((one.organization_id,)))),
        )
        for one in found
        if one.organization_id is not None
    ]


def _range(period: Period) -> dict[str, datetime]:
    return {"starts_at": period.starts_at, "ends_at": period.ends_at}
