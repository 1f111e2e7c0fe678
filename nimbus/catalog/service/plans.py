# SPDX-License-Identifier: Apache-2.0
"""Plans: what is written once is a version, and subscribers keep the one they signed."""

from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.constraints import refused_by
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.base.web import Money
from nimbus.catalog import queries
from nimbus.catalog.events import PlanChanged, PlanCreated
from nimbus.catalog.models import (
    Meter,
    Plan,
    PlanAudience,
    PlanCharge,
    PlanPrice,
    PlanVersion,
    Product,
)
from nimbus.catalog.schemas import (
    ChangedPlan,
    NewPlan,
    PriceShape,
    VersionShape,
)
from nimbus.catalog.service.allowances import (
    allowance_rows,
    checked_entitlements,
    checked_quotas,
)
from nimbus.catalog.service.shapes import (
    VERSION_COLUMNS,
    charge_of,
    charge_shape,
    charge_terms,
    check_fee,
    rate_columns,
    terms_shape,
)
from nimbus.errors import Refusal, field_error

MAX_PLANS = 200
UNKNOWN = {
    "plan_audiences_consumer_organization_id_fkey": field_error(
        "audience", "unknown_organization", "There is no such organization."
    )
}
TAKEN = {
    "uq_plans_slug": field_error("slug", "taken", "The product has a plan of this slug."),
    "uq_plans_rank": field_error("rank", "taken", "Another plan of the product has this rank."),
}


async def create_plan(
    session: AsyncSession, actor: Actor, product_id: UUID, given: NewPlan
) -> tuple[Product, Plan, PlanVersion]:
    """Make a plan with its first version, prices, charges and quotas.

    Raises 422 on the field: slug or rank taken, an unknown meter or currency, charges that can't
    be billed (spec 02), something said twice.
    """
    product = await queries.own_product(session, actor.organization_id, product_id, lock=True)
    count = select(func.count()).select_from(Plan).where(Plan.product_id == product.id)
    if (await session.scalar(count) or 0) >= MAX_PLANS:
        raise field_error("plans", "too_many", f"A product has at most {MAX_PLANS}.")
    terms = await checked_terms(session, product, given)
    version_id = new_id()
    plan = Plan(
        organization_id=product.organization_id,
        product_id=product.id,
        slug=given.slug,
        name=given.name,
        rank=given.rank,
        visibility=given.visibility,
        status=given.status,
        current_version_id=version_id,
    )
    async with refused_by(session, TAKEN):
        session.add(plan)
    version = await write_version(session, plan, version_id, terms)
    await _set_audience(session, plan, given.audience)
    announce(session, actor, _event(PlanCreated, plan, after=_facts(plan, version)))
    return product, plan, version


async def change_plan(
    session: AsyncSession, actor: Actor, product_id: UUID, plan_id: UUID, given: ChangedPlan
) -> tuple[Product, Plan, PlanVersion]:
    """Say everything about a plan anew; 409 for a stale version, else as `create_plan`.

    Other terms than before make a new version; who subscribed before keeps the old one. A plan
    that was active is not a draft again: 422 on `status`.
    """
    product = await queries.own_product(session, actor.organization_id, product_id)
    plan = await queries.own_plan(session, product, plan_id)
    if plan.version != given.version:
        raise Refusal("stale_version", "Read it again, then change it.")
    if given.status == "draft" and plan.status != "draft":
        raise field_error("status", "not_allowed", "A plan that was active is not a draft again.")
    current = await queries.plan_version(session, plan.current_version_id)
    before = _facts(plan, current)
    terms = await checked_terms(session, product, given)
    async with refused_by(session, TAKEN):
        for name in ("name", "rank", "visibility", "status"):
            setattr(plan, name, getattr(given, name))
        plan.version += 1
    if terms != terms_shape(current):
        current = await write_version(session, plan, new_id(), terms)
        plan.current_version_id = current.id
    await _set_audience(session, plan, given.audience)
    announce(session, actor, _event(PlanChanged, plan, before=before, after=_facts(plan, current)))
    return product, plan, current


async def checked_terms(
    session: AsyncSession, product: Product, given: VersionShape
) -> VersionShape:
    """The terms in their usual form and order, so that the same terms compare equal.

    Raises 422 on the field of a charge or quota that can't be billed or counted.
    """
    meters = set(await session.scalars(queries.meters_of(product.id).with_only_columns(Meter.key)))
    seen: set[str] = set()
    prices = []
    for number, price in enumerate(given.prices):
        path = f"prices.{number}"
        check_fee(price.base_fee, f"{path}.base_fee")
        _once(price.base_fee.currency, seen, f"{path}.base_fee.currency")
        prices.append(_checked_price(price, meters, path))
    return VersionShape(
        rate_limit=given.rate_limit,
        prices=sorted(prices, key=lambda price: price.base_fee.currency),
        quotas=checked_quotas(given.quotas, meters, given.over_quota_policy),
        entitlements=checked_entitlements(given.entitlements, meters),
        **{name: getattr(given, name) for name in VERSION_COLUMNS},
    )


async def _set_audience(session: AsyncSession, plan: Plan, audience: list[str]) -> None:
    """Say anew which organizations a private plan is for; 422 on `audience` for any other plan."""
    if bool(audience) != (plan.visibility == "private"):
        text = "A private plan is for organizations that are named, any other for everyone."
        raise field_error("audience", "not_private", text)
    await session.execute(delete(PlanAudience).where(PlanAudience.plan_id == plan.id))
    async with refused_by(session, UNKNOWN):
        session.add_all(
            PlanAudience(
                organization_id=plan.organization_id,
                plan_id=plan.id,
                consumer_organization_id=UUID(organization_id),
            )
            for organization_id in dict.fromkeys(audience)
        )


def _checked_price(price: PriceShape, meters: set[str], path: str) -> PriceShape:
    seen: set[str] = set()
    charges = []
    for number, charge in enumerate(price.charges):
        at = f"{path}.charges.{number}"
        _known(charge.meter, meters, f"{at}.meter")
        _once(charge.meter, seen, f"{at}.meter")
        charges.append(charge_shape(charge_of(charge, at), charge.description))
    fee = Money(amount_minor=price.base_fee.amount_minor, currency=price.base_fee.currency)
    return PriceShape(base_fee=fee, charges=charges)


async def write_version(
    session: AsyncSession,
    plan: Plan,
    version_id: UUID,
    terms: VersionShape,
    *,
    consumer: UUID | None = None,
) -> PlanVersion:
    """Write a locked plan's next version with all that belongs to it, and close it for ever.

    With `consumer` it is made for that organization alone.
    """
    whose = {"organization_id": plan.organization_id, "product_id": plan.product_id}
    last = select(func.max(PlanVersion.number)).where(PlanVersion.plan_id == plan.id)
    version = PlanVersion(
        id=version_id,
        plan_id=plan.id,
        number=(await session.scalar(last) or 0) + 1,
        consumer_organization_id=consumer,
        **whose,
        **rate_columns(terms.rate_limit),
        **{name: getattr(terms, name) for name in VERSION_COLUMNS},
    )
    session.add(version)
    await session.flush()
    whose["plan_version_id"] = version.id
    session.add_all(
        PlanPrice(
            currency=price.base_fee.currency, base_fee_minor=price.base_fee.amount_minor, **whose
        )
        for price in terms.prices
    )
    await session.flush()
    for price in terms.prices:
        for position, shape in enumerate(price.charges):
            charge = charge_of(shape, "charge")
            session.add(
                PlanCharge(
                    currency=price.base_fee.currency,
                    position=position,
                    meter_key=charge.meter_key,
                    model=charge.model,
                    included=charge.included,
                    unit_price=charge.unit_price,
                    terms=charge_terms(charge),
                    description=shape.description,
                    **whose,
                )
            )
    session.add_all(allowance_rows(terms.quotas, terms.entitlements, whose))
    await session.flush()
    version.published_at = clock.now()
    await session.flush()
    await session.refresh(version, ["prices", "charges", "quotas", "entitlements"])
    return version


def _known(meter: str, meters: set[str], field: str) -> None:
    if meter not in meters:
        raise field_error(field, "unknown_meter", "The product has no such meter.")


def _once(value: str, seen: set[str], field: str) -> None:
    if value in seen:
        raise field_error(field, "duplicate", "This is said twice.")
    seen.add(value)


def _facts(plan: Plan, version: PlanVersion) -> dict[str, Any]:
    names = ("slug", "name", "rank", "visibility", "status")
    return {name: getattr(plan, name) for name in names} | {"plan_version": version.number}


def _event(kind: Any, plan: Plan, **values: Any) -> Any:
    return kind(organization_id=plan.organization_id, entity_id=plan.id, **values)
