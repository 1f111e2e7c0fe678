# SPDX-License-Identifier: Apache-2.0
"""Lots: the calls that one transaction stores, one by one or in arrays, and their rows.

A gateway's journal comes in blocks, read by arrays; what arrays can't hold and what completed late
comes as single events. Both make the same tallies and the same rows. Events that were reported from
outside are no calls, and stand beside them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any
from uuid import UUID

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.rules.blocks import SLOT, Block, Calls, calls_of, tally_calls
from nimbus.rules.metering import NIL, UsageEvent, event_id, is_counted
from nimbus.rules.reports import Reported, tally_reported
from nimbus.rules.tallies import Tally, tally
from nimbus.usage.models import Mark
from nimbus.usage.service.reported import reported_rows
from nimbus.usage.service.rows import cell_rows, refused_rows, served_rows

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
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


NO_CALLS = Calls(NIL, np.empty(0, SLOT))


@dataclass(frozen=True, slots=True)
class Lot:
    """What is stored together: calls by their sequences, calls in arrays, and reported events."""

    events: Sequence[tuple[int, UsageEvent]] = ()
    served_calls: Calls = NO_CALLS
    refused_calls: Calls = NO_CALLS
    reported: Sequence[Reported] = ()

    def has(self, sequence: int) -> bool:
        """Whether the call of this slot is in the lot."""
        return any(sequence == known for known, _ in self.events) or any(
            sequence in calls.slots["sequence"] for calls in (self.served_calls, self.refused_calls)
        )

    @property
    def served(self) -> int:
        """How many calls were served."""
        return sum(not event.refusal for _, event in self.events) + len(self.served_calls)

    @property
    def refused(self) -> int:
        """How many calls were refused."""
        return sum(bool(event.refusal) for _, event in self.events) + len(self.refused_calls)

    def tallies(self) -> list[Tally]:
        """What the served calls and the reported events count for."""
        own = tally(event for _, event in self.events if not event.refusal)
        return own + tally_calls(self.served_calls) + tally_reported(self.reported)

    def months(self) -> list[datetime]:
        """The beginnings of the months, in UTC, in which the calls were made."""
        instants = [event.occurred_at for _, event in self.events]
        own = {event.occurred_us // _DAY_US for event in self.reported}
        instants += [_EPOCH + day * timedelta(days=1) for day in own]
        for calls in (self.served_calls, self.refused_calls):
            days = np.unique(calls.slots["occurred_us"] // _DAY_US).tolist()
            instants += [_EPOCH + day * timedelta(days=1) for day in days]
        return sorted({datetime(at.year, at.month, 1, tzinfo=UTC) for at in instants})


def new_lot(
    mark: Mark,
    producer: UUID,
    slots: range,
    single: Iterable[UsageEvent],
    block: Block | None,
) -> Lot:
    """What of the completed `slots` (their sequences) is not stored yet, by the producer's mark.

    Raises ValueError for an event or a block of another producer or range.
    """
    new = _numbered(producer, slots, single, mark)
    if block is None:
        calls = NO_CALLS
    else:
        if block.producer != producer or block.first not in slots or block.last not in slots:
            raise ValueError("a block is not of this producer and range")
        sequences = np.arange(block.first, block.last + 1)
        fresh = (sequences > mark.watermark) | np.isin(sequences, sorted(mark.waiting))
        calls, odd = calls_of(block, fresh)
        new |= dict(odd)
    events = [one for one in new.items() if not mark.has(one[0])]
    return Lot(events, calls.where(~calls.refused), calls.where(calls.refused))


async def write(session: AsyncSession, producer: UUID, lot: Lot) -> None:
    """Write the rows of a lot's calls, in partitions that are made where they are missing."""
    await _make_partitions(session, lot)
    served: list[tuple[Any, ...]] = []
    refused: list[tuple[Any, ...]] = []
    for sequence, event in lot.events:
        if event.refusal:
            refused.append((*_call(producer, sequence, event, unknown=None), event.refusal))
        else:
            served.append((*_call(producer, sequence, event, unknown=NIL), *_measures(event)))
    await _copy(session, "usage_events", SERVED_COLUMNS, served)
    await _copy(session, "refused_calls", REFUSED_COLUMNS, refused)
    if lot.reported:
        await _copy_binary(session, "usage_events", *reported_rows(lot.reported))
    await _copy_rows(session, "usage_events", served_rows, lot.served_calls)
    await _copy_rows(session, "refused_calls", refused_rows, lot.refused_calls)


async def append_cells(session: AsyncSession, tallies: Sequence[Tally]) -> None:
    """Append to the roll-up what these calls add."""
    if tallies:
        await _copy_binary(session, "usage_deltas", *cell_rows(tallies))


async def _make_partitions(session: AsyncSession, lot: Lot) -> None:
    for month in lot.months():
        await session.execute(text("SELECT usage_partition(:instant)"), {"instant": month})


def _numbered(
    producer: UUID, slots: range, events: Iterable[UsageEvent], mark: Mark
) -> dict[int, UsageEvent]:
    by_id = {event.event_id: event for event in events}
    numbered = {}
    late = (sequence for sequence in sorted(mark.waiting) if sequence in slots)
    for sequence in chain(late, slots):
        if not by_id:
            break
        event = by_id.pop(event_id(producer, sequence), None)
        if event is not None:
            numbered[sequence] = event
    if by_id:
        raise ValueError("an event is not of this producer and range")
    return numbered


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
    connection = await _driver(session)
    statement = _statement(table, columns)
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            await copy.write_row(row)


async def _copy_rows(
    session: AsyncSession,
    table: str,
    rows: Callable[[Calls], tuple[list[str], bytes]],
    calls: Calls,
) -> None:
    if not len(calls):
        return
    await _copy_binary(session, table, *rows(calls))


async def _copy_binary(
    session: AsyncSession, table: str, columns: Sequence[str], data: bytes
) -> None:
    connection = await _driver(session)
    statement = _statement(table, columns, " (FORMAT binary)")
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        await copy.write(data)


async def _driver(session: AsyncSession) -> Any:
    return (await (await session.connection()).get_raw_connection()).driver_connection


def _statement(table: str, columns: Sequence[str], form: str = "") -> sql.Composed:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("COPY {} ({}) FROM STDIN" + form).format(sql.Identifier(table), names)
