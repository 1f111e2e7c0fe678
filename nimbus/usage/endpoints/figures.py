# SPDX-License-Identifier: Apache-2.0
"""What was called: by day, by status, by operation, in detail; all from the roll-ups."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base.problems import documented
from nimbus.base.web import Router, Session
from nimbus.catalog import RouteFacts
from nimbus.errors import field_error
from nimbus.identity import organization_facts
from nimbus.usage import queries_rollup, schemas
from nimbus.usage.endpoints import shown
from nimbus.usage.endpoints.asked import (
    Environment,
    ProductSlug,
    Reader,
    WholeHours,
    product_id_of,
)
from nimbus.usage.queries_log import refusals
from nimbus.usage.queries_rollup import CallCounts, Dimension, Grouping, Interval, Scope

GROUPS_MAX = 10_000

router = Router(tags=["usage"])
StatusClass = Annotated[
    str | None, Query(pattern=r"^[1-9]xx$", description="A class of statuses, such as 4xx.")
]


@router.get(
    "/api/developer/usage/summary",
    operation_id="read_usage_summary",
    responses=documented(401, 403, 404, 422),
)
async def read_summary(
    actor: Reader,
    session: Session,
    period: WholeHours,
    *,
    environment: Environment = "Live",
    product: ProductSlug = None,
) -> schemas.SummaryShape:
    """Calls by day and by status, in whole hours, with percentiles of their answer times."""
    scope = Scope(
        period=period,
        organization_id=actor.organization_id,
        environment=environment,
        product_id=await product_id_of(session, product),
    )
    time_zone = (await organization_facts(session, actor.organization_id)).time_zone
    grouping = Grouping(interval="day", time_zone=time_zone)
    by_day = await queries_rollup.counted(session, scope, grouping)
    histograms = await queries_rollup.histograms(session, scope, grouping)
    statuses = await queries_rollup.counted(session, scope, Grouping(by=("status",)))
    return schemas.SummaryShape(
        environment=environment,
        period=shown.period(scope.period),
        total=shown.counts(shown.total(by_day), shown.added(histograms.values())),
        by_status=shown.by_status(statuses),
        days=[
            schemas.DayShape(day=str(one.at), **dict(shown.counts(one, histograms.get((one.at,)))))
            for one in by_day
        ],
        refused=await refusals(session, actor.organization_id, environment, scope.period),
    )


@router.get(
    "/api/developer/usage/by-endpoint",
    operation_id="read_usage_by_endpoint",
    responses=documented(401, 403, 404, 422),
)
async def read_by_endpoint(
    actor: Reader,
    session: Session,
    period: WholeHours,
    *,
    environment: Environment = "Live",
    product: ProductSlug = None,
) -> schemas.EndpointList:
    """Calls by operation, the most called first, in whole hours, with percentiles."""
    scope = Scope(
        period=period,
        organization_id=actor.organization_id,
        environment=environment,
        product_id=await product_id_of(session, product),
    )
    return schemas.EndpointList(
        environment=environment,
        period=shown.period(scope.period),
        data=await by_endpoint(session, scope),
    )


async def by_endpoint(session: AsyncSession, scope: Scope) -> list[schemas.EndpointShape]:
    """The calls of a scope by operation, the most called first."""
    grouping = Grouping(by=("endpoint",))
    found = await queries_rollup.counted(session, scope, grouping, GROUPS_MAX)
    histograms = await queries_rollup.histograms(session, scope, grouping)
    routes = await routes_of(session, found)
    data = []
    for one in found:
        assert one.product_id is not None
        assert one.route_id is not None
        route = routes.get(one.route_id)
        counts = shown.counts(one, histograms.get((one.product_id, one.route_id)))
        data.append(
            schemas.EndpointShape(
                product_id=one.product_id,
                route_id=one.route_id,
                method=route.method if route else None,
                path=route.path if route else None,
                title=route.title if route else None,
                **dict(counts),
            )
        )
    return data


@router.get(
    "/api/developer/usage/detailed",
    operation_id="read_usage_detailed",
    responses=documented(401, 403, 404, 422),
)
async def read_detailed(
    actor: Reader,
    session: Session,
    period: WholeHours,
    *,
    interval: Literal["hour", "day", "none"] = "day",
    by: Annotated[list[Dimension], Query()] = ["endpoint"],  # noqa: B006 - pydantic copies it
    environment: Annotated[str | None, Query(pattern="^(Live|Test)$")] = "Live",
    product: ProductSlug = None,
    key_id: schemas.IdText | None = None,
    route_id: schemas.IdText | None = None,
    status: StatusClass = None,
    percentiles: Annotated[bool, Query(description="Answer times of each group, too.")] = False,
) -> schemas.DetailedList:
    """Calls by day or hour and by any of operation, product, key, status and environment."""
    if "consumer" in by:
        raise field_error("by", "not_allowed", "These are the calls of one consumer.")
    scope = Scope(
        period=period,
        organization_id=actor.organization_id,
        environment=environment,
        product_id=await product_id_of(session, product),
        key_id=None if key_id is None else UUID(key_id),
        route_id=None if route_id is None else UUID(route_id),
        status_class=None if status is None else int(status[0]),
    )
    time_zone = (await organization_facts(session, actor.organization_id)).time_zone
    spaced: Interval | None = None if interval == "none" else interval
    grouping = Grouping(by=by, interval=spaced, time_zone=time_zone)
    found = await queries_rollup.counted(session, scope, grouping, GROUPS_MAX + 1)
    if len(found) > GROUPS_MAX:
        raise field_error("by", "too_many_groups", f"More than {GROUPS_MAX} rows: ask for less.")
    histograms = await queries_rollup.histograms(session, scope, grouping) if percentiles else {}
    routes = await routes_of(session, found)
    return schemas.DetailedList(
        period=shown.period(scope.period),
        interval=interval,
        by=list(dict.fromkeys(by)),
        total=shown.counts(shown.total(found), shown.added(histograms.values())),
        data=[
            _row(one, routes, histograms.get(tuple(getattr(one, n) for n in grouping.columns)))
            for one in found
        ],
    )


async def routes_of(session: AsyncSession, found: Iterable[CallCounts]) -> dict[UUID, RouteFacts]:
    """The operations of these groups that can still be seen."""
    return await catalog.route_facts(session, {one.route_id for one in found if one.route_id})


def _row(
    one: CallCounts, routes: dict[UUID, RouteFacts], histogram: dict[int, int] | None
) -> schemas.DetailedRow:
    route = routes.get(one.route_id) if one.route_id else None
    counts: dict[str, Any] = dict(shown.counts(one, histogram))
    return schemas.DetailedRow(
        at=None if one.at is None else shown.moment(one.at),
        product_id=one.product_id,
        route_id=one.route_id,
        method=route.method if route else None,
        path=route.path if route else None,
        key_id=one.key_id,
        status=None if one.status_class is None else f"{one.status_class}xx",
        environment=one.environment,
        **counts,
    )
