# SPDX-License-Identifier: Apache-2.0
"""What changes in a subscription's terms: its plan, its add-ons, and what waits to change.

Up is at once, and priced by the terms' history; down waits for the period's end unless asked for
at once. What waits stands in `scheduled_change` and holds from its instant on.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.catalog import PlanFacts
from nimbus.errors import Refusal, field_error
from nimbus.rules import lifecycles
from nimbus.subscriptions.events import SubscriptionChanged
from nimbus.subscriptions.models import AddOnTerms, Subscription
from nimbus.subscriptions.service.records import (
    Side,
    check_currency,
    check_payment,
    current_add_ons,
    lock_for,
    plan_part,
    running_period,
    settle,
    state,
    tell,
    with_add_ons,
    write_terms,
)

Direction = Literal["upgrade", "downgrade", "any"]
MAX_ADD_ONS = 50


async def change_plan(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    plan_slug: str,
    *,
    direction: Direction,
    version: int | None,
    as_of: datetime,
    at_once: bool = True,
    side: Side = "consumer",
) -> Subscription:
    """Move a subscription to another plan of its product.

    Raises 404 for another's, 409 for a stale version, 422 on `plan` when it is unknown, not in
    that direction, has other periods or no price in the currency; on `status` where the state
    does not allow it.
    """
    subscription = await lock_for(session, actor, subscription_id, side=side, version=version)
    await settle(session, actor, subscription, as_of)
    product = await catalog.product_facts(session, subscription.product_id)
    plan = await catalog.published_plan(
        session, product.slug, plan_slug, consumer=subscription.organization_id
    )
    current = await catalog.plan_facts(session, subscription.plan_version_id)
    other_way = direction != "any" and (plan.rank > current.rank) != (direction == "upgrade")
    if other_way or plan.plan_id == current.plan_id:
        text = f"That plan is no {direction} of the present one."
        raise field_error("plan", f"no_{direction}", text)
    await set_plan(session, actor, subscription, plan, current, as_of=as_of, at_once=at_once)
    return subscription


async def set_plan(
    session: AsyncSession,
    actor: Actor,
    subscription: Subscription,
    plan: PlanFacts,
    current: PlanFacts,
    *,
    as_of: datetime,
    at_once: bool,
) -> None:
    """Put a settled subscription on `plan`, at once (a trial always) or at the period's end.

    An add-on that waits to be left goes on waiting. Raises as `change_plan`.
    """
    stored = state(subscription)
    subscription.status = lifecycles.subscription(stored, "change_plan")
    check_currency(plan, subscription.currency)
    check_payment(plan, subscription.payment)  # type: ignore[arg-type]  # check constraint
    periods = [(p.interval, p.interval_count, p.calendar_anchor) for p in (plan, current)]
    if periods[0] != periods[1]:
        text = "It is billed in other periods: cancel this subscription, then start that one."
        raise field_error("plan", "other_periods", text)
    before = {"plan": current.slug, "scheduled_change": subscription.scheduled_change}
    leaving = (subscription.scheduled_change or {}).get("add_ons", {})
    if at_once or stored == "Trial":
        subscription.plan_id, subscription.plan_version_id = plan.plan_id, plan.plan_version_id
        subscription.scheduled_change = with_add_ons({}, leaving)
        add_ons = await current_add_ons(session, subscription)
        await write_terms(session, subscription, as_of, "change_plan", add_ons)
    else:
        end = running_period(subscription, current, as_of).ends_at
        subscription.scheduled_change = with_add_ons(waiting_plan(plan, end), leaving)
    subscription.version += 1
    now = current if subscription.plan_id == current.plan_id else plan
    tell(session, actor, SubscriptionChanged, subscription, now, before=before)
    await session.flush()


def waiting_plan(plan: PlanFacts, at: datetime) -> dict[str, Any]:
    """A plan that is to hold from `at` on, as `scheduled_change` keeps it."""
    return {
        "plan_id": str(plan.plan_id),
        "plan_version_id": str(plan.plan_version_id),
        "plan": plan.slug,
        "at": clock.to_wire(at),
    }


async def take_add_on(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    slug: str,
    *,
    quantity: int,
    version: int | None,
    as_of: datetime,
    side: Side = "consumer",
) -> tuple[Subscription, AddOnTerms | None]:
    """Have an add-on `quantity` times from now on; fewer than before at the period's end.

    Gives the subscription, and what is had more of than before. Raises 404 for another's
    subscription, 409 for a stale version, 422 on `add_on` for one that is unknown or has no price
    in the currency, on `quantity` where nothing changes, on `status` where the state does not
    allow it.
    """
    subscription = await lock_for(session, actor, subscription_id, side=side, version=version)
    await settle(session, actor, subscription, as_of)
    add_on = await catalog.published_add_on(
        session, subscription.product_id, slug, consumer=subscription.organization_id
    )
    check_currency(add_on, subscription.currency, "add_on")
    had = {one.plan_id: one for one in await current_add_ons(session, subscription)}
    before = had.get(add_on.plan_id)
    if before is not None and quantity <= before.quantity:
        await _leave(session, actor, subscription, before, quantity=quantity, as_of=as_of)
        return subscription, None
    subscription.status = lifecycles.subscription(state(subscription), "change_plan")
    if before is None and len(had) >= MAX_ADD_ONS:
        raise field_error("add_on", "too_many", f"At most {MAX_ADD_ONS} add-ons.")
    had[add_on.plan_id] = AddOnTerms(
        plan_id=add_on.plan_id,
        # What was signed stays: more of the same is the same version.
        plan_version_id=add_on.plan_version_id if before is None else before.plan_version_id,
        quantity=quantity,
    )
    _forget_leaving(subscription, add_on.plan_id)
    subscription.version += 1
    await write_terms(session, subscription, as_of, "add_on", tuple(had.values()))
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    said = {"add_on": {"slug": slug, "quantity": before.quantity if before else 0}}
    tell(session, actor, SubscriptionChanged, subscription, plan, before=said)
    taken = had[add_on.plan_id]
    return subscription, replace(taken, quantity=quantity - (before.quantity if before else 0))


async def leave_add_on(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    add_on_id: UUID,
    *,
    version: int | None,
    as_of: datetime,
    side: Side = "consumer",
) -> Subscription:
    """Have an add-on no more from the period's end on; of a trial at once.

    Raises 404 for another's subscription or an add-on that it does not have, 409 for a stale
    version, 422 on `status` where the state does not allow it.
    """
    subscription = await lock_for(session, actor, subscription_id, side=side, version=version)
    await settle(session, actor, subscription, as_of)
    had = {one.plan_id: one for one in await current_add_ons(session, subscription)}
    if add_on_id not in had:
        raise Refusal("not_found")
    await _leave(session, actor, subscription, had[add_on_id], quantity=0, as_of=as_of)
    return subscription


async def take_back(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    version: int | None,
    as_of: datetime,
) -> Subscription:
    """Let what waits not happen: the subscription stays as it is.

    Raises 404 for another's subscription or where nothing waits, 409 for a stale version.
    """
    subscription = await lock_for(session, actor, subscription_id, side="consumer", version=version)
    await settle(session, actor, subscription, as_of)
    if subscription.scheduled_change is None:
        raise Refusal("not_found", "Nothing is scheduled.")
    if subscription.scheduled_change.get("by") == "provider":
        text = "The provider announced this change. To refuse it, cancel the subscription."
        raise field_error("scheduled_change", "announced", text)
    before = {"scheduled_change": subscription.scheduled_change}
    subscription.scheduled_change = None
    subscription.version += 1
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    tell(session, actor, SubscriptionChanged, subscription, plan, before=before)
    return subscription


async def _leave(
    session: AsyncSession,
    actor: Actor,
    subscription: Subscription,
    had: AddOnTerms,
    *,
    quantity: int,
    as_of: datetime,
) -> None:
    """Have an add-on fewer times, from the period's end on."""
    stored = state(subscription)
    subscription.status = lifecycles.subscription(stored, "change_plan")
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    before = {"scheduled_change": subscription.scheduled_change}
    leaving = dict((subscription.scheduled_change or {}).get("add_ons", {}))
    if quantity == had.quantity and str(had.plan_id) in leaving:
        _forget_leaving(subscription, had.plan_id)
    elif quantity == had.quantity:
        raise field_error("quantity", "unchanged", "It is taken so many times already.")
    else:
        end = running_period(subscription, plan, as_of).ends_at
        at = clock.to_wire(as_of if stored == "Trial" else end)
        leaving[str(had.plan_id)] = {"quantity": quantity, "at": at}
        subscription.scheduled_change = with_add_ons(
            plan_part(subscription.scheduled_change), leaving
        )
    subscription.version += 1
    await settle(session, actor, subscription, as_of)
    tell(session, actor, SubscriptionChanged, subscription, plan, before=before)


def _forget_leaving(subscription: Subscription, plan_id: UUID) -> None:
    """An add-on that waited to be left, or to be had fewer times, stays."""
    change = subscription.scheduled_change
    leaving = dict((change or {}).get("add_ons", {}))
    leaving.pop(str(plan_id), None)
    subscription.scheduled_change = with_add_ons(plan_part(change), leaving)
