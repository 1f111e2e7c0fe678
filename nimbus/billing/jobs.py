# SPDX-License-Identifier: Apache-2.0
"""Work of billing that falls due, and what follows from news.

Each job is one unit of work in one transaction, and harmless the second time.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import subscriptions
from nimbus.base import clock, db, jobs
from nimbus.base.actors import SYSTEM, Actor
from nimbus.base.events import on, on_all
from nimbus.base.ids import NIL
from nimbus.base.log import get_logger
from nimbus.billing import queries, queries_wallets
from nimbus.billing.events import CreditNoteIssued, InvoiceFinalized
from nimbus.billing.service import credit_notes, extras, papers, runs, wallets
from nimbus.billing.service.invoices import Row
from nimbus.billing.service.prices import PriceBook
from nimbus.billing.service.proposals import CaseError
from nimbus.errors import Refusal, field_error
from nimbus.rules.money import Money
from nimbus.subscriptions import SubscriptionFacts
from nimbus.subscriptions.events import SubscriptionChanged, SubscriptionCreated

log = get_logger("billing")

RUN_MAX = 1_000_000
"""Subscriptions that a preview looks at."""

SET = 1_000
"""Subscriptions that are billed in one transaction."""


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
    """Bill what a subscription owes at its start; or, for no subscription (NIL), run the bill of
    all whose period has ended.
    """
    if UUID(entity_id) == NIL:
        async for _ in run(_moment(as_of)):
            pass
        return
    async with db.system_session("bill run") as session:
        await runs.bill(session, SYSTEM, UUID(entity_id), _moment(as_of))


@jobs.job("billing.progress")
async def progress(entity_id: str, as_of: str) -> None:
    """Bill the usage of a subscription that has passed its threshold."""
    async with db.system_session("bill run") as session:
        await runs.bill_progress(session, SYSTEM, UUID(entity_id), _moment(as_of))


@jobs.job("billing.expire_credit")
async def expire_credit(entity_id: str, as_of: str) -> None:
    """Let what is left of a wallet's entry expire."""
    async with db.system_session("bill run") as session:
        await wallets.expire(session, SYSTEM, UUID(entity_id), _moment(as_of))


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


async def run(
    as_of: datetime, *, preview: bool = False, at_once: int = 2, limit: int = SET
) -> AsyncIterator[Outcome]:
    """Bill everything that is due by `as_of`, `limit` subscriptions a transaction, `at_once` of
    them at a time; saves nothing in a preview.

    What can't be billed is an outcome with its error, and parked for a person; the others go on.
    Other runs may go on beside it, and it may be killed: what is committed is whole, the rest is
    found by the next run. Raises 422 on `as_of` for an instant that is still to come, but for a
    preview.
    """
    async with db.system_session("bill run"):
        if not preview and as_of > clock.now():
            raise field_error("as_of", "in_the_future", "That has not come yet.")
    if preview:
        async for outcome in _previewed(as_of):
            yield outcome
        return
    book, failed, queue = PriceBook(), set[UUID](), asyncio.Queue[Outcome | None](4 * limit)

    async def work() -> None:
        while outcomes := await _bill_set(as_of, limit, book, failed):
            for outcome in outcomes:
                await queue.put(outcome)

    async def all_work() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work())
        finally:
            await queue.put(None)

    working = asyncio.create_task(all_work())
    try:
        while (done := await queue.get()) is not None:
            yield done
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def _bill_set(
    as_of: datetime, limit: int, book: PriceBook, failed: set[UUID]
) -> list[Outcome]:
    """Bill one set in one transaction; where it fails, halves of it, down to the one at fault."""
    try:
        async with db.system_session("bill run") as session:
            billed = await runs.bill_due(session, SYSTEM, as_of, limit=limit, book=book, but=failed)
    except CaseError as error:
        return [await _park(error.subscription_id, error.reason, failed)]
    except (DataError, IntegrityError, Refusal) as error:
        if isinstance(error, Refusal) and error.code == "unavailable":
            raise
        if limit > 1:
            return await _bill_set(as_of, limit // 2, book, failed)
        return await _park_next(as_of, str(error), failed)
    return [_outcome(subscription, row) for subscription, row in billed]


async def _park_next(as_of: datetime, reason: str, failed: set[UUID]) -> list[Outcome]:
    """Park the one that a set of one would have billed."""
    async with db.system_session("bill run") as session:
        due = await subscriptions.lock_due(session, as_of, 1, failed)
    return [await _park(one.id, reason, failed) for one in due]


async def _park(subscription_id: UUID, reason: str, failed: set[UUID]) -> Outcome:
    failed.add(subscription_id)
    log.error("not billed", subscription_id=str(subscription_id), reason=reason)
    async with db.system_session("bill run") as session:
        await runs.park(session, SYSTEM, subscription_id, reason[:200])
    return Outcome(subscription_id=subscription_id, error=reason)


def _outcome(subscription: SubscriptionFacts, row: Row | None) -> Outcome:
    if row is None:
        return Outcome(subscription_id=subscription.id)
    total = Money(row["total_minor"], row["currency"])
    status, number = row["status"], row["number"]
    return Outcome(subscription_id=subscription.id, status=status, number=number, total=total)


async def _previewed(as_of: datetime) -> AsyncIterator[Outcome]:
    async with db.system_session("bill run") as session:
        due = [one for one, _ in await subscriptions.due_for_billing(session, as_of, RUN_MAX)]
    book = PriceBook()
    for start in range(0, len(due), SET):
        async with db.system_session("bill run") as session:
            facts = await subscriptions.facts_of(session, due[start : start + SET])
            for outcome in await _preview_set(session, list(facts.values()), as_of, book):
                yield outcome


async def _preview_set(
    session: AsyncSession, wanted: list[SubscriptionFacts], as_of: datetime, book: PriceBook
) -> list[Outcome]:
    try:
        proposals = await runs.preview(session, wanted, as_of, book)
    except (CaseError, Refusal) as error:
        if len(wanted) == 1:
            return [Outcome(subscription_id=wanted[0].id, error=str(error))]
        half = len(wanted) // 2
        return [
            *await _preview_set(session, wanted[:half], as_of, book),
            *await _preview_set(session, wanted[half:], as_of, book),
        ]
    outcomes = []
    for one in proposals:
        outcome = Outcome(subscription_id=one.case.wish.subscription.id)
        if one.lines:
            total = Money(one.totals.total_minor, one.currency)
            outcome = replace(outcome, status="Preview", total=total)
        outcomes.append(outcome)
    return outcomes


@on_all(InvoiceFinalized)
async def make_documents(session: AsyncSession, events: Sequence[InvoiceFinalized]) -> None:
    """Sent invoices get their PDF."""
    wanted = [{"invoice_id": str(event.entity_id)} for event in events]
    await jobs.defer_all(session, document, wanted)


@jobs.job("billing.credit_note_document")
async def credit_note_document(credit_note_id: str) -> None:
    """Make the PDF of a credit note."""
    async with db.system_session("bill run") as session:
        await credit_notes.credit_note_pdf(session, UUID(credit_note_id))


@on(CreditNoteIssued)
async def make_credit_note(session: AsyncSession, _: Actor, event: CreditNoteIssued) -> None:
    """A credit note gets its PDF."""
    await jobs.defer(session, credit_note_document, credit_note_id=str(event.entity_id))


@on(SubscriptionCreated, SubscriptionChanged)
async def bill_the_start(session: AsyncSession, _: Actor, event: SubscriptionCreated) -> None:
    """What is paid in advance is billed when the paid subscription begins."""
    subscription = await subscriptions.subscription_facts(session, event.entity_id)
    moment = clock.now()
    if await runs.due_closing(session, subscription, moment) is not None:
        entity_id, as_of = str(event.entity_id), clock.to_wire(moment)
        await jobs.defer(session, invoice, entity_id=entity_id, as_of=as_of)


async def _next_run(session: AsyncSession) -> datetime | None:
    return await subscriptions.next_billing(session)


async def _due_run(
    session: AsyncSession, as_of: datetime, _limit: int
) -> list[tuple[UUID, datetime]]:
    """One run for all that are due, whoever they are (NIL)."""
    due = await subscriptions.due_for_billing(session, as_of, 1)
    return [(NIL, due[0][1])] if due else []


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


jobs.due_source(jobs.DueSource(invoice, _next_run, _due_run))
jobs.due_source(jobs.DueSource(finalize, _next_draft, _due_drafts))
jobs.due_source(
    jobs.DueSource(expire_credit, queries_wallets.next_to_expire, queries_wallets.due_to_expire)
)
jobs.due_source(jobs.DueSource(progress, extras.next_over_threshold, extras.over_threshold))
