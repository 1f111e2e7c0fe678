# SPDX-License-Identifier: Apache-2.0
"""Work for later: jobs enqueued in the transaction that causes them, and rows that fall due.

The queue runs only "now". What lies in the future is a row with a due instant; a room registers
how its due rows are found, and one scanner defers a job for each (at most one waiting job an
entity, by the queue's own queueing lock).
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any
from uuid import UUID

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.tasks import Task
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, metrics, tracing

app = procrastinate.App(connector=procrastinate.PsycopgConnector())

Work = Callable[..., Awaitable[None]]
JobTask = Task[Any, Any, Any]


def job(name: str, *, retries: int = 5, queue: str = "default") -> Callable[[Work], JobTask]:
    """Declare a job: it takes ids and instants as JSON values, is idempotent, one transaction.

    `retries` counts re-tries after the first attempt, with exponential waits in machine time.
    """
    strategy = procrastinate.RetryStrategy(max_attempts=retries, exponential_wait=2)

    def declare(work: Work) -> JobTask:
        @wraps(work)
        async def counted(*args: Any, **named: Any) -> None:
            with tracing.span(f"job {name}"), metrics.timed(metrics.job_seconds.labels(name)):
                try:
                    await work(*args, **named)
                except Exception:
                    metrics.job_failures.labels(name).inc()
                    raise

        return app.task(name=name, queue=queue, retry=strategy)(counted)

    return declare


@metrics.gauge(
    "nimbus_jobs_waiting", "Jobs that wait for a worker (todo), or are being done.", "status"
)
async def _waiting(session: AsyncSession) -> metrics.Samples:
    counted = "SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY status"
    found = {status: float(count) for status, count in await session.execute(text(counted))}
    return [((status,), found.get(status, 0.0)) for status in ("todo", "doing", "failed")]


@metrics.gauge("nimbus_jobs_oldest_seconds", "How long the job has waited that waits longest.")
async def _oldest(session: AsyncSession) -> metrics.Samples:
    # Those that wait for another try are late by intention: from the instant they may run.
    waited = await session.scalar(
        text(
            """
            SELECT extract(epoch FROM now() - min(coalesce(j.scheduled_at, e.at)))
            FROM procrastinate_jobs j LEFT JOIN LATERAL (
                SELECT max(at) AS at FROM procrastinate_events e WHERE e.job_id = j.id) e ON true
            WHERE j.status = 'todo'
            """
        )
    )
    return [((), max(0.0, float(waited or 0)))]


async def defer(
    session: AsyncSession, task: JobTask, *, lock: str | None = None, **args: Any
) -> None:
    """Enqueue on the session's own connection: the job exists if the transaction commits."""
    await _configured(task, await _driver(session), lock, None).defer_async(**args)


async def defer_all(
    session: AsyncSession, task: JobTask, arguments: Sequence[Mapping[str, Any]]
) -> None:
    """Enqueue one job for each set of arguments, in one statement, as `defer` does one."""
    if arguments:
        await session.execute(
            _DEFER_ALL,
            {"queue": task.queue, "task": task.name, "arguments": json.dumps(arguments)},
        )


@dataclass(frozen=True, slots=True)
class DueSource:
    """Rows of one kind that fall due.

    `next_due(session)` answers the earliest due instant or None; `claim(session, as_of, limit)`
    the (entity id, due instant) of rows due by then, earliest first.
    """

    task: JobTask
    next_due: Callable[[AsyncSession], Awaitable[datetime | None]]
    claim: Callable[[AsyncSession, datetime, int], Awaitable[list[tuple[UUID, datetime]]]]


Due = tuple[str, datetime, int]
"""(job, earliest instant, how many)"""

_sources: list[DueSource] = []
_DEFER_ALL = text(
    "SELECT procrastinate_defer_jobs_v1(array_agg(ROW(CAST(:queue AS text), CAST(:task AS text), 0,"
    " NULL, NULL, args, NULL)::procrastinate_job_to_defer_v1))"
    " FROM jsonb_array_elements(CAST(:arguments AS jsonb)) args"
)
# A job that is being done may have to wait again, under the lock that one waiting job may hold.
_AT_WORK = text(
    "SELECT true FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    " AND queueing_lock = :lock LIMIT 1"
)


def due_source(source: DueSource) -> DueSource:
    """Register rows that fall due; their task takes `entity_id` and `as_of` (both text)."""
    if all(known.task.name != source.task.name for known in _sources):
        _sources.append(source)
    return source


async def next_due(session: AsyncSession) -> datetime | None:
    """The earliest instant at which anything falls due, in business time."""
    instants = [await source.next_due(session) for source in _sources]
    return min((instant for instant in instants if instant is not None), default=None)


async def due(session: AsyncSession, as_of: datetime, limit: int = 500) -> list[Due]:
    """What is due by `as_of` and not done."""
    found = [(source, await source.claim(session, as_of, limit)) for source in _sources]
    return [(str(source.task.name), rows[0][1], len(rows)) for source, rows in found if rows]


async def defer_due(session: AsyncSession, as_of: datetime, limit: int = 500) -> list[Due]:
    """Enqueue what is due by `as_of`; answers what that is."""
    ran = []
    for source in _sources:
        rows = await source.claim(session, as_of, limit)
        for entity_id, due_at in rows:
            lock = f"{source.task.name}/{entity_id}"
            args = {"entity_id": str(entity_id), "as_of": clock.to_wire(due_at)}
            await defer_once(session, source.task, lock, **args)
        if rows:
            ran.append((str(source.task.name), rows[0][1], len(rows)))
    return ran


async def defer_once(session: AsyncSession, task: JobTask, lock: str, **args: Any) -> None:
    """As `defer`, but not while a job of this lock waits or is being done."""
    if await session.scalar(_AT_WORK, {"lock": lock}):
        return
    try:
        async with session.begin_nested():
            await _configured(task, await _driver(session), lock, lock).defer_async(**args)
    except AlreadyEnqueued:
        return


async def _driver(session: AsyncSession) -> Any:
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    return raw.driver_connection


def _configured(task: JobTask, connection: Any, lock: str | None, queueing_lock: str | None) -> Any:
    return task.configure(lock=lock, queueing_lock=queueing_lock, connection=connection)
