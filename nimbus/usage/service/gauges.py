# SPDX-License-Identifier: Apache-2.0
"""What `unique` and `time_weighted` meters are summed up from, kept apart from the events: it
outlives them, and `usage_period` reads it.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.rules.metering import CALLS, NIL
from nimbus.rules.tallies import Tally

Whose = tuple[UUID, UUID, UUID]  # organization, provider, subscription

_ADD_GAUGES = text(
    "INSERT INTO usage_gauges (organization_id, provider_organization_id, subscription_id,"
    " meter_key, occurred_at, event_id, level) SELECT * FROM unnest("
    " CAST(:a AS uuid[]), CAST(:b AS uuid[]), CAST(:c AS uuid[]), CAST(:d AS text[]),"
    " CAST(:e AS timestamptz[]), CAST(:f AS uuid[]), CAST(:g AS numeric[]))"
)
_ADD_MEMBERS = text(
    "INSERT INTO usage_members (organization_id, provider_organization_id, subscription_id,"
    " meter_key, hour, member) SELECT * FROM unnest("
    " CAST(:a AS uuid[]), CAST(:b AS uuid[]), CAST(:c AS uuid[]), CAST(:d AS text[]),"
    " CAST(:e AS timestamptz[]), CAST(:f AS uuid[])) ON CONFLICT DO NOTHING"
)


async def keep(session: AsyncSession, tallies: Sequence[Tally]) -> None:
    """Keep the levels and the different values that these calls, new and served, bring.

    In one order for everybody: two that store the same value never wait for each other. Needs a
    system session.
    """
    telling = [one for one in tallies if one.counted and _tells(one)]
    if not telling:
        return
    weighted = await catalog.weighted_meters(session, {one.kind.product_id for one in telling})
    gauges: set[tuple[Whose, str, datetime, UUID, Decimal]] = set()
    members: set[tuple[Whose, str, datetime, UUID]] = set()
    for one in telling:
        kind = one.kind
        whose = kind.organization_id, kind.provider_organization_id, kind.subscription_id
        for key, values in one.members.items():
            members.update((whose, key, kind.hour, value) for value in values)
        levels = [key for key in one.cells if (kind.product_id, key) in weighted]
        for call in one.apart() if levels else ():
            for key in levels:
                if (cell := call.cells.get(key)) is not None:
                    gauges.add((whose, key, cell.last_at, cell.last_event_id, cell.last))
    for statement, rows in ((_ADD_GAUGES, sorted(gauges)), (_ADD_MEMBERS, sorted(members))):
        if rows:
            await session.execute(statement, _columns(rows))


def _tells(one: Tally) -> bool:
    return _is_outside(one) or one.cells.keys() > {CALLS}


def _is_outside(one: Tally) -> bool:
    return one.kind.route_id == NIL


def _columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    flat = [(*whose, *rest) for whose, *rest in rows]
    return dict(zip("abcdefg", map(list, zip(*flat, strict=True)), strict=False))
