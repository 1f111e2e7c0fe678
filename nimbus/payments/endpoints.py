# SPDX-License-Identifier: Apache-2.0
"""HTTP of payments: parse, call one use case, present."""

from typing import Annotated
from uuid import UUID

from fastapi import Request

from nimbus.base import clock, web
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Cursor, Limit, Money, Page, Router, Session, mutates, unit_of
from nimbus.billing.events import InvoicePaid
from nimbus.identity import Permission, allowed, platform_admin
from nimbus.payments import queries, schemas, service
from nimbus.payments.events import PaymentSucceeded
from nimbus.payments.models import Payment

router = Router(tags=["payments"])
Reader = Annotated[Actor, allowed(Permission.SEE_INVOICES, scope="billing.read")]


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
    payment = await service.mark_paid(
        session, actor, invoice_id, reference=body.reference, received_on=body.received_on
    )
    return _view(payment)


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
