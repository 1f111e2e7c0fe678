# SPDX-License-Identifier: Apache-2.0
"""HTTP of subscriptions: parse, call one use case, present. Starting one is `payments`'."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Money, Page, Router, Session, mutates, paginate
from nimbus.errors import Refusal
from nimbus.identity import Permission, allowed, has
from nimbus.subscriptions import events, queries, schemas
from nimbus.subscriptions.models import Subscription
from nimbus.subscriptions.service import changes, lives

SUBSCRIPTIONS = "/api/billing/subscriptions"
MANAGE = Permission.MANAGE_SUBSCRIPTIONS
SEE = Permission.SEE_SUBSCRIPTION
# Whatever a use case does, it first writes down what dates decided meanwhile.
SETTLED = [events.SubscriptionChanged, events.SubscriptionExpired]

router = Router(tags=["subscriptions"])
Member = Annotated[Actor, allowed(Permission.SEE_PLAN, scope="billing.read")]
Reader = Annotated[Actor, allowed(SEE, scope="billing.read")]
Owner = Annotated[Actor, allowed(MANAGE)]
ProductSlug = Annotated[str | None, Query(max_length=63, pattern=r"^[a-z0-9-]+$")]


@router.get(
    "/api/billing/subscription",
    operation_id="read_current_subscription",
    responses=documented(401, 403, 404, 422),
)
async def read_current(
    actor: Member, session: Session, product: ProductSlug = None
) -> schemas.SubscriptionShape:
    """The subscription to a product, the operator's own where none is named: the live one, else
    the last one. Every member sees plan and status; the price takes its permission.
    """
    sold = await catalog.product_or_operators(session, product)
    found = await queries.latest(session, actor.organization_id, sold.id)
    if found is None:
        raise Refusal("not_found", "There is no subscription to this product.")
    return (await _shown(session, actor, [found]))[0]


@router.get(SUBSCRIPTIONS, operation_id="list_subscriptions", responses=documented(401, 403, 422))
async def list_subscriptions(
    actor: Reader, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.SubscriptionShape]:
    """What my organization subscribed to, newest first."""
    own = queries.of_organization(actor.organization_id)
    rows, next_cursor = await paginate(session, own, Subscription.id, limit, cursor)
    return Page(data=await _shown(session, actor, rows), next_cursor=next_cursor)


@router.get(
    f"{SUBSCRIPTIONS}/{{subscription_id}}",
    operation_id="read_subscription",
    responses=documented(401, 403, 404, 422),
)
async def read_subscription(
    subscription_id: UUID, actor: Reader, session: Session
) -> schemas.SubscriptionShape:
    """One subscription."""
    found = await queries.own(session, actor.organization_id, subscription_id)
    return (await _shown(session, actor, [found]))[0]


@router.post(
    f"{SUBSCRIPTIONS}/{{subscription_id}}/upgrade",
    operation_id="upgrade_subscription",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=SETTLED, idempotency="version"),
)
async def upgrade(
    subscription_id: UUID, body: schemas.UpgradeBody, actor: Owner, session: Session
) -> schemas.SubscriptionShape:
    """Move to a higher plan, at once."""
    changed = await changes.change_plan(
        session,
        actor,
        subscription_id,
        body.plan,
        direction="upgrade",
        version=body.version,
        as_of=clock.now(),
    )
    return (await _shown(session, actor, [changed]))[0]


@router.post(
    f"{SUBSCRIPTIONS}/{{subscription_id}}/downgrade",
    operation_id="downgrade_subscription",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission=MANAGE, events=SETTLED, idempotency="version"),
)
async def downgrade(
    subscription_id: UUID, body: schemas.DowngradeBody, actor: Owner, session: Session
) -> schemas.SubscriptionShape:
    """Move to a lower plan, at the period's end or at once."""
    changed = await changes.change_plan(
        session,
        actor,
        subscription_id,
        body.plan,
        direction="downgrade",
        version=body.version,
        as_of=clock.now(),
        at_once=body.at_once,
    )
    return (await _shown(session, actor, [changed]))[0]


@router.post(
    f"{SUBSCRIPTIONS}/{{subscription_id}}/cancel",
    operation_id="cancel_subscription",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(
        permission=MANAGE, events=[*SETTLED, events.SubscriptionCancelled], idempotency="version"
    ),
)
async def cancel(
    subscription_id: UUID, body: schemas.CancelBody, actor: Owner, session: Session
) -> schemas.SubscriptionShape:
    """End it, at the period's end or at once, with a reason; `ends_at` says when."""
    cancelled = await lives.cancel(
        session,
        actor,
        subscription_id,
        version=body.version,
        reason=body.reason,
        as_of=clock.now(),
        at_once=body.at_once,
    )
    return (await _shown(session, actor, [cancelled]))[0]


async def _shown(
    session: AsyncSession, actor: Actor, rows: list[Subscription]
) -> list[schemas.SubscriptionShape]:
    await session.flush()
    return [await _shape(session, actor, row, clock.now()) for row in rows]


async def _shape(
    session: AsyncSession, actor: Actor, row: Subscription, as_of: datetime
) -> schemas.SubscriptionShape:
    plan = await catalog.plan_facts(session, row.plan_version_id)
    # A key got here by its scope, which is to read what is billed.
    priced = actor.kind == "key" or has(actor.role, SEE)
    return schemas.SubscriptionShape(
        id=row.id,
        product=schemas.ProductShape(slug=plan.product.slug, name=plan.product.name),
        plan=schemas.PlanShape(
            slug=plan.slug, name=plan.name, rank=plan.rank, plan_version=plan.number
        ),
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
        scheduled_change=(
            schemas.ScheduledChange.model_validate(row.scheduled_change)
            if row.scheduled_change
            else None
        ),
        price=await _price(session, row, plan) if priced else None,
        version=row.version,
        **_instants(row),
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


def _instants(row: Subscription) -> dict[str, Any]:
    values = {
        name: getattr(row, name)
        for name in schemas.SubscriptionShape.model_fields
        if name.endswith("_at")
    }
    return {name: value and clock.to_wire(value) for name, value in values.items()}
