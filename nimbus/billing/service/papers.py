# SPDX-License-Identifier: Apache-2.0
"""The invoice as a document: made once after finalization, stored, never made again."""

import asyncio
import hashlib
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.base.ids import new_id
from nimbus.billing import queries
from nimbus.billing.documents import (
    DocumentLine,
    DocumentTax,
    InvoiceDocument,
    Party,
    UsageRow,
    render_invoice,
)
from nimbus.billing.models import Invoice, InvoiceLine, InvoiceTax
from nimbus.billing.texts import Language, legal_text
from nimbus.errors import Refusal
from nimbus.rules.money import UnitPrice


async def invoice_pdf(session: AsyncSession, invoice_id: UUID) -> bytes:
    """The PDF of a sent invoice, made and stored if it is not there yet; a system session.

    Whoever stores first has made the document; everyone gets that one. Raises 404 for a draft.
    """
    stored = await queries.pdf_of(session, invoice_id)
    if stored is not None:
        return stored
    invoice = await queries.any_invoice(session, invoice_id)
    if invoice.status != "Sent":
        raise Refusal("not_found")
    language: Language = "nl" if invoice.locale == "nl" else "en"
    lines = await queries.lines_of(session, invoice_id)
    taxes = await queries.taxes_of(session, invoice_id)
    document = _document(invoice, lines, taxes, language)
    content = await asyncio.to_thread(render_invoice, document, language)
    await queries.store_document(
        session,
        {
            "id": new_id(),
            "organization_id": invoice.organization_id,
            "invoice_id": invoice.id,
            "kind": "pdf",
            "language": language,
            "content": content,
            "sha256": hashlib.sha256(content).digest(),
            "created_at": clock.now(),
        },
    )
    kept = await queries.pdf_of(session, invoice_id)
    assert kept is not None
    return kept


def _document(
    invoice: Invoice, lines: list[InvoiceLine], taxes: list[InvoiceTax], language: Language
) -> InvoiceDocument:
    assert invoice.seller
    texts = [legal_text(tax.legal_text_key, language) for tax in taxes]
    return InvoiceDocument(
        seller=party(invoice.seller),
        buyer=party(invoice.buyer),
        number=str(invoice.number),
        issued_on=_day(invoice.issued_on),
        supply_from=_day(invoice.supply_from),
        supply_to=_day(invoice.supply_to),
        due_on=_day(invoice.due_on),
        currency=invoice.currency,
        lines=tuple(_line(line) for line in lines),
        taxes=tuple(
            DocumentTax(
                category=tax.category,
                rate=tax.rate,
                base_minor=tax.base_minor,
                tax_minor=tax.tax_minor,
            )
            for tax in taxes
        ),
        subtotal_minor=invoice.subtotal_minor,
        tax_minor=invoice.tax_minor,
        total_minor=invoice.total_minor,
        credited_minor=invoice.credited_minor,
        wallet_minor=invoice.wallet_minor,
        payment_reference=str(invoice.payment_reference),
        legal_text=" ".join(text for text in texts if text) or None,
        usage=tuple(_usage(row) for row in invoice.usage),
    )


def party(side: dict[str, Any]) -> Party:
    """A side as it stands on the invoice."""
    address = side["address"]
    city = f"{address.get('postal_code', '')} {address.get('city', '')}".strip()
    return Party(
        name=side["name"],
        address=tuple(part for part in (address.get("street", ""), city) if part),
        country=side["country"],
        vat_number=side["vat_number"],
        company_number=side["company_number"],
        email=side["email"],
        iban=side.get("iban"),
    )


def _line(line: InvoiceLine) -> DocumentLine:
    return DocumentLine(
        description=line.description,
        quantity=line.quantity,
        unit_price=None if line.unit_price is None else UnitPrice(line.unit_price),
        vat_rate=line.tax_rate or Decimal(0),
        amount_minor=line.amount_minor,
    )


def _usage(row: dict[str, str]) -> UsageRow:
    return UsageRow(
        meter=row["meter"],
        used=Decimal(row["used"]),
        included=Decimal(row["included"]) or None,
        billed=Decimal(row["billed"]),
    )


def _day(day: date | None) -> date:
    assert day is not None
    return day
