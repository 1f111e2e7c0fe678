# SPDX-License-Identifier: Apache-2.0
"""How mail gets out, for Prometheus."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import metrics

STATES = ("waiting", "sending", "sent", "failed", "unclear")


@metrics.gauge("nimbus_notices", "Notices of the last day by what became of them.", "state")
async def _states(session: AsyncSession) -> metrics.Samples:
    counted = (
        "SELECT state, count(*) FROM notices"
        " WHERE created_at > now() - interval '1 day' OR state IN ('waiting', 'sending')"
        " GROUP BY state"
    )
    found = {state: float(count) for state, count in await session.execute(text(counted))}
    return [((state,), found.get(state, 0.0)) for state in STATES]
