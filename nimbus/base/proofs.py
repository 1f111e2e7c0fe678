# SPDX-License-Identifier: Apache-2.0
"""The outcome of a proof (of the books, the trail, the counters), and what is kept of nightly ones.

All instants here are the machine's: it is the machine that is proved.
"""

import json
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.ids import new_id

NIGHT = time(2, 30)  # UTC
DIFFERENCES_KEPT = 100


@dataclass(frozen=True, slots=True)
class Report:
    """How many rows were looked at, each thing that is wrong, and what else is to be known."""

    checked: int
    differences: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.differences


async def due(session: AsyncSession, proof: str, now: datetime) -> bool:
    """Whether a proof has not run since the last time it was half past two at night (UTC), or
    never: an installation that is off at night proves itself at its next start.
    """
    night = datetime.combine(now.date(), NIGHT, now.tzinfo)
    last_night = night if night <= now else night - timedelta(days=1)
    last = await session.scalar(
        text("SELECT max(finished_at) FROM proof_runs WHERE proof = :proof"), {"proof": proof}
    )
    return last is None or last < last_night


async def keep(
    session: AsyncSession, proof: str, started_at: datetime, finished_at: datetime, report: Report
) -> None:
    """Keep what a proof found, of its differences the first hundred. A system session."""
    await session.execute(
        text(
            """
            INSERT INTO proof_runs
                (id, proof, started_at, finished_at, checked, found, differences, notes)
            VALUES (:id, :proof, :started_at, :finished_at, :checked, :found,
                CAST(:differences AS jsonb), CAST(:notes AS jsonb))
            """
        ),
        {
            "id": new_id(),
            "proof": proof,
            "started_at": started_at,
            "finished_at": finished_at,
            "checked": report.checked,
            "found": len(report.differences),
            "differences": json.dumps(report.differences[:DIFFERENCES_KEPT], default=str),
            "notes": json.dumps(report.notes),
        },
    )
