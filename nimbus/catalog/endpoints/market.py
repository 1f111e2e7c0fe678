# SPDX-License-Identifier: Apache-2.0
"""HTTP of the catalogue for everyone: what can be bought, and for how much."""

from typing import Annotated

from fastapi import Query

from nimbus.base.problems import documented
from nimbus.base.web import CurrentActor, Cursor, Limit, Page, Router, Session, paginate
from nimbus.catalog import queries, schemas
from nimbus.catalog.models import Meter, Product, ProductHost, Route
from nimbus.catalog.service.shapes import (
    listed_product,
    offered_add_on,
    offered_meter,
    offered_plan,
    offered_route,
)

router = Router(tags=["marketplace"])
Text = Annotated[str | None, Query(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]


@router.get("/api/billing/plans", operation_id="list_plans", responses=documented(401, 404, 422))
async def list_plans(
    actor: CurrentActor, session: Session, product: Text = None
) -> Page[schemas.OfferedPlan]:
    """The plans of a product, the lowest first; of the operator's own where none is named.

    Private ones are shown to the organizations that they are for.
    """
    sold = await queries.product_on_sale(session, product)
    mine = queries.offered(sold, "plan", actor.organization_id)
    rows = await queries.with_versions(session, mine)
    return Page(data=[offered_plan(sold, plan, version) for plan, version in rows])


@router.get(
    "/api/marketplace/products",
    operation_id="list_marketplace_products",
    responses=documented(401, 422),
)
async def list_products(
    session: Session,
    q: Text = None,
    category: Text = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[schemas.ListedProduct]:
    """Products on the market, newest first; `q` is looked for in names and descriptions."""
    listed = queries.on_market(q, category)
    rows, next_cursor = await paginate(session, listed, Product.id, limit, cursor)
    return Page(data=[listed_product(row) for row in rows], next_cursor=next_cursor)


@router.get(
    "/api/marketplace/products/{slug}",
    operation_id="read_marketplace_product",
    responses=documented(401, 404, 422),
)
async def read_product(slug: str, actor: CurrentActor, session: Session) -> schemas.OfferedProduct:
    """A product with its plans, add-ons, operations and meters."""
    product = await queries.product_on_sale(session, slug)
    consumer = actor.organization_id
    plans = await queries.with_versions(session, queries.offered(product, "plan", consumer))
    add_ons = await queries.with_versions(session, queries.offered(product, "add_on", consumer))
    slugs = await queries.plan_slugs(session, product)
    routes = await session.scalars(
        queries.routes_of(product).where(Route.public).order_by(Route.path, Route.method)
    )
    meters = await session.scalars(queries.meters_of(product.id).order_by(Meter.key))
    hosts = await session.scalars(queries.hosts_of(product.id).order_by(ProductHost.name))
    return schemas.OfferedProduct(
        **listed_product(product).model_dump(),
        description=product.description,
        key_in_query=product.key_in_query,
        hosts=[host.name for host in hosts],
        parameter_check=product.parameter_check,
        billable_statuses=product.billable_statuses,
        websockets=product.websockets,
        plans=[offered_plan(product, plan, version) for plan, version in plans],
        add_ons=[offered_add_on(plan, version) for plan, version in add_ons],
        routes=[offered_route(route, slugs) for route in routes],
        meters=[offered_meter(meter) for meter in meters],
    )
