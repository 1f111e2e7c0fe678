# SPDX-License-Identifier: Apache-2.0
"""The life of a subscription: each transition is one function here; nothing else writes its state.

What a state allows is said by `rules/lifecycles.py`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import SYSTEM, Actor
from nimbus.catalog import PlanFacts
from nimbus.errors import Refusal, field_error
from nimbus.identity import OrganizationFacts
from nimbus.rules import lifecycles
from nimbus.rules.lifecycles import SubscriptionAction
from nimbus.rules.periods import period
from nimbus.subscriptions import queries
from nimbus.subscriptions.events import (
    SubscriptionCancelled,
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionPastDue,
    SubscriptionPaused,
    SubscriptionReactivated,
    SubscriptionRestored,
    SubscriptionResumed,
    SubscriptionSuspended,
    SubscriptionTrialEnding,
)
from nimbus.subscriptions.models import Subscription, SubscriptionFacts
from nimbus.subscriptions.service.changes import set_plan
from nimbus.subscriptions.service.records import (
    Payment,
    Side,
    check_currency,
    check_payment,
    current_add_ons,
    enter_period,
    lock_for,
    running_period,
    settle,
    state,
    tell,
    write_terms,
)


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
    `payment` is given and the plan says so. Starting the same product again changes the live
    subscription: the same plan leaves it as it is, another one is an upgrade or a downgrade; one
    that was cancelled goes on.

    Raises 403 for a suspended organization and one that the provider does not sell to, 422 on
    `organization` for one that is not Active yet, on `plan` without a price in the organization's
    currency, on `payment` when it is missing or the plan does not allow it.
    """
    _check_organization(organization)
    check_payment(plan, payment)
    check_currency(plan, organization.currency)
    if await queries.is_banned(session, plan.product.provider_organization_id, organization.id):
        raise Refusal("forbidden", "The provider does not sell to this organization.")
    live = await queries.lock_live(session, organization.id, plan.product.id)
    if live is not None and await settle(session, actor, live, as_of) != "Expired":
        await _start_again(session, actor, live, plan, payment=payment, as_of=as_of)
        return Started(live.facts(), created=False)
    trial = plan.trial_days > 0 and not await queries.had_one(
        session, organization.id, plan.product.id
    )
    if payment is None and not trial:
        raise field_error("payment", "missing", "How will it be paid? `invoice` is one way.")
    if trial and not plan.trial_converts:
        payment = None

    subscription = _new(organization, plan, payment, as_of, trial=trial)
    session.add(subscription)
    await session.flush()
    await write_terms(session, subscription, as_of, "start", ())
    tell(session, actor, SubscriptionCreated, subscription, plan)
    return Started(subscription.facts(), created=True)


async def cancel(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    reason: str,
    as_of: datetime,
    at_once: bool,
    version: int | None,
    side: Side = "consumer",
) -> Subscription:
    """End a subscription, at the end of its period or at once; what is owed is billed.

    One that was to end with its period can still be ended at once. Raises 404 for another's, 409
    for a stale version, 422 on `status` when it ends already.
    """
    subscription = await lock_for(session, actor, subscription_id, side=side, version=version)
    status = await settle(session, actor, subscription, as_of)
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    current = running_period(subscription, plan, as_of)
    if not (status == "Cancelled" and at_once):
        subscription.status = lifecycles.subscription(status, "cancel")
    subscription.ends_at = lifecycles.cancellation_end(status, current, as_of, at_once)
    subscription.cancelled_at = as_of
    subscription.cancel_reason = reason
    subscription.auto_renew = False
    subscription.scheduled_change = None
    _bill_up_to_the_end(subscription, trial=_on_trial(subscription, as_of))
    subscription.version += 1
    tell(session, actor, SubscriptionCancelled, subscription, plan, reason=reason)
    return subscription


async def reactivate(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    version: int | None,
    as_of: datetime,
    side: Side = "consumer",
) -> Subscription:
    """Take a cancellation back before its end: the subscription goes on as if it had not been.

    Raises 404 for another's, 409 for a stale version, 422 on `status` when it is not cancelled or
    has ended.
    """
    subscription = await lock_for(session, actor, subscription_id, side=side, version=version)
    await settle(session, actor, subscription, as_of)
    await _go_on(session, actor, subscription, as_of)
    return subscription


async def pause(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    version: int | None,
    as_of: datetime,
    side: Side = "consumer",
) -> Subscription:
    """No access and no fee from now on, until it is resumed. Its periods go on meanwhile.

    Raises 404 for another's, 409 for a stale version, 422 on `status` unless it is Active.
    """
    subscription = await lock_for(session, actor, subscription_id, side=side, version=version)
    await settle(session, actor, subscription, as_of)
    return await _serve(session, actor, subscription, "pause", SubscriptionPaused, as_of=as_of)


async def resume(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    version: int | None,
    as_of: datetime,
    side: Side = "consumer",
) -> Subscription:
    """Access and fee again from now on. Raises as `pause`, unless it is Paused."""
    subscription = await lock_for(session, actor, subscription_id, side=side, version=version)
    await settle(session, actor, subscription, as_of)
    return await _serve(session, actor, subscription, "resume", SubscriptionResumed, as_of=as_of)


async def set_renewal(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    automatic: bool,
    version: int | None,
    as_of: datetime,
) -> Subscription:
    """Whether a subscription renews by itself; else it ends with its period unless renewed.

    Raises 404 for another's, 409 for a stale version, 422 on `status` unless it is Active.
    """
    subscription = await lock_for(session, actor, subscription_id, side="consumer", version=version)
    status = await settle(session, actor, subscription, as_of)
    subscription.status = lifecycles.subscription(status, "choose_renewal")
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    if subscription.auto_renew != automatic:
        before = {"auto_renew": subscription.auto_renew}
        subscription.auto_renew = automatic
        subscription.ends_at = (
            None if automatic else running_period(subscription, plan, as_of).ends_at
        )
        _bill_up_to_the_end(subscription, trial=False)
        subscription.version += 1
        tell(session, actor, SubscriptionChanged, subscription, plan, before=before)
    return subscription


async def renew(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    version: int | None,
    as_of: datetime,
) -> Subscription:
    """Renew by hand a subscription that does not do so itself: it ends a period later.

    Raises 404 for another's, 409 for a stale version, 422 on `status` where it renews by itself.
    """
    subscription = await lock_for(session, actor, subscription_id, side="consumer", version=version)
    status = await settle(session, actor, subscription, as_of)
    subscription.status = lifecycles.subscription(status, "choose_renewal")
    if subscription.auto_renew or subscription.ends_at is None:
        raise field_error("status", "renews_by_itself", "The subscription renews by itself.")
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    anchor = plan.anchor(subscription.anchor_at, subscription.time_zone)
    number, before = subscription.period_number, {"ends_at": subscription.ends_at}
    while (following := period(anchor, number)).ends_at <= subscription.ends_at:
        number += 1
    subscription.ends_at = following.ends_at
    subscription.version += 1
    tell(session, actor, SubscriptionChanged, subscription, plan, before=before)
    return subscription


async def fall_behind(
    session: AsyncSession, actor: Actor, subscription_id: UUID, reason: str
) -> SubscriptionFacts:
    """A payment is overdue: access goes on for the time of grace; again changes nothing."""
    return await _move(
        session, actor, subscription_id, "fall_behind", SubscriptionPastDue, reason=reason
    )


async def suspend(
    session: AsyncSession, actor: Actor, subscription_id: UUID, reason: str
) -> SubscriptionFacts:
    """Give no access until what is owed is paid; again changes nothing."""
    return await _move(
        session, actor, subscription_id, "suspend", SubscriptionSuspended, reason=reason
    )


async def restore(
    session: AsyncSession, actor: Actor, subscription_id: UUID, reason: str
) -> SubscriptionFacts:
    """Give access again: what was overdue is paid; 422 on `status` when nothing was."""
    return await _move(
        session, actor, subscription_id, "catch_up", SubscriptionRestored, reason=reason
    )


async def advance(session: AsyncSession, subscription_id: UUID, as_of: datetime) -> None:
    """Write down what the dates of a subscription have decided by `as_of`; a system session."""
    await settle(session, SYSTEM, await queries.lock(session, subscription_id), as_of)


async def tell_of_trial(session: AsyncSession, subscription_id: UUID) -> None:
    """Say once that a trial comes to its end, unless it has ended or was cancelled meanwhile; a
    system session.
    """
    subscription = await queries.lock(session, subscription_id)
    notice_at = subscription.trial_notice_at
    if notice_at is None or notice_at > clock.now():
        return
    subscription.trial_notice_at = None
    if subscription.status == subscription.status_at(clock.now()) == "Trial":
        plan = await catalog.plan_facts(session, subscription.plan_version_id)
        tell(session, SYSTEM, SubscriptionTrialEnding, subscription, plan)


async def _start_again(
    session: AsyncSession,
    actor: Actor,
    live: Subscription,
    plan: PlanFacts,
    *,
    payment: Payment,
    as_of: datetime,
) -> None:
    if live.status == "Cancelled":
        await _go_on(session, actor, live, as_of)
    if live.payment is None and payment is not None:
        live.payment = payment
        live.version += 1
        current = await catalog.plan_facts(session, live.plan_version_id)
        tell(session, actor, SubscriptionChanged, live, current, before={"payment": None})
    if live.plan_id == plan.plan_id:
        return
    current = await catalog.plan_facts(session, live.plan_version_id)
    at_once = plan.rank > current.rank
    await set_plan(session, actor, live, plan, current, as_of=as_of, at_once=at_once)


async def _go_on(
    session: AsyncSession, actor: Actor, subscription: Subscription, as_of: datetime
) -> None:
    stored = state(subscription)
    status = lifecycles.reactivated(stored, subscription.trial_ends_at, as_of)
    if status == "Active" and subscription.payment is None:
        raise field_error("payment", "missing", "How will it be paid? `invoice` is one way.")
    subscription.status = status
    subscription.ends_at = None
    subscription.cancelled_at = None
    subscription.cancel_reason = None
    subscription.auto_renew = True
    _bill_up_to_the_end(subscription, trial=status == "Trial")
    subscription.version += 1
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    before = {"status": stored}
    tell(session, actor, SubscriptionReactivated, subscription, plan, before=before)


async def _serve(
    session: AsyncSession,
    actor: Actor,
    subscription: Subscription,
    action: SubscriptionAction,
    fact: Any,
    *,
    as_of: datetime,
) -> Subscription:
    """Pause or resume: the terms say from when on it is served or not."""
    before = {"status": subscription.status}
    subscription.status = lifecycles.subscription(state(subscription), action)
    subscription.version += 1
    add_ons = await current_add_ons(session, subscription)
    await write_terms(session, subscription, as_of, action, add_ons)
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    tell(session, actor, fact, subscription, plan, before=before)
    return subscription


async def _move(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    action: SubscriptionAction,
    fact: Any,
    *,
    reason: str,
) -> SubscriptionFacts:
    subscription = await queries.lock(session, subscription_id)
    stored = state(subscription)
    status = lifecycles.subscription(stored, action)
    if status != stored:
        subscription.status = status
        subscription.version += 1
        plan = await catalog.plan_facts(session, subscription.plan_version_id)
        before = {"status": stored}
        tell(session, actor, fact, subscription, plan, before=before, reason=reason)
    return subscription.facts()


def _on_trial(subscription: Subscription, as_of: datetime) -> bool:
    """Whether the running period is that of a trial."""
    return subscription.trial_ends_at is not None and as_of < subscription.trial_ends_at


def _bill_up_to_the_end(subscription: Subscription, *, trial: bool) -> None:
    """The running period is to be billed when it ends, or when the service ends before it.

    Nothing of a trial is. A service that ends as its period begins has nothing of it: what was
    paid for it in advance is to be given back.
    """
    ends_at = subscription.ends_at
    if trial or (ends_at is not None and ends_at < subscription.period_starts_at):
        subscription.next_billing_at = None
    elif ends_at is None:
        subscription.next_billing_at = subscription.period_ends_at
    else:
        subscription.next_billing_at = min(ends_at, subscription.period_ends_at)


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
        subscription.trial_notice_at = lifecycles.trial_notice_at(as_of, subscription.trial_ends_at)
        subscription.period_starts_at = as_of
        subscription.period_ends_at = subscription.trial_ends_at
    else:
        enter_period(subscription, plan, 0)
    return subscription


def _check_organization(organization: OrganizationFacts) -> None:
    if organization.status in {"Suspended", "Cancelled"}:
        raise Refusal("organization_suspended")
    if organization.status != "Active":
        text = "The organization becomes active when its terms are accepted."
        raise field_error("organization", "not_active", text)
