# SPDX-License-Identifier: Apache-2.0
"""Storing what the journals hold: each call once, with everything that is summed up from it.

One transaction stores a range of one producer's sequences and says so in the producer's row; what
the row already has is passed over. The quota standings are written last, ordered by id, so that a
gateway that wants a lease waits for the end of the transaction only.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import delete, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.rules import latency
from nimbus.rules.metering import (
    CALLS,
    NIL,
    Cell,
    CellKey,
    UsageEvent,
    event_id,
    is_counted,
    quantities,
    roll_up,
)
from nimbus.rules.money import EXACT
from nimbus.usage.models import Mark, Producer, QuotaLease, QuotaStanding
from nimbus.usage.service import spending
from nimbus.usage.service.allowances import additive, tell, used_in
from nimbus.usage.service.quotas import while_storing
from nimbus.usage.service.rating import rate

CALL_COLUMNS = (
    "event_id", "occurred_at", "organization_id", "provider_organization_id", "subscription_id",
    "product_id", "key_id", "route_id", "environment", "method", "status", "duration_us",
    "bytes_in", "bytes_out", "ip", "request_id", "producer", "sequence",
)  # fmt: skip
SERVED_COLUMNS = (
    *CALL_COLUMNS,
    "upstream_us",
    "billable",
    "units",
    "leased",
    "continued",
    "meters",
)
REFUSED_COLUMNS = (*CALL_COLUMNS, "code")


class JournalHoleError(Exception):
    """A batch does not begin where the stored part of its journal ends."""


async def store_batch(
    session: AsyncSession,
    producer: UUID,
    first: int,
    last: int,
    events: Sequence[UsageEvent],
    *,
    waiting: Collection[int] = (),
    corrupt: Collection[int] = (),
) -> Mark:
    """Store the slots `first` to `last` of a producer's journal; answers how far it now is.

    `events` are the completed slots, served and refused. `waiting` are slots that a living
    gateway still serves: they are stored when they come again. `corrupt` are slots that can't be
    read. All others of the range were reserved and never served. Sequences that are stored
    already change nothing, so any batch may come again, in any cut. Needs a system session.
    Raises `JournalHoleError` when slots before `first` are neither stored nor waiting, and
    ValueError for an event of another producer or range.
    """
    row = await _lock(session, producer)
    mark = row.mark()
    numbered = _numbered(producer, first, last, events)
    fresh = [sequence for sequence in range(first, last + 1) if not mark.has(sequence)]
    if first > mark.watermark + 1:
        raise JournalHoleError(f"{producer}: {mark.watermark} stored, and {first} follows")
    if not fresh:
        return mark
    if mark.ended:
        raise JournalHoleError(f"{producer}: ended at {mark.watermark}, and {last} follows")
    new = {sequence: numbered[sequence] for sequence in fresh if sequence in numbered}
    still = {sequence for sequence in fresh if sequence in set(waiting)} - new.keys()
    lost = {sequence for sequence in fresh if sequence in set(corrupt)} - new.keys() - still
    served = {sequence: event for sequence, event in new.items() if not event.refusal}
    row.watermark = max(mark.watermark, last)
    row.waiting = sorted(mark.waiting - set(fresh) | still)
    row.served += len(served)
    row.refused += len(new) - len(served)
    row.corrupt += len(lost)
    row.closed += len(fresh) - len(new) - len(still) - len(lost)
    row.updated_at = clock.machine_now()
    await session.flush()
    await _write_calls(session, producer, [one for one in new.items() if one[1].refusal])
    await record(session, list(served.values()), producer=producer, sequences=list(served))
    return row.mark()


async def record(
    session: AsyncSession,
    events: Sequence[UsageEvent],
    *,
    producer: UUID = NIL,
    sequences: Sequence[int] | None = None,
) -> None:
    """Store served events that are not stored yet, with everything that is summed up from them:
    what they cost, roll-ups, quota and spend standings.

    Each comes here once: the caller has seen to that in this transaction, by the watermark of their
    `producer` (NIL: they are of no gateway) or by keys of its own. Needs a system session.
    """
    months = await spending.standings_of(session, events)
    await while_storing(session)
    shares = await rate(session, events, months.months)
    numbers = sequences if sequences is not None else [0] * len(events)
    await _write_calls(session, producer, list(zip(numbers, events, strict=True)))
    await _append_cells(session, roll_up(events))
    await _count(session, producer, events)
    await spending.count(session, producer, months, shares, events)


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


def _numbered(
    producer: UUID, first: int, last: int, events: Iterable[UsageEvent]
) -> dict[int, UsageEvent]:
    by_id = {event.event_id: event for event in events}
    numbered = {}
    for sequence in range(first, last + 1):
        event = by_id.pop(event_id(producer, sequence), None) if by_id else None
        if event is not None:
            numbered[sequence] = event
    if by_id:
        raise ValueError("an event is not of this producer and range")
    return numbered


async def _write_calls(
    session: AsyncSession, producer: UUID, new: Sequence[tuple[int, UsageEvent]]
) -> None:
    for month in {(event.occurred_at.year, event.occurred_at.month) for _, event in new}:
        instant = datetime(*month, 1, tzinfo=UTC)
        await session.execute(text("SELECT usage_partition(:instant)"), {"instant": instant})
    served: list[tuple[Any, ...]] = []
    refused: list[tuple[Any, ...]] = []
    for sequence, event in new:
        if event.refusal:
            refused.append((*_call(producer, sequence, event, unknown=None), event.refusal))
        else:
            served.append((*_call(producer, sequence, event, unknown=NIL), *_measures(event)))
    await _copy(session, "usage_events", SERVED_COLUMNS, served)
    await _copy(session, "refused_calls", REFUSED_COLUMNS, refused)


def _call(
    producer: UUID, sequence: int, event: UsageEvent, *, unknown: UUID | None
) -> tuple[Any, ...]:
    def known(value: UUID) -> UUID | None:
        return unknown if value == NIL else value

    return (
        event.event_id,
        event.occurred_at,
        event.organization_id,
        event.provider_organization_id,
        known(event.subscription_id),
        known(event.product_id),
        known(event.key_id),
        known(event.route_id),
        event.environment,
        event.method,
        event.status,
        event.duration_us,
        event.bytes_in,
        event.bytes_out,
        event.ip,
        event.request_id,
        producer,
        sequence,
    )


def _measures(event: UsageEvent) -> tuple[Any, ...]:
    counted = is_counted(event)
    return (
        event.upstream_us,
        counted,
        event.units if counted else 0,
        event.leased,
        event.continued,
        Jsonb({key: format(value, "f") for key, value in event.meters}),
    )


async def _copy(
    session: AsyncSession, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    if not rows:
        return
    raw = await (await session.connection()).get_raw_connection()
    driver: Any = raw.driver_connection
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    async with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            await copy.write_row(row)


_APPEND_CELLS = text(
    """
    INSERT INTO usage_deltas (
        organization_id, provider_organization_id, subscription_id, product_id, key_id, route_id,
        status_class, environment, hour, meter_key, events, quantity_sum, quantity_max,
        quantity_last, last_at, last_event_id, duration_us, bytes_in, bytes_out, latency)
    SELECT organization_id, provider_organization_id, subscription_id, product_id, key_id,
        route_id, status_class, environment, hour, meter_key, events, total, peak, last, last_at,
        last_event_id, duration_us, bytes_in, bytes_out, CAST(latency AS bigint[])
    FROM unnest(
        CAST(:organization_id AS uuid[]), CAST(:provider_organization_id AS uuid[]),
        CAST(:subscription_id AS uuid[]), CAST(:product_id AS uuid[]), CAST(:key_id AS uuid[]),
        CAST(:route_id AS uuid[]), CAST(:status_class AS smallint[]),
        CAST(:environment AS text[]), CAST(:hour AS timestamptz[]), CAST(:meter_key AS text[]),
        CAST(:events AS bigint[]), CAST(:total AS numeric[]), CAST(:peak AS numeric[]),
        CAST(:last AS numeric[]), CAST(:last_at AS timestamptz[]),
        CAST(:last_event_id AS uuid[]), CAST(:duration_us AS bigint[]),
        CAST(:bytes_in AS bigint[]), CAST(:bytes_out AS bigint[]), CAST(:latency AS text[])
    ) AS cells (organization_id, provider_organization_id, subscription_id, product_id, key_id,
        route_id, status_class, environment, hour, meter_key, events, total, peak, last, last_at,
        last_event_id, duration_us, bytes_in, bytes_out, latency)
    """
)
_CELL_FIELDS = (
    "events", "total", "peak", "last", "last_at", "last_event_id", "duration_us", "bytes_in",
    "bytes_out",
)  # fmt: skip


async def _append_cells(session: AsyncSession, cells: Mapping[CellKey, Cell]) -> None:
    """Append to the roll-up what these cells add."""
    if not cells:
        return
    values: dict[str, list[Any]] = {
        name: [getattr(key, name) for key in cells] for name in CellKey._fields
    }
    values |= {name: [getattr(cell, name) for cell in cells.values()] for name in _CELL_FIELDS}
    values["latency"] = [
        "{" + ",".join(map(str, latency.pack(cell.latency))) + "}" for cell in cells.values()
    ]
    await session.execute(_APPEND_CELLS, values)


async def _count(session: AsyncSession, producer: UUID, served: Iterable[UsageEvent]) -> None:
    """Add to the standings what their windows got, and settle what was borrowed for it."""
    by_subscription: dict[UUID, list[UsageEvent]] = {}
    for event in served:
        if is_counted(event) or event.leased or event.holds:
            by_subscription.setdefault(event.subscription_id, []).append(event)
    if not by_subscription:
        return
    earliest = min(event.occurred_at for events in by_subscription.values() for event in events)
    standings = await _locked_standings(
        session,
        QuotaStanding.subscription_id.in_(by_subscription),
        QuotaStanding.period_ends_at > earliest,
        QuotaStanding.closed_at.is_(None),
    )
    held = await session.scalars(
        select(QuotaLease).where(
            QuotaLease.producer == producer,
            QuotaLease.standing_id.in_([standing.id for standing in standings]),
            QuotaLease.units > 0,
        )
    )
    leases = {lease.standing_id: lease for lease in held}
    for standing in standings:
        window = standing.window()
        inside = [e for e in by_subscription[standing.subscription_id] if e.occurred_at in window]
        if not inside:
            continue
        if additive(standing):
            standing.used = EXACT.add(standing.used, _sum(standing.meter_key, inside))
        else:
            standing.used = await used_in(session, standing)
        tell(session, standing)
        if standing.id in leases:
            lease = leases[standing.id]
            settled = min(lease.units, sum(_held(standing.meter_key, event) for event in inside))
            lease.units -= settled
            standing.leased -= settled
    await session.flush()


async def _locked_standings(session: AsyncSession, *conditions: Any) -> list[QuotaStanding]:
    statement = select(QuotaStanding).where(*conditions).order_by(QuotaStanding.id)
    locked = statement.with_for_update(key_share=True).execution_options(populate_existing=True)
    return list(await session.scalars(locked))


def _held(meter_key: str, event: UsageEvent) -> int:
    """The units of a meter that the event's gateway took from its leases."""
    if meter_key == CALLS:
        return event.leased
    return sum(units for key, units in event.holds if key == meter_key)


def _sum(meter_key: str, events: Iterable[UsageEvent]) -> Decimal:
    total = Decimal(0)
    for event in events:
        for key, quantity in quantities(event):
            if key == meter_key:
                total = EXACT.add(total, quantity)
    return total
