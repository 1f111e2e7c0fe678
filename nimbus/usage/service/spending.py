# SPDX-License-Identifier: Apache-2.0
"""Spend standings: opened by month, counted with the calls, settled with what calls held.

What a gateway lent a call (`UsageEvent.held_micro`, on each standing that `held_on` names) is
given back in the transaction that adds what the call did cost. Amounts are in millionths of a
minor unit of the organization's currency.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.rules.metering import Held, UsageEvent, is_counted
from nimbus.rules.money import EXACT, Money
from nimbus.rules.periods import Period
from nimbus.rules.spending import MICRO
from nimbus.usage.models import SpendLease, SpendStanding, SpendState
from nimbus.usage.service.rating import Share

EVER = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
"""The window of a prepaid balance."""


@dataclass(frozen=True, slots=True)
class Standings:
    """The spend standings that calls fall into: months by organization, and ids by organization,
    key (None: its own) and beginning.
    """

    months: Mapping[UUID, list[Period]]
    ids: Mapping[tuple[UUID, UUID | None, datetime], UUID]

    def month(self, organization_id: UUID, instant: datetime) -> Period | None:
        """The month of an organization that contains the instant, if it is open."""
        mine = self.months.get(organization_id, ())
        return next((window for window in mine if instant in window), None)


async def standings_of(session: AsyncSession, events: Iterable[UsageEvent]) -> Standings:
    """The standings of these events, opened where they are missing. A system session.

    Each organization has one of the month, so has each of its keys; a balance where it is prepaid.
    """
    concerned = [event for event in events if is_counted(event) or event.held_micro]
    found = await _find(session, concerned)
    missing: dict[tuple[UUID, str], tuple[datetime, set[UUID]]] = {}
    for event in concerned:
        organization_id, at = event.organization_id, event.occurred_at
        month = found.month(organization_id, at)
        if month is None or (organization_id, event.key_id, month.starts_at) not in found.ids:
            hour = f"{at:%Y%m%d%H}"  # one opening for the many calls of a new month
            missing.setdefault((organization_id, hour), (at, set()))[1].add(event.key_id)
    for organization_id, hour in sorted(missing):
        instant, keys = missing[organization_id, hour]
        await session.execute(
            text("SELECT spend_open(:organization_id, CAST(:keys AS uuid[]), :instant)"),
            {"organization_id": organization_id, "keys": sorted(keys), "instant": instant},
        )
    return await _find(session, concerned) if missing else found


async def count(
    session: AsyncSession,
    producer: UUID,
    standings: Standings,
    shares: Iterable[Share],
    events: Iterable[UsageEvent],
) -> None:
    """Add to the standings what their calls cost, and give back what these events held."""
    spent: dict[UUID, Decimal] = {}
    for share in shares:
        owner, month = share.organization_id, share.window.starts_at
        for at in {
            (owner, None, month),
            (owner, share.key_id, month),
            (owner, None, EVER.starts_at),
        }:
            if at in standings.ids:
                standing_id = standings.ids[at]
                spent[standing_id] = EXACT.add(spent.get(standing_id, Decimal(0)), share.micro)
    held: dict[UUID, int] = {}
    for event in events:
        if event.held_micro:
            for standing_id in _held_on(standings, event):
                held[standing_id] = held.get(standing_id, 0) + event.held_micro
    rows = await _locked(session, spent.keys() | held.keys())
    leases = await _leases(session, producer, held)
    for row in rows:
        row.used = EXACT.add(row.used, spent.get(row.id, Decimal(0)))
        lease = leases.get(row.id)
        if lease is not None:
            settled = min(lease.units, held[row.id])
            lease.units -= settled
            row.leased -= settled
    await session.flush()


async def return_leases(session: AsyncSession, producer: UUID) -> None:
    """Give back what a gateway holds that is gone, its journal being stored. A system session."""
    rows = await session.scalars(select(SpendLease).where(SpendLease.producer == producer))
    leases = {lease.standing_id: lease for lease in rows}
    for standing in await _locked(session, leases):
        standing.leased -= leases[standing.id].units
        await session.delete(leases[standing.id])
    await session.flush()


async def spend_states(
    session: AsyncSession, organization_id: UUID, as_of: datetime
) -> list[SpendState]:
    """What an organization and each of its keys spent this month, and the balance it is prepaid
    by; nothing where nothing was called and nothing is limited.
    """
    rows = await session.scalars(
        select(SpendStanding)
        .where(
            SpendStanding.organization_id == organization_id,
            SpendStanding.period_starts_at <= as_of,
            SpendStanding.period_ends_at > as_of,
        )
        .order_by(SpendStanding.kind, SpendStanding.key_id)
    )
    return [
        SpendState(
            kind=row.kind,
            key_id=row.key_id,
            window=row.window(),
            used=row.used,
            leased=row.leased,
            limit=row.limit_micro,
        )
        for row in rows
    ]


async def credit_balance(session: AsyncSession, organization_id: UUID, amount: Money) -> None:
    """Add to the prepaid balance of an organization, in its currency; the first credit makes it
    prepaid: from then on its calls need a balance. A system session.
    """
    new = postgresql.insert(SpendStanding).values(
        organization_id=organization_id,
        kind="balance",
        period_starts_at=EVER.starts_at,
        period_ends_at=EVER.ends_at,
        limit_micro=amount.amount_minor * MICRO,
    )
    await session.execute(
        new.on_conflict_do_update(
            index_elements=["organization_id", "kind", "key_id", "period_starts_at"],
            set_={
                "limit_micro": SpendStanding.limit_micro + new.excluded.limit_micro,
                "updated_at": new.excluded.updated_at,
            },
        )
    )


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next month of a limit has to be opened, over all organizations."""
    return await session.scalar(select(func.min(SpendStanding.period_starts_at)).where(*_DUE))


async def due(session: AsyncSession, as_of: datetime, limit: int) -> list[tuple[UUID, datetime]]:
    """The organizations with limits whose month has begun by `as_of` and no other is open."""
    rows = await session.execute(
        select(SpendStanding.organization_id, func.min(SpendStanding.period_starts_at))
        .where(*_DUE, SpendStanding.period_starts_at <= as_of)
        .group_by(SpendStanding.organization_id)
        .order_by(func.min(SpendStanding.period_starts_at))
        .limit(limit)
    )
    return [(row[0], row[1]) for row in rows]


async def follow(session: AsyncSession, organization_id: UUID, as_of: datetime) -> None:
    """Open the month after those of an organization that have begun and are limited."""
    await session.execute(
        text("SELECT spend_follow(:organization_id, :instant)"),
        {"organization_id": organization_id, "instant": as_of},
    )


_DUE = (
    SpendStanding.limit_micro.is_not(None),
    SpendStanding.followed.is_(False),
    SpendStanding.kind != "balance",
)


async def _find(session: AsyncSession, events: Collection[UsageEvent]) -> Standings:
    if not events:
        return Standings({}, {})
    statement = select(SpendStanding).where(
        SpendStanding.organization_id.in_({event.organization_id for event in events}),
        SpendStanding.period_ends_at > min(event.occurred_at for event in events),
        SpendStanding.period_starts_at <= max(event.occurred_at for event in events),
    )
    months: dict[UUID, list[Period]] = {}
    ids = {}
    for row in await session.scalars(statement):
        ids[row.organization_id, row.key_id, row.period_starts_at] = row.id
        if row.kind == "organization_spend":
            months.setdefault(row.organization_id, []).append(row.window())
    return Standings(months, ids)


def _held_on(standings: Standings, event: UsageEvent) -> list[UUID]:
    owner = event.organization_id
    month = standings.month(owner, event.occurred_at)
    at: list[tuple[UUID, UUID | None, datetime]] = []
    if event.held_on & Held.BALANCE:
        at.append((owner, None, EVER.starts_at))
    if event.held_on & Held.ORGANIZATION_SPEND and month is not None:
        at.append((owner, None, month.starts_at))
    if event.held_on & Held.KEY_SPEND and month is not None:
        at.append((owner, event.key_id, month.starts_at))
    return [standings.ids[one] for one in at if one in standings.ids]


async def _leases(
    session: AsyncSession, producer: UUID, standing_ids: Collection[UUID]
) -> dict[UUID, SpendLease]:
    statement = select(SpendLease).where(
        SpendLease.producer == producer, SpendLease.standing_id.in_(standing_ids)
    )
    rows = await session.scalars(statement.execution_options(populate_existing=True))
    return {lease.standing_id: lease for lease in rows}


async def _locked(session: AsyncSession, ids: Collection[UUID]) -> list[SpendStanding]:
    if not ids:
        return []
    statement = select(SpendStanding).where(SpendStanding.id.in_(ids)).order_by(SpendStanding.id)
    locked = statement.with_for_update(key_share=True).execution_options(populate_existing=True)
    return list(await session.scalars(locked))
