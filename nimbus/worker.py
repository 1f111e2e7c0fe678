# SPDX-License-Identifier: Apache-2.0
"""The job worker: runs the queue, enqueues what falls due, keeps house."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import procrastinate
import uvloop
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import ledger, usage
from nimbus.base import audit, clock, db, jobs, log, process, proofs
from nimbus.base.config import Settings
from nimbus.base.garbage import collect_rarely
from nimbus.base.proofs import Report
from nimbus.base.secrets import database_login
from nimbus.rooms import JOBS

SCAN_SECONDS = 1.0
HOUSEKEEPING_SECONDS = 600.0
RETENTION_SECONDS = 21_600.0
CONCURRENCY = 4
GARBAGE = 200_000  # objects more than there were, before a collection looks at the young ones
STALLED_SECONDS = 30
logger = log.get_logger("worker")

PROOFS: dict[str, Callable[[AsyncSession], Awaitable[Report]]] = {
    "ledger": ledger.check,
    "audit": audit.verify,
    "usage": lambda session: usage.reconcile(session, db.current().settings.journal_dir),
}
"""What runs every night; each is a command as well (spec 10)."""


@jobs.job("proofs.nightly", retries=1)
async def prove(proof: str) -> None:
    """Run a proof over all organizations, keep its outcome, and tell of differences."""
    started_at = clock.machine_now()
    async with db.system_session("proofs", snapshot=True) as session:
        report = await PROOFS[proof](session)
        finished_at = clock.machine_now()
        await proofs.keep(session, proof, started_at, finished_at, report)
    if report.differences:
        found, first = len(report.differences), str(report.differences[0])
        logger.error("proof_found_differences", proof=proof, found=found, first=first)


def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; a job under way is finished first."""
    log.configure(settings.log_level, "worker")
    collect_rarely(GARBAGE)
    uvloop.run(_work(settings))


async def _work(settings: Settings) -> None:
    await db.open_database(settings)
    login = database_login(settings, "system")
    connector = procrastinate.PsycopgConnector(
        conninfo=login.pop("conninfo", ""), kwargs=login, min_size=1, max_size=CONCURRENCY + 2
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        with jobs.app.replace_connector(connector) as app:
            async with app.open_async():
                await _until(stop, app)
    finally:
        await db.close_database()


async def _until(stop: asyncio.Event, app: procrastinate.App) -> None:
    logger.info("started", rooms=len(JOBS))
    tasks = [
        asyncio.create_task(
            app.run_worker_async(
                concurrency=CONCURRENCY,
                install_signal_handlers=False,
                fetch_job_polling_interval=SCAN_SECONDS,
                shutdown_graceful_timeout=20,
            )
        ),
        asyncio.create_task(_every(SCAN_SECONDS, _scan)),
        asyncio.create_task(_every(SCAN_SECONDS * 10, lambda: _rescue(app))),
        asyncio.create_task(_every(SCAN_SECONDS, _fold)),
        asyncio.create_task(_every(HOUSEKEEPING_SECONDS, _keep_house)),
        asyncio.create_task(_every(RETENTION_SECONDS, _Retention().run)),
        asyncio.create_task(_every(HOUSEKEEPING_SECONDS, defer_proofs)),
    ]
    process.announce_ready()
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
    if waiting not in done:
        raise SystemExit("the worker ended by itself")
    logger.info("stopped")


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Repeat `work`; a failure (the database is away) is logged, and the next turn comes."""
    while True:
        try:
            await work()
        except Exception as error:
            logger.warning("periodic work failed", exc_info=error)
        await asyncio.sleep(seconds)


async def _scan() -> None:
    async with db.system_session("due-row scanner") as session:
        ran = await jobs.defer_due(session, clock.now())
    for job, due_at, count in ran:
        logger.info("due", job=job, due_at=clock.to_wire(due_at), count=count)


async def _fold() -> None:
    """Fold what was appended to the roll-ups of usage, until nothing is left to fold."""
    folded = usage.DELTAS
    while folded == usage.DELTAS:
        async with db.system_session("fold usage") as session:
            folded = await usage.fold(session)


class _Retention:
    """What is kept no longer goes; the first run of a process looks at all that there is."""

    def __init__(self) -> None:
        self._everything = True

    async def run(self) -> None:
        settings, as_of = db.current().settings, clock.now()
        async with db.system_session("retention") as session:
            await usage.cut_addresses(
                session, as_of, settings.address_days, everything=self._everything
            )
        self._everything = False
        async with db.system_session("retention") as session:
            dropped = await usage.retire(session, as_of, settings.event_days)
        if dropped:
            logger.info("events_dropped", count=dropped)


async def _rescue(app: procrastinate.App) -> None:
    """Give the jobs of a killed worker to a living one: jobs are idempotent."""
    stalled = await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS)
    for job in stalled:
        await app.job_manager.retry_job(job)
        logger.warning("rescued", job=job.task_name)


async def defer_proofs() -> None:
    """Have the proofs made that are due; one that waits or is being made is not made twice."""
    async with db.system_session("proofs") as session:
        for proof in PROOFS:
            if await proofs.due(session, proof, clock.machine_now()):
                await jobs.defer_once(session, prove, f"proofs.nightly/{proof}", proof=proof)


async def _keep_house() -> None:
    """Drop what has served its time, all in machine time."""
    async with db.system_session("housekeeping") as session:
        for statement in (
            "DELETE FROM idempotency_keys WHERE created_at < now() - interval '24 hours'",
            "DELETE FROM throttles WHERE full_at < now() - interval '1 hour'",
            "DELETE FROM one_time_links WHERE expires_at < now() - interval '30 days'",
            "DELETE FROM proof_runs WHERE finished_at < now() - interval '400 days'",
            "DELETE FROM sessions WHERE expires_at < now() - interval '30 days'",
            """DELETE FROM procrastinate_jobs WHERE status = 'succeeded' AND id NOT IN
            (SELECT job_id FROM procrastinate_events WHERE at > now() - interval '7 days')""",
        ):
            await session.execute(text(statement))
