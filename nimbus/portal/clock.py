# SPDX-License-Identifier: Apache-2.0
"""The test clock: business time moves, and what falls due on the way runs in order.

At each instant where something falls due: every gateway confirms that it knows the new time and
every call it answered is stored; the due rows are enqueued; the queue runs dry. Only then does
time go on. So a simulated year runs the code of a real one, one instant after the other.
"""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db, jobs
from nimbus.base.actors import Actor
from nimbus.base.events import Event, announce
from nimbus.base.ids import NIL
from nimbus.base.problems import documented
from nimbus.base.web import Router, mutates
from nimbus.errors import Refusal, field_error
from nimbus.identity import platform_admin, platform_reader

router: APIRouter = Router(tags=["operations"])

PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.02
ROUNDS_AT_ONE_INSTANT = 20
FARTHEST = timedelta(days=3653)
"""What one call may skip: ten years. A slip of the pen can't be taken back: time only goes on."""
REASON = "test clock"

_one_at_a_time = asyncio.Lock()


class ClockAdvanced(Event):
    """The test clock went forward."""

    __slots__ = ()
    name = "clock.advanced"
    action = "ClockAdvanced"
    entity_type = "clock"


def _instant(value: str) -> str:
    clock.from_wire(value)
    return value


class ClockView(BaseModel):
    """The business instant, and whether it is simulated."""

    now: str
    test: bool


class AdvanceBody(BaseModel):
    """Where the clock shall stand: RFC 3339 with a zone."""

    advance_to: Annotated[str, AfterValidator(_instant)]


class Ran(BaseModel):
    """What fell due on the way: which job, at which instant, for how many."""

    job: str
    at: str
    count: int


class AdvancedView(BaseModel):
    """Where the clock stands now and what ran."""

    now: str
    ran: list[Ran]


@router.get(
    "/api/admin/clock",
    operation_id="read_clock",
    responses=documented(401, 403),
    dependencies=[platform_reader()],
)
async def read_clock() -> ClockView:
    """The business clock of this installation."""
    test = db.current().settings.test_clock
    async with db.system_session(REASON):
        return ClockView(now=clock.to_wire(clock.now()), test=test)


@router.post(
    "/api/admin/clock",
    operation_id="advance_clock",
    responses=documented(401, 403, 409, 415, 422, 503),
    **mutates(permission="platform_admin", events=[ClockAdvanced], idempotency="natural"),
)
async def advance_clock(
    body: AdvanceBody, actor: Annotated[Actor, platform_admin()]
) -> AdvancedView:
    """Advance the test clock; answers when everything due on the way is done."""
    if not db.current().settings.test_clock:
        raise Refusal("no_test_clock", "This installation runs on real time.")
    target = clock.from_wire(body.advance_to)
    async with _one_at_a_time:
        return await advance(actor, target)


async def advance(actor: Actor, target: datetime) -> AdvancedView:
    """Move business time to `target` (UTC), running what falls due on the way, in order.

    Raises 422 `clock_backwards` for an instant before now, 422 on `advance_to` for one that is
    too far, 503 when a part does not follow in two minutes; what ran until then stays done, and
    the next call goes on from there.
    """
    async with db.system_session(REASON):
        before = clock.now()
    if target < before:
        raise Refusal("clock_backwards", f"The clock stands at {clock.to_wire(before)}.")
    if target - before > FARTHEST:
        raise field_error("advance_to", "too_far", "At most ten years at a time.")
    ran: list[Ran] = []
    rounds: Counter[datetime] = Counter()
    await _settled()
    while (due := await _next_due(target)) is not None:
        rounds[due] += 1
        if rounds[due] > ROUNDS_AT_ONE_INSTANT:
            raise Refusal("unavailable", f"What is due at {clock.to_wire(due)} does not get done.")
        async with db.system_session(REASON) as session:
            # Once the clock stands there, a worker may enqueue it before we do.
            told = {job: (at, count) for job, at, count in await jobs.due(session, due)}
        await _set(due)
        await _settled()
        async with db.system_session(REASON) as session:
            for job, at, count in await jobs.defer_due(session, due):
                told[job] = max(told.get(job, (at, 0)), (at, count), key=itemgetter(1))
        ran += [Ran(job=job, at=clock.to_wire(at), count=n) for job, (at, n) in told.items()]
        await _idle()
    await _set(target)
    await _settled()
    await _idle()
    async with db.system_session(REASON) as session:
        values = {"before": clock.to_wire(before)}
        after = {"now": clock.to_wire(target)}
        event = ClockAdvanced(organization_id=NIL, entity_id=NIL, before=values, after=after)
        announce(session, actor, event)
    return AdvancedView(now=clock.to_wire(target), ran=ran)


async def _next_due(target: datetime) -> datetime | None:
    async with db.system_session(REASON) as session:
        due = await jobs.next_due(session)
        moment = clock.now()
    return None if due is None or due > target else max(due, moment)


async def _set(instant: datetime) -> None:
    async with db.system_session(REASON) as session:
        await session.execute(
            text("UPDATE test_clock SET instant = :instant WHERE instant <> :instant"),
            {"instant": instant},
        )


async def _settled() -> None:
    """Wait until every gateway knows the feed's head, or is dead, and all calls are stored."""
    async with db.system_session(REASON) as session:
        row = (
            await session.execute(
                text(
                    "SELECT clock_timestamp() AS since,"
                    " coalesce((SELECT max(number) FROM grant_feed), 0) AS head"
                )
            )
        ).one()
    await _until(
        """SELECT count(*) FROM gateway_instances g
        LEFT JOIN usage_producers p ON p.producer = g.id
        WHERE p.ended_at IS NULL AND NOT (
            g.seen_at >= :since AND g.number >= :head AND coalesce(p.watermark, 0)
                >= g.journal_sequence AND coalesce(p.waiting, '{}') = '{}')""",
        {"since": row.since, "head": row.head},
        "the gateways and the drain",
    )


async def _idle() -> None:
    """Wait until the queue has run dry: nothing to do and nothing being done."""
    await _until(
        "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')",
        {},
        "the job queue",
    )


async def _until(nothing_left: str, values: dict[str, Any], what: str) -> None:
    deadline = clock.monotonic() + PATIENCE_SECONDS
    while True:
        async with db.system_session(REASON) as session:
            if not await _left(session, nothing_left, values):
                return
        if clock.monotonic() > deadline:
            raise Refusal("unavailable", f"Waited two minutes for {what}.")
        await asyncio.sleep(POLL_SECONDS)


async def _left(session: AsyncSession, statement: str, values: dict[str, Any]) -> int:
    return int(await session.scalar(text(statement), values) or 0)
