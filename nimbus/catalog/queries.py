# SPDX-License-Identifier: Apache-2.0
"""The catalogue's reads. Row-level security decides last; these filters say what is meant."""

from collections.abc import Iterable
from typing import Any, Literal, TypeVar
from uuid import UUID

from sqlalchemy import Select, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.catalog.models import (
    Meter,
    Plan,
    PlanAudience,
    PlanVersion,
    Product,
    ProductHost,
    Route,
    Upstream,
)
from nimbus.errors import Refusal, field_error

Row = TypeVar("Row")
PlanKind = Literal["plan", "add_on"]

MAX_ROUTES = 1000
"""How many routes, and how many meters or plans, one product may have at most."""


async def own_product(
    session: AsyncSession, organization_id: UUID, product_id: UUID, *, lock: bool = False
) -> Product:
    """A product of this provider; 404 otherwise. Locked, it waits for who changes it now."""
    statement = own_products(organization_id).where(Product.id == product_id)
    if lock:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    return one(await session.scalar(statement))


def own_products(organization_id: UUID) -> Select[Product]:
    """All products of a provider."""
    return select(Product).where(Product.organization_id == organization_id)


async def own_route(session: AsyncSession, product: Product, route_id: UUID) -> Route:
    """A route of the product, locked; 404 otherwise."""
    return one(
        await session.scalar(routes_of(product).where(Route.id == route_id).with_for_update())
    )


async def own_plan(
    session: AsyncSession, product: Product, plan_id: UUID, kind: PlanKind = "plan"
) -> Plan:
    """A plan or an add-on of the product, locked; 404 otherwise."""
    statement = plans_of(product, kind).where(Plan.id == plan_id).with_for_update()
    return one(await session.scalar(statement))


def routes_of(product: Product) -> Select[Route]:
    """The routes of a product that this transaction may see."""
    return select(Route).where(Route.product_id == product.id)


def plans_of(product: Product, kind: PlanKind = "plan") -> Select[Plan]:
    """The plans, or the add-ons, of a product that this transaction may see, the lowest first."""
    mine = select(Plan).where(Plan.product_id == product.id, Plan.kind == kind)
    return mine.order_by(Plan.rank, Plan.id)


def for_sale(product: Product, kind: PlanKind, consumer: UUID | None) -> Select[Plan]:
    """What can be taken of a product: private ones by an organization that they are for."""
    invited = exists().where(
        PlanAudience.plan_id == Plan.id, PlanAudience.consumer_organization_id == consumer
    )
    return plans_of(product, kind).where(
        Plan.status == "active", or_(Plan.visibility != "private", invited)
    )


def hosts_of(product_id: UUID) -> Select[ProductHost]:
    """The host names of a product."""
    return select(ProductHost).where(ProductHost.product_id == product_id)


async def host_by_id(session: AsyncSession, product_id: UUID, host_id: UUID) -> ProductHost:
    """A host name of the product; 404 otherwise."""
    return one(await session.scalar(hosts_of(product_id).where(ProductHost.id == host_id)))


def all_hosts() -> Select[ProductHost]:
    """The host names of all products, for the operator's eyes."""
    return select(ProductHost)


def meters_of(product_id: UUID) -> Select[Meter]:
    """The meters of a product."""
    return select(Meter).where(Meter.product_id == product_id)


async def upstreams_of(session: AsyncSession, product_ids: Iterable[UUID]) -> list[Upstream]:
    """The upstreams of products, for their provider's eyes only."""
    return list(
        await session.scalars(
            select(Upstream)
            .where(Upstream.product_id.in_(list(product_ids)))
            .order_by(Upstream.environment)
        )
    )


async def audiences(session: AsyncSession, plan_ids: Iterable[UUID]) -> dict[UUID, list[UUID]]:
    """Whom private plans are for: the organizations' ids by plan."""
    found: dict[UUID, list[UUID]] = {plan_id: [] for plan_id in plan_ids}
    statement = select(PlanAudience).where(PlanAudience.plan_id.in_(found))
    for row in await session.scalars(statement.order_by(PlanAudience.id)):
        found[row.plan_id].append(row.consumer_organization_id)
    return found


async def with_versions(
    session: AsyncSession, statement: Select[Plan]
) -> list[tuple[Plan, PlanVersion]]:
    """Plans with their current version."""
    plans = list(await session.scalars(statement))
    known = await versions(session, [plan.current_version_id for plan in plans])
    return [(plan, known[plan.current_version_id]) for plan in plans]


async def versions(session: AsyncSession, version_ids: Iterable[UUID]) -> dict[UUID, PlanVersion]:
    """Plan versions by id, with what belongs to them."""
    rows = await session.scalars(select(PlanVersion).where(PlanVersion.id.in_(list(version_ids))))
    return {row.id: row for row in rows}


async def plan_slugs(session: AsyncSession, product: Product) -> dict[UUID, str]:
    """The slugs of a product's plans by id."""
    rows = await session.execute(select(Plan.id, Plan.slug).where(Plan.product_id == product.id))
    return {row.id: row.slug for row in rows}


async def slugs_of(session: AsyncSession, product_ids: Iterable[UUID]) -> dict[UUID, str]:
    """The slugs of products by id."""
    asked = select(Product.id, Product.slug).where(Product.id.in_(list(product_ids)))
    return {row.id: row.slug for row in await session.execute(asked)}


def on_market(text: str | None, category: str | None) -> Select[Product]:
    """Listed products; `text` is looked for in name and description, `category` is exact."""
    statement = select(Product).where(Product.status == "published", Product.visibility == "public")
    if category is not None:
        statement = statement.where(Product.category == category)
    if text is not None:
        statement = statement.where(
            or_(
                Product.name.icontains(text, autoescape=True),
                Product.short_description.icontains(text, autoescape=True),
                Product.slug.icontains(text, autoescape=True),
            )
        )
    return statement


async def product_on_sale(session: AsyncSession, slug: str | None) -> Product:
    """The published product of a slug, the operator's first one without; 404 when there is none."""
    if slug is not None:
        return one(await published_product(session, slug))
    return one(await operator_product(session))


async def published_product(session: AsyncSession, slug: str) -> Product | None:
    """A product that can be subscribed to, listed or not."""
    return await session.scalar(
        select(Product).where(Product.slug == slug, Product.status == "published")
    )


async def operator_product(session: AsyncSession) -> Product | None:
    """The operator's oldest published product: what is meant where none is named."""
    return await session.scalar(
        select(Product)
        .where(Product.organization_id == func.catalog_operator(), Product.status == "published")
        .order_by(Product.published_at, Product.id)
        .limit(1)
    )


def offered(product: Product, kind: PlanKind, consumer: UUID) -> Select[Plan]:
    """The plans, or the add-ons, of a product that are shown to `consumer` to choose from."""
    return for_sale(product, kind, consumer).where(Plan.visibility != "unlisted")


async def plan_version(session: AsyncSession, plan_version_id: UUID) -> PlanVersion:
    """A version that this transaction may see; 404 otherwise."""
    return one(await session.scalar(select(PlanVersion).where(PlanVersion.id == plan_version_id)))


def one(row: Row | None) -> Row:
    """The row; 404 when there is none."""
    if row is None:
        raise Refusal("not_found")
    return row


async def check_room(session: AsyncSession, kind: Any, product: Product, field: str) -> None:
    """422 on `field` when the product has as many of a kind as it may have."""
    count = select(func.count()).select_from(kind).where(kind.product_id == product.id)
    if (await session.scalar(count) or 0) >= MAX_ROUTES:
        raise field_error(field, "too_many", f"A product has at most {MAX_ROUTES}.")
