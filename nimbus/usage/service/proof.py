# SPDX-License-Identifier: Apache-2.0
"""The proof of the counters: journal → events → hours → days → standings → rates → bills.

Every link is counted again from the one before it, and every difference is named: what, whose,
where, expected, found. Run it in a session of one snapshot, then calls may go on meanwhile: what is
under way is behind a producer's watermark, and no difference.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db
from nimbus.base.proofs import Report
from nimbus.rules.metering import UsageEvent, is_counted
from nimbus.rules.spending import micro
from nimbus.usage import queries
from nimbus.usage.models import Mark, Producer
from nimbus.usage.service import journals, recounts
from nimbus.usage.service.rating import wrongly_rated

DIFFERENCES_MAX = 1000

Difference = dict[str, Any]
Link = Callable[[AsyncSession, datetime], Awaitable[list[Difference]]]
"""A further link of the chain: its differences, of periods that began at an instant or later."""

_further: list[Link] = []
_WHOLE = (
    recounts.DAYS,
    recounts.STANDINGS,
    recounts.KEY_QUOTAS,
    recounts.KEY_SPEND,
    recounts.BALANCES,
    recounts.PRODUCERS,
    recounts.LEASES,
    recounts.MONEY_LEASES,
)
_SAID = ("event_id", "status", "units", "duration_us", "bytes_in", "bytes_out")
"""What a call says of itself, as written down and as stored."""


def also_prove(link: Link) -> None:
    """Add a link that a room above holds: what is billed, against what was measured."""
    _further.append(link)


async def reconcile(session: AsyncSession, journal_dir: Path) -> Report:
    """Prove the counters, all organizations'. Needs a system session of one snapshot.

    Raw events that retention has dropped can't be counted again: their months are noted, with how
    many calls the roll-ups have of them, and are no difference; a month that is gone otherwise is
    one. So is a segment that could not be read, for as long as its copy lies in the journal
    folder's quarantine.
    """
    retired = set(await session.scalars(recounts.RETIRED))
    kept = [
        (row.starts_at, row.ends_at)
        for row in await session.execute(recounts.KEPT)
        if row.starts_at.astimezone(UTC).date() not in retired
    ]
    spans = {"starts": [one[0] for one in kept], "ends": [one[1] for one in kept]}
    dropped = (await session.execute(recounts.DROPPED, spans)).all()

    differences, notes = await _journals(session, journal_dir)
    for starts_at, ends_at in kept:
        span = {"starts_at": starts_at, "ends_at": ends_at}
        for statement in (recounts.HOURS, recounts.OUTSIDE, recounts.MEMBERS):
            differences += await _rows(session, statement, span)
    for statement in _WHOLE:
        differences += await _rows(session, statement, {})
    differences += await _wrong_spend(session)
    differences += await wrongly_rated(session)
    since = _after_month(max((row.month for row in dropped), default=None))
    for link in _further:
        differences += await link(session, since)
    differences += [
        {"problem": "events_gone", "at": row.month, "expected": row.events, "found": None}
        for row in dropped
        if not row.retired
    ]
    notes += [
        f"The calls of {row.month:%Y-%m} can't be counted again: their events are no longer kept."
        f" The roll-ups have {row.events} of them."
        for row in dropped
        if row.retired
    ]
    checked = await session.scalar(recounts.CHECKED)
    named = [{name: plain(value) for name, value in one.items()} for one in differences]
    return Report(checked or 0, tuple(named[:DIFFERENCES_MAX]), tuple(notes))


async def _rows(
    session: AsyncSession, statement: TextClause, values: Mapping[str, Any]
) -> list[Difference]:
    most = {"most": DIFFERENCES_MAX}
    rows = (await session.execute(statement, {**values, **most})).mappings()
    return [_named(dict(row)) for row in rows]


def _named(row: Difference) -> Difference:
    """A difference of several measures says those that differ."""
    expected, found = row.get("expected"), row.get("found")
    if isinstance(expected, dict) and isinstance(found, dict):
        differing = [name for name in expected if expected[name] != found.get(name)]
        row["expected"] = {name: expected[name] for name in differing}
        row["found"] = {name: found.get(name) for name in differing}
    sides = ("expected", "found")
    return {name: value for name, value in row.items() if value is not None or name in sides}


async def _journals(session: AsyncSession, journal_dir: Path) -> tuple[list[Difference], list[str]]:
    """What lies on disk: what is stored of it is stored as it lies there; nothing is missing."""
    marks = {row.producer: row.mark() for row in await session.scalars(select(Producer))}
    found: list[Difference] = []
    for producer in journals.producers(journal_dir):
        mark = marks.get(producer, Mark(0, frozenset(), ended=False))
        lying = await asyncio.to_thread(journals.stored_records, journal_dir, producer, mark)
        found += await _wrongly_stored(session, producer, lying)
        # The drain may have gone on since, and deleted what it stored: so its newest mark counts.
        if journals.hole(journal_dir, producer, mark) is not None:
            async with db.system_session("proofs") as fresh:
                newest = await queries.producer_mark(fresh, producer)
            if (hole := journals.hole(journal_dir, producer, newest)) is not None:
                first, last = hole
                where = {"producer": producer, "first_sequence": first, "last_sequence": last}
                found.append({"problem": "journal_hole", **where})
    found += [
        {"problem": "unreadable_segment", "producer": path.parent.name, "segment": path.name}
        for path in journals.quarantined(journal_dir)
    ]
    waiting = await asyncio.to_thread(journals.backlog, journal_dir, marks)
    if waiting.oldest_at is None:
        return found, []
    since = clock.to_wire(waiting.oldest_at)
    return found, [f"{waiting.calls} calls are in journals and not stored yet, since {since}."]


async def _wrongly_stored(
    session: AsyncSession, producer: UUID, lying: Mapping[int, UsageEvent]
) -> list[Difference]:
    """The calls of a journal that the database has not, or has otherwise."""
    if not lying:
        return []
    times = [event.occurred_at for event in lying.values()]
    rows = await session.execute(
        recounts.STORED,
        {
            "producer": producer,
            "first": min(lying),
            "last": max(lying),
            "starts_at": min(times),
            "ends_at": max(times),
        },
    )
    stored = {row.sequence: {name: getattr(row, name) for name in _SAID} for row in rows}
    differences: list[Difference] = []
    for sequence, event in lying.items():
        written = {name: getattr(event, name) for name in _SAID}
        if not is_counted(event):
            written["units"] = 0
        if stored.get(sequence) != written:
            where = {"producer": producer, "sequence": sequence, "at": event.occurred_at}
            owner = {"problem": "journal", "organization_id": event.organization_id}
            sides = {"expected": written, "found": stored.get(sequence)}
            differences.append(_named({**owner, **where, **sides}))
    return differences


async def _wrong_spend(session: AsyncSession) -> list[Difference]:
    """What months count as spent, against what the organization's periods cost."""
    return [
        {
            "problem": "spend",
            "organization_id": row.organization_id,
            "expected": micro(row.cost, row.currency),
            "found": row.used,
        }
        for row in await session.execute(recounts.SPEND)
        if micro(row.cost, row.currency) != row.used
    ]


def _after_month(month: datetime | None) -> datetime:
    """The first instant whose events, and those after it, are all kept."""
    if month is None:
        return datetime.min.replace(tzinfo=UTC)
    return (month + timedelta(days=31)).replace(day=1)


def plain(value: Any) -> Any:
    """A quantity as it is written: without an exponent or trailing zeros."""
    if not isinstance(value, Decimal):
        return value
    return format(value.normalize(), "f") if value else "0"
