# SPDX-License-Identifier: Apache-2.0
"""Trials and cancelled subscriptions that come to their end."""

from uuid import UUID

from nimbus.base import clock, db, jobs
from nimbus.subscriptions import queries
from nimbus.subscriptions.service import lives


@jobs.job("subscriptions.advance")
async def advance(entity_id: str, as_of: str) -> None:
    """Write down that a subscription's end has come: a trial converts or expires."""
    async with db.system_session("advance subscriptions") as session:
        await lives.advance(session, UUID(entity_id), clock.from_wire(as_of))


jobs.due_source(jobs.DueSource(advance, queries.next_to_advance, queries.due_to_advance))
