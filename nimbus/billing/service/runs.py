# SPDX-License-Identifier: Apache-2.0
"""The bill run, one subscription at a time: close what has ended, once, whoever tries at once.

The order of locks is the same everywhere: subscription, invoice, number series, ledger chain.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions, usage
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.ids import new_id
from nimbus.billing import queries
from nimbus.billing.models import BillingPeriod, Invoice
from nimbus.billing.service import invoices
from nimbus.billing.service.proposals import Closing, Kind, Proposal, closing_of, propose_invoice
from nimbus.errors import Refusal, field_error
from nimbus.rules import lifecycles
from nimbus.rules.periods import Period, period_containing
from nimbus.subscriptions import SubscriptionFacts

WAITING = frozenset({"Suspended", "Paused"})
"""Stored states in which an ended period waits to be billed."""


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
    await _refuse_undrained(session, closing)

    invoice_id, moment = new_id(), clock.now()
    proposal = await propose_invoice(session, subscription, closing, invoice_id, moment)

    invoice = None
    if proposal.lines:
        invoice = invoices.new_draft(invoice_id, subscription, proposal, moment)
        await invoices.write_draft(session, invoice, proposal, moment)
    if closing.kind == "period":
        await _close(session, actor, subscription, closing, invoice)
    if invoice is not None:
        invoices.announce_draft(session, actor, invoice)
        await _finalize_if_due(session, actor, invoice, proposal, as_of)
    return invoice


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
    proposal = await propose_invoice(session, subscription, closing, invoice.id, moment)

    await invoices.write_draft(session, invoice, proposal, moment)
    if not proposal.lines:
        invoice.status = lifecycles.invoice("Draft", "discard")
        return invoice
    if looked_at:
        invoices.refuse_unsendable(invoice)
        invoice.parked_reason = None
        as_of = max(as_of, invoice.finalize_at)
    await _finalize_if_due(session, actor, invoice, proposal, as_of)
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
    session: AsyncSession, subscription: SubscriptionFacts, as_of: datetime
) -> Proposal | None:
    """What `bill` would make of a subscription at `as_of`, saving nothing; None for nothing."""
    closing = await due_closing(session, subscription, as_of)
    if closing is None:
        return None
    return await propose_invoice(session, subscription, closing, new_id(), as_of)


async def upcoming(
    session: AsyncSession, subscription: SubscriptionFacts, as_of: datetime
) -> Proposal:
    """What the running period would cost with its usage up to `as_of`; saves nothing."""
    ends_at = subscription.next_billing_at or subscription.period_ends_at
    running = _closing(subscription, "period", ends_at)
    return await propose_invoice(session, subscription, running, new_id(), as_of)


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


async def _owes_at_start(session: AsyncSession, subscription: SubscriptionFacts) -> bool:
    """Whether the first fee is to be paid in advance and has no invoice yet."""
    terms = await catalog.plan_terms(session, subscription.plan_version_id, subscription.currency)
    if terms.timing != "advance" or not terms.base_fee_minor:
        return False
    starts_at = subscription.period_starts_at
    return not await queries.has_invoice(session, subscription.id, starts_at, "start")


def _closing(subscription: SubscriptionFacts, kind: Kind, ends_at: datetime) -> Closing:
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
    return Closing(
        kind="start",
        plan_version_id=invoice.plan_version_id,
        anchor_at=anchor.at,
        time_zone=anchor.time_zone,
        number=period_containing(anchor, invoice.period_starts_at)[0],
        served=Period(invoice.period_starts_at, invoice.period_ends_at),
    )


async def _refuse_undrained(session: AsyncSession, closing: Closing) -> None:
    """Raise 503 while calls of an ended period may still lie in a journal."""
    if closing.kind == "period" and not await usage.drained_through(session, closing.at):
        raise Refusal("unavailable", "Usage is still being stored.", headers={"Retry-After": "1"})


async def _close(
    session: AsyncSession,
    actor: Actor,
    subscription: SubscriptionFacts,
    closing: Closing,
    invoice: Invoice | None,
) -> None:
    """Write down that the period is billed, chained to the one before, and begin the next."""
    last = await queries.last_closed_period(session, subscription.id)
    session.add(
        BillingPeriod(
            id=new_id(),
            organization_id=subscription.organization_id,
            provider_organization_id=subscription.provider_organization_id,
            subscription_id=subscription.id,
            plan_version_id=closing.plan_version_id,
            anchor_at=closing.anchor_at,
            time_zone=closing.time_zone,
            number=closing.number,
            starts_at=closing.served.starts_at,
            ends_at=closing.served.ends_at,
            previous_ends_at=last and last.ends_at,
            invoice_id=invoice and invoice.id,
            created_at=clock.now(),
        )
    )
    await session.flush()
    await subscriptions.renew_period(session, actor, subscription.id, closing.at)


async def _finalize_if_due(
    session: AsyncSession, actor: Actor, invoice: Invoice, proposal: Proposal, as_of: datetime
) -> None:
    seller = await queries.current_seller(session)
    if seller is None or invoice.parked_reason is not None or as_of < invoice.finalize_at:
        return
    await invoices.finalize(session, actor, invoice, proposal, seller=seller, moment=clock.now())
