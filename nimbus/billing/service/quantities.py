# SPDX-License-Identifier: Apache-2.0
"""The last link of the proof of usage: what was billed, against what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base import clock
from nimbus.base.ids import NIL
from nimbus.billing.models import BillingPeriod
from nimbus.billing.service.prices import PriceBook
from nimbus.billing.service.proposals import propose
from nimbus.billing.service.reading import LATE_USAGE, Case, Wish, closing_of, read_cases
from nimbus.rules.invoicing import LineDraft
from nimbus.rules.metering import CALLS

SET = 500
READING = timedelta(minutes=1)
"""How long a transaction that stores usage may have lasted: it says when it began, not when it was
done, so what it stored may be newer than what a bill read after its beginning.
"""
_LATE = text(
    "SELECT meter_key, sum(greatest(quantity, 0)) AS more, sum(least(quantity, 0)) AS less,"
    " max(quantity) AS peak, sum(calls) AS calls FROM usage_measured"
    " WHERE subscription_id = :subscription_id AND environment = 'Live'"
    " AND occurred_at >= :starts_at AND occurred_at < :ends_at AND created_at > :since"
    " GROUP BY meter_key"
)


async def wrongly_billed(session: AsyncSession, since: datetime) -> list[dict[str, Any]]:
    """The closed periods since an instant whose usage lines, on all invoices together, are not what
    the law makes of the usage that is stored. A system session of one snapshot.

    Usage that came in after the last bill had read it is under way for as long as a next bill can
    take it up, which is 35 days: so much as came in of a meter, and no more, may be on no bill.
    """
    closed: dict[Any, list[BillingPeriod]] = {}
    rows = select(BillingPeriod).where(BillingPeriod.starts_at >= since)
    for row in await session.scalars(rows.order_by(BillingPeriod.starts_at.desc())):
        closed.setdefault(row.subscription_id, []).append(row)
    found = []
    book = PriceBook()
    for rank in range(max(map(len, closed.values()), default=0)):
        # One period of each subscription at a time: bills are read by subscription.
        ranked = [own[rank] for own in closed.values() if rank < len(own)]
        for some in (ranked[start : start + SET] for start in range(0, len(ranked), SET)):
            for row, case in zip(some, await _cases(session, some, book), strict=True):
                wrong = list(_differences(row, case))
                latest = closed[row.subscription_id][0]
                if wrong and row.ends_at > latest.starts_at - LATE_USAGE:
                    late = await _came_late(session, case, row, latest.read_at - READING)
                    wrong = [one for one in wrong if not _is_late(one, late)]
                found += wrong
    return found


async def _cases(
    session: AsyncSession, rows: Sequence[BillingPeriod], book: PriceBook
) -> list[Case]:
    facts = await subscriptions.facts_of(session, [row.subscription_id for row in rows])
    wishes = [
        Wish(subscription=facts[row.subscription_id], closing=closing_of(row), invoice_id=NIL)
        for row in rows
    ]
    return await read_cases(session, wishes, book, clock.now())


def _differences(row: BillingPeriod, case: Case) -> Iterator[dict[str, Any]]:
    for line in propose(case, clock.now()).bill.lines:
        if line.text != "usage" or line.period.starts_at < row.starts_at or not line.quantity:
            continue
        billed = sum((one.quantity for one in case.billed if _same(one, line)), Decimal(0))
        yield {
            "problem": "billed",
            "organization_id": row.organization_id,
            "subscription_id": row.subscription_id,
            "meter_key": line.meter_key,
            "at": line.period.starts_at,
            "expected": billed + line.quantity,
            "found": billed,
        }


def _same(one: LineDraft, line: LineDraft) -> bool:
    return (one.text, one.source, one.meter_key, one.period.starts_at) == (
        line.text,
        line.source,
        line.meter_key,
        line.period.starts_at,
    )


async def _came_late(
    session: AsyncSession, case: Case, row: BillingPeriod, since: datetime
) -> dict[str, tuple[Decimal, Decimal] | None]:
    """By how much at most what is stored since an instant can have lowered and raised the meters of
    a period; None where that can't be said, because the meter does not add up. A peak moves only by
    what is as high as it is now.
    """
    values = {
        "subscription_id": row.subscription_id,
        "starts_at": row.starts_at,
        "ends_at": row.ends_at,
        "since": since,
    }
    meters = await catalog.meter_facts(session, case.wish.subscription.product_id)
    late: dict[str, tuple[Decimal, Decimal] | None] = {}
    for one in await session.execute(_LATE, values):
        kind = meters[one.meter_key].aggregation
        if one.meter_key == CALLS or kind == "sum":
            late[one.meter_key] = one.less, one.more
        elif kind == "count":
            late[one.meter_key] = Decimal(0), Decimal(one.calls)
        elif kind != "max" or any(
            key == one.meter_key and one.peak >= used.quantity
            for (key, _), used in case.usage.items()
        ):
            late[one.meter_key] = None
    return late


def _is_late(one: dict[str, Any], late: Mapping[str, tuple[Decimal, Decimal] | None]) -> bool:
    if one["meter_key"] not in late:
        return False
    bounds = late[one["meter_key"]]
    return bounds is None or bounds[0] <= one["expected"] - one["found"] <= bounds[1]
