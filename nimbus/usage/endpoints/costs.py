# SPDX-License-Identifier: Apache-2.0
"""What usage costs so far."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.problems import documented
from nimbus.base.web import Money, Router, Session
from nimbus.catalog import RouteFacts
from nimbus.identity import organization_facts
from nimbus.usage import schemas
from nimbus.usage.endpoints import shown
from nimbus.usage.endpoints.asked import ProductSlug, Reader, instant, product_id_of
from nimbus.usage.endpoints.shown import plain
from nimbus.usage.service.costs import MeterCost, PeriodCost, period_costs

router = Router(tags=["usage"])


@router.get(
    "/api/developer/usage/costs",
    operation_id="read_usage_costs",
    responses=documented(401, 403, 404, 422),
)
async def read_costs(
    actor: Reader,
    session: Session,
    product: ProductSlug = None,
    at: Annotated[
        datetime | None, Query(description="An instant of the billing period. Default: now.")
    ] = None,
) -> schemas.CostList:
    """What each subscription's billing period costs so far, by meter, day and operation."""
    facts = await organization_facts(session, actor.organization_id)
    found = await period_costs(
        session,
        actor.organization_id,
        clock.now() if at is None else instant(at, "at"),
        facts.time_zone,
        await product_id_of(session, product),
    )
    route_ids = {one.route_id for cost in found for one in cost.endpoints}
    routes = await catalog.route_facts(session, route_ids)
    return schemas.CostList(data=[_cost(cost, routes) for cost in found])


def _cost(cost: PeriodCost, routes: dict[UUID, RouteFacts]) -> schemas.PeriodCostShape:
    product, currency = cost.plan.product, cost.subscription.currency
    return schemas.PeriodCostShape(
        subscription_id=cost.subscription.id,
        product=schemas.NamedShape(slug=product.slug, name=product.name),
        plan=schemas.NamedShape(slug=cost.plan.slug, name=cost.plan.name),
        period=shown.period(cost.period),
        currency=currency,
        amount=plain(cost.amount),
        billed=Money(amount_minor=cost.billed.amount_minor, currency=currency),
        meters=[_meter(meter) for meter in cost.meters],
        days=[
            schemas.DayCostShape(day=str(day.day), amount=plain(day.amount), total=plain(day.total))
            for day in cost.days
        ],
        endpoints=[
            schemas.EndpointCostShape(
                route_id=one.route_id,
                method=routes[one.route_id].method if one.route_id in routes else None,
                path=routes[one.route_id].path if one.route_id in routes else None,
                amount=plain(one.amount),
            )
            for one in sorted(cost.endpoints, key=lambda one: -one.amount)
        ],
    )


def _meter(meter: MeterCost) -> schemas.MeterCostShape:
    following = meter.next_unit_price
    return schemas.MeterCostShape(
        meter=meter.meter.key,
        unit=meter.meter.unit,
        quantity=plain(meter.quantity),
        included=None if meter.included is None else plain(meter.included),
        over=plain(meter.over),
        next_unit_price=None if following is None else plain(following),
        amount=plain(meter.amount),
    )
