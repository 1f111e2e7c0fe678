# SPDX-License-Identifier: Apache-2.0
"""The checkout: choose a plan, start its subscription, issue the first key, in one transaction."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import access, catalog, identity, subscriptions
from nimbus.access import ApiKey, KeyTerms
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.catalog import PlanFacts
from nimbus.errors import Refusal, field_error
from nimbus.identity import OrganizationFacts
from nimbus.payments import queries
from nimbus.payments.events import PlanChosen
from nimbus.payments.models import CheckoutChoice
from nimbus.subscriptions import SubscriptionFacts

PaymentKind = Literal["invoice", "method"] | None
FIRST_KEY = "First key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What a choice came to: a subscription, new or there before, or a choice that waits.

    A new subscription comes with its first key and that key's secret, which is not kept.
    """

    plan: PlanFacts
    subscription: SubscriptionFacts | None = None
    created: bool = False
    key: ApiKey | None = None
    secret: str | None = None
    choice: CheckoutChoice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The organization after its terms were accepted, and the choice that this started."""

    organization: OrganizationFacts
    checkout: Checkout | None


async def start_subscription(
    session: AsyncSession,
    actor: Actor,
    *,
    product: str | None,
    plan: str,
    payment: PaymentKind,
    as_of: datetime,
) -> Checkout:
    """Take a plan for the actor's organization; `product` is the operator's where it is None.

    An Active organization is subscribed, and gets the first key where it was not before; the same
    plan again answers the same, another one changes the subscription. A Pending one has its choice
    kept until the terms are accepted. Raises 403 for a suspended organization, 422 on `product`,
    `plan` or `payment`.
    """
    organization = await identity.lock_organization_facts(session, actor.organization_id)
    if product is None:
        product = (await catalog.product_or_operators(session, None)).slug
    chosen = await catalog.published_plan(session, product, plan, consumer=organization.id)
    if organization.status == "Pending":
        choice = await _choose(session, actor, organization, chosen, payment)
        return Checkout(plan=chosen, choice=choice)
    return await _start(session, actor, organization, chosen, payment=payment, as_of=as_of)


async def accept_terms(
    session: AsyncSession, actor: Actor, version: str, as_of: datetime
) -> Accepted:
    """Accept the current terms for the actor's organization, and start what it chose.

    A choice that can't be started any more is dropped. Again answers the organization alone.
    Raises what `identity.accept_terms` raises.
    """
    await identity.accept_terms(session, actor, version)
    await session.flush()
    organization = await identity.organization_facts(session, actor.organization_id)
    choice = await queries.lock_choice(session, actor.organization_id)
    if choice is None:
        return Accepted(organization=organization, checkout=None)
    await session.delete(choice)
    await session.flush()
    try:
        plan = await catalog.published_plan(
            session, choice.product, choice.plan, consumer=organization.id
        )
        _check_choice(organization, plan, choice.payment)
    except Refusal:
        return Accepted(organization=organization, checkout=None)
    checkout = await _start(session, actor, organization, plan, payment=choice.payment, as_of=as_of)
    return Accepted(organization=organization, checkout=checkout)


async def _start(
    session: AsyncSession,
    actor: Actor,
    organization: OrganizationFacts,
    plan: PlanFacts,
    *,
    payment: PaymentKind,
    as_of: datetime,
) -> Checkout:
    started = await subscriptions.start(
        session, actor, organization, plan, payment=payment, as_of=as_of
    )
    subscription = started.subscription
    if not started.created:
        # A step down waits for the period's end: until then the plan is the one before.
        plan = await catalog.plan_facts(session, subscription.plan_version_id)
        return Checkout(plan=plan, subscription=subscription)
    scopes = await catalog.route_scopes(session, [subscription.product_id])
    terms = KeyTerms(name=FIRST_KEY, scopes=tuple(sorted(scopes)))
    key, secret = await access.create_key(
        session, actor, terms, environment="Live", subscription_id=subscription.id
    )
    return Checkout(plan=plan, subscription=subscription, created=True, key=key, secret=secret)


async def _choose(
    session: AsyncSession,
    actor: Actor,
    organization: OrganizationFacts,
    plan: PlanFacts,
    payment: PaymentKind,
) -> CheckoutChoice:
    """Keep the choice of a Pending organization; a second choice takes the first one's place."""
    _check_choice(organization, plan, payment)
    choice = await queries.lock_choice(session, organization.id)
    before = {} if choice is None else choice.facts()
    moment = clock.now()
    if choice is None:
        choice = CheckoutChoice(id=new_id(), organization_id=organization.id, created_at=moment)
    choice.product, choice.plan, choice.payment = plan.product.slug, plan.slug, payment
    choice.updated_at = moment
    session.add(choice)
    await session.flush()
    if choice.facts() != before:
        event = PlanChosen(
            organization_id=organization.id,
            entity_id=choice.id,
            before=before,
            after=choice.facts(),
        )
        announce(session, actor, event)
    return choice


def _check_choice(organization: OrganizationFacts, plan: PlanFacts, payment: PaymentKind) -> None:
    """Refuse a choice that could not be started: what `subscriptions.start` will ask for."""
    if payment == "method":
        raise field_error("payment", "no_payment_method", "There is no payment method to charge.")
    if payment == "invoice" and not plan.payment_on_invoice:
        raise field_error("payment", "not_on_invoice", "This plan is not paid on invoice.")
    if payment is None and not plan.trial_days:
        raise field_error("payment", "missing", "How will it be paid? `invoice` is one way.")
    if organization.currency not in plan.currencies:
        raise field_error("plan", "no_price", f"The plan has no price in {organization.currency}.")
