# SPDX-License-Identifier: Apache-2.0
"""The reads of payments."""

from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.errors import Refusal
from nimbus.payments.models import ChangePreview, CheckoutChoice, Payment
from nimbus.rules.ledger import RECEIVABLE


def payments_of(organization_id: UUID) -> Select[Payment]:
    """The payments of an organization."""
    return select(Payment).where(Payment.organization_id == organization_id)


async def payment_of_invoice(session: AsyncSession, invoice_id: UUID) -> Payment | None:
    """The payment that settled an invoice."""
    return await session.scalar(select(Payment).where(Payment.invoice_id == invoice_id))


async def lock_preview(
    session: AsyncSession, subscription_id: UUID, preview_id: UUID
) -> ChangePreview:
    """What a change of this subscription was said to cost, locked; 404 otherwise."""
    found = await session.scalar(
        select(ChangePreview)
        .where(ChangePreview.id == preview_id, ChangePreview.subscription_id == subscription_id)
        .with_for_update()
    )
    if found is None:
        raise Refusal("not_found")
    return found


async def lock_choice(session: AsyncSession, organization_id: UUID) -> CheckoutChoice | None:
    """The plan that an organization chose before it was active, locked."""
    return await session.scalar(
        select(CheckoutChoice)
        .where(CheckoutChoice.organization_id == organization_id)
        .with_for_update()
    )


def expected_postings() -> Select[*tuple[Any, ...]]:
    """What the payments must have posted, for the proof of the books."""
    return select(
        Payment.id.label("source_id"),
        literal("payment").label("leg"),
        Payment.organization_id,
        func.concat("cash:", Payment.method).label("debit_account"),
        literal(RECEIVABLE).label("credit_account"),
        Payment.amount_minor,
        Payment.currency,
    )
