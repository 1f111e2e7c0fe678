# SPDX-License-Identifier: Apache-2.0
"""HTTP of the catalogue for providers: parse, call one use case, present."""

from typing import Annotated
from uuid import UUID

from fastapi import Response
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Page, Router, Session, mutates, paginate
from nimbus.catalog import events, queries, schemas
from nimbus.catalog.models import Meter, Plan, PlanVersion, Product, Route
from nimbus.catalog.service import meters, plans, products, routes
from nimbus.catalog.service.shapes import meter_shape, plan_shape, product_shape, route_shape
from nimbus.identity import Permission, allowed

PRODUCTS = "/api/provider/products"
PRODUCT = f"{PRODUCTS}/{{product_id}}"
MANAGE = Permission.MANAGE_PRODUCTS

router = Router(tags=["provider"])
Provider = Annotated[Actor, allowed(MANAGE)]


@router.get(PRODUCTS, operation_id="list_products", responses=documented(401, 403, 422))
async def list_products(
    actor: Provider, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.ProductShape]:
    """My products, newest first."""
    own = queries.own_products(actor.organization_id)
    rows, next_cursor = await paginate(session, own, Product.id, limit, cursor)
    upstreams = await queries.upstreams_of(session, [row.id for row in rows])
    return Page(data=[product_shape(row, upstreams) for row in rows], next_cursor=next_cursor)


@router.post(
    PRODUCTS,
    operation_id="create_product",
    status_code=201,
    responses=documented(400, 401, 403, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.ProductCreated], idempotency="key"),
)
async def create_product(
    body: schemas.NewProduct, actor: Provider, session: Session
) -> schemas.ProductShape:
    """Begin a product, as a draft."""
    return await _shown(session, await products.create_product(session, actor, body))


@router.get(PRODUCT, operation_id="read_product", responses=documented(401, 403, 404, 422))
async def read_product(product_id: UUID, actor: Provider, session: Session) -> schemas.ProductShape:
    """One of my products."""
    return await _shown(
        session, await queries.own_product(session, actor.organization_id, product_id)
    )


@router.put(
    PRODUCT,
    operation_id="change_product",
    responses=documented(400, 401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.ProductChanged], idempotency="version"),
)
async def change_product(
    product_id: UUID, body: schemas.ChangedProduct, actor: Provider, session: Session
) -> schemas.ProductShape:
    """Say everything about a product anew."""
    return await _shown(session, await products.change_product(session, actor, product_id, body))


@router.delete(
    PRODUCT,
    operation_id="delete_product",
    status_code=204,
    responses=documented(401, 403, 404, 422),
    **mutates(permission=MANAGE, events=[events.ProductDeleted], idempotency="natural"),
)
async def delete_product(product_id: UUID, actor: Provider, session: Session) -> Response:
    """Delete a product to which nobody ever subscribed."""
    await products.delete_product(session, actor, product_id)
    return Response(status_code=204)


@router.post(
    f"{PRODUCT}/publish",
    operation_id="publish_product",
    responses=documented(401, 403, 404, 422),
    **mutates(permission=MANAGE, events=[events.ProductPublished], idempotency="natural"),
)
async def publish_product(
    product_id: UUID, actor: Provider, session: Session
) -> schemas.ProductShape:
    """Offer a product; what is still missing is named."""
    return await _shown(session, await products.publish(session, actor, product_id))


@router.post(
    f"{PRODUCT}/unpublish",
    operation_id="unpublish_product",
    responses=documented(401, 403, 404, 422),
    **mutates(permission=MANAGE, events=[events.ProductUnpublished], idempotency="natural"),
)
async def unpublish_product(
    product_id: UUID, actor: Provider, session: Session
) -> schemas.ProductShape:
    """Make a product a draft again."""
    return await _shown(session, await products.unpublish(session, actor, product_id))


@router.get(
    f"{PRODUCT}/routes", operation_id="list_routes", responses=documented(401, 403, 404, 422)
)
async def list_routes(
    product_id: UUID, actor: Provider, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.RouteShape]:
    """The product's operations, newest first."""
    product = await queries.own_product(session, actor.organization_id, product_id)
    own = queries.routes_of(product)
    rows, next_cursor = await paginate(session, own, Route.id, limit, cursor)
    slugs = await queries.plan_slugs(session, product)
    return Page(data=[route_shape(row, slugs) for row in rows], next_cursor=next_cursor)


@router.post(
    f"{PRODUCT}/routes",
    operation_id="create_route",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.RouteCreated], idempotency="key"),
)
async def create_route(
    product_id: UUID, body: schemas.RouteFields, actor: Provider, session: Session
) -> schemas.RouteShape:
    """Add an operation."""
    route = await routes.create_route(session, actor, product_id, body)
    return await _shown_route(session, actor, route)


@router.put(
    f"{PRODUCT}/routes/{{route_id}}",
    operation_id="change_route",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.RouteChanged], idempotency="version"),
)
async def change_route(
    product_id: UUID,
    route_id: UUID,
    body: schemas.ChangedRoute,
    actor: Provider,
    session: Session,
) -> schemas.RouteShape:
    """Say everything about an operation anew."""
    route = await routes.change_route(session, actor, product_id, route_id, body)
    return await _shown_route(session, actor, route)


@router.delete(
    f"{PRODUCT}/routes/{{route_id}}",
    operation_id="delete_route",
    status_code=204,
    responses=documented(401, 403, 404, 422),
    **mutates(permission=MANAGE, events=[events.RouteDeleted], idempotency="natural"),
)
async def delete_route(
    product_id: UUID, route_id: UUID, actor: Provider, session: Session
) -> Response:
    """Take an operation away."""
    await routes.delete_route(session, actor, product_id, route_id)
    return Response(status_code=204)


@router.get(
    f"{PRODUCT}/meters", operation_id="list_meters", responses=documented(401, 403, 404, 422)
)
async def list_meters(
    product_id: UUID, actor: Provider, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.MeterShape]:
    """What the product counts, newest first."""
    product = await queries.own_product(session, actor.organization_id, product_id)
    rows, next_cursor = await paginate(
        session, queries.meters_of(product.id), Meter.id, limit, cursor
    )
    return Page(data=[meter_shape(row) for row in rows], next_cursor=next_cursor)


@router.post(
    f"{PRODUCT}/meters",
    operation_id="create_meter",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.MeterCreated], idempotency="key"),
)
async def create_meter(
    product_id: UUID, body: schemas.NewMeter, actor: Provider, session: Session
) -> schemas.MeterShape:
    """Count one thing more."""
    return meter_shape(await meters.create_meter(session, actor, product_id, body))


@router.put(
    f"{PRODUCT}/meters/{{key}}",
    operation_id="change_meter",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.MeterChanged], idempotency="version"),
)
async def change_meter(
    product_id: UUID,
    key: schemas.MeterKey,
    body: schemas.ChangedMeter,
    actor: Provider,
    session: Session,
) -> schemas.MeterShape:
    """Say anew what a meter counts from now on."""
    return meter_shape(await meters.change_meter(session, actor, product_id, key, body))


@router.get(
    f"{PRODUCT}/plans",
    operation_id="list_product_plans",
    responses=documented(401, 403, 404, 422),
)
async def list_plans(
    product_id: UUID, actor: Provider, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.PlanShape]:
    """The product's plans with what they say now, newest first."""
    product = await queries.own_product(session, actor.organization_id, product_id)
    own = queries.plans_of(product).order_by(None)
    rows, next_cursor = await paginate(session, own, Plan.id, limit, cursor)
    versions = await queries.versions(session, [row.current_version_id for row in rows])
    audiences = await queries.audiences(session, [row.id for row in rows])
    data = [
        plan_shape(product, row, versions[row.current_version_id], audiences[row.id])
        for row in rows
    ]
    return Page(data=data, next_cursor=next_cursor)


@router.post(
    f"{PRODUCT}/plans",
    operation_id="create_plan",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.PlanCreated], idempotency="key"),
)
async def create_plan(
    product_id: UUID, body: schemas.NewPlan, actor: Provider, session: Session
) -> schemas.PlanShape:
    """Make a plan with its first version."""
    return await _shown_plan(session, *await plans.create_plan(session, actor, product_id, body))


@router.get(
    f"{PRODUCT}/plans/{{plan_id}}",
    operation_id="read_plan",
    responses=documented(401, 403, 404, 422),
)
async def read_plan(
    product_id: UUID, plan_id: UUID, actor: Provider, session: Session
) -> schemas.PlanShape:
    """One plan with what it says now."""
    product = await queries.own_product(session, actor.organization_id, product_id)
    found = await queries.with_versions(
        session, queries.plans_of(product).where(Plan.id == plan_id)
    )
    plan, version = queries.one(found[0] if found else None)
    return await _shown_plan(session, product, plan, version)


@router.put(
    f"{PRODUCT}/plans/{{plan_id}}",
    operation_id="change_plan",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=[events.PlanChanged], idempotency="version"),
)
async def change_plan(
    product_id: UUID, plan_id: UUID, body: schemas.ChangedPlan, actor: Provider, session: Session
) -> schemas.PlanShape:
    """Say everything about a plan anew; other terms make a new version."""
    changed = await plans.change_plan(session, actor, product_id, plan_id, body)
    return await _shown_plan(session, *changed)


async def _shown(session: AsyncSession, product: Product) -> schemas.ProductShape:
    await session.flush()
    return product_shape(product, await queries.upstreams_of(session, [product.id]))


async def _shown_plan(
    session: AsyncSession, product: Product, plan: Plan, version: PlanVersion
) -> schemas.PlanShape:
    audiences = await queries.audiences(session, [plan.id])
    return plan_shape(product, plan, version, audiences[plan.id])


async def _shown_route(session: AsyncSession, actor: Actor, route: Route) -> schemas.RouteShape:
    product = await queries.own_product(session, actor.organization_id, route.product_id)
    return route_shape(route, await queries.plan_slugs(session, product))
