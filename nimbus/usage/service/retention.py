# SPDX-License-Identifier: Apache-2.0
"""How long events are kept: months are dropped whole, addresses are cut before that.

Roll-ups, standings, what was rated and the ids of outside events stay for good; so do the single
events that a sum over an uneven period still needs (`usage_kept`). Both times are business time.
"""

from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.usage.service.recounts import KEPT

LATE = timedelta(days=40)  # how late an event may be stored and its address still be cut


async def retire(session: AsyncSession, as_of: datetime, days: int) -> int:
    """Drop the events and refused calls of months that ended more than `days` days before; answers
    how many events. A system session.

    Raises a database error for a month that is not wholly rolled up, and where the tables are in
    use for seconds: then the next run does it.
    """
    spans = (await session.execute(KEPT)).all()
    over = [starts for starts, ends in spans if ends <= as_of - timedelta(days=days)]
    dropped = 0
    if over:
        await session.execute(text("SET LOCAL lock_timeout = '5s'"))
    for starts in sorted(over):
        found = await session.scalar(text("SELECT usage_retire(:starts)"), {"starts": starts})
        dropped += cast("int", found)
    return dropped


async def cut_addresses(
    session: AsyncSession, as_of: datetime, days: int, *, everything: bool
) -> None:
    """Cut the addresses of calls made more than `days` days before to their network (24 bits, 48 of
    IPv6): of all, or of those that were made up to LATE before that. A system session.
    """
    before = as_of - timedelta(days=days)
    since = datetime.min.replace(tzinfo=before.tzinfo) if everything else before - LATE
    await session.execute(
        text("SELECT usage_cut_addresses(:since, :before)"), {"since": since, "before": before}
    )
