# SPDX-License-Identifier: Apache-2.0
"""Settling: invoices paid by hand."""

from datetime import date, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import billing, ledger
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.errors import field_error
from nimbus.ledger import Posting
from nimbus.payments import queries
from nimbus.payments.events import PaymentSucceeded
from nimbus.payments.models import Payment
from nimbus.rules.ledger import payment_received

EASTERNMOST = timedelta(hours=14)
"""It may be a day later already where the money came in."""


async def mark_paid(
    session: AsyncSession,
    actor: Actor,
    invoice_id: UUID,
    *,
    reference: str | None,
    received_on: date | None,
) -> Payment:
    """Record that a sent invoice was paid by hand, wholly; a system session.

    Again answers the first payment and posts nothing. `received_on` is not in the future, and
    today in UTC where it is None. Raises 404 for an unknown invoice, 422 on `status` for a draft
    or one on which nothing is due.
    """
    invoice = await billing.lock_sent_invoice(session, invoice_id)
    known = await queries.payment_of_invoice(session, invoice_id)
    if known is not None:
        return known
    moment = clock.now()
    if received_on is not None and received_on > (moment + EASTERNMOST).date():
        raise field_error("received_on", "in_the_future", "Money can't have come in later.")
    await billing.mark_paid(session, actor, invoice_id, "manual", moment)
    payment = Payment(
        id=new_id(),
        organization_id=invoice.organization_id,
        invoice_id=invoice_id,
        method="manual",
        amount_minor=invoice.due.amount_minor,
        currency=invoice.total.currency,
        reference=reference,
        received_on=received_on or moment.date(),
        recorded_by=actor.user_id,
        created_at=moment,
    )
    session.add(payment)
    await session.flush()
    posting = Posting(
        organization_id=payment.organization_id,
        source_kind="payment",
        source_id=payment.id,
        occurred_at=moment,
        transfers=payment_received("manual", payment.amount_minor, payment.currency),
    )
    await ledger.post(session, [posting])
    after = {
        "id": str(payment.id),
        "invoice_id": str(invoice_id),
        "number": invoice.number,
        "method": payment.method,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        "reference": reference,
        "received_on": payment.received_on.isoformat(),
    }
    event = PaymentSucceeded(
        organization_id=payment.organization_id, entity_id=payment.id, after=after
    )
    announce(session, actor, event)
    return payment
