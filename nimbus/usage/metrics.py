# SPDX-License-Identifier: Apache-2.0
"""How far storing is, and what the proofs found, for Prometheus."""

import asyncio
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db, metrics
from nimbus.usage.models import Producer
from nimbus.usage.service import journals


@metrics.gauge(
    "nimbus_usage_undrained_age_seconds",
    "How old the oldest call is that this machine's gateways wrote down and that is not stored.",
)
async def _age(session: AsyncSession) -> metrics.Samples:
    living = select(Producer).where(Producer.ended_at.is_(None))
    marks = {row.producer: row.mark() for row in await session.scalars(living)}
    folder = db.current().settings.journal_dir
    oldest = await asyncio.to_thread(journals.oldest_waiting, folder, marks)
    age = 0.0 if oldest is None else (clock.now() - oldest).total_seconds()
    return [((), max(0.0, age))]


@metrics.gauge("nimbus_usage_corrupt_slots", "Slots of journals that could not be read, ever.")
async def _corrupt(session: AsyncSession) -> metrics.Samples:
    lost = "SELECT sum(corrupt) FROM usage_producers"
    return [((), float(await session.scalar(text(lost)) or 0))]


@metrics.gauge("nimbus_usage_deltas", "Rows of the roll-up that wait to be folded into hours.")
async def _deltas(session: AsyncSession) -> metrics.Samples:
    # The planner's figure: counting them would take as long as there are many.
    kept = "SELECT greatest(0, reltuples) FROM pg_class WHERE oid = 'usage_deltas'::regclass"
    return [((), float(await session.scalar(text(kept)) or 0))]


@metrics.gauge(
    "nimbus_proof_differences", "What the last run of a proof found; it runs every night.", "proof"
)
async def _differences(session: AsyncSession) -> metrics.Samples:
    return [((run.proof,), float(run.found)) for run in await _last_runs(session)]


@metrics.gauge("nimbus_proof_age_seconds", "How long ago a proof was made last.", "proof")
async def _proved(session: AsyncSession) -> metrics.Samples:
    now = clock.machine_now()
    return [
        ((run.proof,), (now - run.finished_at).total_seconds()) for run in await _last_runs(session)
    ]


async def _last_runs(session: AsyncSession) -> list[Any]:
    latest = (
        "SELECT DISTINCT ON (proof) proof, found, finished_at FROM proof_runs"
        " ORDER BY proof, finished_at DESC"
    )
    return list(await session.execute(text(latest)))
