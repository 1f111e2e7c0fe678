# SPDX-License-Identifier: Apache-2.0
"""The catalogue for other rooms: facts of what this transaction may see."""

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.catalog import queries
from nimbus.catalog.models import (
    EntitlementFacts,
    Meter,
    MeterFacts,
    Plan,
    PlanEntitlement,
    PlanFacts,
    PlanVersion,
    Product,
    ProductFacts,
    QuotaFacts,
    Route,
    RouteFacts,
)
from nimbus.catalog.service.shapes import terms_shape
from nimbus.errors import Refusal, field_error
from nimbus.rules.contracts import PlanTerms
from nimbus.rules.quotas import Quota


async def published_plan(
    session: AsyncSession, product_slug: str, plan_slug: str, *, consumer: UUID | None = None
) -> PlanFacts:
    """The current version of a plan that can be subscribed to, by `consumer` if it is private.

    Raises 422 on `product` or `plan` for one that is unknown or not for sale.
    """
    product = await queries.published_product(session, product_slug)
    if product is None:
        raise field_error("product", "unknown_product", "There is no such product.")
    active = queries.for_sale(product, "plan", consumer).where(Plan.slug == plan_slug)
    found = await queries.with_versions(session, active)
    if not found:
        raise field_error("plan", "unknown_plan", "The product has no such plan.")
    return _plan(product, *found[0])


async def own_plan(
    session: AsyncSession, provider: UUID, product_id: UUID, plan_id: UUID
) -> PlanFacts:
    """What a plan of a provider says now; 404 for another's."""
    product = await queries.own_product(session, provider, product_id)
    asked = queries.plans_of(product).where(Plan.id == plan_id)
    found = await queries.with_versions(session, asked)
    return _plan(product, *queries.one(found[0] if found else None))


async def published_add_on(
    session: AsyncSession, product_id: UUID, slug: str, *, consumer: UUID
) -> PlanFacts:
    """The current version of an add-on that a subscriber of the product can take.

    Raises 422 on `add_on` for one that is unknown or not for sale.
    """
    product = queries.one(await session.get(Product, product_id))
    active = queries.for_sale(product, "add_on", consumer).where(Plan.slug == slug)
    found = await queries.with_versions(session, active)
    if not found:
        raise field_error("add_on", "unknown_add_on", "The product has no such add-on.")
    return _plan(product, *found[0])


async def plan_facts(session: AsyncSession, plan_version_id: UUID) -> PlanFacts:
    """A plan as this version of it says; 404 when the transaction may not see it."""
    return _plan(*await _with_plan(session, plan_version_id))


async def plan_entitlements(
    session: AsyncSession, plan_version_ids: Iterable[UUID]
) -> dict[UUID, list[EntitlementFacts]]:
    """What plan versions entitle to, in one query."""
    ids = list(plan_version_ids)
    found: dict[UUID, list[EntitlementFacts]] = {each: [] for each in ids}
    statement = select(PlanEntitlement).where(PlanEntitlement.plan_version_id.in_(ids))
    for row in await session.scalars(statement.order_by(PlanEntitlement.key)):
        found[row.plan_version_id].append(_entitlement(row))
    return found


async def plan_terms(session: AsyncSession, plan_version_id: UUID, currency: str) -> PlanTerms:
    """What a plan version asks for each period in one currency, for the law; not what it asks once.

    Raises 404 for an unknown version, 422 on `currency` when it has no price in it.
    """
    return _terms(await queries.plan_version(session, plan_version_id), currency)


async def plan_with_terms(
    session: AsyncSession, plan_version_id: UUID, currency: str
) -> tuple[PlanFacts, PlanTerms]:
    """`plan_facts` and `plan_terms` of a version in one reading; raises what they raise."""
    product, plan, version = await _with_plan(session, plan_version_id)
    return _plan(product, plan, version), _terms(version, currency)


async def _with_plan(
    session: AsyncSession, plan_version_id: UUID
) -> tuple[Product, Plan, PlanVersion]:
    rows = await session.execute(
        select(Product, Plan, PlanVersion)
        .join(Plan, Plan.product_id == Product.id)
        .join(PlanVersion, PlanVersion.plan_id == Plan.id)
        .where(PlanVersion.id == plan_version_id)
    )
    row = rows.one_or_none()
    if row is None:
        raise Refusal("not_found")
    return row[0], row[1], row[2]


def _terms(version: PlanVersion, currency: str) -> PlanTerms:
    fees = [price.base_fee_minor for price in version.prices if price.currency == currency]
    if not fees:
        raise field_error("currency", "no_price", "The plan has no price in this currency.")
    return PlanTerms(
        currency=currency,
        base_fee_minor=0 if version.base_fee_timing == "once" else fees[0],
        timing="advance" if version.base_fee_timing == "advance" else "arrears",
        proration=version.proration,  # type: ignore[arg-type]  # the table's check constraint
        charges=tuple(row.charge() for row in version.charges if row.currency == currency),
    )


async def shown_price(
    session: AsyncSession, plan_version_id: UUID, currency: str
) -> tuple[int, list[dict[str, Any]]]:
    """The base fee in minor units, and the charges as the API shows them; 404 or 422 as above."""
    version = await queries.plan_version(session, plan_version_id)
    prices = [price for price in terms_shape(version).prices if price.base_fee.currency == currency]
    if not prices:
        raise field_error("currency", "no_price", "The plan has no price in this currency.")
    return prices[0].base_fee.amount_minor, [
        charge.model_dump(mode="json") for charge in prices[0].charges
    ]


async def charge_texts(
    session: AsyncSession, plan_version_id: UUID, currency: str
) -> dict[str, dict[str, str]]:
    """What the provider calls a plan version's charges: meter key → language → text."""
    version = await queries.plan_version(session, plan_version_id)
    return {
        row.meter_key: row.description
        for row in version.charges
        if row.currency == currency and row.description
    }


async def product_facts(session: AsyncSession, product_id: UUID) -> ProductFacts:
    """A product that the transaction may see; 404 otherwise."""
    product = await session.get(Product, product_id)
    if product is None:
        raise Refusal("not_found")
    return _product(product)


async def product_or_operators(session: AsyncSession, slug: str | None) -> ProductFacts:
    """The product of a slug, whatever its status, if the transaction may see it; the operator's
    own where none is named. 404 when there is none.
    """
    if slug is None:
        return _product(queries.one(await queries.operator_product(session)))
    return _product(queries.one(await session.scalar(select(Product).where(Product.slug == slug))))


async def meter_facts(session: AsyncSession, product_id: UUID) -> dict[str, MeterFacts]:
    """The meters of a product by key."""
    meters = await session.scalars(queries.meters_of(product_id).order_by(Meter.key))
    return {
        row.key: MeterFacts(
            key=row.key,
            unit=row.unit,
            aggregation=row.aggregation,
            property=row.property,
            filters=row.filters,
        )
        for row in meters
    }


async def weighted_meters(
    session: AsyncSession, product_ids: Collection[UUID]
) -> set[tuple[UUID, str]]:
    """The time-weighted meters of these products: product and key."""
    rows = await session.execute(
        select(Meter.product_id, Meter.key).where(
            Meter.product_id.in_(product_ids), Meter.aggregation == "time_weighted"
        )
    )
    return {(row.product_id, row.key) for row in rows}


async def route_facts(session: AsyncSession, route_ids: Iterable[UUID]) -> dict[UUID, RouteFacts]:
    """Operations by id, those that the transaction may see."""
    routes = await session.scalars(select(Route).where(Route.id.in_(list(route_ids))))
    return {
        row.id: RouteFacts(id=row.id, method=row.method, path=row.path, title=row.title)
        for row in routes
    }


async def route_scopes(session: AsyncSession, product_ids: Iterable[UUID]) -> set[str]:
    """The scopes that the operations of these products ask for."""
    scopes = select(Route.scope).where(
        Route.product_id.in_(list(product_ids)), Route.scope.is_not(None)
    )
    return {scope for scope in await session.scalars(scopes.distinct()) if scope is not None}


def _entitlement(row: PlanEntitlement) -> EntitlementFacts:
    return EntitlementFacts(
        key=row.key,
        type=row.type,
        enabled=row.enabled,
        meter_key=row.meter_key,
        value=row.value,
    )


def _product(row: Product) -> ProductFacts:
    return ProductFacts(
        id=row.id,
        provider_organization_id=row.organization_id,
        slug=row.slug,
        name=row.name,
        status=row.status,
    )


def _plan(product: Product, plan: Plan, version: PlanVersion) -> PlanFacts:
    return PlanFacts(
        product=_product(product),
        kind=plan.kind,  # type: ignore[arg-type]  # the tables' check constraints
        plan_id=plan.id,
        plan_version_id=version.id,
        number=version.number,
        slug=plan.slug,
        name=plan.name,
        rank=plan.rank,
        status=plan.status,
        interval=version.interval,  # type: ignore[arg-type]
        interval_count=version.interval_count,
        calendar_anchor=version.anchor == "calendar",
        grace_hours=version.grace_hours,
        trial_days=version.trial_days,
        trial_converts=version.trial_converts,
        fee_once=version.base_fee_timing == "once",
        contract=version.consumer_organization_id is not None,
        over_quota_policy=version.over_quota_policy,  # type: ignore[arg-type]
        payment_on_invoice=version.payment_on_invoice,
        payment_term_days=version.payment_term_days,
        currencies=tuple(price.currency for price in version.prices),
        quotas=tuple(
            QuotaFacts(
                meter_key=row.meter_key,
                period=row.period,  # type: ignore[arg-type]
                quota=Quota(
                    amount=row.amount,
                    policy=version.over_quota_policy,  # type: ignore[arg-type]
                    overage_cap=row.overage_cap,
                    roll_over=row.roll_over,
                    roll_over_windows=row.roll_over_windows,
                    on_change=row.on_plan_change,
                ),
            )
            for row in version.quotas
        ),
        entitlements=tuple(_entitlement(row) for row in version.entitlements),
    )
