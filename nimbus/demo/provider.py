# SPDX-License-Identifier: Apache-2.0
"""The demo's operator: says who sells, publishes the terms and the Wind API with its plans."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import db
from nimbus.base.actors import Actor
from nimbus.billing import queries as billing_queries
from nimbus.billing.service import sellers
from nimbus.catalog import queries, schemas
from nimbus.catalog.models import Meter, Product
from nimbus.catalog.service import meters, plans, products, routes
from nimbus.demo import people, story, wind
from nimbus.demo.http import DemoError
from nimbus.demo.kept import Upstreams
from nimbus.demo.people import Account

NAME = "Nimbus Wind B.V."
PLANS = (*wind.PLANS, wind.ENTERPRISE)


async def put_operator(account: Account, upstreams: Upstreams) -> Actor:
    """The admin, acting for the operator's organization, which sells the Wind API.

    Raises `DemoError` where another organization sells here already, `Refusal` where the example
    servers can't be reached.
    """
    admin = await people.put_admin(account)
    seller = story.seller("")
    admin = await people.put_organization(
        admin,
        people.details(
            {
                **{name: seller[name] for name in ("name", "country", "address")},
                **{name: seller[name] for name in ("company_number", "vat_number")},
                "billing_email": seller["email"],
            }
        ),
    )
    await _put_seller(admin)
    await people.put_active(admin)
    await _put_product(admin, upstreams)
    return admin


async def _put_seller(admin: Actor) -> None:
    async with db.system_session("demo sets") as session:
        known = await billing_queries.current_seller(session)
        if known is None:
            body = story.seller(str(admin.organization_id))
            given = sellers.SellerDetails(
                organization_id=admin.organization_id,
                legal_name=body["name"],
                address=body["address"],
                country=body["country"],
                company_number=body["company_number"],
                vat_number=body["vat_number"],
                email=body["email"],
                iban=body["iban"],
                time_zone=None,
                terms_version=body["terms_version"],
            )
            await sellers.change_seller(session, admin, given, body["terms_body"], version=0)
        elif known.organization_id != admin.organization_id:
            raise DemoError(f"{known.legal_name} sells here already: the demo is for a new folder")


async def _put_product(admin: Actor, upstreams: Upstreams) -> None:
    body = wind.product(upstreams.live, upstreams.test)
    async with db.transaction(admin.organization_id, admin.user_id) as session:
        own = queries.own_products(admin.organization_id).where(Product.slug == wind.SLUG)
        product = await session.scalar(own)
        if product is None:
            product = await products.create_product(session, admin, schemas.NewProduct(**body))
        elif await _addresses(session, product.id) != (upstreams.live, upstreams.test):
            del body["slug"]
            changed = schemas.ChangedProduct(**body, version=product.version)
            await products.change_product(session, admin, product.id, changed)
        await _put_parts(session, admin, product)
        await products.publish(session, admin, product.id)


async def _put_parts(session: AsyncSession, admin: Actor, product: Product) -> None:
    known = select(Meter.key).where(Meter.product_id == product.id)
    known_meters = set(await session.scalars(known))
    for meter in wind.METERS:
        if meter["key"] not in known_meters:
            await meters.create_meter(session, admin, product.id, schemas.NewMeter(**meter))
    known_plans = set((await queries.plan_slugs(session, product)).values())
    for plan in PLANS:
        if plan["slug"] not in known_plans:
            await plans.create_plan(session, admin, product.id, schemas.NewPlan(**plan))
    known_routes = {
        (row.method, row.path) for row in await session.scalars(queries.routes_of(product))
    }
    for route in wind.ROUTES:
        if (route["method"], route["path"]) not in known_routes:
            await routes.create_route(session, admin, product.id, schemas.RouteFields(**route))


async def _addresses(session: AsyncSession, product_id: UUID) -> tuple[str | None, str | None]:
    rows = await queries.upstreams_of(session, [product_id])
    found = {row.environment: row.base_url for row in rows}
    return found.get("Live"), found.get("Test")
