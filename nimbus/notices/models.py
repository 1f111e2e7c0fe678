# SPDX-License-Identifier: Apache-2.0
"""Tables of notices: what is to be said to whom, and the mailbox where there is no SMTP."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from nimbus.base.db import Base

Instant = TIMESTAMP(timezone=True)


class Notice(Base):
    """One message to one address about one thing.

    `source_id` is the thing: a link, an invitation, an organization, an invoice; there is one
    notice of a template about it. `data` are the words that go into the sentences, no secret.
    `state`: waiting → sending → sent; waiting again after a try that surely sent nothing; failed
    when it can't be sent; unclear when nobody can know (service.py says why).
    """

    __tablename__ = "notices"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    template: Mapped[str] = mapped_column(Text)
    source_id: Mapped[UUID]
    recipient: Mapped[str] = mapped_column(Text)
    locale: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    last_error: Mapped[str | None] = mapped_column(Text)
    sent_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class Mail(Base):
    """A message as it would have gone out; `message` is all of it (RFC 5322), attachments too."""

    __tablename__ = "mailbox"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    recipient: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    html: Mapped[str] = mapped_column(Text)
    message: Mapped[bytes] = mapped_column(BYTEA)
    created_at: Mapped[datetime] = mapped_column(Instant)
