# SPDX-License-Identifier: Apache-2.0
"""The bill run, in sets: close what has ended, once, whoever runs. One bill is a set of one.

The order of locks is the same everywhere: subscriptions, invoice, wallets, number series, chains.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions, usage
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.db import insert_all
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.billing import queries, queries_sets
from nimbus.billing.events import BillingParked, BillingReleased
from nimbus.billing.models import Invoice
from nimbus.billing.service import invoices
from nimbus.billing.service.invoices import Row
from nimbus.billing.service.prices import PriceBook
from nimbus.billing.service.proposals import CaseError, Proposal, propose
from nimbus.billing.service.reading import Closing, Kind, Wish, closing_of, read_cases
from nimbus.errors import Refusal, field_error
from nimbus.rules import lifecycles
from nimbus.rules.periods import Period, period_containing
from nimbus.subscriptions import SubscriptionFacts

WAITING = frozenset({"Suspended"})
"""Stored states in which an ended period waits to be billed."""

Billed = list[tuple[SubscriptionFacts, Row | None]]
"""Each subscription with the invoice of its period; None where nothing was owed."""


async def bill_due(
    session: AsyncSession,
    actor: Actor,
    as_of: datetime,
    *,
    limit: int,
    book: PriceBook,
    but: Collection[UUID] = (),
) -> Billed:
    """Bill the next `limit` subscriptions whose period has ended by `as_of`; a system session.

    What another run holds is its to bill, and passed over. Raises 503 while calls of the periods
    may still be in journals, CaseError for a subscription of which no bill can be made.
    """
    due = await subscriptions.lock_due(session, as_of, limit, but)
    wishes = [_wish(one, "period", one.next_billing_at or one.period_ends_at) for one in due]
    return await _bill(session, actor, wishes, book, as_of)


async def bill(
    session: AsyncSession, actor: Actor, subscription_id: UUID, as_of: datetime
) -> Invoice | None:
    """Bill what has fallen due for a subscription by `as_of`, and begin its next period.

    A system session. One period a call: the earliest that is open. The invoice is None when
    nothing is due or nothing was owed; it stays a draft within the plan's grace, without a
    seller, or parked. Raises 503 while calls of the period may still be in journals.
    """
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    closing = await due_closing(session, subscription, as_of)
    if closing is None:
        return None
    wish = Wish(subscription=subscription, closing=closing, invoice_id=new_id())
    [(_, row)] = await _bill(session, actor, [wish], PriceBook(), as_of)
    return None if row is None else await queries.any_invoice(session, row["id"])


async def bill_progress(
    session: AsyncSession, actor: Actor, subscription_id: UUID, as_of: datetime
) -> Invoice | None:
    """Bill the usage of a running period up to `as_of`, less what was billed; a system session.

    None when nothing of it is owed, or the period has ended meanwhile.
    """
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    ends_at = subscription.next_billing_at
    if ends_at is None or not subscription.period_starts_at < as_of < ends_at:
        return None
    wish = _wish(subscription, "progress", as_of)
    [(_, row)] = await _bill(session, actor, [wish], PriceBook(), as_of)
    return None if row is None else await queries.any_invoice(session, row["id"])


async def bill_change(
    session: AsyncSession, actor: Actor, subscription_id: UUID, as_of: datetime
) -> Proposal | None:
    """Bill at once what a change at `as_of` adds to a running period's fees in advance, and items.

    A system session, with the change made. None when nothing is owed now: what it takes off is
    less on the next invoice.
    """
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    proposal = await propose_change(session, subscription, as_of)
    if proposal is not None:
        wish = _change(subscription, as_of)
        await _bill(session, actor, [wish], PriceBook(), as_of)
    return proposal


async def propose_change(
    session: AsyncSession, subscription: SubscriptionFacts, as_of: datetime
) -> Proposal | None:
    """What `bill_change` would bill, saving nothing."""
    ends_at = subscription.next_billing_at
    if ends_at is None or not subscription.period_starts_at <= as_of < ends_at:
        return None
    [case] = await read_cases(session, [_change(subscription, as_of)], PriceBook(), as_of)
    proposal = propose(case, as_of)
    return proposal if proposal.totals.total_minor > 0 else None


async def finalize_draft(
    session: AsyncSession, actor: Actor, invoice_id: UUID, as_of: datetime, *, looked_at: bool
) -> Invoice:
    """Compute a draft again and finalize it if it is due by `as_of`; a system session.

    With `looked_at` a person has seen it: bounds and grace hold it no more. A draft of which
    nothing is left is discarded. Raises 400 for one that is finalized, 422 for one that can't be.
    """
    subscription_id = (await queries.any_invoice(session, invoice_id)).subscription_id
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    invoice = await queries.lock_invoice(session, invoice_id)
    status: lifecycles.InvoiceStatus = invoice.status  # type: ignore[assignment]
    lifecycles.invoice(status, "finalize")
    moment = clock.now()
    closing = await _closing_again(session, subscription, invoice)
    wish = Wish(subscription=subscription, closing=closing, invoice_id=invoice.id)
    [case] = await read_cases(session, [wish], PriceBook(), moment)
    proposal = propose(case, moment)

    row = await invoices.rewrite_draft(session, invoice, proposal, moment)
    if not proposal.lines:
        invoice.status = lifecycles.invoice("Draft", "discard")
        return invoice
    if looked_at:
        invoices.refuse_unsendable(invoice)
        row["parked_reason"] = None
        as_of = max(as_of, invoice.finalize_at)
    await _finalize_due(session, actor, [(row, proposal)], as_of, stored=True)
    await session.refresh(invoice)
    return invoice


async def bill_now(
    session: AsyncSession, actor: Actor, subscription_id: UUID, as_of: datetime
) -> Invoice:
    """The bill run for one subscription of the actor's organization, asked for by hand.

    A system session. Bills the period that has ended; where none has, takes up the draft of the
    last one. Raises 404 for another organization's subscription, 400 when the last ended period is
    finalized, 422 on `subscription_id` when no period has ended or nothing was owed for it.
    """
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    if subscription.organization_id != actor.organization_id:
        raise Refusal("not_found")
    if await due_closing(session, subscription, as_of) is not None:
        invoice = await bill(session, actor, subscription_id, as_of)
    else:
        last = await queries.last_closed_period(session, subscription_id)
        if last is None:
            raise field_error("subscription_id", "period_running", "No period has ended yet.")
        invoice = None
        if last.invoice_id is not None:
            invoice = await finalize_draft(session, actor, last.invoice_id, as_of, looked_at=False)
    if invoice is None:
        raise field_error("subscription_id", "nothing_owed", "Nothing is owed for the period.")
    return invoice


async def preview(
    session: AsyncSession, wanted: Sequence[SubscriptionFacts], as_of: datetime, book: PriceBook
) -> list[Proposal]:
    """What a run would make of subscriptions at `as_of`, saving nothing; of those that are due."""
    wishes = []
    for subscription in wanted:
        closing = await due_closing(session, subscription, as_of)
        if closing is not None:
            wishes.append(Wish(subscription=subscription, closing=closing, invoice_id=new_id()))
    if not wishes:
        return []
    cases = await read_cases(session, wishes, book, as_of)
    return [propose(case, as_of) for case in cases]


async def upcoming(
    session: AsyncSession, wanted: Sequence[SubscriptionFacts], as_of: datetime
) -> list[Proposal]:
    """What running periods would cost with their usage up to `as_of`; saves nothing."""
    wishes = [_wish(one, "period", one.next_billing_at or one.period_ends_at) for one in wanted]
    if not wishes:
        return []
    cases = await read_cases(session, wishes, PriceBook(), as_of)
    return [propose(case, as_of) for case in cases]


async def park(session: AsyncSession, actor: Actor, subscription_id: UUID, reason: str) -> None:
    """Keep a subscription of which no bill can be made for a person; the others go on."""
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    await subscriptions.park(session, subscription_id, reason)
    event = BillingParked(
        organization_id=subscription.organization_id,
        provider_organization_id=subscription.provider_organization_id,
        entity_id=subscription_id,
        after={"subscription_id": str(subscription_id)},
        reason=reason,
    )
    announce(session, actor, event)


async def release(session: AsyncSession, actor: Actor, subscription_id: UUID) -> SubscriptionFacts:
    """Let a parked subscription be billed again; a system session. 404 for an unknown one."""
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    await subscriptions.park(session, subscription_id, None)
    event = BillingReleased(
        organization_id=subscription.organization_id,
        provider_organization_id=subscription.provider_organization_id,
        entity_id=subscription_id,
        after={"subscription_id": str(subscription_id)},
    )
    announce(session, actor, event)
    return subscription


async def due_closing(
    session: AsyncSession, subscription: SubscriptionFacts, as_of: datetime
) -> Closing | None:
    """What of the subscription is due to be billed by `as_of`; None for nothing."""
    ends_at = subscription.next_billing_at
    if ends_at is None or subscription.status in WAITING:
        return None
    if ends_at <= as_of:
        return _closing(subscription, "period", ends_at)
    if await _owes_at_start(session, subscription):
        return _closing(subscription, "start", ends_at)
    return None


async def _bill(
    session: AsyncSession,
    actor: Actor,
    wishes: Sequence[Wish],
    book: PriceBook,
    as_of: datetime,
) -> Billed:
    """Read, decide and save for subscriptions that are locked."""
    if not wishes:
        return []
    await _refuse_undrained(session, wishes)
    moment = clock.now()
    closed = [wish for wish in wishes if wish.closing.at == wish.subscription.next_billing_at]
    scopes = [(w.subscription.organization_id, w.subscription.id, moment) for w in wishes]
    before = await queries_sets.last_ends(session, scopes)
    if closed:
        # A change of plan that waited for the period's end holds for the fee of the next one.
        ended = [(wish.subscription, wish.closing.at) for wish in closed]
        await subscriptions.renew_periods(session, actor, ended)
        await session.flush()

    cases = await read_cases(session, wishes, book, moment)
    proposals = [propose(case, moment) for case in cases]
    _refuse_too_large(proposals)

    owed = [proposal for proposal in proposals if proposal.lines]
    drafts = list(zip(await invoices.write_parts(session, owed, moment), owed, strict=True))
    await insert_all(
        session,
        "billing_periods",
        [
            _closed_row(proposal, before.get(proposal.case.wish.subscription.id), moment)
            for proposal in proposals
            if proposal.closing.kind == "period"
        ],
    )
    invoices.announce_drafts(session, actor, [row for row, _ in drafts])
    await _finalize_due(session, actor, drafts, as_of, stored=False)
    rows = {id(proposal): row for row, proposal in drafts}
    return [(one.case.wish.subscription, rows.get(id(one))) for one in proposals]


async def _finalize_due(
    session: AsyncSession,
    actor: Actor,
    drafts: Sequence[tuple[Row, Proposal]],
    as_of: datetime,
    *,
    stored: bool,
) -> None:
    """Send the drafts that are due, once there is a seller; write the others if they are not
    `stored` yet.
    """
    seller = await queries.current_seller(session)
    due = [
        (row, proposal)
        for row, proposal in drafts
        if seller and row["parked_reason"] is None and as_of >= row["finalize_at"]
    ]
    if not stored:
        sent = {row["id"] for row, _ in due}
        waiting = [row for row, _ in drafts if row["id"] not in sent]
        await insert_all(session, "invoices", waiting)
    if seller and due:
        moment = clock.now()
        await invoices.finalize_all(
            session, actor, due, seller=seller, moment=moment, stored=stored
        )


def _refuse_too_large(proposals: Sequence[Proposal]) -> None:
    """Raise CaseError for a bill whose amounts no column could hold."""
    for proposal in proposals:
        if proposal.implausible == "too_large":
            raise CaseError(proposal.case.wish.subscription.id, "too_large")


async def _refuse_undrained(session: AsyncSession, wishes: Sequence[Wish]) -> None:
    """Raise 503 while calls of an ended period may still lie in a journal."""
    ended = [wish.closing.at for wish in wishes if wish.closing.kind == "period"]
    if ended and not await usage.drained_through(session, max(ended)):
        raise Refusal("unavailable", "Usage is still being stored.", headers={"Retry-After": "1"})


async def _owes_at_start(session: AsyncSession, subscription: SubscriptionFacts) -> bool:
    """Whether the first fee is to be paid in advance and has no invoice yet."""
    if subscription.period_number:
        return False  # the bill of the period before asked for it
    terms = await catalog.plan_terms(session, subscription.plan_version_id, subscription.currency)
    if terms.timing != "advance" or not terms.base_fee_minor:
        return False
    starts_at = subscription.period_starts_at
    return not await queries.has_invoice(session, subscription.id, starts_at, "start")


def _wish(subscription: SubscriptionFacts, kind: Kind, ends_at: datetime) -> Wish:
    closing = _closing(subscription, kind, ends_at)
    return Wish(subscription=subscription, closing=closing, invoice_id=new_id())


def _change(subscription: SubscriptionFacts, as_of: datetime) -> Wish:
    """What a change owes for the rest of the running period."""
    rest = Period(as_of, subscription.next_billing_at or subscription.period_ends_at)
    closing = _closing(subscription, "change", rest.ends_at)
    closing = replace(closing, served=rest, opened_at=subscription.period_starts_at)
    return Wish(subscription=subscription, closing=closing, invoice_id=new_id())


def _closing(subscription: SubscriptionFacts, kind: Kind, ends_at: datetime) -> Closing:
    if ends_at == subscription.period_starts_at:
        # The service ended as its period began: what was asked for it in advance comes back.
        kind, ends_at = "change", subscription.period_ends_at
    return Closing(
        kind=kind,
        plan_version_id=subscription.plan_version_id,
        anchor_at=subscription.anchor_at,
        time_zone=subscription.time_zone,
        number=subscription.period_number,
        served=Period(subscription.period_starts_at, ends_at),
    )


async def _closing_again(
    session: AsyncSession, subscription: SubscriptionFacts, invoice: Invoice
) -> Closing:
    """The closing that a draft is of; its subscription may have gone on since."""
    closed = await queries.period_of_invoice(session, invoice.id)
    if closed is not None:
        return closing_of(closed)
    plan = await catalog.plan_facts(session, invoice.plan_version_id)
    anchor = plan.anchor(subscription.anchor_at, subscription.time_zone)
    kind: Kind = invoice.kind  # type: ignore[assignment]  # the table's check constraint
    number, whole = period_containing(anchor, invoice.period_starts_at)
    return Closing(
        kind=kind,
        plan_version_id=invoice.plan_version_id,
        anchor_at=anchor.at,
        time_zone=anchor.time_zone,
        number=number,
        served=Period(invoice.period_starts_at, invoice.period_ends_at),
        opened_at=whole.starts_at if kind == "change" else None,
    )


def _closed_row(proposal: Proposal, previous_ends_at: datetime | None, moment: datetime) -> Row:
    """The closed period, chained to the one before."""
    subscription, closing = proposal.case.wish.subscription, proposal.closing
    return {
        "id": new_id(),
        "organization_id": subscription.organization_id,
        "provider_organization_id": subscription.provider_organization_id,
        "subscription_id": subscription.id,
        "plan_version_id": closing.plan_version_id,
        "anchor_at": closing.anchor_at,
        "time_zone": closing.time_zone,
        "number": closing.number,
        "starts_at": closing.served.starts_at,
        "ends_at": closing.served.ends_at,
        "previous_ends_at": previous_ends_at,
        "invoice_id": proposal.case.wish.invoice_id if proposal.lines else None,
        "unused": proposal.unused,
        "created_at": moment,
    }
