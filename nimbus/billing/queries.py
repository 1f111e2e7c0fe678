# SPDX-License-Identifier: Apache-2.0
"""Billing's reads. Row-level security decides last; these filters say what is meant."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    case,
    exists,
    func,
    literal,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.db import array_of
from nimbus.billing.models import (
    BillingPeriod,
    Invoice,
    InvoiceDocument,
    InvoiceLine,
    InvoiceTax,
    PaymentState,
    Seller,
)
from nimbus.errors import Refusal
from nimbus.rules.ledger import RECEIVABLE, REVENUE, VAT_PAYABLE


async def current_seller(session: AsyncSession) -> Seller | None:
    """Who sells on this installation; None until the operator has said so."""
    return await session.scalar(select(Seller).where(Seller.current))


async def seller(session: AsyncSession, invoice: Invoice) -> Seller:
    """Who sold what a sent invoice is for."""
    return (await session.scalars(select(Seller).where(Seller.id == invoice.seller_id))).one()


async def lock_current_seller(session: AsyncSession) -> Seller | None:
    """The same, locked."""
    return await session.scalar(select(Seller).where(Seller.current).with_for_update())


def invoices_of(organization_id: UUID) -> Select[Invoice]:
    """The invoices that an organization receives; not those of its consumers."""
    return select(Invoice).where(Invoice.organization_id == organization_id)


def all_invoices(organization_id: UUID | None, number: str | None) -> Select[Invoice]:
    """The invoices of all organizations, or of one, or the one with this number."""
    statement = select(Invoice)
    if organization_id is not None:
        statement = statement.where(Invoice.organization_id == organization_id)
    if number is not None:
        statement = statement.where(Invoice.number == number)
    return statement


async def invoice_of(session: AsyncSession, organization_id: UUID, invoice_id: UUID) -> Invoice:
    """An invoice that the organization receives; 404 otherwise."""
    found = await session.scalar(invoices_of(organization_id).where(Invoice.id == invoice_id))
    return _found(found)


async def lock_invoice(session: AsyncSession, invoice_id: UUID) -> Invoice:
    """Any invoice, locked until the transaction ends; a system session. 404 when unknown."""
    locked = select(Invoice).where(Invoice.id == invoice_id).with_for_update()
    return _found(await session.scalar(locked.execution_options(populate_existing=True)))


async def any_invoice(session: AsyncSession, invoice_id: UUID) -> Invoice:
    """Any invoice that the transaction may see; 404 when unknown."""
    return _found(await session.get(Invoice, invoice_id))


async def has_invoice(
    session: AsyncSession, subscription_id: UUID, starts_at: datetime, kind: str
) -> bool:
    """Whether a subscription's period has an invoice of a kind."""
    found = exists().where(
        Invoice.subscription_id == subscription_id,
        Invoice.period_starts_at == starts_at,
        Invoice.kind == kind,
    )
    return bool(await session.scalar(select(found)))


async def period_of_invoice(session: AsyncSession, invoice_id: UUID) -> BillingPeriod | None:
    """The closed period that an invoice is of; None for one of a period's start."""
    return await session.scalar(select(BillingPeriod).where(BillingPeriod.invoice_id == invoice_id))


async def lines_of(session: AsyncSession, invoice_id: UUID) -> list[InvoiceLine]:
    """The lines of an invoice in their order."""
    owner = select(Invoice.organization_id).where(Invoice.id == invoice_id).scalar_subquery()
    lines = select(InvoiceLine).where(
        InvoiceLine.organization_id == owner, InvoiceLine.invoice_id == invoice_id
    )
    return list(await session.scalars(lines.order_by(InvoiceLine.position)))


async def taxes_of(session: AsyncSession, invoice_id: UUID) -> list[InvoiceTax]:
    """The VAT of an invoice per category and rate."""
    owner = select(Invoice.organization_id).where(Invoice.id == invoice_id).scalar_subquery()
    taxes = select(InvoiceTax).where(
        InvoiceTax.organization_id == owner, InvoiceTax.invoice_id == invoice_id
    )
    return list(await session.scalars(taxes.order_by(InvoiceTax.category, InvoiceTax.rate)))


async def last_closed_period(session: AsyncSession, subscription_id: UUID) -> BillingPeriod | None:
    """The latest closed period of a subscription."""
    return await session.scalar(
        select(BillingPeriod)
        .where(BillingPeriod.subscription_id == subscription_id)
        .order_by(BillingPeriod.ends_at.desc())
        .limit(1)
    )


async def take_numbers(
    session: AsyncSession, seller: Seller, series: str, year: int, count: int
) -> list[str]:
    """The next numbers of a series of the seller (INV, CN) in a year; locked until commit.

    `INV-2026-000001`. What rolls back gives its numbers back: there are no gaps.
    """
    if not count:
        return []
    last = await session.scalar(
        text(
            "INSERT INTO number_series AS s (organization_id, seller_id, series, year, last_number)"
            " VALUES (:organization_id, :seller_id, :series, :year, :count)"
            " ON CONFLICT (organization_id, seller_id, series, year)"
            " DO UPDATE SET last_number = s.last_number + :count RETURNING s.last_number"
        ),
        {
            "organization_id": seller.organization_id,
            "seller_id": seller.id,
            "series": series,
            "year": year,
            "count": count,
        },
    )
    return [f"{series}-{year}-{number:06d}" for number in range(last - count + 1, last + 1)]


async def payment_states(
    session: AsyncSession, invoice_ids: list[UUID]
) -> dict[UUID, PaymentState]:
    """Invoice id → its payment; a draft has none."""
    owners = select(Invoice.organization_id).where(Invoice.id.in_(invoice_ids))
    states = select(PaymentState).where(
        PaymentState.organization_id.in_(owners), PaymentState.invoice_id.in_(invoice_ids)
    )
    return {state.invoice_id: state for state in await session.scalars(states)}


DUE_MINOR = (
    "greatest(0, i.total_minor) - i.credited_minor - i.wallet_minor"
    " - coalesce((SELECT sum(n.open_minor) FROM credit_notes n"
    " WHERE n.organization_id = i.organization_id AND n.invoice_id = i.id), 0)::bigint"
    " - coalesce((SELECT w.amount_minor FROM write_offs w"
    " WHERE w.organization_id = i.organization_id AND w.invoice_id = i.id), 0)"
)
"""What is to be paid of an invoice `i`, in SQL."""


async def due_of(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, int]:
    """What is to be paid of sent invoices in minor units: the total less credit, wallet, and what
    credit notes took off before it was paid, and what was written off. By id; a draft has none.
    """
    rows = await session.execute(
        text(
            f"SELECT i.id, {DUE_MINOR} AS due_minor FROM invoices i"  # noqa: S608 - a text of ours
            " WHERE i.id = ANY (:ids) AND i.status = 'Sent'"
        ),
        {"ids": list(ids)},
    )
    return {row.id: row.due_minor for row in rows}


async def sent(session: AsyncSession, ids: Collection[UUID]) -> Sequence[Any]:
    """What other rooms may know of sent invoices: columns, payment state, and what is due."""
    statement = text(
        f"""SELECT i.id, i.organization_id, i.provider_organization_id, i.subscription_id,
               i.number, i.total_minor, i.currency, i.due_on, i.payment_reference, i.seller,
               i.buyer, i.locale, s.state, {DUE_MINOR} AS due_minor
        FROM invoices i JOIN invoice_payment_states s
            ON s.organization_id = i.organization_id AND s.invoice_id = i.id
        WHERE i.id = ANY (CAST(:ids AS uuid[])) AND i.status = 'Sent'"""  # noqa: S608
    )
    return (await session.execute(statement, {"ids": array_of(ids)})).all()


async def lock_payment_state(session: AsyncSession, invoice_id: UUID) -> PaymentState:
    """The payment of a sent invoice, locked."""
    state = select(PaymentState).where(PaymentState.invoice_id == invoice_id).with_for_update()
    return (await session.scalars(state)).one()


async def pdf_of(session: AsyncSession, invoice_id: UUID) -> bytes | None:
    """The stored PDF of an invoice."""
    return await session.scalar(
        select(InvoiceDocument.content).where(
            InvoiceDocument.invoice_id == invoice_id, InvoiceDocument.kind == "pdf"
        )
    )


async def store_document(session: AsyncSession, document: dict[str, Any]) -> None:
    """Store a document unless the invoice has it: the first one stays."""
    await session.execute(insert(InvoiceDocument).values(**document).on_conflict_do_nothing())


def due_drafts(as_of: datetime, limit: int) -> Select[UUID, datetime]:
    """(id, finalize_at) of drafts to be finalized by `as_of`, the earliest first."""
    waiting = select(Invoice.id, Invoice.finalize_at).where(_waits(), Invoice.finalize_at <= as_of)
    return waiting.order_by(Invoice.finalize_at, Invoice.id).limit(limit)


def next_due_draft() -> Select[*tuple[Any, ...]]:
    """The earliest instant at which a draft is to be finalized."""
    return select(func.min(Invoice.finalize_at)).where(_waits())


def _waits() -> ColumnElement[bool]:
    """A draft that waits for its time only: for no person, and not for a seller."""
    return and_(
        Invoice.status == "Draft",
        Invoice.parked_reason.is_(None),
        exists().where(Seller.current),
    )


def expected_postings() -> Select[*tuple[Any, ...]]:
    """What the finalized invoices must have posted, for the proof of the books."""
    sent = Invoice.status == "Sent"
    net = _legs(literal("net"), literal(REVENUE), Invoice.subtotal_minor).where(sent)
    rate = func.trim_scale(InvoiceTax.rate)
    leg = func.concat("vat:", InvoiceTax.country, ":", rate)
    vat = (
        _legs(leg, literal(VAT_PAYABLE), InvoiceTax.tax_minor)
        .join(InvoiceTax, InvoiceTax.invoice_id == Invoice.id)
        .where(sent)
    )
    legs = union_all(net, vat).subquery()
    return select(legs).where(legs.c.amount_minor > 0)


def _legs(leg: Any, account: Any, amount: Any) -> Select[*tuple[Any, ...]]:
    """One leg an invoice: receivable against `account`, the other way round if it is negative."""
    receivable = literal(RECEIVABLE)
    negative = amount < 0
    return select(
        Invoice.id.label("source_id"),
        leg.label("leg"),
        Invoice.organization_id,
        case((negative, account), else_=receivable).label("debit_account"),
        case((negative, receivable), else_=account).label("credit_account"),
        func.abs(amount).label("amount_minor"),
        Invoice.currency,
    )


def _found(row: Invoice | None) -> Invoice:
    if row is None:
        raise Refusal("not_found")
    return row
