# SPDX-License-Identifier: Apache-2.0
"""Tables of payments: what came in, and plans chosen before an organization is active."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CHAR, BigInteger, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
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


class ChangePreview(Base):
    """What a change of a subscription was said to cost; only `used_at` is written later.

    The change holds from `effective_at` on, and can be made by this preview before `expires_at`.
    """

    __tablename__ = "change_previews"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    subscription_version: Mapped[int]
    change: Mapped[dict[str, Any]] = mapped_column(JSONB)
    costs: Mapped[dict[str, Any]] = mapped_column(JSONB)
    effective_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant)
    used_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
