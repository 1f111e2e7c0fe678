# SPDX-License-Identifier: Apache-2.0
"""What the database says of a period is what the law says, for meters of every kind."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4, uuid5
from zoneinfo import ZoneInfo

import httpx2
import pytest
from sqlalchemy import text

from nimbus import usage as room
from nimbus.base import clock, db
from nimbus.rules.metering import aggregate
from nimbus.rules.meters import Reading, period_value
from nimbus.rules.periods import Period
from nimbus.usage import queries
from nimbus.usage.service.ingest import report
from tests.support.market import sent
from tests.support.metered import (
    END,
    START,
    STORING,
    Contract,
    Market,
    event,
    proof,
    quantities,
    reported,
    rows,
    store,
)
from tests.support.reported import METERS, at, counted, make_meters, move_to, plan_with, usage
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

HOUR, DAY, MICROSECOND = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
NOW = START + 35 * DAY
KINDS = {meter["key"]: meter["aggregation"] for meter in METERS if meter["key"] != "tokens"}


@pytest.fixture(autouse=True)
def _in_june() -> None:
    clock.set_instant(NOW)


@dataclass(frozen=True)
class Told:
    """An event and what it is by the law."""

    said: dict[str, Any]
    meter: str
    reading: Reading


def instant(choice: random.Random) -> datetime:
    """An instant, often one at the edge of an hour or a day."""
    edge = START + choice.randrange(34 * 24) * HOUR
    if choice.random() < 0.5:
        return max(START, edge + choice.choice((-1, 0, 0, 1)) * MICROSECOND)
    return edge + choice.randrange(3_600_000_000) * MICROSECOND


def some_events(choice: random.Random, contract: Contract, count: int) -> list[Told]:
    found = []
    for number in range(count):
        meter = choice.choice(list(KINDS))
        when = instant(choice)
        value = Decimal(choice.randrange(10**6)).scaleb(-choice.randrange(4))
        member = choice.choice(("ada", "bob", "eve", "7"))
        said = usage(contract, f"e{number}", meter, value=format(value, "f"), **at(when))
        if meter == "users":
            said["properties"] = {"user": 7 if member == "7" else member}
        event_id = uuid5(contract.provider_organization_id, said["id"])
        found.append(Told(said, meter, Reading(when, event_id, value, member)))
    return found


async def told(market: Market, events: Iterable[Told]) -> None:
    async with db.system_session("usage from outside") as session:
        found = await report(session, market.provider.actor, [one.said for one in events], NOW)
    assert not found.rejected


async def stored(contract: Contract, period: Period) -> dict[str, Decimal]:
    async with db.system_session(STORING) as session:
        cells = await queries.measured(session, contract.subscription_id, period)
    return {key: aggregate(key, KINDS[key], cell) for key, cell in cells.items() if key in KINDS}


async def test_every_kind_of_meter_is_what_the_law_says_in_any_period_and_order(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path, soak: Soak
) -> None:
    await make_meters(api, metered_market)
    [at_first] = await rows("SELECT anchor_at, time_zone FROM subscriptions")
    anchor = at_first["anchor_at"].astimezone(ZoneInfo(at_first["time_zone"]))
    choice = soak.random
    events = some_events(choice, contract, 120)
    arriving = events[:]
    choice.shuffle(arriving)
    for batch in (arriving[:5], arriving[5:60], arriving[60:]):
        await told(metered_market, batch)

    for _ in range(soak.count(25, 400)):
        first, last = sorted((instant(choice), instant(choice)))
        period = Period(first, last if first < last else last + HOUR)
        found = await stored(contract, period)
        for meter, kind in KINDS.items():
            readings = [one.reading for one in events if one.meter == meter]
            expected = period_value(kind, readings, period, anchor)
            assert found.get(meter, Decimal(0)) == expected, (meter, period)
    assert await proof(tmp_path) == []


async def test_a_level_from_before_the_period_is_carried_into_it(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract
) -> None:
    await make_meters(api, metered_market)
    await counted(api, metered_market, usage(contract, "a", "storage", value="100", **at(START)))
    june = Period(END, START + 61 * DAY)

    used = await quantities(contract, june.starts_at, june.ends_at)
    shown = await sent(api, metered_market.consumer, "GET", "/api/billing/usage/current")

    assert used["storage"] == 100
    [now] = [one for one in shown["data"][0]["meters"] if one["meter"] == "storage"]
    so_far = Decimal(now["quantity"])
    assert round(so_far, 12) == round(Decimal(400) / 30, 12)  # on the fifth of June
    late = usage(contract, "b", "storage", value="40", **at(END - HOUR))
    await counted(api, metered_market, late)
    assert (await quantities(contract, june.starts_at, june.ends_at))["storage"] == 40


async def test_what_a_call_reports_of_a_level_is_one(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    await make_meters(api, metered_market)
    producer = uuid4()
    await store(producer, [event(contract, producer, 1, START, **reported(storage="100"))])

    used = await quantities(contract)
    assert used["storage"] == 100
    assert await proof(tmp_path) == []


async def test_a_quota_of_any_kind_counts_what_the_period_counts(
    api: httpx2.AsyncClient, metered_market: Market, contract: Contract, tmp_path: Path
) -> None:
    await make_meters(api, metered_market)
    limits = [{"meter": meter, "amount": 1000, "period": "cycle"} for meter in KINDS]
    plan = await plan_with(api, metered_market, quotas=limits, over_quota_policy="allow")
    choice = random.Random(3)
    events = some_events(choice, contract, 60)
    await move_to(contract, plan)
    async with db.system_session(STORING) as session:
        await room.open_standings(session, contract.subscription_id, NOW)
    for batch in (events[:20], events[20:]):
        await told(metered_market, batch)

    standings = await rows(
        "SELECT meter_key, period_starts_at, period_ends_at, used FROM quota_standings"
        " WHERE subscription_id = :id AND meter_key = ANY (:meters)",
        id=contract.subscription_id,
        meters=list(KINDS),
    )
    assert {row["meter_key"] for row in standings} == set(KINDS)
    for row in standings:
        window = Period(row["period_starts_at"], row["period_ends_at"])
        found = await stored(contract, window)
        assert row["used"] == found.get(row["meter_key"], 0), row
    assert await proof(tmp_path) == []
    async with db.system_session(STORING) as session:
        await session.execute(
            text("UPDATE quota_standings SET used = used + 1 WHERE meter_key = ANY (:meters)"),
            {"meters": list(KINDS)},
        )
    assert {one["meter_key"] for one in await proof(tmp_path)} == set(KINDS)
