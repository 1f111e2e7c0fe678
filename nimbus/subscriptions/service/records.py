# SPDX-License-Identifier: Apache-2.0
"""One subscription's row and its terms: whose it is, what dates decided, what is written down.

What dates decide is brought into the row first (`settle`), so that no use case acts on a state
that has passed.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.catalog import PlanFacts
from nimbus.errors import Refusal, field_error
from nimbus.rules import lifecycles
from nimbus.rules.lifecycles import SubscriptionState
from nimbus.rules.periods import Period, period, period_containing
from nimbus.subscriptions import queries
from nimbus.subscriptions.events import SubscriptionChanged, SubscriptionExpired
from nimbus.subscriptions.models import (
    AddOnTerms,
    ContractAddOn,
    ContractTerms,
    Subscription,
    SubscriptionFacts,
)

Payment = Literal["invoice", "method"] | None
Side = Literal["consumer", "provider", "operator"]
"""Who acts on a subscription: who has it, whose product it is, or who runs the platform."""


async def lock_for(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    side: Side,
    version: int | None,
) -> Subscription:
    """A subscription that the actor may change from its side, locked; 404 for another's.

    `version` is the one that was read: 409 when it is not the present one; None for who acts
    whatever it is.
    """
    subscription = await queries.lock(session, subscription_id)
    whose = {
        "consumer": subscription.organization_id == actor.organization_id,
        "provider": subscription.provider_organization_id == actor.organization_id,
        "operator": actor.platform_role is not None,
    }
    if not whose[side]:
        raise Refusal("not_found")
    if version is not None and subscription.version != version:
        raise Refusal("stale_version", "Read it again, then change it.")
    return subscription


async def settle(
    session: AsyncSession, actor: Actor, subscription: Subscription, as_of: datetime
) -> SubscriptionState:
    """Bring the row up to `as_of`: a scheduled change holds from its instant on, a trial converts
    or expires, an end is an end.
    """
    stored = state(subscription)
    status = subscription.status_at(as_of)
    waited = subscription.scheduled_change
    if status != "Expired":
        await apply_scheduled(session, subscription, as_of)
    applied = subscription.scheduled_change != waited
    if status == stored and not applied:
        return status
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    if applied:
        said = {"scheduled_change": waited}
        tell(session, actor, SubscriptionChanged, subscription, plan, before=said)
    if status == stored:
        return status
    before = {"status": stored}
    if status == "Active":
        subscription.status = lifecycles.subscription(stored, "convert")
        assert subscription.trial_ends_at is not None, "a trial has an end"
        subscription.anchor_at = subscription.trial_ends_at
        enter_period(subscription, plan, 0)
        tell(session, actor, SubscriptionChanged, subscription, plan, before=before)
    else:
        ends = "expire" if stored in {"Trial", "Cancelled"} else "lapse"
        subscription.status = lifecycles.subscription(stored, ends)  # type: ignore[arg-type]
        subscription.ends_at = subscription.ends_at or subscription.trial_ends_at
        subscription.scheduled_change = None
        tell(session, actor, SubscriptionExpired, subscription, plan, before=before)
    await session.flush()
    return status


async def apply_scheduled(
    session: AsyncSession, subscription: Subscription, as_of: datetime
) -> None:
    """Make what waits, each part whose instant has come by `as_of` from that instant on."""
    change = subscription.scheduled_change
    if change is None:
        return
    for at in sorted(at for at in instants_of(change) if at <= as_of):
        add_ons = {one.plan_id: one for one in await current_add_ons(session, subscription)}
        for plan_id, waiting in change.get("add_ons", {}).items():
            left = add_ons.get(UUID(plan_id))
            if left is None or clock.from_wire(waiting["at"]) != at:
                continue
            add_ons[left.plan_id] = replace(left, quantity=waiting["quantity"])
        if "at" in change and clock.from_wire(change["at"]) == at:
            subscription.plan_id = UUID(change["plan_id"])
            subscription.plan_version_id = UUID(change["plan_version_id"])
        subscription.version += 1
        kept = tuple(one for one in add_ons.values() if one.quantity)
        await write_terms(session, subscription, at, "scheduled", kept)
    subscription.scheduled_change = _after(change, as_of)


def instants_of(change: dict[str, Any]) -> set[datetime]:
    """When the parts of what waits are to hold: the plan at `at`, each add-on at its own."""
    found = {clock.from_wire(waiting["at"]) for waiting in change.get("add_ons", {}).values()}
    return found | ({clock.from_wire(change["at"])} if "at" in change else set())


def with_add_ons(plan: dict[str, Any], add_ons: dict[str, Any]) -> dict[str, Any] | None:
    """What waits, of a plan's part and the add-ons'; None for nothing."""
    return (plan | ({"add_ons": add_ons} if add_ons else {})) or None


def plan_part(change: dict[str, Any] | None) -> dict[str, Any]:
    """What waits without the add-ons."""
    return {name: value for name, value in (change or {}).items() if name != "add_ons"}


def _after(change: dict[str, Any], as_of: datetime) -> dict[str, Any] | None:
    """What still waits after `as_of`."""
    plan = plan_part(change)
    if "at" in plan and clock.from_wire(plan["at"]) <= as_of:
        plan = {}
    add_ons = {
        plan_id: waiting
        for plan_id, waiting in change.get("add_ons", {}).items()
        if clock.from_wire(waiting["at"]) > as_of
    }
    return with_add_ons(plan, add_ons)


async def current_add_ons(
    session: AsyncSession, subscription: Subscription
) -> tuple[AddOnTerms, ...]:
    """The add-ons that a subscription has now."""
    last = await queries.last_terms(session, subscription.id)
    return () if last is None else await queries.add_ons_of(session, last.id)


async def write_terms(
    session: AsyncSession,
    subscription: Subscription,
    effective_at: datetime,
    reason: str,
    add_ons: Sequence[AddOnTerms],
) -> None:
    """Write down what holds from `effective_at` on; its history tells what is to be billed."""
    await session.flush()
    last = await queries.last_terms(session, subscription.id)
    whose = {
        "organization_id": subscription.organization_id,
        "provider_organization_id": subscription.provider_organization_id,
    }
    terms = ContractTerms(
        id=new_id(),
        subscription_id=subscription.id,
        number=1 if last is None else last.number + 1,
        effective_at=effective_at,
        plan_id=subscription.plan_id,
        plan_version_id=subscription.plan_version_id,
        served=subscription.status != "Paused",
        reason=reason,
        **whose,
    )
    session.add(terms)
    await session.flush()
    session.add_all(
        ContractAddOn(
            terms_id=terms.id,
            plan_id=one.plan_id,
            plan_version_id=one.plan_version_id,
            quantity=one.quantity,
            **whose,
        )
        for one in add_ons
    )
    await session.flush()


def enter_period(subscription: Subscription, plan: PlanFacts, number: int) -> None:
    """Make period `number` the running one; it is to be billed when it or the service ends."""
    for name, value in entered(subscription, plan, number).items():
        setattr(subscription, name, value)


def entered(
    subscription: Subscription | SubscriptionFacts, plan: PlanFacts, number: int
) -> dict[str, Any]:
    """What a subscription says once its period `number` runs."""
    span = period(plan.anchor(subscription.anchor_at, subscription.time_zone), number)
    due_at = span.ends_at
    if subscription.ends_at is not None:
        due_at = min(due_at, subscription.ends_at)
    return {
        "period_number": number,
        "period_starts_at": span.starts_at,
        "period_ends_at": span.ends_at,
        "next_billing_at": due_at,
    }


def running_period(subscription: Subscription, plan: PlanFacts, as_of: datetime) -> Period:
    """The period in which `as_of` lies; the stored one may have ended and wait for its bill."""
    if subscription.status == "Trial" or as_of < subscription.period_ends_at:
        return subscription.period()
    anchor = plan.anchor(subscription.anchor_at, subscription.time_zone)
    return period_containing(anchor, as_of)[1]


def state(subscription: Subscription) -> SubscriptionState:
    """The stored state."""
    stored: SubscriptionState = subscription.status  # type: ignore[assignment]  # check constraint
    return stored


def check_payment(plan: PlanFacts, payment: Payment) -> None:
    """Raise 422 on `payment` for a way of paying that the plan does not allow."""
    if payment == "method":
        raise field_error("payment", "no_payment_method", "There is no payment method to charge.")
    if payment == "invoice" and not plan.payment_on_invoice:
        raise field_error("payment", "not_on_invoice", "This plan is not paid on invoice.")


def check_currency(plan: PlanFacts, currency: str, field: str = "plan") -> None:
    """Raise 422 on `field` for a plan or an add-on without a price in the currency."""
    if currency not in plan.currencies:
        raise field_error(field, "no_price", f"There is no price in {currency}.")


def tell(
    session: AsyncSession,
    actor: Actor,
    fact: Any,
    subscription: Subscription | SubscriptionFacts,
    plan: PlanFacts,
    *,
    before: dict[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Announce a fact about a subscription on `plan`."""
    after = {
        "id": str(subscription.id),
        "product": plan.product.slug,
        "plan": plan.slug,
        "plan_version": plan.number,
        "status": subscription.status,
        "payment": subscription.payment,
        "period_starts_at": subscription.period_starts_at,
        "period_ends_at": subscription.period_ends_at,
        "ends_at": subscription.ends_at,
        "scheduled_change": subscription.scheduled_change,
    }
    event = fact(
        organization_id=subscription.organization_id,
        provider_organization_id=subscription.provider_organization_id,
        entity_id=subscription.id,
        before=before or {},
        after=after,
        reason=reason,
    )
    announce(session, actor, event)
