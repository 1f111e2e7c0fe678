# SPDX-License-Identifier: Apache-2.0
"""The invoice's life: written as a draft, finalized once, paid."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import identity, ledger
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.billing import queries
from nimbus.billing.events import InvoiceDrafted, InvoiceFinalized, InvoicePaid
from nimbus.billing.models import Invoice, InvoiceLine, InvoiceTax, PaymentState, Seller
from nimbus.billing.service.proposals import Proposal, language_of
from nimbus.billing.texts import day_of, days_of, payment_reference
from nimbus.errors import field_error
from nimbus.ledger import Posting
from nimbus.rules import lifecycles
from nimbus.rules.invoicing import RULES_VERSION, LineDraft, Totals
from nimbus.rules.ledger import invoice_finalized
from nimbus.rules.money import Money
from nimbus.rules.tax import TaxTreatment
from nimbus.subscriptions import SubscriptionFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFacts:
    """What other rooms may know of a sent invoice; `buyer_email` is where its mail goes."""

    id: UUID
    organization_id: UUID
    provider_organization_id: UUID
    subscription_id: UUID
    number: str
    total: Money
    due_on: date
    payment_reference: str
    seller_name: str
    buyer_name: str
    buyer_email: str
    locale: str
    paid: bool


def new_draft(
    invoice_id: UUID, subscription: SubscriptionFacts, proposal: Proposal, moment: datetime
) -> Invoice:
    """A draft's row, to be filled by `write_draft`; `moment` is business time."""
    closing = proposal.closing
    return Invoice(
        id=invoice_id,
        organization_id=subscription.organization_id,
        provider_organization_id=subscription.provider_organization_id,
        subscription_id=subscription.id,
        product_id=subscription.product_id,
        plan_version_id=closing.plan_version_id,
        kind=closing.kind,
        status="Draft",
        currency=subscription.currency,
        period_starts_at=closing.served.starts_at,
        period_ends_at=closing.served.ends_at,
        finalize_at=closing.at + _grace(proposal),
        payment_term_days=proposal.plan.payment_term_days,
        created_at=moment,
    )


async def write_draft(
    session: AsyncSession, invoice: Invoice, proposal: Proposal, moment: datetime
) -> None:
    """Make the draft say what is proposed now: totals, buyer, lines and VAT.

    `implausible` results park it: nothing finalizes it but a person (spec 09, I-14).
    """
    invoice.subtotal_minor = proposal.totals.subtotal_minor
    invoice.tax_minor = proposal.totals.tax_minor
    invoice.total_minor = proposal.totals.total_minor
    invoice.rules_version = RULES_VERSION
    invoice.locale = language_of(proposal.buyer)
    invoice.buyer = _buyer(proposal.buyer)
    invoice.usage = proposal.usage
    invoice.tax_evidence = proposal.evidence
    invoice.parked_reason = proposal.implausible
    invoice.updated_at = moment
    session.add(invoice)
    await session.flush()
    await session.execute(delete(InvoiceLine).where(InvoiceLine.invoice_id == invoice.id))
    await session.execute(delete(InvoiceTax).where(InvoiceTax.invoice_id == invoice.id))
    described = zip(proposal.lines, proposal.descriptions, strict=True)
    session.add_all(
        _line(
            invoice,
            proposal.treatment,
            line,
            position=position,
            description=text,
            moment=moment,
        )
        for position, (line, text) in enumerate(described, 1)
    )
    if proposal.treatment is not None:
        session.add_all(_taxes(invoice, proposal.totals, moment))
    await session.flush()


def announce_draft(session: AsyncSession, actor: Actor, invoice: Invoice) -> None:
    """Say that a period's invoice is computed."""
    announce(session, actor, InvoiceDrafted(**_event(invoice), after=_facts_of(invoice)))


async def finalize(
    session: AsyncSession,
    actor: Actor,
    invoice: Invoice,
    proposal: Proposal,
    *,
    seller: Seller,
    moment: datetime,
) -> None:
    """Give the draft its number and send it: from here on it never changes.

    `moment` is business time; its day in the seller's time zone is the issue date. Locks the
    seller's number series, then the organization's chain in the ledger, both until commit.
    """
    issued_on = day_of(moment, seller.time_zone)
    number = await queries.take_number(session, seller, issued_on.year)
    invoice.status = lifecycles.invoice("Draft", "finalize")
    closing = proposal.closing
    invoice.supply_from, invoice.supply_to = days_of(closing.served, closing.time_zone)
    invoice.seller_organization_id = seller.organization_id
    invoice.seller_id = seller.id
    invoice.seller = _seller(seller)
    invoice.issued_on = issued_on
    invoice.due_on = issued_on + timedelta(days=invoice.payment_term_days)
    invoice.number = number
    invoice.payment_reference = payment_reference(number)
    invoice.finalized_at = invoice.updated_at = moment
    invoice.parked_reason = None
    nothing_due = invoice.total_minor == 0
    session.add(
        PaymentState(
            id=new_id(),
            organization_id=invoice.organization_id,
            invoice_id=invoice.id,
            state="Paid" if nothing_due else "Pending",
            paid_at=moment if nothing_due else None,
            created_at=moment,
            updated_at=moment,
        )
    )
    await session.flush()
    posting = Posting(
        organization_id=invoice.organization_id,
        source_kind="invoice",
        source_id=invoice.id,
        occurred_at=moment,
        transfers=invoice_finalized(proposal.totals, invoice.currency),
    )
    await ledger.post(session, [posting])
    announce(
        session,
        actor,
        InvoiceFinalized(**_event(invoice), before={"status": "Draft"}, after=_facts_of(invoice)),
    )


async def sent_invoice(session: AsyncSession, invoice_id: UUID) -> InvoiceFacts:
    """A sent invoice for other rooms; 404 for an unknown one, 422 on `status` for a draft."""
    return await _sent(session, await queries.any_invoice(session, invoice_id))


async def lock_sent_invoice(session: AsyncSession, invoice_id: UUID) -> InvoiceFacts:
    """The same, with the invoice locked until the transaction ends; a system session."""
    return await _sent(session, await queries.lock_invoice(session, invoice_id))


async def mark_paid(
    session: AsyncSession, actor: Actor, invoice_id: UUID, method: str, moment: datetime
) -> None:
    """Set a sent invoice's payment state to Paid; the payment and its posting are the caller's.

    A system session. Raises 422 on `status` when it is paid already, or is a draft.
    """
    invoice = await queries.lock_invoice(session, invoice_id)
    document: Any = invoice.status
    if invoice.status != "Sent":
        lifecycles.invoice(document, "pay")
    state = await queries.lock_payment_state(session, invoice.id)
    paid = state.state == "Paid"
    status = lifecycles.invoice_status(document, paid, invoice.due_on, moment.date())
    lifecycles.invoice(status, "pay")
    state.state = "Paid"
    state.paid_at = state.updated_at = moment
    after = {**_facts_of(invoice), "payment_state": "Paid", "method": method}
    before = {"payment_state": "Pending"}
    announce(session, actor, InvoicePaid(**_event(invoice), before=before, after=after))


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
    assert invoice.seller and invoice.due_on  # noqa: PT018 - it is sent
    return InvoiceFacts(
        id=invoice.id,
        organization_id=invoice.organization_id,
        provider_organization_id=invoice.provider_organization_id,
        subscription_id=invoice.subscription_id,
        number=str(invoice.number),
        total=Money(invoice.total_minor, invoice.currency),
        due_on=invoice.due_on,
        payment_reference=str(invoice.payment_reference),
        seller_name=invoice.seller["name"],
        buyer_name=invoice.buyer["name"],
        buyer_email=invoice.buyer["email"],
        locale=invoice.locale,
        paid=state.state == "Paid",
    )


def _grace(proposal: Proposal) -> timedelta:
    """How long late usage is waited for; what is owed at the start has none."""
    hours = proposal.plan.grace_hours if proposal.closing.kind == "period" else 0
    return timedelta(hours=hours)


def _buyer(facts: identity.OrganizationFacts) -> dict[str, Any]:
    return {
        "name": facts.legal_name,
        "address": facts.address,
        "country": facts.country,
        "vat_number": facts.vat_number,
        "company_number": facts.company_number,
        "email": facts.billing_email,
    }


def _seller(seller: Seller) -> dict[str, Any]:
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


def _line(
    invoice: Invoice,
    treatment: TaxTreatment | None,
    line: LineDraft,
    *,
    position: int,
    description: str,
    moment: datetime,
) -> InvoiceLine:
    return InvoiceLine(
        id=new_id(),
        organization_id=invoice.organization_id,
        provider_organization_id=invoice.provider_organization_id,
        invoice_id=invoice.id,
        subscription_id=invoice.subscription_id,
        position=position,
        kind=line.kind,
        source_id=invoice.subscription_id,
        meter_key=line.meter_key,
        text=line.text,
        description=description,
        quantity=line.quantity,
        unit_price=line.unit_price,
        amount_minor=line.amount_minor,
        tax_category=treatment and treatment.category,
        tax_rate=treatment and treatment.rate,
        starts_at=line.period.starts_at,
        ends_at=line.period.ends_at,
        created_at=moment,
    )


def _taxes(invoice: Invoice, sums: Totals, moment: datetime) -> list[InvoiceTax]:
    return [
        InvoiceTax(
            id=new_id(),
            organization_id=invoice.organization_id,
            invoice_id=invoice.id,
            category=tax.treatment.category,
            rate=tax.treatment.rate,
            country=tax.treatment.country,
            legal_text_key=tax.treatment.legal_text_key,
            base_minor=tax.base_minor,
            tax_minor=tax.tax_minor,
            created_at=moment,
        )
        for tax in sums.taxes
    ]


def _event(invoice: Invoice) -> dict[str, Any]:
    return {
        "organization_id": invoice.organization_id,
        "provider_organization_id": invoice.provider_organization_id,
        "entity_id": invoice.id,
    }


def _facts_of(invoice: Invoice) -> dict[str, Any]:
    facts = {
        "id": str(invoice.id),
        "number": invoice.number,
        "status": invoice.status,
        "subscription_id": str(invoice.subscription_id),
        "period_starts_at": clock.to_wire(invoice.period_starts_at),
        "period_ends_at": clock.to_wire(invoice.period_ends_at),
        "currency": invoice.currency,
        "subtotal_minor": invoice.subtotal_minor,
        "tax_minor": invoice.tax_minor,
        "total_minor": invoice.total_minor,
        "issued_on": invoice.issued_on and invoice.issued_on.isoformat(),
        "due_on": invoice.due_on and invoice.due_on.isoformat(),
        "payment_reference": invoice.payment_reference,
    }
    if invoice.parked_reason:
        facts["parked_reason"] = invoice.parked_reason
    return facts
