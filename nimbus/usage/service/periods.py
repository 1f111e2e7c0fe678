# SPDX-License-Identifier: Apache-2.0
"""What many subscriptions used, each in its own period: for bill runs, in a few statements."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base.db import array_of
from nimbus.catalog import MeterFacts
from nimbus.rules.invoicing import MeterUsage
from nimbus.rules.metering import Cell, aggregate
from nimbus.rules.periods import Period
from nimbus.usage import queries

SPECIAL = frozenset({"unique", "time_weighted"})
"""Aggregations that roll-ups can't give: such a product's periods are asked one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A period of a subscription; `by_event`: the meters whose single events are wanted too."""

    organization_id: UUID
    subscription_id: UUID
    product_id: UUID
    period: Period
    by_event: Collection[str] = field(default=())


async def quantities_of_periods(
    session: AsyncSession, asked: Sequence[Asked]
) -> list[dict[str, MeterUsage]]:
    """What was used in each asked period by meter, as `period_quantities` says it of one.

    A meter without any use has no entry. Needs a system session.
    """
    meters = {
        product_id: await catalog.meter_facts(session, product_id)
        for product_id in {one.product_id for one in asked}
    }
    cells = await _cells(session, asked, meters)
    found: list[dict[str, MeterUsage]] = []
    for one, mine in zip(asked, cells, strict=True):
        single = {}
        if one.by_event:
            single = await queries.single_values(
                session, one.subscription_id, one.period, one.by_event
            )
        known = meters[one.product_id]
        found.append(
            {
                key: MeterUsage(aggregate(key, known[key].aggregation, cell), single.get(key, ()))
                for key, cell in mine.items()
                if key in known
            }
        )
    return found


async def _cells(
    session: AsyncSession, asked: Sequence[Asked], meters: dict[UUID, dict[str, MeterFacts]]
) -> list[dict[str, Cell]]:
    found: list[dict[str, Cell]] = [{} for _ in asked]
    together = []
    for place, one in enumerate(asked):
        if SPECIAL & {meter.aggregation for meter in meters[one.product_id].values()}:
            found[place] = await queries.measured(session, one.subscription_id, one.period)
        else:
            together.append(place)
    known = {meter.aggregation for own in meters.values() for meter in own.values()}
    statement = _PERIODS if "last" in known else _SUMS
    for row in await session.execute(statement, _arrays([asked[place] for place in together])):
        found[together[row.place - 1]][row.meter_key] = Cell(
            row.events, row.total, row.peak, row.last, row.last_at, row.last_event_id
        )
    return found


def _arrays(asked: Sequence[Asked]) -> dict[str, str]:
    return {
        "organizations": array_of(one.organization_id for one in asked),
        "subscriptions": array_of(one.subscription_id for one in asked),
        "starts": array_of(one.period.starts_at for one in asked),
        "ends": array_of(one.period.ends_at for one in asked),
    }


_ARRAYS = (
    "(CAST(:organizations AS uuid[]), CAST(:subscriptions AS uuid[]),"
    " CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]))"
)
_PERIODS = text(f"SELECT * FROM usage_periods{_ARRAYS}")  # noqa: S608 - a text of ours
# Without the value that came last, which is found by sorting every row of the roll-ups.
_SUMS = text(
    "SELECT p.place, p.meter_key, sum(p.events)::bigint AS events, sum(p.total) AS total,"  # noqa: S608
    " max(p.peak) AS peak, CAST(NULL AS numeric) AS last, CAST(NULL AS timestamptz) AS last_at,"
    f" CAST(NULL AS uuid) AS last_event_id FROM usage_parts{_ARRAYS} p"
    " GROUP BY p.place, p.meter_key"
)
