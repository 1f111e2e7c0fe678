# SPDX-License-Identifier: Apache-2.0
"""Tables of payments: what came in, and plans chosen before an organization is active."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CHAR, BigInteger, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from nimbus.base.db import Base

Instant = TIMESTAMP(timezone=True)


class Payment(Base):
    """Money that settled an invoice; a row never changes."""

    __tablename__ = "payments"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    invoice_id: Mapped[UUID]
    method: Mapped[str] = mapped_column(Text)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(CHAR(3))
    reference: Mapped[str | None] = mapped_column(Text)
    received_on: Mapped[date]
    recorded_by: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(Instant)


class BalanceCredit(Base):
    """Money that an operator put on an organization's prepaid balance; a row never changes."""

    __tablename__ = "balance_credits"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(CHAR(3))
    reason: Mapped[str] = mapped_column(Text)
    credited_by: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(Instant)


class CheckoutChoice(Base):
    """The plan that a Pending organization chose: accepting the terms starts it."""

    __tablename__ = "checkout_choices"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    product: Mapped[str] = mapped_column(Text)
    plan: Mapped[str] = mapped_column(Text)
    payment: Mapped[Any] = mapped_column(Text, nullable=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)

    def facts(self) -> dict[str, str | None]:
        """What was chosen."""
        return {"product": self.product, "plan": self.plan, "payment": self.payment}
