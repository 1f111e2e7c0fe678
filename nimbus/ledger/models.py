# SPDX-License-Identifier: Apache-2.0
"""The ledger's table: one row is one transfer from its credit to its debit account."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CHAR, BigInteger, Text
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from nimbus.base.db import Base

Instant = TIMESTAMP(timezone=True)


class LedgerTransfer(Base):
    """A transfer in its organization's chain; read only, `service.post` adds rows."""

    __tablename__ = "ledger_transfers"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[UUID]
    debit_account: Mapped[str] = mapped_column(Text)
    credit_account: Mapped[str] = mapped_column(Text)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(CHAR(3))
    source_kind: Mapped[str] = mapped_column(Text)
    source_id: Mapped[UUID]
    leg: Mapped[str] = mapped_column(Text)
    occurred_at: Mapped[datetime] = mapped_column(Instant)
    hash: Mapped[bytes] = mapped_column(BYTEA)
    created_at: Mapped[datetime] = mapped_column(Instant)
