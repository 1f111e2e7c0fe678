# SPDX-License-Identifier: Apache-2.0
"""HTTP of payments and of the checkout: parse, call one use case, present."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response

from nimbus.access.events import ApiKeyCreated
from nimbus.base import clock, web
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import Cursor, Limit, Money, Page, Router, Session, mutates, unit_of
from nimbus.billing.events import InvoicePaid
from nimbus.identity import Permission, allowed, platform_admin, signed_in
from nimbus.identity.events import OrganizationActivated
from nimbus.payments import queries, schemas
from nimbus.payments.events import PaymentSucceeded, PlanChosen
from nimbus.payments.models import Payment
from nimbus.payments.service import checkout, settlements
from nimbus.payments.service.checkout import Checkout
from nimbus.subscriptions.events import (
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionExpired,
)

router = Router(tags=["payments"])
OPERATIONS_A_MINUTE = 50
STARTED = [SubscriptionCreated, SubscriptionChanged, SubscriptionExpired, ApiKeyCreated]
TAKING: dict[str, Any] = {
    "status_code": 201,
    "responses": {
        200: {"model": schemas.CheckoutView, "description": "Subscribed already"},
        202: {"model": schemas.CheckoutView, "description": "Waits for the terms"},
        **documented(401, 403, 404, 409, 415, 422, 429),
    },
    **mutates(
        permission=Permission.MANAGE_SUBSCRIPTIONS,
        events=[*STARTED, PlanChosen],
        idempotency="key",
    ),
}
Reader = Annotated[Actor, allowed(Permission.SEE_INVOICES, scope="billing.read")]


@router.post("/api/billing/subscription", operation_id="choose_plan", **TAKING)
@router.post("/api/billing/subscriptions", operation_id="start_subscription", **TAKING)
async def choose_plan(
    body: schemas.StartBody,
    response: Response,
    actor: Annotated[Actor, allowed(Permission.MANAGE_SUBSCRIPTIONS)],
    session: Session,
) -> schemas.CheckoutView:
    """Take a plan: 201 with the subscription and its first key, 200 when the product is subscribed
    to already, 202 while the organization is Pending: accepting the terms starts the choice.
    """
    await throttle(f"billing/{actor.organization_id}", OPERATIONS_A_MINUTE, 60)
    done = await checkout.start_subscription(
        session,
        actor,
        product=body.product,
        plan=body.plan,
        payment=body.payment,
        as_of=clock.now(),
    )
    if done.choice is not None:
        response.status_code = 202
    elif not done.created:
        response.status_code = 200
    return schemas.CheckoutView(
        subscription=_subscription(done), api_key=_key(done), choice=_choice(done)
    )


@router.post(
    "/api/public/accept-terms",
    operation_id="accept_terms",
    responses=documented(401, 403, 404, 415, 422),
    **mutates(
        permission="signed_in",
        events=[OrganizationActivated, *STARTED],
        idempotency="natural",
    ),
)
async def accept_terms(
    body: schemas.AcceptBody, actor: Annotated[Actor, signed_in()], session: Session
) -> schemas.AcceptedView:
    """Accept the current terms: the organization becomes Active, and the plan it chose starts."""
    accepted = await checkout.accept_terms(session, actor, body.version, clock.now())
    done = accepted.checkout
    return schemas.AcceptedView(
        organization=schemas.AcceptedOrganization(
            id=accepted.organization.id,
            name=accepted.organization.name,
            status=accepted.organization.status,
        ),
        subscription=done and _subscription(done),
        api_key=done and _key(done),
    )


@router.get(
    "/api/billing/payments", operation_id="list_payments", responses=documented(401, 403, 422)
)
async def list_payments(
    actor: Reader, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.PaymentView]:
    """The organization's payments, newest first."""
    statement = queries.payments_of(actor.organization_id)
    rows, following = await web.paginate(session, statement, Payment.id, limit, cursor)
    return Page(data=[_view(row) for row in rows], next_cursor=following)


@router.post(
    "/api/admin/billing/invoices/{invoice_id}/mark-paid",
    operation_id="admin_mark_invoice_paid",
    responses=documented(401, 403, 404, 415, 422),
    **mutates(
        permission="platform_admin",
        events=[InvoicePaid, PaymentSucceeded],
        idempotency="natural",
    ),
)
async def mark_paid(
    invoice_id: UUID,
    body: schemas.MarkPaidBody,
    request: Request,
    actor: Annotated[Actor, platform_admin()],
) -> schemas.PaymentView:
    """Record that an invoice was paid by hand; again answers the same payment."""
    session = await unit_of(request).open_system("platform pages")
    payment = await settlements.mark_paid(
        session, actor, invoice_id, reference=body.reference, received_on=body.received_on
    )
    return _view(payment)


def _subscription(done: Checkout) -> schemas.StartedSubscription | None:
    facts, plan = done.subscription, done.plan
    if facts is None:
        return None
    trial_ends_at, next_billing_at = facts.trial_ends_at, facts.next_billing_at
    return schemas.StartedSubscription(
        id=facts.id,
        product=schemas.ProductName(slug=plan.product.slug, name=plan.product.name),
        plan=schemas.PlanName(
            slug=plan.slug, name=plan.name, rank=plan.rank, plan_version=plan.number
        ),
        status=facts.status,
        currency=facts.currency,
        started_at=clock.to_wire(facts.started_at),
        trial_ends_at=trial_ends_at and clock.to_wire(trial_ends_at),
        period=schemas.RunningPeriod(
            number=facts.period_number,
            starts_at=clock.to_wire(facts.period_starts_at),
            ends_at=clock.to_wire(facts.period_ends_at),
        ),
        next_billing_at=next_billing_at and clock.to_wire(next_billing_at),
        payment=facts.payment,
        version=facts.version,
    )


def _key(done: Checkout) -> schemas.FirstKey | None:
    if done.key is None or done.secret is None:
        return None
    return schemas.FirstKey(
        id=done.key.id,
        name=done.key.name,
        environment="Live",
        prefix=done.key.prefix,
        last8=done.key.last8,
        scopes=list(done.key.scopes),
        secret=done.secret,
    )


def _choice(done: Checkout) -> schemas.ChoiceView | None:
    return None if done.choice is None else schemas.ChoiceView(**done.choice.facts())


def _view(payment: Payment) -> schemas.PaymentView:
    return schemas.PaymentView(
        id=payment.id,
        organization_id=payment.organization_id,
        invoice_id=payment.invoice_id,
        method="manual",
        amount=Money(amount_minor=payment.amount_minor, currency=payment.currency),
        reference=payment.reference,
        received_on=payment.received_on.isoformat(),
        created_at=clock.to_wire(payment.created_at),
    )
