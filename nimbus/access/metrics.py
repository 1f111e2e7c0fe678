# SPDX-License-Identifier: Apache-2.0
"""How gateways stand, for Prometheus, by what they told the house last."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import metrics

_RUNNING = """
    FROM gateway_instances g LEFT JOIN usage_producers p ON p.producer = g.id
    WHERE p.ended_at IS NULL
"""


@metrics.gauge("nimbus_gateways", "Gateway processes that told of themselves within ten seconds.")
async def _alive(session: AsyncSession) -> metrics.Samples:
    heard = f"SELECT count(*) {_RUNNING} AND g.seen_at > clock_timestamp() - interval '10 seconds'"
    return [((), float(await session.scalar(text(heard)) or 0))]


@metrics.gauge(
    "nimbus_gateway_changes_behind",
    "Of the changes to what is granted, how many the gateway has not taken that is behind most.",
)
async def _behind(session: AsyncSession) -> metrics.Samples:
    behind = f"""
        SELECT greatest(0, coalesce((SELECT max(number) FROM grant_feed), 0) - min(g.number))
        {_RUNNING} AND g.seen_at > clock_timestamp() - interval '10 seconds'
    """  # noqa: S608 - all of it is written here
    return [((), float(await session.scalar(text(behind)) or 0))]


@metrics.gauge(
    "nimbus_usage_undrained_calls",
    "Calls that gateways of all machines say they wrote down, and that are not stored yet.",
)
async def _undrained(session: AsyncSession) -> metrics.Samples:
    waiting = f"SELECT sum(greatest(0, g.journal_sequence - coalesce(p.watermark, 0))) {_RUNNING}"
    return [((), float(await session.scalar(text(waiting)) or 0))]


@metrics.gauge("nimbus_abuse_alerts", "Signs of abuse of the last day, by kind.", "kind")
async def _signs(session: AsyncSession) -> metrics.Samples:
    counted = (
        "SELECT kind, count(*) FROM abuse_alerts"
        " WHERE raised_at > clock_timestamp() - interval '1 day' GROUP BY kind"
    )
    return [((kind,), float(count)) for kind, count in await session.execute(text(counted))]
