# SPDX-License-Identifier: Apache-2.0
"""What gateways found suspicious is told, each alert once."""

from uuid import UUID

from nimbus.access import queries, service
from nimbus.base import db, jobs


@jobs.job("access.announce_alert")
async def announce_alert(entity_id: str, as_of: str) -> None:  # noqa: ARG001 - a due row's job
    """A gateway has reported signs of abuse."""
    async with db.system_session("signs of abuse") as session:
        await service.announce_alert(session, UUID(entity_id))


jobs.due_source(jobs.DueSource(announce_alert, queries.next_alert, queries.alerts_to_announce))
