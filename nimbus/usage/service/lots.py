# SPDX-License-Identifier: Apache-2.0
"""Lots: the calls that one transaction stores, one by one or in arrays, and their rows.

A gateway's journal comes in blocks, read by arrays; what arrays can't hold and what completed late
comes as single events. Both make the same tallies and the same rows. Events that were reported from
outside are no calls, and stand beside them.
"""

from collections.abc import Iterable, Sequence
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

from nimbus.rules.blocks import SLOT, Block, Calls, calls_of, last_used, tally_calls
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
Rows = tuple[list[str], bytes]
"""Columns, and rows of them in binary."""
_NO_ROWS: Rows = ([], b"")


@dataclass(frozen=True, slots=True)
class Ready:
    """A block with all that storing the whole of it takes: its calls, what they count for, and
    their rows.
    """

    block: Block
    served: Calls
    refused: Calls
    odd: list[tuple[int, UsageEvent]]
    tallies: list[Tally]
    served_rows: Rows
    refused_rows: Rows

    def last_used(self) -> dict[UUID, datetime]:
        """When each key made its last call of the block."""
        used = last_used(self.refused)
        served = [(one.kind.key_id, one.last_at) for one in self.tallies]
        odd = [(event.key_id, event.occurred_at) for _, event in self.odd]
        for key_id, at in served + odd:
            used[key_id] = max(at, used.get(key_id, at))
        return used


@dataclass(frozen=True, slots=True)
class Lot:
    """What is stored together: calls by their sequences, calls in arrays, and reported events.
    `ready` is the whole block that the calls in arrays are of, where it was worked out before.
    """

    events: Sequence[tuple[int, UsageEvent]] = ()
    served_calls: Calls = NO_CALLS
    refused_calls: Calls = NO_CALLS
    reported: Sequence[Reported] = ()
    ready: Ready | None = None

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
        calls = self.ready.tallies if self.ready else tally_calls(self.served_calls)
        return own + calls + tally_reported(self.reported)

    def months(self) -> list[datetime]:
        """The beginnings of the months, in UTC, in which the calls were made."""
        instants = [event.occurred_at for _, event in self.events]
        own = {event.occurred_us // _DAY_US for event in self.reported}
        instants += [_EPOCH + day * timedelta(days=1) for day in own]
        for calls in (self.served_calls, self.refused_calls):
            days = np.unique(calls.slots["occurred_us"] // _DAY_US).tolist()
            instants += [_EPOCH + day * timedelta(days=1) for day in days]
        return sorted({datetime(at.year, at.month, 1, tzinfo=UTC) for at in instants})


def make_ready(block: Block) -> Ready:
    """Work out what storing all of a block takes. No input and no output: it may run in a thread,
    while the database has the block before.
    """
    calls, odd = calls_of(block, block.states >= 0)
    served, refused = calls.where(~calls.refused), calls.where(calls.refused)
    rows = (
        served_rows(served) if len(served) else _NO_ROWS,
        refused_rows(refused) if len(refused) else _NO_ROWS,
    )
    return Ready(block, served, refused, odd, tally_calls(served), *rows)


def new_lot(
    mark: Mark,
    producer: UUID,
    slots: range,
    single: Iterable[UsageEvent],
    block: Block | None,
    *,
    ready: Ready | None = None,
) -> Lot:
    """What of the completed `slots` (their sequences) is not stored yet, by the producer's mark.

    What is `ready` of the block is taken where all of it is new. Raises ValueError for an event or
    a block of another producer or range.
    """
    new = _numbered(producer, slots, single, mark)
    if block is None:
        calls = NO_CALLS
    else:
        if block.producer != producer or block.first not in slots or block.last not in slots:
            raise ValueError("a block is not of this producer and range")
        if ready is not None and ready.block is block and block.first > mark.watermark:
            new |= dict(ready.odd)
            events = [one for one in new.items() if not mark.has(one[0])]
            return Lot(events, ready.served, ready.refused, ready=ready)
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
    if len(lot.served_calls):
        rows = lot.ready.served_rows if lot.ready else served_rows(lot.served_calls)
        await _copy_binary(session, "usage_events", *rows)
    if len(lot.refused_calls):
        rows = lot.ready.refused_rows if lot.ready else refused_rows(lot.refused_calls)
        await _copy_binary(session, "refused_calls", *rows)


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
