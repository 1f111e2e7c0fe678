# SPDX-License-Identifier: Apache-2.0
"""What was known of a contract when an invoice was computed: its terms, and its end.

A contract goes on after it was billed. Facts are ordered by their ids, which rise with the
machine's time: what has a smaller id than the trail of an invoice was known to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.billing.models import Invoice
from nimbus.billing.service.prices import PriceBook
from nimbus.rules.contracts import Segment
from nimbus.subscriptions import SubscriptionFacts


@dataclass(frozen=True, slots=True)
class Agreed:
    """A row of a contract's terms: `sold` (version, how many times), the plan first, from an
    instant on; not `served` while paused.
    """

    made: UUID
    effective_at: datetime
    served: bool
    sold: tuple[tuple[UUID, int], ...]


async def agreements(session: AsyncSession, subscription_id: UUID) -> list[Agreed]:
    """All terms that were ever agreed, in their order; a system session."""
    rows = await session.execute(
        text(
            "SELECT t.id, t.effective_at, t.served, ARRAY[t.plan_version_id] || ARRAY(SELECT"
            " a.plan_version_id FROM contract_add_ons a WHERE a.terms_id = t.id"
            " ORDER BY a.plan_id) AS versions, ARRAY[1] || ARRAY(SELECT a.quantity"
            " FROM contract_add_ons a WHERE a.terms_id = t.id ORDER BY a.plan_id) AS quantities"
            " FROM contract_terms t WHERE t.subscription_id = :id ORDER BY t.number"
        ),
        {"id": subscription_id},
    )
    return [
        Agreed(
            row.id,
            row.effective_at,
            row.served,
            tuple(zip(row.versions, row.quantities, strict=True)),
        )
        for row in rows
    ]


async def ends(
    session: AsyncSession, subscription: SubscriptionFacts
) -> list[tuple[UUID, datetime | None]]:
    """(made, end) of each time that somebody said when the subscription ends, or that it does not;
    its row says only what is so now.
    """
    rows = await session.execute(
        text(
            "SELECT id, payload->>'ends_at' AS ends_at FROM outbox"
            " WHERE organization_id = :organization_id AND entity_id = :id"
            " AND jsonb_exists(payload, 'ends_at') ORDER BY id"
        ),
        {"organization_id": subscription.organization_id, "id": subscription.id},
    )
    return [(row.id, row.ends_at and clock.from_wire(row.ends_at)) for row in rows]


async def computed(session: AsyncSession, invoice: Invoice) -> UUID:
    """What an invoice could know was made before this."""
    made: UUID | None = await session.scalar(
        text(
            "SELECT id FROM outbox WHERE organization_id = :organization_id AND entity_id = :id"
            " AND name IN ('invoice.drafted', 'invoice.finalized') ORDER BY id DESC LIMIT 1"
        ),
        {"organization_id": invoice.organization_id, "id": invoice.id},
    )
    return invoice.id if made is None else made


async def segments_then(
    session: AsyncSession, subscription: SubscriptionFacts, made: UUID, book: PriceBook
) -> tuple[Segment, ...]:
    """The law's segments of the contract as it was known."""
    known = [row for row in await agreements(session, subscription.id) if row.made <= made]
    currency = subscription.currency
    await book.read(session, {(version, currency) for row in known for version, _ in row.sold})
    until: Sequence[datetime | None] = [*(row.effective_at for row in known[1:]), None]
    found = []
    for row, ends_at in zip(known, until, strict=True):
        plan, *add_ons = (
            replace(book.prices[version, currency].terms, quantity=quantity)
            for version, quantity in row.sold
        )
        if row.served and row.effective_at != ends_at:
            found.append(Segment(row.effective_at, ends_at, plan, tuple(add_ons)))
    return tuple(found)


async def end_then(
    session: AsyncSession, subscription: SubscriptionFacts, made: UUID
) -> datetime | None:
    """When the subscription was to end, as it was known."""
    told = [end for at, end in await ends(session, subscription) if at <= made]
    return told[-1] if told else None
