# SPDX-License-Identifier: Apache-2.0
"""Changing a subscription: what it would cost, and doing it for exactly that.

A preview is the change itself, made, billed and undone (spec 09, I-17): it can't say anything else
than what the change does. Doing it by its preview happens at the preview's instant, so that every
line comes out the same; where one does not, nothing is done.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import billing, catalog, subscriptions
from nimbus.base import clock
from nimbus.base.actors import SYSTEM, Actor
from nimbus.base.events import rehearsal
from nimbus.base.ids import new_id
from nimbus.billing import Proposal
from nimbus.errors import Refusal
from nimbus.payments import queries
from nimbus.payments.models import ChangePreview
from nimbus.rules.money import Money
from nimbus.subscriptions import Subscription, SubscriptionFacts

VALID = timedelta(minutes=15)
Kind = Literal[
    "upgrade", "downgrade", "cancel", "reactivate", "pause", "resume", "take_add_on", "leave_add_on"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to become of a subscription; what a kind does not need is None.

    `plan` and `add_on` are slugs, `add_on_id` is that of an add-on it has.
    """

    kind: Kind
    plan: str | None = None
    add_on: str | None = None
    add_on_id: UUID | None = None
    quantity: int | None = None
    at_once: bool | None = None
    reason: str | None = None

    def facts(self) -> dict[str, Any]:
        """As a preview keeps it."""
        return {
            name: str(value) if isinstance(value, UUID) else value
            for name, value in asdict(self).items()
            if value is not None
        }


async def preview(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    change: Change,
    *,
    version: int,
    as_of: datetime,
) -> ChangePreview:
    """What a change would cost now and on the next invoice, and what would hold when.

    A system session. It can be done by for 15 minutes. Raises what the change itself raises.
    """
    async with rehearsal(session):
        changed = await _make(session, actor, subscription_id, change, version=version, as_of=as_of)
        facts = changed.facts()
        costs = await _costs(session, changed, as_of)
    kept = ChangePreview(
        id=new_id(),
        organization_id=facts.organization_id,
        provider_organization_id=facts.provider_organization_id,
        subscription_id=facts.id,
        subscription_version=version,
        change=change.facts(),
        costs=costs,
        effective_at=as_of,
        expires_at=as_of + VALID,
        created_at=clock.now(),
    )
    session.add(kept)
    await session.flush()
    return kept


async def carry_out(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    change: Change,
    *,
    version: int | None,
    preview_id: UUID | None,
    as_of: datetime,
) -> Subscription:
    """Change a subscription, and bill at once what that owes now; a system session.

    With a preview for exactly what it says: 409 when it has expired, was used, is of another
    change or would come out otherwise. Raises 404 for another's subscription or preview, 409 for a
    stale version, 422 on the field for what can't be done.
    """
    said = None
    if preview_id is not None:
        facts = await subscriptions.lock_subscription(session, subscription_id)
        if facts.organization_id != actor.organization_id:
            raise Refusal("not_found")
        said = await _taken(session, facts, preview_id, change, version=version, as_of=as_of)
        as_of = said.effective_at
    changed = await _make(session, actor, subscription_id, change, version=version, as_of=as_of)
    await session.flush()
    billed = await billing.bill_change(session, actor, subscription_id, as_of)
    if said is not None and shown(billed) != said.costs["now"]:
        raise Refusal("stale_version", "It costs something else by now: look at it again.")
    return changed


async def _taken(
    session: AsyncSession,
    facts: SubscriptionFacts,
    preview_id: UUID,
    change: Change,
    *,
    version: int | None,
    as_of: datetime,
) -> ChangePreview:
    """A preview of the subscription, used from now on."""
    kept = await queries.lock_preview(session, facts.id, preview_id)
    if (kept.subscription_version, kept.change) != (version, change.facts()):
        raise Refusal("stale_version", "The preview is of another change.")
    if kept.used_at is not None or as_of >= kept.expires_at:
        raise Refusal("stale_version", "The preview is over: look at it again.")
    if as_of >= facts.period_ends_at > kept.effective_at:
        raise Refusal("stale_version", "A new period has begun: look at it again.")
    kept.used_at = as_of
    return kept


async def _make(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    change: Change,
    *,
    version: int | None,
    as_of: datetime,
) -> Subscription:
    """Do what is asked, without billing it; a fee that is owed once becomes an item."""
    asked: dict[str, Any] = {"version": version, "as_of": as_of}
    match change.kind:
        case "upgrade" | "downgrade":
            return await subscriptions.change_plan(
                session,
                actor,
                subscription_id,
                change.plan or "",
                direction=change.kind,
                at_once=change.kind == "upgrade" or bool(change.at_once),
                **asked,
            )
        case "cancel":
            return await subscriptions.cancel(
                session,
                actor,
                subscription_id,
                reason=change.reason or "",
                at_once=bool(change.at_once),
                **asked,
            )
        case "reactivate":
            return await subscriptions.reactivate(session, actor, subscription_id, **asked)
        case "pause":
            return await subscriptions.pause(session, actor, subscription_id, **asked)
        case "resume":
            return await subscriptions.resume(session, actor, subscription_id, **asked)
        case "take_add_on":
            return await _take_add_on(session, actor, subscription_id, change, asked)
        case "leave_add_on":
            assert change.add_on_id is not None, "which one is left"
            return await subscriptions.leave_add_on(
                session, actor, subscription_id, change.add_on_id, **asked
            )


async def _take_add_on(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    change: Change,
    asked: dict[str, Any],
) -> Subscription:
    changed, more = await subscriptions.take_add_on(
        session,
        actor,
        subscription_id,
        change.add_on or "",
        quantity=change.quantity or 1,
        **asked,
    )
    if more is None:
        return changed
    item = await catalog.plan_facts(session, more.plan_version_id)
    if item.fee_once:
        fee, _ = await catalog.shown_price(session, more.plan_version_id, changed.currency)
        if fee:
            amount = Money(fee * more.quantity, changed.currency)
            moment = asked["as_of"]
            await session.flush()
            await billing.add_item(session, actor, changed.id, item.name, amount, as_of=moment)
    return changed


async def _costs(session: AsyncSession, changed: Subscription, as_of: datetime) -> dict[str, Any]:
    """Bill the change, and see what is left for the next invoice."""
    await session.flush()
    facts = changed.facts()
    now = await billing.bill_change(session, SYSTEM, facts.id, as_of)
    coming: Sequence[Proposal] = []
    if facts.next_billing_at is not None:
        coming = await billing.upcoming(session, [facts], as_of)
    return {
        "now": shown(now),
        "next": shown(coming[0] if coming else None),
        "next_at": facts.next_billing_at and clock.to_wire(facts.next_billing_at),
        "status": changed.status_at(as_of),
        "ends_at": facts.ends_at and clock.to_wire(facts.ends_at),
        "scheduled_at": changed.scheduled_change and clock.to_wire(facts.period_ends_at),
    }


def shown(proposal: Proposal | None) -> dict[str, Any] | None:
    """A proposal as a preview keeps it: lines, VAT, totals; None for nothing."""
    if proposal is None:
        return None
    totals = proposal.totals
    return {
        "currency": proposal.currency,
        "lines": [
            {
                "description": description,
                "quantity": _text(line.quantity),
                "unit_price": None if line.unit_price is None else _text(line.unit_price),
                "amount_minor": line.amount_minor,
                "starts_at": clock.to_wire(line.period.starts_at),
                "ends_at": clock.to_wire(line.period.ends_at),
            }
            for line, description in zip(proposal.lines, proposal.descriptions, strict=True)
        ],
        "subtotal_minor": totals.subtotal_minor,
        "tax_minor": totals.tax_minor,
        "total_minor": totals.total_minor,
    }


def _text(number: Decimal) -> str:
    return format(number.normalize(), "f")
