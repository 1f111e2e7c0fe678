# SPDX-License-Identifier: Apache-2.0
"""The life of a subscription: each transition is one function here; nothing else writes its state.

What dates decide is brought into the row first (`_settle`), so that no use case acts on a state
that has passed. A change of plan holds from now on, without proration; a step down waits for the
period's end unless asked for at once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import SYSTEM, Actor
from nimbus.base.events import announce
from nimbus.catalog import PlanFacts
from nimbus.errors import Refusal, field_error
from nimbus.identity import OrganizationFacts
from nimbus.rules import lifecycles
from nimbus.rules.lifecycles import SubscriptionState
from nimbus.rules.periods import period
from nimbus.subscriptions import queries
from nimbus.subscriptions.events import (
    SubscriptionCancelled,
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionExpired,
    SubscriptionRenewed,
    SubscriptionRestored,
    SubscriptionSuspended,
)
from nimbus.subscriptions.models import ContractTerms, Subscription, SubscriptionFacts

Payment = Literal["invoice", "method"] | None
Direction = Literal["upgrade", "downgrade"]


@dataclass(frozen=True, slots=True)
class Started:
    """What starting came to; `created` is False when the product was subscribed to already."""

    subscription: SubscriptionFacts
    created: bool


async def start(
    session: AsyncSession,
    actor: Actor,
    organization: OrganizationFacts,
    plan: PlanFacts,
    *,
    payment: Payment,
    as_of: datetime,
) -> Started:
    """Subscribe an organization to a plan, in its own transaction.

    The first subscription to a product with trial days is a trial, which goes on as paid when
    `payment` is given. Starting the same product again changes the live subscription: the same
    plan leaves it as it is, another one is an upgrade or a downgrade.

    Raises 403 for a suspended organization, 422 on `organization` for one that is not Active yet,
    on `plan` without a price in the organization's currency, on `payment` when it is missing or
    the plan does not allow it.
    """
    _check_organization(organization)
    _check_payment(plan, payment)
    _check_currency(plan, organization.currency)
    live = await queries.lock_live(session, organization.id, plan.product.id)
    if live is not None and await _settle(session, actor, live, as_of) != "Expired":
        await _start_again(session, actor, live, plan, payment=payment, as_of=as_of)
        return Started(live.facts(), created=False)
    trial = plan.trial_days > 0 and not await queries.had_one(
        session, organization.id, plan.product.id
    )
    if payment is None and not trial:
        raise field_error("payment", "missing", "How will it be paid? `invoice` is one way.")

    subscription = _new(organization, plan, payment, as_of, trial=trial)
    session.add(subscription)
    await session.flush()
    await _write_terms(session, subscription, as_of, "start")
    _announce(session, actor, SubscriptionCreated, subscription, plan)
    return Started(subscription.facts(), created=True)


async def change_plan(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    plan_slug: str,
    *,
    direction: Direction,
    version: int,
    as_of: datetime,
    at_once: bool = True,
) -> Subscription:
    """Move the actor's subscription to another plan of its product.

    Raises 404 for another's, 409 for a stale version, 422 on `plan` when it is unknown, not in
    that direction, has other periods or no price in the currency; on `status` where the state
    does not allow it.
    """
    subscription = await _own(session, actor, subscription_id, version)
    await _settle(session, actor, subscription, as_of)
    product = await catalog.product_facts(session, subscription.product_id)
    plan = await catalog.published_plan(session, product.slug, plan_slug)
    current = await catalog.plan_facts(session, subscription.plan_version_id)
    if (plan.rank > current.rank) != (direction == "upgrade") or plan.plan_id == current.plan_id:
        text = f"That plan is no {direction} of the present one."
        raise field_error("plan", f"no_{direction}", text)
    await _change(session, actor, subscription, plan, current, as_of=as_of, at_once=at_once)
    return subscription


async def cancel(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    version: int,
    reason: str,
    as_of: datetime,
    at_once: bool,
) -> Subscription:
    """End the actor's subscription, at the end of its period or at once; what is owed is billed.

    Raises 404 for another's, 409 for a stale version, 422 on `status` when it ends already.
    """
    subscription = await _own(session, actor, subscription_id, version)
    status = await _settle(session, actor, subscription, as_of)
    ends_at = lifecycles.cancellation_end(status, subscription.period(), as_of, at_once)
    subscription.status = lifecycles.subscription(status, "cancel")
    subscription.ends_at = ends_at
    subscription.cancelled_at = as_of
    subscription.cancel_reason = reason
    subscription.auto_renew = False
    subscription.scheduled_change = None
    served = ends_at > subscription.period_starts_at
    subscription.next_billing_at = ends_at if status != "Trial" and served else None
    subscription.version += 1
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    _announce(session, actor, SubscriptionCancelled, subscription, plan, reason=reason)
    return subscription


async def renew_period(
    session: AsyncSession, actor: Actor, subscription_id: UUID, ended_at: datetime
) -> SubscriptionFacts:
    """Begin the next period once the one that ended at `ended_at` is billed; a system session.

    A plan change that waited for it is made now. Of a subscription that ends, nothing more is to
    be billed. Again for the same end changes nothing.
    """
    subscription = await queries.lock(session, subscription_id)
    due_at = subscription.next_billing_at
    if due_at is None or ended_at < due_at:
        return subscription.facts()
    if subscription.ends_at is not None and subscription.ends_at <= subscription.period_ends_at:
        subscription.next_billing_at = None
        return subscription.facts()
    stored: SubscriptionState = subscription.status  # type: ignore[assignment]
    subscription.status = lifecycles.subscription(stored, "renew")
    change = subscription.scheduled_change
    if change is not None:
        subscription.plan_id = UUID(change["plan_id"])
        subscription.plan_version_id = UUID(change["plan_version_id"])
        subscription.scheduled_change = None
        subscription.version += 1
        await _write_terms(session, subscription, subscription.period_ends_at, "change_plan")
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    _enter_period(subscription, plan, subscription.period_number + 1)
    _announce(session, actor, SubscriptionRenewed, subscription, plan)
    return subscription.facts()


async def suspend(
    session: AsyncSession, actor: Actor, subscription_id: UUID, reason: str
) -> SubscriptionFacts:
    """Give no access until what is owed is paid; again changes nothing."""
    return await _move(
        session,
        actor,
        subscription_id,
        action="suspend",
        fact=SubscriptionSuspended,
        reason=reason,
    )


async def restore(
    session: AsyncSession, actor: Actor, subscription_id: UUID, reason: str
) -> SubscriptionFacts:
    """Give access again: what was overdue is paid; 422 on `status` when nothing was."""
    return await _move(
        session,
        actor,
        subscription_id,
        action="catch_up",
        fact=SubscriptionRestored,
        reason=reason,
    )


async def advance(session: AsyncSession, subscription_id: UUID, as_of: datetime) -> None:
    """Write down what the dates of a subscription have decided by `as_of`; a system session."""
    await _settle(session, SYSTEM, await queries.lock(session, subscription_id), as_of)


async def _start_again(
    session: AsyncSession,
    actor: Actor,
    live: Subscription,
    plan: PlanFacts,
    *,
    payment: Payment,
    as_of: datetime,
) -> None:
    if live.payment is None and payment is not None:
        live.payment = payment
        live.version += 1
        current = await catalog.plan_facts(session, live.plan_version_id)
        _announce(session, actor, SubscriptionChanged, live, current, before={"payment": None})
    if live.plan_id == plan.plan_id:
        return
    current = await catalog.plan_facts(session, live.plan_version_id)
    at_once = plan.rank > current.rank or live.status_at(as_of) == "Trial"
    await _change(session, actor, live, plan, current, as_of=as_of, at_once=at_once)


async def _change(
    session: AsyncSession,
    actor: Actor,
    subscription: Subscription,
    plan: PlanFacts,
    current: PlanFacts,
    *,
    as_of: datetime,
    at_once: bool,
) -> None:
    stored: SubscriptionState = subscription.status  # type: ignore[assignment]  # settled
    subscription.status = lifecycles.subscription(stored, "change_plan")
    _check_currency(plan, subscription.currency)
    _check_payment(plan, subscription.payment)  # type: ignore[arg-type]  # check constraint
    periods = [(p.interval, p.interval_count, p.calendar_anchor) for p in (plan, current)]
    if periods[0] != periods[1]:
        text = "It is billed in other periods: cancel this subscription, then start that one."
        raise field_error("plan", "other_periods", text)
    before = {"plan": current.slug, "scheduled_change": subscription.scheduled_change}
    if at_once or stored == "Trial":
        subscription.plan_id, subscription.plan_version_id = plan.plan_id, plan.plan_version_id
        subscription.scheduled_change = None
        await _write_terms(session, subscription, as_of, "change_plan")
    else:
        subscription.scheduled_change = {
            "plan_id": str(plan.plan_id),
            "plan_version_id": str(plan.plan_version_id),
            "plan": plan.slug,
            "at": clock.to_wire(subscription.period_ends_at),
        }
    subscription.version += 1
    now = current if subscription.scheduled_change else plan
    _announce(session, actor, SubscriptionChanged, subscription, now, before=before)
    await session.flush()


async def _write_terms(
    session: AsyncSession, subscription: Subscription, effective_at: datetime, reason: str
) -> None:
    """Write down what holds from `effective_at` on; its history tells what is to be billed."""
    last = await queries.last_terms(session, subscription.id)
    session.add(
        ContractTerms(
            organization_id=subscription.organization_id,
            provider_organization_id=subscription.provider_organization_id,
            subscription_id=subscription.id,
            number=1 if last is None else last.number + 1,
            effective_at=effective_at,
            plan_id=subscription.plan_id,
            plan_version_id=subscription.plan_version_id,
            served=True,
            reason=reason,
        )
    )
    await session.flush()


async def _settle(
    session: AsyncSession, actor: Actor, subscription: Subscription, as_of: datetime
) -> SubscriptionState:
    """Bring the stored state up to `as_of`: a trial converts or expires, an end is an end."""
    status = subscription.status_at(as_of)
    if status == subscription.status:
        return status
    stored: SubscriptionState = subscription.status  # type: ignore[assignment]
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    before = {"status": stored}
    if status == "Active":
        subscription.status = lifecycles.subscription(stored, "convert")
        assert subscription.trial_ends_at is not None, "a trial has an end"
        subscription.anchor_at = subscription.trial_ends_at
        _enter_period(subscription, plan, 0)
        _announce(session, actor, SubscriptionChanged, subscription, plan, before=before)
    else:
        subscription.status = lifecycles.subscription(stored, "expire")
        subscription.ends_at = subscription.ends_at or subscription.trial_ends_at
        _announce(session, actor, SubscriptionExpired, subscription, plan, before=before)
    await session.flush()
    return status


async def _move(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    action: Literal["suspend", "catch_up"],
    fact: Any,
    reason: str,
) -> SubscriptionFacts:
    subscription = await queries.lock(session, subscription_id)
    stored: SubscriptionState = subscription.status  # type: ignore[assignment]
    status = lifecycles.subscription(stored, action)
    if status != stored:
        subscription.status = status
        subscription.version += 1
        plan = await catalog.plan_facts(session, subscription.plan_version_id)
        before = {"status": stored}
        _announce(session, actor, fact, subscription, plan, before=before, reason=reason)
    return subscription.facts()


async def _own(
    session: AsyncSession, actor: Actor, subscription_id: UUID, version: int
) -> Subscription:
    subscription = await queries.lock(session, subscription_id)
    if subscription.organization_id != actor.organization_id:
        raise Refusal("not_found")
    if subscription.version != version:
        raise Refusal("stale_version", "Read it again, then change it.")
    return subscription


def _new(
    organization: OrganizationFacts,
    plan: PlanFacts,
    payment: Payment,
    as_of: datetime,
    *,
    trial: bool,
) -> Subscription:
    subscription = Subscription(
        organization_id=organization.id,
        provider_organization_id=plan.product.provider_organization_id,
        product_id=plan.product.id,
        plan_id=plan.plan_id,
        plan_version_id=plan.plan_version_id,
        status="Trial" if trial else "Active",
        currency=organization.currency,
        started_at=as_of,
        anchor_at=as_of,
        time_zone=organization.time_zone,
        payment=payment,
    )
    if trial:
        subscription.trial_ends_at = as_of + timedelta(days=plan.trial_days)
        subscription.period_starts_at = as_of
        subscription.period_ends_at = subscription.trial_ends_at
    else:
        _enter_period(subscription, plan, 0)
    return subscription


def _enter_period(subscription: Subscription, plan: PlanFacts, number: int) -> None:
    span = period(plan.anchor(subscription.anchor_at, subscription.time_zone), number)
    subscription.period_number = number
    subscription.period_starts_at = span.starts_at
    subscription.period_ends_at = span.ends_at
    subscription.next_billing_at = span.ends_at


def _check_organization(organization: OrganizationFacts) -> None:
    if organization.status in {"Suspended", "Cancelled"}:
        raise Refusal("organization_suspended")
    if organization.status != "Active":
        text = "The organization becomes active when its terms are accepted."
        raise field_error("organization", "not_active", text)


def _check_payment(plan: PlanFacts, payment: Payment) -> None:
    if payment == "method":
        raise field_error("payment", "no_payment_method", "There is no payment method to charge.")
    if payment == "invoice" and not plan.payment_on_invoice:
        raise field_error("payment", "not_on_invoice", "This plan is not paid on invoice.")


def _check_currency(plan: PlanFacts, currency: str) -> None:
    if currency not in plan.currencies:
        raise field_error("plan", "no_price", f"The plan has no price in {currency}.")


def _announce(
    session: AsyncSession,
    actor: Actor,
    fact: Any,
    subscription: Subscription,
    plan: PlanFacts,
    *,
    before: dict[str, Any] | None = None,
    reason: str | None = None,
) -> None:
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
