# SPDX-License-Identifier: Apache-2.0
"""Work of billing that falls due, and what follows from news.

Each job is one unit of work in one transaction, and harmless the second time.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import subscriptions
from nimbus.base import clock, db, jobs
from nimbus.base.actors import SYSTEM, Actor
from nimbus.base.events import on
from nimbus.base.log import get_logger
from nimbus.billing import queries
from nimbus.billing.events import InvoiceFinalized
from nimbus.billing.service import papers, runs
from nimbus.errors import field_error
from nimbus.rules.money import Money
from nimbus.subscriptions.events import SubscriptionChanged, SubscriptionCreated

log = get_logger("billing")

RUN_MAX = 100_000
"""Subscriptions that one run by hand looks at at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How billing one period went: the invoice's status and total, or what was wrong."""

    subscription_id: UUID
    status: str = "Nothing owed"
    number: str | None = None
    total: Money | None = None
    error: str | None = None


@jobs.job("billing.invoice")
async def invoice(entity_id: str, as_of: str) -> None:
    """Bill a subscription's ended period."""
    async with db.system_session("bill run") as session:
        await runs.bill(session, SYSTEM, UUID(entity_id), _moment(as_of))


@jobs.job("billing.finalize")
async def finalize(entity_id: str, as_of: str) -> None:
    """Finalize a draft whose grace is over, or that waited for the seller."""
    async with db.system_session("bill run") as session:
        draft = await queries.any_invoice(session, UUID(entity_id))
        if draft.status == "Draft":
            await runs.finalize_draft(session, SYSTEM, draft.id, _moment(as_of), looked_at=False)


@jobs.job("billing.document")
async def document(invoice_id: str) -> None:
    """Make the PDF of a sent invoice."""
    async with db.system_session("bill run") as session:
        await papers.invoice_pdf(session, UUID(invoice_id))


async def run(as_of: datetime, *, preview: bool) -> AsyncIterator[Outcome]:
    """Bill everything that is due by `as_of`, one transaction a period; saves nothing in a preview.

    A period that can't be billed is an outcome with its error, and the others go on. Raises 422 on
    `as_of` for an instant that is still to come, but for a preview.
    """
    done: set[tuple[UUID, datetime]] = set()
    while True:
        async with db.system_session("bill run") as session:
            if not preview and as_of > clock.now():
                raise field_error("as_of", "in_the_future", "That has not come yet.")
            due = await subscriptions.due_for_billing(session, as_of, RUN_MAX)
        todo = [one for one in due if one not in done]
        if not todo:
            return
        for one in todo:
            done.add(one)
            yield await _outcome(one[0], as_of, preview=preview)


async def _outcome(subscription_id: UUID, as_of: datetime, *, preview: bool) -> Outcome:
    try:
        async with db.system_session("bill run") as session:
            if preview:
                return await _previewed(session, subscription_id, as_of)
            made = await runs.bill(session, SYSTEM, subscription_id, as_of)
    except Exception as error:
        log.exception("not billed", subscription_id=str(subscription_id))
        return Outcome(subscription_id=subscription_id, error=str(error) or repr(error))
    if made is None:
        return Outcome(subscription_id=subscription_id)
    total = Money(made.total_minor, made.currency)
    return Outcome(
        subscription_id=subscription_id, status=made.status, number=made.number, total=total
    )


async def _previewed(session: AsyncSession, subscription_id: UUID, as_of: datetime) -> Outcome:
    subscription = await subscriptions.subscription_facts(session, subscription_id)
    proposal = await runs.preview(session, subscription, as_of)
    if proposal is None or not proposal.lines:
        return Outcome(subscription_id=subscription_id)
    total = Money(proposal.totals.total_minor, proposal.currency)
    return Outcome(subscription_id=subscription_id, status="Preview", total=total)


@on(InvoiceFinalized)
async def make_document(session: AsyncSession, _: Actor, event: InvoiceFinalized) -> None:
    """A sent invoice gets its PDF."""
    await jobs.defer(session, document, invoice_id=str(event.entity_id))


@on(SubscriptionCreated, SubscriptionChanged)
async def bill_the_start(session: AsyncSession, _: Actor, event: SubscriptionCreated) -> None:
    """What is paid in advance is billed when the paid subscription begins."""
    subscription = await subscriptions.subscription_facts(session, event.entity_id)
    moment = clock.now()
    if await runs.due_closing(session, subscription, moment) is not None:
        entity_id, as_of = str(event.entity_id), clock.to_wire(moment)
        await jobs.defer(session, invoice, entity_id=entity_id, as_of=as_of)


async def _next_draft(session: AsyncSession) -> datetime | None:
    """When the next draft is to be finalized."""
    due_at: datetime | None = await session.scalar(queries.next_due_draft())
    return due_at


async def _due_drafts(
    session: AsyncSession, as_of: datetime, limit: int
) -> list[tuple[UUID, datetime]]:
    rows = await session.execute(queries.due_drafts(as_of, limit))
    return [(row.id, row.finalize_at) for row in rows]


def _moment(as_of: str) -> datetime:
    """The due instant, or now if that is later: a worker that was away catches up."""
    return max(clock.from_wire(as_of), clock.now())


jobs.due_source(jobs.DueSource(invoice, subscriptions.next_billing, subscriptions.due_for_billing))
jobs.due_source(jobs.DueSource(finalize, _next_draft, _due_drafts))
