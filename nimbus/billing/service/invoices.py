# SPDX-License-Identifier: Apache-2.0
"""The invoice's life: written as a draft, finalized once, paid. Drafts are written in sets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import identity, ledger
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.db import insert_all
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.billing import queries, queries_sets
from nimbus.billing.events import InvoiceDrafted, InvoiceFinalized, InvoicePaid
from nimbus.billing.models import Invoice, InvoiceLine, InvoiceTax, Seller
from nimbus.billing.service import wallets
from nimbus.billing.service.proposals import Proposal, language_of
from nimbus.billing.texts import day_of, days_of, payment_reference
from nimbus.errors import field_error
from nimbus.ledger import Posting
from nimbus.rules import lifecycles
from nimbus.rules.invoicing import RULES_VERSION
from nimbus.rules.ledger import invoice_finalized
from nimbus.rules.money import Money

Row = dict[str, Any]
"""An invoice's columns, as they were or will be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFacts:
    """What other rooms may know of a sent invoice; `buyer_email` is where its mail goes.

    `due` is the total less what credit and wallet took.
    """

    id: UUID
    organization_id: UUID
    provider_organization_id: UUID
    subscription_id: UUID
    number: str
    total: Money
    due: Money
    due_on: date
    payment_reference: str
    seller_name: str
    buyer_name: str
    buyer_email: str
    locale: str
    paid: bool


async def write_parts(
    session: AsyncSession, proposals: Sequence[Proposal], moment: datetime
) -> list[Row]:
    """Write the lines and VAT of proposals; their invoices as rows, drafts that are still to be
    written in this transaction: once, as a draft or sent. `moment` is business time.

    `implausible` ones are parked: nothing finalizes them but a person (spec 09, I-14).
    """
    await _write_parts(session, proposals, moment)
    return [_new_row(proposal, moment) | _said(proposal, moment) for proposal in proposals]


async def rewrite_draft(
    session: AsyncSession, invoice: Invoice, proposal: Proposal, moment: datetime
) -> Row:
    """Make a draft say what is proposed now."""
    said = _said(proposal, moment)
    await session.execute(delete(InvoiceLine).where(InvoiceLine.invoice_id == invoice.id))
    await session.execute(delete(InvoiceTax).where(InvoiceTax.invoice_id == invoice.id))
    await session.execute(update(Invoice).where(Invoice.id == invoice.id).values(**said))
    await _write_parts(session, [proposal], moment)
    await session.refresh(invoice)
    return _row_of(invoice)


def announce_drafts(session: AsyncSession, actor: Actor, rows: Sequence[Row]) -> None:
    """Say that periods' invoices are computed."""
    for row in rows:
        announce(session, actor, InvoiceDrafted(**_event(row), after=_facts_of(row)))


async def finalize_all(
    session: AsyncSession,
    actor: Actor,
    drafts: Sequence[tuple[Row, Proposal]],
    *,
    seller: Seller,
    moment: datetime,
    stored: bool,
) -> None:
    """Give drafts, `stored` or not yet, their numbers and send them: from here on they never
    change.

    `moment` is business time; its day in the seller's time zone is the issue date. Credit and
    wallet are drawn on, coupons used. Locks wallets, the organizations' chains in the ledger, then
    the seller's number series, which every other run waits for, all until commit. The rows say it
    too afterwards.
    """
    issued_on = day_of(moment, seller.time_zone)
    drawn = await wallets.draw(
        session,
        [(row["id"], row["organization_id"], proposal) for row, proposal in drafts],
        moment,
    )
    for row, _ in drafts:
        row |= {
            "credited_minor": drawn[row["id"]].credit_minor,
            "wallet_minor": drawn[row["id"]].wallet_minor,
        }
    await insert_all(session, "invoice_payment_states", [_state(row, moment) for row, _ in drafts])
    await ledger.post(session, [*_postings(drafts, moment), *wallets.postings(drawn, moment)])
    numbers = await queries.take_numbers(session, seller, "INV", issued_on.year, len(drafts))
    for (row, proposal), number in zip(drafts, numbers, strict=True):
        supply_from, supply_to = days_of(proposal.closing.served, proposal.closing.time_zone)
        row |= {
            "status": lifecycles.invoice("Draft", "finalize"),
            "supply_from": supply_from,
            "supply_to": supply_to,
            "seller_organization_id": seller.organization_id,
            "seller_id": seller.id,
            "seller": _seller(seller),
            "issued_on": issued_on,
            "due_on": issued_on + timedelta(days=row["payment_term_days"]),
            "number": number,
            "payment_reference": payment_reference(number),
            "finalized_at": moment,
            "updated_at": moment,
            "parked_reason": None,
        }
    rows = [row for row, _ in drafts]
    await (queries_sets.send(session, rows) if stored else insert_all(session, "invoices", rows))
    await insert_all(session, "coupon_uses", list(_coupon_uses(drafts, moment)))
    for row, _ in drafts:
        before = {"status": "Draft"}
        announce(
            session, actor, InvoiceFinalized(**_event(row), before=before, after=_facts_of(row))
        )


async def sent_invoice(session: AsyncSession, invoice_id: UUID) -> InvoiceFacts:
    """A sent invoice for other rooms; 404 for an unknown one, 422 on `status` for a draft."""
    return await _sent(session, await queries.any_invoice(session, invoice_id))


async def sent_invoices(session: AsyncSession, ids: Sequence[UUID]) -> list[InvoiceFacts]:
    """Several sent invoices for other rooms, in this order; drafts are left out."""
    found = {
        row.id: _sent_facts(row, row.state, row.due_minor)
        for row in await queries.sent(session, ids)
    }
    return [found[one] for one in ids if one in found]


async def lock_sent_invoice(session: AsyncSession, invoice_id: UUID) -> InvoiceFacts:
    """The same, with the invoice locked until the transaction ends; a system session."""
    return await _sent(session, await queries.lock_invoice(session, invoice_id))


async def mark_paid(
    session: AsyncSession, actor: Actor, invoice_id: UUID, method: str, moment: datetime
) -> None:
    """Set a sent invoice's payment state to Paid; the payment and its posting are the caller's.

    A system session. Raises 422 on `status` when it is paid already, written off, or a draft.
    """
    invoice = await queries.lock_invoice(session, invoice_id)
    document: Any = invoice.status
    if invoice.status != "Sent":
        lifecycles.invoice(document, "pay")
    state = await queries.lock_payment_state(session, invoice.id)
    paid = state.state == "Paid"
    status = lifecycles.invoice_status(document, paid, invoice.due_on, moment.date())
    lifecycles.invoice(status, "pay")
    if state.state == "WrittenOff":
        raise field_error("status", "invoice_written_off", "It was written off.")
    state.state = "Paid"
    state.paid_at = state.updated_at = moment
    after = {**_facts_of(_row_of(invoice)), "payment_state": "Paid", "method": method}
    before = {"payment_state": "Pending"}
    announce(session, actor, InvoicePaid(**_event(_row_of(invoice)), before=before, after=after))


def refuse_unsendable(invoice: Invoice) -> None:
    """Raise 422 for a draft that no person can let pass: an invoice is never negative."""
    if invoice.total_minor < 0:
        text = "The total is negative: that takes a credit note."
        raise field_error("total", "negative_total", text)


async def _sent(session: AsyncSession, invoice: Invoice) -> InvoiceFacts:
    if invoice.status != "Sent":
        status: Any = invoice.status
        lifecycles.invoice(status, "pay")
    state = (await queries.payment_states(session, [invoice.id]))[invoice.id]
    due = await queries.due_of(session, [invoice.id])
    return _sent_facts(invoice, state.state, due[invoice.id])


def _sent_facts(invoice: Any, state: str, due_minor: int) -> InvoiceFacts:
    """The facts of a sent invoice's columns."""
    return InvoiceFacts(
        id=invoice.id,
        organization_id=invoice.organization_id,
        provider_organization_id=invoice.provider_organization_id,
        subscription_id=invoice.subscription_id,
        number=invoice.number,
        total=Money(invoice.total_minor, invoice.currency),
        due=Money(due_minor, invoice.currency),
        due_on=invoice.due_on,
        payment_reference=invoice.payment_reference,
        seller_name=invoice.seller["name"],
        buyer_name=invoice.buyer["name"],
        buyer_email=invoice.buyer["email"],
        locale=invoice.locale,
        paid=state == "Paid",
    )


def _row_of(invoice: Invoice) -> Row:
    return {column.key: getattr(invoice, column.key) for column in Invoice.__table__.columns}


def _new_row(proposal: Proposal, moment: datetime) -> Row:
    closing, subscription = proposal.closing, proposal.case.wish.subscription
    # How long late usage is waited for; what is owed at the start, or before the end, has no grace.
    hours = proposal.plan.grace_hours if closing.kind == "period" else 0
    return {
        "id": proposal.case.wish.invoice_id,
        "organization_id": subscription.organization_id,
        "provider_organization_id": subscription.provider_organization_id,
        "subscription_id": subscription.id,
        "product_id": subscription.product_id,
        "plan_version_id": closing.plan_version_id,
        "kind": closing.kind,
        "status": "Draft",
        "currency": subscription.currency,
        "period_starts_at": closing.served.starts_at,
        "period_ends_at": closing.served.ends_at,
        "finalize_at": closing.at + timedelta(hours=hours),
        "payment_term_days": proposal.plan.payment_term_days,
        "credited_minor": 0,
        "wallet_minor": 0,
        "number": None,
        "issued_on": None,
        "due_on": None,
        "payment_reference": None,
        "created_at": moment,
    }


def _said(proposal: Proposal, moment: datetime) -> Row:
    return {
        "subtotal_minor": proposal.totals.subtotal_minor,
        "tax_minor": proposal.totals.tax_minor,
        "total_minor": proposal.totals.total_minor,
        "rules_version": RULES_VERSION,
        "locale": language_of(proposal.buyer),
        "buyer": _buyer(proposal.buyer),
        "usage": proposal.usage,
        "tax_evidence": proposal.evidence,
        "parked_reason": proposal.implausible,
        "updated_at": moment,
    }


async def _write_parts(
    session: AsyncSession, proposals: Sequence[Proposal], moment: datetime
) -> None:
    lines = [row for proposal in proposals for row in _lines(proposal, moment)]
    await insert_all(session, "invoice_lines", lines)
    taxes = [row for proposal in proposals for row in _taxes(proposal, moment)]
    await insert_all(session, "invoice_taxes", taxes)


def _lines(proposal: Proposal, moment: datetime) -> list[Row]:
    subscription, treatment = proposal.case.wish.subscription, proposal.treatment
    described = zip(proposal.lines, proposal.descriptions, strict=True)
    off: dict[int, int] = {}
    for one in proposal.bill.discounts:
        off[one.line + 1] = off.get(one.line + 1, 0) + one.amount_minor
    return [
        {
            "id": new_id(),
            "organization_id": subscription.organization_id,
            "provider_organization_id": subscription.provider_organization_id,
            "invoice_id": proposal.case.wish.invoice_id,
            "subscription_id": subscription.id,
            "position": position,
            "kind": line.kind,
            "source_id": subscription.id,
            "sold_id": line.source,
            "meter_key": line.meter_key,
            "text": line.text,
            "description": description,
            "quantity": line.quantity,
            "unit_price": line.unit_price,
            "amount_minor": line.amount_minor,
            "discount_minor": off.get(position, 0),
            "tax_category": treatment and treatment.category,
            "tax_rate": treatment and treatment.rate,
            "starts_at": line.period.starts_at,
            "ends_at": line.period.ends_at,
            "created_at": moment,
        }
        for position, (line, description) in enumerate(described, 1)
    ]


def _taxes(proposal: Proposal, moment: datetime) -> list[Row]:
    return [
        {
            "id": new_id(),
            "organization_id": proposal.case.wish.subscription.organization_id,
            "invoice_id": proposal.case.wish.invoice_id,
            "category": tax.treatment.category,
            "rate": tax.treatment.rate,
            "country": tax.treatment.country,
            "legal_text_key": tax.treatment.legal_text_key,
            "base_minor": tax.base_minor,
            "tax_minor": tax.tax_minor,
            "created_at": moment,
        }
        for tax in proposal.totals.taxes
    ]


def _state(row: Row, moment: datetime) -> Row:
    paid = max(0, row["total_minor"]) == row["credited_minor"] + row["wallet_minor"]
    return {
        "id": new_id(),
        "organization_id": row["organization_id"],
        "invoice_id": row["id"],
        "state": "Paid" if paid else "Pending",
        "paid_at": moment if paid else None,
        "created_at": moment,
        "updated_at": moment,
    }


def _coupon_uses(drafts: Sequence[tuple[Row, Proposal]], moment: datetime) -> Iterator[Row]:
    for row, proposal in drafts:
        for redemption_id, off in proposal.coupons.items():
            yield {
                "id": new_id(),
                "organization_id": row["organization_id"],
                "redemption_id": redemption_id,
                "invoice_id": row["id"],
                "amount_minor": off,
                "created_at": moment,
            }


def _postings(drafts: Sequence[tuple[Row, Proposal]], moment: datetime) -> list[Posting]:
    return [
        Posting(
            organization_id=row["organization_id"],
            source_kind="invoice",
            source_id=row["id"],
            occurred_at=moment,
            transfers=invoice_finalized(proposal.totals, row["currency"]),
        )
        for row, proposal in drafts
    ]


def _buyer(facts: identity.OrganizationFacts) -> Row:
    return {
        "name": facts.legal_name,
        "address": facts.address,
        "country": facts.country,
        "vat_number": facts.vat_number,
        "company_number": facts.company_number,
        "email": facts.billing_email,
    }


def _seller(seller: Seller) -> Row:
    return {
        "name": seller.legal_name,
        "address": seller.address,
        "country": seller.country,
        "vat_number": seller.vat_number,
        "company_number": seller.company_number,
        "email": seller.email,
        "iban": seller.iban,
        "time_zone": seller.time_zone,
    }


def _event(row: Row) -> Row:
    return {
        "organization_id": row["organization_id"],
        "provider_organization_id": row["provider_organization_id"],
        "entity_id": row["id"],
    }


def _facts_of(row: Row) -> Row:
    facts = {
        "id": str(row["id"]),
        "number": row["number"],
        "status": row["status"],
        "subscription_id": str(row["subscription_id"]),
        "period_starts_at": clock.to_wire(row["period_starts_at"]),
        "period_ends_at": clock.to_wire(row["period_ends_at"]),
        "currency": row["currency"],
        "subtotal_minor": row["subtotal_minor"],
        "tax_minor": row["tax_minor"],
        "total_minor": row["total_minor"],
        "issued_on": row["issued_on"] and row["issued_on"].isoformat(),
        "due_on": row["due_on"] and row["due_on"].isoformat(),
        "payment_reference": row["payment_reference"],
    }
    if row["parked_reason"]:
        facts["parked_reason"] = row["parked_reason"]
    return facts
