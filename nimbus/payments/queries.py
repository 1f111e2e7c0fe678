# SPDX-License-Identifier: Apache-2.0
"""The reads of payments."""

from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.payments.models import BalanceCredit, CheckoutChoice, Payment
from nimbus.rules.ledger import CUSTOMER_BALANCE, RECEIVABLE, cash


def payments_of(organization_id: UUID) -> Select[Payment]:
    """The payments of an organization."""
    return select(Payment).where(Payment.organization_id == organization_id)


async def payment_of_invoice(session: AsyncSession, invoice_id: UUID) -> Payment | None:
    """The payment that settled an invoice."""
    return await session.scalar(select(Payment).where(Payment.invoice_id == invoice_id))


async def lock_choice(session: AsyncSession, organization_id: UUID) -> CheckoutChoice | None:
    """The plan that an organization chose before it was active, locked."""
    return await session.scalar(
        select(CheckoutChoice)
        .where(CheckoutChoice.organization_id == organization_id)
        .with_for_update()
    )


def credits_of(organization_id: UUID) -> Select[BalanceCredit]:
    """What was put on the prepaid balance of an organization."""
    return select(BalanceCredit).where(BalanceCredit.organization_id == organization_id)


def expected_credits() -> Select[*tuple[Any, ...]]:
    """What the balance credits must have posted, for the proof of the books."""
    return select(
        BalanceCredit.id.label("source_id"),
        literal("credit").label("leg"),
        BalanceCredit.organization_id,
        literal(cash("manual")).label("debit_account"),
        literal(CUSTOMER_BALANCE).label("credit_account"),
        BalanceCredit.amount_minor,
        BalanceCredit.currency,
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
