# SPDX-License-Identifier: Apache-2.0
"""Writing off: what of a sent invoice is due, and will not be paid any more."""

from uuid import UUID

from sqlalchemy import Select, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import ledger
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.billing import queries
from nimbus.billing.events import InvoiceWrittenOff
from nimbus.billing.models import WriteOff
from nimbus.ledger import Posting
from nimbus.rules import lifecycles
from nimbus.rules.ledger import RECEIVABLE, WRITE_OFFS, written_off


async def write_off(
    session: AsyncSession, actor: Actor, invoice_id: UUID, *, reason: str
) -> WriteOff:
    """Give up what is due of a sent invoice; a system session.

    The document stays as it was sent, VAT included: to give it back takes a credit note, before.
    Again answers the first write-off and posts nothing. Locks the invoice, its payment state, the
    ledger's chain. Raises 404 for an unknown invoice, 422 on `status` for a draft and one on which
    nothing is due.
    """
    invoice = await queries.lock_invoice(session, invoice_id)
    known = await session.scalar(select(WriteOff).where(WriteOff.invoice_id == invoice_id))
    if known is not None:
        return known
    document: lifecycles.DocumentState = invoice.status  # type: ignore[assignment]  # by constraint
    moment = clock.now()
    paid = False
    if document == "Sent":
        state = await queries.lock_payment_state(session, invoice_id)
        paid = state.state == "Paid"
    status = lifecycles.invoice_status(document, paid, invoice.due_on, moment.date())
    lifecycles.invoice(status, "write_off")
    row = WriteOff(
        id=new_id(),
        organization_id=invoice.organization_id,
        invoice_id=invoice_id,
        amount_minor=(await queries.due_of(session, [invoice_id]))[invoice_id],
        currency=invoice.currency,
        reason=reason,
        made_by=actor.user_id,
        created_at=moment,
    )
    session.add(row)
    before, state.state, state.updated_at = state.state, "WrittenOff", moment
    await session.flush()
    posting = Posting(
        organization_id=row.organization_id,
        source_kind="write_off",
        source_id=row.id,
        occurred_at=moment,
        transfers=written_off(row.amount_minor, row.currency),
    )
    await ledger.post(session, [posting])
    event = InvoiceWrittenOff(
        organization_id=invoice.organization_id,
        provider_organization_id=invoice.provider_organization_id,
        entity_id=invoice_id,
        before={"payment_state": before},
        after={
            "id": str(invoice_id),
            "number": invoice.number,
            "payment_state": state.state,
            "amount_minor": row.amount_minor,
            "currency": row.currency,
        },
        reason=reason,
    )
    announce(session, actor, event)
    return row


def expected_postings() -> Select[UUID, str, UUID, str, str, int, str]:
    """What write-offs must have posted, for the proof of the books."""
    return select(
        WriteOff.id.label("source_id"),
        literal("write_off").label("leg"),
        WriteOff.organization_id,
        literal(WRITE_OFFS).label("debit_account"),
        literal(RECEIVABLE).label("credit_account"),
        WriteOff.amount_minor,
        WriteOff.currency,
    )
