# SPDX-License-Identifier: Apache-2.0
"""Saying things to people, once.

A notice is a row, written in the transaction of what it tells about; a job sends it. Without SMTP
the message is put into the mailbox in the same transaction that calls the notice sent: exactly
once. With SMTP no transaction covers the other machine, so a choice must be made for the moment
between handing over and writing it down. Ours is *at most once*: the notice is `sending`, durably,
before the server hears of it. A try that surely sent nothing makes it `waiting` again and is
repeated; a crash or a broken connection at the wrong moment leaves it `unclear`, for a person to
look at, and is not repeated. The cost is a mail that may be missing (links can be asked for again,
invoices lie in the portal); the other choice would cost a customer two of the same. The
Message-ID is made from the notice's id either way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Any, Literal, cast
from uuid import UUID

from sqlalchemy import CursorResult, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import billing, identity
from nimbus.base import clock, db, mail
from nimbus.base.db import json_of
from nimbus.base.ids import new_id
from nimbus.base.log import get_logger
from nimbus.notices.models import Mail, Notice
from nimbus.notices.rendering import Language, Rendered, TemplateName, render

log = get_logger("notices")

Outcome = Literal["sent", "waiting", "failed", "unclear"]

RETRIES = 14
"""Tries after the first, with doubling waits: nine hours; then the notice is `failed`."""

PAGES: dict[TemplateName, str] = {
    "verification": "/verify-email?token={token}",
    "registration_repeated": "/sign-in",
    "password_reset": "/reset-password?token={token}",
    "invitation": "/invitation?token={token}",
    "welcome": "/",
    "invoice": "/invoices",
    "payment_received": "/invoices",
    "quota_threshold": "/usage",
    "limit_threshold": "/usage",
    "balance_threshold": "/invoices",
    "trial_ending": "/subscriptions",
    "plan_change": "/subscriptions",
}
"""Where a notice's button leads in the portal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a room wants to be said; `source_id` is what it is about, `data` the words for it."""

    organization_id: UUID
    template: TemplateName
    source_id: UUID
    recipient: str
    locale: Language
    data: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A notice taken for sending: the finished message, to be handed over outside."""

    notice_id: UUID
    message: EmailMessage


async def request(session: AsyncSession, wanted: Wanted) -> UUID | None:
    """Write a notice in this transaction; None when it was written before."""
    row = _row(wanted)
    statement = insert(Notice).values(**row).on_conflict_do_nothing()
    result = await session.execute(statement, execution_options={"preserve_rowcount": True})
    return row["id"] if cast("CursorResult[Any]", result).rowcount == 1 else None


async def request_all(session: AsyncSession, wanted: Sequence[Wanted]) -> list[UUID]:
    """Write notices in this transaction; the ids of those that were not written before. A system
    session.
    """
    if not wanted:
        return []
    body = json_of([_row(one) for one in wanted])
    return list(await session.scalars(_REQUEST_ALL, {"rows": body}))


_REQUEST_ALL = text(
    """
    INSERT INTO notices (id, organization_id, template, source_id, recipient, locale, data, state,
        attempts, created_at, updated_at)
    SELECT id, organization_id, template, source_id, recipient, locale, data, state, attempts,
        created_at, updated_at FROM jsonb_populate_recordset(NULL::notices, CAST(:rows AS jsonb))
    ON CONFLICT DO NOTHING RETURNING id
    """
)


def _row(wanted: Wanted) -> dict[str, Any]:
    moment = clock.machine_now()
    return {
        "id": new_id(),
        "organization_id": wanted.organization_id,
        "template": wanted.template,
        "source_id": wanted.source_id,
        "recipient": wanted.recipient,
        "locale": wanted.locale,
        "data": wanted.data,
        "state": "waiting",
        "attempts": 0,
        "created_at": moment,
        "updated_at": moment,
    }


async def take(session: AsyncSession, notice_id: UUID) -> Outgoing | None:
    """Take a waiting notice for sending; in a system session.

    Without SMTP it goes into the mailbox and is sent with this transaction. With SMTP it is
    `sending` from here on, and what comes back must be handed over after the commit. None when
    there is nothing to hand over.
    """
    notice = await _lock(session, notice_id)
    if notice.state == "sending":  # whoever took it before crashed, and can't tell how far it came
        _settle(notice, "unclear", "the process stopped while sending")
    if notice.state != "waiting":
        return None
    notice.attempts += 1
    rendered = _rendered(notice)
    try:
        message = await _message(session, notice, rendered)
    except mail.MailAddressError as error:
        _settle(notice, "failed", str(error))
        return None
    if db.current().settings.smtp_url is None:
        session.add(_mail(notice, rendered, message))
        _settle(notice, "sent")
        return None
    _settle(notice, "sending")
    return Outgoing(notice_id=notice.id, message=message)


async def hand_over(outgoing: Outgoing) -> tuple[Outcome, str | None]:
    """Give a taken notice to the SMTP server; how that went, and what was wrong."""
    try:
        await mail.send(str(db.current().settings.smtp_url), outgoing.message)
    except mail.NotSentError as error:
        return "waiting", str(error)
    except mail.RefusedError as error:
        return "failed", str(error)
    except mail.UnclearError as error:
        return "unclear", str(error)
    return "sent", None


async def record(
    session: AsyncSession, notice_id: UUID, outcome: Outcome, error: str | None
) -> bool:
    """Write down how sending went; in a system session. True when it is to be tried again."""
    notice = await _lock(session, notice_id)
    if outcome == "waiting" and notice.attempts > RETRIES:
        outcome = "failed"
    _settle(notice, outcome, error)
    return outcome == "waiting"


async def _lock(session: AsyncSession, notice_id: UUID) -> Notice:
    return (
        await session.scalars(select(Notice).where(Notice.id == notice_id).with_for_update())
    ).one()


def _settle(notice: Notice, state: str, error: str | None = None) -> None:
    notice.state = state
    notice.last_error = error
    notice.updated_at = clock.machine_now()
    notice.sent_at = notice.updated_at if state == "sent" else None
    report = log.warning if state in {"failed", "unclear"} else log.info
    report("notice", notice_id=str(notice.id), template=notice.template, state=state, error=error)


def _rendered(notice: Notice) -> Rendered:
    settings = db.current().settings
    template = cast("TemplateName", notice.template)
    page = PAGES[template]
    if "{token}" in page:
        page = page.format(token=identity.link_token(notice.source_id))
    brand = parseaddr(settings.mail_from)[0] or "Nimbus"
    locale = cast("Language", notice.locale)
    return render(template, locale, url=settings.public_url + page, brand=brand, **notice.data)


async def _message(session: AsyncSession, notice: Notice, rendered: Rendered) -> EmailMessage:
    return mail.build(
        message_id=notice.id,
        to=notice.recipient,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        mail_from=db.current().settings.mail_from,
        sent_at=clock.machine_now(),
        attachments=await _attachments(session, notice),
    )


async def _attachments(session: AsyncSession, notice: Notice) -> Sequence[mail.Attachment]:
    if notice.template != "invoice":
        return ()
    pdf = await billing.invoice_pdf(session, notice.source_id)
    return (mail.Attachment(f"{notice.data['number']}.pdf", "application/pdf", pdf),)


def _mail(notice: Notice, rendered: Rendered, message: EmailMessage) -> Mail:
    return Mail(
        id=notice.id,
        recipient=notice.recipient,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        message=message.as_bytes(),
        created_at=clock.machine_now(),
    )
