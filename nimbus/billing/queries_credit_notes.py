# SPDX-License-Identifier: Apache-2.0
"""The reads of credit notes."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import Select, case, func, literal, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.billing.models import (
    CreditNote,
    CreditNoteDocument,
    CreditNoteLine,
    CreditNoteTax,
    InvoiceLine,
    InvoiceTax,
)
from nimbus.errors import Refusal
from nimbus.rules.ledger import CUSTOMER_BALANCE, RECEIVABLE, REFUNDS, REVENUE, VAT_PAYABLE


def notes_of(organization_id: UUID) -> Select[CreditNote]:
    """The credit notes that an organization received."""
    return select(CreditNote).where(CreditNote.organization_id == organization_id)


async def notes_of_invoice(
    session: AsyncSession, organization_id: UUID, invoice_id: UUID
) -> list[CreditNote]:
    """The credit notes of an invoice, the oldest first."""
    asked = notes_of(organization_id).where(CreditNote.invoice_id == invoice_id)
    return list(await session.scalars(asked.order_by(CreditNote.id)))


async def note_of(session: AsyncSession, organization_id: UUID, note_id: UUID) -> CreditNote:
    """A credit note that the organization received; 404 otherwise."""
    found = await session.scalar(notes_of(organization_id).where(CreditNote.id == note_id))
    if found is None:
        raise Refusal("not_found")
    return found


async def any_note(session: AsyncSession, note_id: UUID) -> CreditNote:
    """Any credit note that the transaction may see; 404 when unknown."""
    found = await session.get(CreditNote, note_id)
    if found is None:
        raise Refusal("not_found")
    return found


async def lines_of(
    session: AsyncSession, note: CreditNote
) -> list[tuple[CreditNoteLine, InvoiceLine]]:
    """The lines of a credit note with those of the invoice that they give back."""
    rows = await session.execute(
        select(CreditNoteLine, InvoiceLine)
        .join(InvoiceLine, InvoiceLine.id == CreditNoteLine.invoice_line_id)
        .where(
            CreditNoteLine.organization_id == note.organization_id,
            CreditNoteLine.credit_note_id == note.id,
        )
        .order_by(CreditNoteLine.position)
    )
    return [(row[0], row[1]) for row in rows]


async def taxes_of(
    session: AsyncSession, note: CreditNote
) -> list[tuple[CreditNoteTax, InvoiceTax]]:
    """The VAT that a credit note gives back, with that of the invoice."""
    rows = await session.execute(
        select(CreditNoteTax, InvoiceTax)
        .join(InvoiceTax, InvoiceTax.id == CreditNoteTax.invoice_tax_id)
        .where(
            CreditNoteTax.organization_id == note.organization_id,
            CreditNoteTax.credit_note_id == note.id,
        )
        .order_by(InvoiceTax.category, InvoiceTax.rate)
    )
    return [(row[0], row[1]) for row in rows]


async def credited_lines(session: AsyncSession, invoice_id: UUID) -> dict[UUID, int]:
    """Invoice line → what was given back of it, in minor units."""
    rows = await session.execute(
        select(CreditNoteLine.invoice_line_id, func.sum(CreditNoteLine.amount_minor))
        .join(CreditNote, CreditNote.id == CreditNoteLine.credit_note_id)
        .where(CreditNote.invoice_id == invoice_id)
        .group_by(CreditNoteLine.invoice_line_id)
    )
    return {row[0]: int(row[1]) for row in rows}


async def credited_of(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, int]:
    """Invoice → what credit notes gave back of it in all, in minor units."""
    rows = await session.execute(
        select(CreditNote.invoice_id, func.sum(CreditNote.total_minor))
        .where(CreditNote.invoice_id.in_(ids))
        .group_by(CreditNote.invoice_id)
    )
    return {row[0]: int(row[1]) for row in rows}


async def pdf_of(session: AsyncSession, note: CreditNote) -> bytes | None:
    """The stored PDF of a credit note."""
    return await session.scalar(
        select(CreditNoteDocument.content).where(
            CreditNoteDocument.organization_id == note.organization_id,
            CreditNoteDocument.credit_note_id == note.id,
        )
    )


async def store_document(session: AsyncSession, document: dict[str, Any]) -> None:
    """Store a document unless the note has it: the first one stays."""
    await session.execute(insert(CreditNoteDocument).values(**document).on_conflict_do_nothing())


def expected_postings() -> Select[*tuple[Any, ...]]:
    """What the credit notes must have posted, for the proof of the books."""
    note = CreditNote
    rate = func.trim_scale(InvoiceTax.rate)
    vat = (
        _legs(
            func.concat("vat:", InvoiceTax.country, ":", rate),
            literal(VAT_PAYABLE),
            literal(RECEIVABLE),
            CreditNoteTax.tax_minor,
        )
        .join(CreditNoteTax, CreditNoteTax.credit_note_id == note.id)
        .join(InvoiceTax, InvoiceTax.id == CreditNoteTax.invoice_tax_id)
    )
    legs = union_all(
        _legs(literal("net"), literal(REVENUE), literal(RECEIVABLE), note.subtotal_minor),
        vat,
        _legs(literal("credit_refunded"), literal(RECEIVABLE), literal(REFUNDS), note.refund_minor),
        _legs(
            literal("credit_kept"),
            literal(RECEIVABLE),
            literal(CUSTOMER_BALANCE),
            note.credit_minor,
        ),
    ).subquery()
    return select(legs).where(legs.c.amount_minor > 0)


def _legs(leg: Any, debit: Any, credit: Any, amount: Any) -> Select[*tuple[Any, ...]]:
    negative = amount < 0
    return select(
        CreditNote.id.label("source_id"),
        leg.label("leg"),
        CreditNote.organization_id,
        case((negative, credit), else_=debit).label("debit_account"),
        case((negative, debit), else_=credit).label("credit_account"),
        func.abs(amount).label("amount_minor"),
        CreditNote.currency,
    )
