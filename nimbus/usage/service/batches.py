# SPDX-License-Identifier: Apache-2.0
"""Storing what the journals hold: each call once, with everything that is summed up from it.

One transaction stores a range of one producer's sequences and says so in the producer's row; what
the row already has is passed over. The quota standings are written last, ordered by id, so that a
gateway that wants a lease waits for the end of the transaction only.
"""

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from functools import reduce
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.rules.blocks import Block
from nimbus.rules.metering import (
    NIL,
    UsageEvent,
    aggregate,
)
from nimbus.rules.money import EXACT
from nimbus.rules.reports import Reported
from nimbus.rules.tallies import Tally, within
from nimbus.usage.models import Mark, Producer, QuotaLease, QuotaStanding
from nimbus.usage.service import gauges, spending
from nimbus.usage.service.allowances import additive, tell, used_in
from nimbus.usage.service.lots import Lot, Ready, append_cells, new_lot, write
from nimbus.usage.service.quotas import while_storing
from nimbus.usage.service.rating import rate


class JournalHoleError(Exception):
    """A batch does not begin where the stored part of its journal ends."""


async def store_batch(
    session: AsyncSession,
    producer: UUID,
    first: int,
    last: int,
    events: Sequence[UsageEvent],
    *,
    block: Block | None = None,
    ready: Ready | None = None,
    waiting: Collection[int] = (),
    corrupt: Collection[int] = (),
) -> Mark:
    """Store the slots `first` to `last` of a producer's journal; answers how far it now is.

    `events` are completed slots, served and refused; those of `block` are too, and in no event;
    `ready` is what `make_ready` says of the block, where that is known already.
    `waiting` are slots that a living gateway still serves: they are stored when they come again.
    `corrupt` are slots that can't be read. All others of the range were reserved and never served.
    Sequences that are stored already change nothing, so any batch may come again, in any cut.
    Needs a system session. Raises `JournalHoleError` when slots before `first` are neither stored
    nor waiting, and ValueError for an event of another producer or range.
    """
    row = await _lock(session, producer)
    mark = row.mark()
    lot = new_lot(mark, producer, range(first, last + 1), events, block, ready=ready)
    if first > mark.watermark + 1:
        raise JournalHoleError(f"{producer}: {mark.watermark} stored, and {first} follows")
    known = {sequence for sequence in mark.waiting if first <= sequence <= last}
    fresh = max(0, last - max(mark.watermark, first - 1)) + len(known)
    if not fresh:
        return mark
    if mark.ended:
        raise JournalHoleError(f"{producer}: ended at {mark.watermark}, and {last} follows")
    open_now = {s for s in waiting if first <= s <= last and not mark.has(s)}
    unread = {s for s in corrupt if first <= s <= last and not mark.has(s)}
    still = {sequence for sequence in open_now if not lot.has(sequence)}
    lost = {sequence for sequence in unread - still if not lot.has(sequence)}
    row.watermark = max(mark.watermark, last)
    row.waiting = sorted(mark.waiting - known | still)
    row.served += lot.served
    row.refused += lot.refused
    row.corrupt += len(lost)
    row.closed += fresh - lot.served - lot.refused - len(still) - len(lost)
    row.updated_at = clock.machine_now()
    await session.flush()
    await _record(session, producer, lot)
    return row.mark()


async def record(session: AsyncSession, events: Sequence[Reported]) -> None:
    """Store events from outside that are not stored yet, with everything that is summed up from
    them: what they cost, roll-ups, quota and spend standings.

    Each comes here once: the caller has seen to that in this transaction, by keys of its own.
    Needs a system session.
    """
    await _record(session, NIL, Lot(reported=events))


async def _record(session: AsyncSession, producer: UUID, lot: Lot) -> None:
    tallies = lot.tallies()
    months = await spending.standings_of(session, tallies)
    await while_storing(session)
    await gauges.keep(session, tallies)
    shares = await rate(session, tallies, months.months)
    await write(session, producer, lot)
    await append_cells(session, tallies)
    await _count(session, producer, tallies)
    await spending.count(session, producer, months, shares, tallies)


async def end_producer(session: AsyncSession, producer: UUID) -> None:
    """Say that a gateway is dead and its journal wholly stored: its leases come back, once.

    Needs a system session. Raises `JournalHoleError` while calls of it are waiting.
    """
    row = await _lock(session, producer, for_good=True)
    if row.ended_at is not None:
        return
    if row.waiting:
        raise JournalHoleError(f"{producer}: {len(row.waiting)} calls are not stored")
    held = select(QuotaLease).where(QuotaLease.producer == producer)
    leases = {lease.standing_id: lease.units for lease in await session.scalars(held)}
    for standing in await _locked_standings(session, QuotaStanding.id.in_(leases)):
        standing.leased -= leases[standing.id]
    await session.execute(delete(QuotaLease).where(QuotaLease.producer == producer))
    await spending.return_leases(session, producer)
    row.ended_at = row.updated_at = clock.machine_now()
    await session.flush()


async def _lock(session: AsyncSession, producer: UUID, *, for_good: bool = False) -> Producer:
    """The producer's row, made if it is new. A lease may run beside a batch, not beside the end."""
    await session.execute(
        postgresql.insert(Producer)
        .values(producer=producer, updated_at=clock.machine_now())
        .on_conflict_do_nothing()
    )
    statement = select(Producer).where(Producer.producer == producer)
    locked = statement.with_for_update(key_share=not for_good)
    return (await session.scalars(locked.execution_options(populate_existing=True))).one()


async def _count(session: AsyncSession, producer: UUID, tallies: Iterable[Tally]) -> None:
    """Add to the standings what their windows got, and settle what was borrowed for it."""
    by_subscription: dict[UUID, list[Tally]] = {}
    for one in tallies:
        if one.counted or one.leased or one.holds:
            by_subscription.setdefault(one.kind.subscription_id, []).append(one)
    if not by_subscription:
        return
    earliest = min(one.first_at for some in by_subscription.values() for one in some)
    standings = await _locked_standings(
        session,
        QuotaStanding.subscription_id.in_(by_subscription),
        QuotaStanding.period_ends_at > earliest,
        QuotaStanding.closed_at.is_(None),
    )
    leases = await _leases(session, producer, [standing.id for standing in standings])
    touched = {
        (subscription_id, key)
        for subscription_id, some in by_subscription.items()
        for one in some
        for key in one.cells
    }
    for standing in standings:
        inside = within(by_subscription[standing.subscription_id], standing.window())
        if (standing.subscription_id, standing.meter_key) not in touched and not (
            inside and standing.id in leases
        ):
            continue
        if not inside and standing.aggregation != "time_weighted":
            continue  # a level is carried into the windows after its own
        if additive(standing):
            counted = [one for one in inside if one.counted]
            standing.used = EXACT.add(standing.used, _sum(standing, counted))
        else:
            standing.used = await used_in(session, standing)
        tell(session, standing)
        if standing.id in leases:
            lease = leases[standing.id]
            settled = min(lease.units, sum(one.held_units(standing.meter_key) for one in inside))
            lease.units -= settled
            standing.leased -= settled
    await session.flush()


async def _leases(
    session: AsyncSession, producer: UUID, standing_ids: Collection[UUID]
) -> dict[UUID, QuotaLease]:
    """What a gateway has borrowed on these standings; what is reported borrows nothing."""
    if producer == NIL:
        return {}
    held = select(QuotaLease).where(
        QuotaLease.producer == producer,
        QuotaLease.standing_id.in_(standing_ids),
        QuotaLease.units > 0,
    )
    return {lease.standing_id: lease for lease in await session.scalars(held)}


async def _locked_standings(session: AsyncSession, *conditions: Any) -> list[QuotaStanding]:
    statement = select(QuotaStanding).where(*conditions).order_by(QuotaStanding.id)
    locked = statement.with_for_update(key_share=True).execution_options(populate_existing=True)
    return list(await session.scalars(locked))


def _sum(standing: QuotaStanding, tallies: Iterable[Tally]) -> Decimal:
    """What these calls add to an additive standing: their quantities, or how many they are."""
    cells = [one.cells[standing.meter_key] for one in tallies if standing.meter_key in one.cells]
    amounts = [aggregate(standing.meter_key, standing.aggregation, cell) for cell in cells]
    return reduce(EXACT.add, amounts, Decimal(0))
