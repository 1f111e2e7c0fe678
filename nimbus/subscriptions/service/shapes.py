# SPDX-License-Identifier: Apache-2.0
"""Subscriptions for the wire."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.web import Money
from nimbus.identity import Permission, has
from nimbus.subscriptions import schemas
from nimbus.subscriptions.models import Subscription
from nimbus.subscriptions.service.records import current_add_ons, instants_of


async def shapes(
    session: AsyncSession, actor: Actor, rows: Sequence[Subscription], as_of: datetime
) -> list[schemas.SubscriptionShape]:
    """Subscriptions as the actor may see them at `as_of`: prices take their permission."""
    await session.flush()
    return [await _shape(session, actor, row, as_of) for row in rows]


async def add_on_shapes(session: AsyncSession, row: Subscription) -> list[schemas.AddOnShape]:
    """The add-ons that a subscription has now."""
    shown = []
    for taken in await current_add_ons(session, row):
        item = await catalog.plan_facts(session, taken.plan_version_id)
        fee, _ = await catalog.shown_price(session, taken.plan_version_id, row.currency)
        shown.append(
            schemas.AddOnShape(
                id=taken.plan_id,
                slug=item.slug,
                name=item.name,
                quantity=taken.quantity,
                fee=Money(amount_minor=fee, currency=row.currency),
            )
        )
    return shown


def instants(row: Subscription, shape: Any) -> dict[str, Any]:
    """The instants that a shape has of the row, as the wire writes them."""
    values = {name: getattr(row, name) for name in shape.model_fields if name.endswith("_at")}
    return {name: value and clock.to_wire(value) for name, value in values.items()}


async def _shape(
    session: AsyncSession, actor: Actor, row: Subscription, as_of: datetime
) -> schemas.SubscriptionShape:
    plan = await catalog.plan_facts(session, row.plan_version_id)
    # A key got here by its scope, which is to read what is billed.
    priced = (
        actor.kind == "key"
        or actor.platform_role is not None
        or has(actor.role, Permission.SEE_SUBSCRIPTION)
    )
    add_ons = await add_on_shapes(session, row)
    return schemas.SubscriptionShape(
        id=row.id,
        product=schemas.ProductShape(slug=plan.product.slug, name=plan.product.name),
        plan=schemas.PlanShape(
            slug=plan.slug, name=plan.name, rank=plan.rank, plan_version=plan.number
        ),
        contract=plan.contract,
        add_ons=add_ons if priced else [],
        status=row.status_at(as_of),
        currency=row.currency,
        period=schemas.PeriodShape(
            number=row.period_number,
            starts_at=clock.to_wire(row.period_starts_at),
            ends_at=clock.to_wire(row.period_ends_at),
        ),
        auto_renew=row.auto_renew,
        payment=row.payment,
        cancel_reason=row.cancel_reason,
        scheduled_change=scheduled_shape(row.scheduled_change, add_ons),
        price=await _price(session, row, plan) if priced else None,
        version=row.version,
        **instants(row, schemas.SubscriptionShape),
    )


def scheduled_shape(
    change: dict[str, Any] | None, add_ons: Sequence[schemas.AddOnShape]
) -> schemas.ScheduledChange | None:
    """What waits, with the names of the add-ons that it is about."""
    if change is None:
        return None
    waiting = {UUID(key): one for key, one in change.get("add_ons", {}).items()}
    return schemas.ScheduledChange(
        plan=change.get("plan"),
        at=clock.to_wire(min(instants_of(change))),
        reason=change.get("reason"),
        add_ons=[
            schemas.ScheduledAddOn(slug=one.slug, name=one.name, **waiting[one.id])
            for one in add_ons
            if one.id in waiting
        ],
    )


async def _price(
    session: AsyncSession, row: Subscription, plan: catalog.PlanFacts
) -> schemas.PriceShape:
    fee, charges = await catalog.shown_price(session, row.plan_version_id, row.currency)
    return schemas.PriceShape(
        base_fee=Money(amount_minor=fee, currency=row.currency),
        interval=plan.interval,
        interval_count=plan.interval_count,
        charges=[schemas.ChargeShape.model_validate(charge) for charge in charges],
    )
