# SPDX-License-Identifier: Apache-2.0
"""Credit notes: all or part of a sent invoice given back; what was sent stays as it is."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import ledger
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.db import insert_all
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.billing import queries
from nimbus.billing import queries_credit_notes as notes
from nimbus.billing.documents import DocumentLine, DocumentTax, InvoiceDocument, render_invoice
from nimbus.billing.events import CreditNoteIssued
from nimbus.billing.models import CreditNote, Invoice, InvoiceLine, InvoiceTax
from nimbus.billing.service.papers import party
from nimbus.billing.texts import Language, day_of, legal_text, plain
from nimbus.errors import field_error
from nimbus.ledger import Posting
from nimbus.rules import credit_notes as law
from nimbus.rules.credit_notes import Creditable
from nimbus.rules.ledger import Transfer, credit_kept, credit_note_issued, credit_refunded
from nimbus.rules.money import UnitPrice
from nimbus.rules.tax import TaxTreatment

Disposition = Literal["refund", "credit"]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A sent invoice with its parts; coupons stand in the lines they are taken off."""

    invoice: Invoice
    lines: Sequence[InvoiceLine]
    taxes: Mapping[TaxTreatment, InvoiceTax]


async def issue(
    session: AsyncSession,
    actor: Actor,
    invoice_id: UUID,
    *,
    asked: Mapping[int, int] | None,
    disposition: Disposition,
    reason: str,
) -> CreditNote:
    """Give back all that is left of a sent invoice, or `asked`: position of the line → amount in
    minor units, before its coupons and VAT. A system session.

    What was not paid yet is not to be paid any more; the rest goes back to where it was paid from,
    or is kept in the wallet, as `disposition` says. Locks the invoice, the number series, the
    ledger's chain. Raises 404 for an unknown invoice, 422 for a draft, on `lines` for more than is
    left.
    """
    sent = await _sent(session, invoice_id)
    invoice, moment = sent.invoice, clock.now()
    given = await notes.credited_lines(session, invoice_id)
    note = law.credit([_creditable(sent, line, given) for line in sent.lines], _places(sent, asked))
    state = await queries.lock_payment_state(session, invoice_id)
    if state.state == "WrittenOff":
        raise field_error("status", "invoice_written_off", "It was written off.")
    due = 0
    if state.state != "Paid":
        due = (await queries.due_of(session, [invoice_id]))[invoice_id]
    lowered, rest = law.settle(note.totals.total_minor, due)
    seller = await queries.seller(session, invoice)
    issued_on = day_of(moment, seller.time_zone)
    [number] = await queries.take_numbers(session, seller, "CN", issued_on.year, 1)
    row = CreditNote(
        id=new_id(),
        organization_id=invoice.organization_id,
        provider_organization_id=invoice.provider_organization_id,
        invoice_id=invoice.id,
        seller_organization_id=seller.organization_id,
        seller_id=seller.id,
        number=number,
        currency=invoice.currency,
        subtotal_minor=note.totals.subtotal_minor,
        tax_minor=note.totals.tax_minor,
        total_minor=note.totals.total_minor,
        disposition=disposition,
        open_minor=lowered,
        refund_minor=rest if disposition == "refund" else 0,
        credit_minor=rest if disposition == "credit" else 0,
        reason=reason,
        issued_on=issued_on,
        issued_by=actor.user_id,
        created_at=moment,
    )
    session.add(row)
    await session.flush()
    await _write_parts(session, sent, row, note)
    if state.state != "Paid" and lowered == due:
        state.state, state.paid_at, state.updated_at = "Paid", moment, moment
    await ledger.post(session, [_posting(row, note, moment)])
    announce(session, actor, _event(row, invoice))
    return row


async def credit_note_pdf(session: AsyncSession, note_id: UUID) -> bytes:
    """The PDF of a credit note, made and stored if it is not there yet; a system session."""
    note = await notes.any_note(session, note_id)
    stored = await notes.pdf_of(session, note)
    if stored is not None:
        return stored
    invoice = await queries.any_invoice(session, note.invoice_id)
    language: Language = "nl" if invoice.locale == "nl" else "en"
    document = await _document(session, note, invoice, language)
    content = await asyncio.to_thread(render_invoice, document, language)
    await notes.store_document(
        session,
        {
            "id": new_id(),
            "organization_id": note.organization_id,
            "credit_note_id": note.id,
            "language": language,
            "content": content,
            "sha256": hashlib.sha256(content).digest(),
            "created_at": clock.now(),
        },
    )
    kept = await notes.pdf_of(session, note)
    assert kept is not None
    return kept


async def _sent(session: AsyncSession, invoice_id: UUID) -> _Sent:
    invoice = await queries.lock_invoice(session, invoice_id)
    if invoice.status != "Sent":
        raise field_error("status", "not_sent", "Only a sent invoice is credited.")
    lines = [line for line in await queries.lines_of(session, invoice_id) if line.text != "coupon"]
    taxes = await queries.taxes_of(session, invoice_id)
    return _Sent(invoice, lines, {_treatment(tax): tax for tax in taxes})


def _treatment(tax: InvoiceTax) -> TaxTreatment:
    rate = Decimal(plain(tax.rate))
    return TaxTreatment(tax.category, rate, tax.country, tax.legal_text_key)  # type: ignore[arg-type]


def _creditable(sent: _Sent, line: InvoiceLine, given: Mapping[UUID, int]) -> Creditable:
    """The line as the law has it; an invoice has one treatment for all its lines."""
    treatment = next(iter(sent.taxes), None)
    return Creditable(
        line.amount_minor,
        line.amount_minor - line.discount_minor,
        treatment,
        given.get(line.id, 0),
    )


def _places(sent: _Sent, asked: Mapping[int, int] | None) -> dict[int, int] | None:
    """Place in the law's order → amount; 422 for a position that the invoice has not."""
    if asked is None:
        return None
    places = {line.position: place for place, line in enumerate(sent.lines)}
    for position in asked:
        if position not in places:
            raise field_error("lines", "unknown_line", f"There is no line {position} to credit.")
    return {places[position]: amount for position, amount in asked.items()}


async def _write_parts(
    session: AsyncSession, sent: _Sent, row: CreditNote, note: law.CreditNote
) -> None:
    common = {"organization_id": row.organization_id, "credit_note_id": row.id}
    lines = [
        {
            **common,
            "id": new_id(),
            "provider_organization_id": row.provider_organization_id,
            "invoice_line_id": sent.lines[one.line].id,
            "position": position,
            "amount_minor": one.amount_minor,
            "coupon_minor": one.coupon_minor,
            "created_at": row.created_at,
        }
        for position, one in enumerate(note.lines, 1)
    ]
    await insert_all(session, "credit_note_lines", lines)
    taxes = [
        {
            **common,
            "id": new_id(),
            "invoice_tax_id": sent.taxes[tax.treatment].id,
            "base_minor": tax.base_minor,
            "tax_minor": tax.tax_minor,
            "created_at": row.created_at,
        }
        for tax in note.totals.taxes
    ]
    await insert_all(session, "credit_note_taxes", taxes)
    if row.credit_minor:
        entry = {
            "id": new_id(),
            "organization_id": row.organization_id,
            "kind": "credit_note",
            "amount_minor": row.credit_minor,
            "currency": row.currency,
            "credit_note_id": row.id,
            "priority": 0,
            "reason": row.reason,
            "made_by": row.issued_by,
            "created_at": row.created_at,
        }
        await insert_all(session, "wallet_entries", [entry])


def _posting(row: CreditNote, note: law.CreditNote, moment: datetime) -> Posting:
    transfers: tuple[Transfer, ...] = credit_note_issued(note.totals, row.currency)
    if row.refund_minor:
        transfers += credit_refunded(row.refund_minor, row.currency)
    if row.credit_minor:
        transfers += credit_kept(row.credit_minor, row.currency)
    return Posting(
        organization_id=row.organization_id,
        source_kind="credit_note",
        source_id=row.id,
        occurred_at=moment,
        transfers=transfers,
    )


def _event(row: CreditNote, invoice: Invoice) -> CreditNoteIssued:
    after: dict[str, Any] = {
        "id": str(row.id),
        "number": row.number,
        "invoice_id": str(invoice.id),
        "invoice_number": invoice.number,
        "currency": row.currency,
        "total_minor": row.total_minor,
        "open_minor": row.open_minor,
        "refund_minor": row.refund_minor,
        "credit_minor": row.credit_minor,
        "issued_on": row.issued_on.isoformat(),
    }
    return CreditNoteIssued(
        organization_id=row.organization_id,
        provider_organization_id=row.provider_organization_id,
        entity_id=row.id,
        after=after,
        reason=row.reason,
    )


async def _document(
    session: AsyncSession, note: CreditNote, invoice: Invoice, language: Language
) -> InvoiceDocument:
    assert invoice.seller and invoice.supply_from and invoice.supply_to  # noqa: PT018 - it is sent
    taxes = await notes.taxes_of(session, note)
    texts = [legal_text(tax.legal_text_key, language) for _, tax in taxes]
    return InvoiceDocument(
        seller=party(invoice.seller),
        buyer=party(invoice.buyer),
        number=note.number,
        credits=str(invoice.number),
        disposition="refund" if note.refund_minor else "credit" if note.credit_minor else "open",
        issued_on=note.issued_on,
        supply_from=invoice.supply_from,
        supply_to=invoice.supply_to,
        due_on=note.issued_on,
        currency=note.currency,
        lines=tuple(
            DocumentLine(
                description=line.description,
                quantity=Decimal(1),
                unit_price=None if line.unit_price is None else _whole(line, given.amount_minor),
                vat_rate=line.tax_rate or Decimal(0),
                amount_minor=given.amount_minor - given.coupon_minor,
            )
            for given, line in await notes.lines_of(session, note)
        ),
        taxes=tuple(
            DocumentTax(
                category=tax.category,
                rate=tax.rate,
                base_minor=given.base_minor,
                tax_minor=given.tax_minor,
            )
            for given, tax in taxes
        ),
        subtotal_minor=note.subtotal_minor,
        tax_minor=note.tax_minor,
        total_minor=note.total_minor,
        payment_reference=note.number,
        legal_text=" ".join(text for text in texts if text) or None,
        notes=note.reason,
    )


def _whole(line: InvoiceLine, given_minor: int) -> UnitPrice | None:
    """The price that is given back, where it is that of one piece."""
    whole = line.quantity == 1 and given_minor == line.amount_minor
    return UnitPrice(line.unit_price) if whole and line.unit_price is not None else None
