# SPDX-License-Identifier: Apache-2.0
"""The same numbers everywhere: screen, costs, log, file and bill, on random calls."""

import csv
import itertools
import json
import random
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from pyarrow import parquet

from nimbus import catalog
from nimbus.base import clock, db
from nimbus.rules.invoicing import MeterUsage, usage_cost
from nimbus.rules.latency import bucket
from nimbus.rules.metering import UsageEvent
from nimbus.rules.periods import Period, zone
from nimbus.rules.pricing import Charge, amount, before_any, passed
from nimbus.usage import queries, queries_log
from nimbus.usage.models import Export
from nimbus.usage.queries_log import LogFilter, LoggedCall
from nimbus.usage.queries_rollup import Grouping, Scope, consumers, counted, histograms
from nimbus.usage.service import costs, exports
from nimbus.usage.service.files import COLUMNS, harmless
from nimbus.usage.service.ingest import report
from nimbus.usage.service.prices import CallPrice, Contracts
from tests.support.metered import (
    END,
    START,
    Contract,
    Market,
    contract,
    event,
    failed,
    in_test,
    metered_market,
    part_of_a_stream,
    quantities,
    refused,
    reported,
    rows,
    settings,
    store,
)
from tests.support.reported import move_to, plan_with, usage
from tests.support.soak import Soak

__all__ = ["contract", "metered_market", "settings"]

pytestmark = pytest.mark.anyio

MAY = Period(START, END)
ZONES = ("UTC", "Europe/Amsterdam", "Asia/Kolkata")


async def some_calls(contract: Contract, chance: random.Random, count: int) -> list[UsageEvent]:
    """Calls of every kind all over May, stored in a few batches; several at one instant."""
    producer, routes, keys = uuid4(), [uuid4() for _ in range(4)], [uuid4(), contract.key_id]
    instants = [START + chance.random() * (END - START) for _ in range(count // 2)]
    calls = []
    for number in range(1, count + 1):
        kind: dict[str, Any] = chance.choice(
            [
                {},
                {"units": chance.randint(0, 900)},
                {"units": chance.randint(0, 5), "status": 404},
                reported(assets=str(chance.randint(0, 40)), reports=f"{chance.randint(0, 9)}.5"),
                failed(chance.choice([500, 502])),
                in_test(),
                refused("rate_limited", 429),
                part_of_a_stream(),
            ]
        )
        kind["route_id"] = chance.choice([*routes, contract.route_id])
        kind["key_id"] = chance.choice(keys)
        kind["duration_us"] = int(chance.lognormvariate(9, 2))
        calls.append(event(contract, producer, number, chance.choice(instants), **kind))
    cuts = sorted({0, count, *(chance.randrange(count) for _ in range(3))})
    for first, last in itertools.pairwise(cuts):
        await store(producer, calls[first:last], first + 1)
    return calls


async def log_of(contract: Contract, limit: int = 37, **filters: Any) -> list[LoggedCall]:
    """Every call that matches, page by page, newest first."""
    asked = LogFilter(organization_id=contract.organization_id, **filters)
    found: list[LoggedCall] = []
    place = None
    async with db.transaction(contract.organization_id) as session:
        while True:
            page, place = await queries_log.logged_calls(session, asked, limit, place)
            found += page
            if place is None:
                return found


async def prices_of(contract: Contract, calls: list[LoggedCall]) -> list[CallPrice]:
    """What calls cost, asked one after the other."""
    async with db.transaction(contract.organization_id) as session:
        contracts = Contracts(session)
        return [await contracts.price(call) for call in calls]


def place(call: LoggedCall | UsageEvent) -> tuple[datetime, UUID]:
    return call.occurred_at, call.event_id


def total(prices: list[CallPrice]) -> Decimal:
    return sum((price.amount for price in prices), Decimal(0))


async def rated(contract: Contract) -> Decimal:
    """What the running period is rated at, which is what spend limits and the bill say."""
    [row] = await rows(
        "SELECT cost FROM rated_periods WHERE subscription_id = :id", id=contract.subscription_id
    )
    return Decimal(row["cost"])


@pytest.mark.parametrize("time_zone", ZONES)
async def test_figures_by_anything_are_a_recount_of_the_calls(
    contract: Contract, soak: Soak, time_zone: str
) -> None:
    calls = await some_calls(contract, soak.random, soak.count(150, 3000))
    served = [call for call in calls if not call.refusal]

    def day_of(call: UsageEvent) -> Any:
        hour = call.occurred_at.replace(minute=0, second=0, microsecond=0)
        return hour.astimezone(zone(time_zone)).date()

    def hour_of(call: UsageEvent) -> Any:
        return call.occurred_at.replace(minute=0, second=0, microsecond=0)

    groupings = {
        Grouping(interval="day", time_zone=time_zone): lambda call: (day_of(call),),
        Grouping(by=("endpoint", "status"), interval="day", time_zone=time_zone): lambda call: (
            day_of(call), call.product_id, call.route_id, call.status // 100,
        ),
        Grouping(by=("key",), interval="hour"): lambda call: (hour_of(call), call.key_id),
        Grouping(by=("environment",)): lambda call: (call.environment,),
        Grouping(): lambda _: (),
    }  # fmt: skip
    async with db.transaction(contract.organization_id) as session:
        for part in (MAY, Period(START + timedelta(days=3, hours=5), END - timedelta(hours=7))):
            scope = Scope(period=part, organization_id=contract.organization_id)
            inside = [call for call in served if call.occurred_at in part]
            for grouping, key in groupings.items():
                found = await counted(session, scope, grouping)
                waits = await histograms(session, scope, grouping)
                assert found == sorted(found, key=lambda one: str(one.at)) or not grouping.interval
                by_key = {tuple(getattr(one, n) for n in grouping.columns): one for one in found}
                calls_of, units_of, errors_of = Counter(), Counter(), Counter()
                waits_of: dict[Any, Counter[int]] = {}
                for call in inside:
                    one = 0 if call.continued else 1
                    calls_of[key(call)] += one
                    errors_of[key(call)] += one if call.status >= 400 else 0
                    units_of[key(call)] += call.units
                    if one:
                        waits_of.setdefault(key(call), Counter())[bucket(call.duration_us)] += 1
                assert {at: one.calls for at, one in by_key.items()} == dict(calls_of)
                assert {at: one.units for at, one in by_key.items()} == dict(units_of)
                assert {at: one.errors for at, one in by_key.items()} == dict(errors_of)
                assert waits == {at: dict(counts) for at, counts in waits_of.items()}


async def test_what_is_reported_for_the_meter_of_calls_has_units_and_is_no_call(
    contract: Contract, metered_market: Market
) -> None:
    kinds: list[dict[str, Any]] = [{}, {"status": 404}, failed()]
    producer = uuid4()
    calls = [event(contract, producer, n, START, **kind) for n, kind in enumerate(kinds, 1)]
    told = [usage(contract, "a", "api_calls", value="40"), usage(contract, "b", "reports")]
    scope = Scope(period=MAY, organization_id=contract.organization_id)

    async def figures() -> tuple[Any, ...]:
        async with db.transaction(contract.organization_id) as session:
            [one] = await counted(session, scope, Grouping())
            statuses = await counted(session, scope, Grouping(by=("status",)))
            measured = await histograms(session, scope, Grouping())
            return (
                one.calls,
                one.errors,
                int(one.units),
                {each.status_class: each.calls for each in statuses if each.calls},
                sum(sum(found.values()) for found in measured.values()),
                await consumers(session, scope),
            )

    async with db.system_session("usage from outside") as session:
        found = await report(session, metered_market.provider.actor, told, START)
    assert found.accepted == 2
    assert await figures() == (0, 0, 40, {}, 0, 0)
    await store(producer, calls)
    assert await figures() == (3, 2, 42, {2: 1, 4: 1, 5: 1}, 3, 1)
    log = await log_of(contract)
    assert Counter(call.source for call in log) == {None: 3, "api": 2}
    assert len(await log_of(contract, status_class=2)) == 1


async def test_the_prices_of_all_calls_add_up_to_what_the_period_is_rated_at(
    contract: Contract, soak: Soak
) -> None:
    await some_calls(contract, soak.random, soak.count(200, 4000))
    log = sorted(await log_of(contract), key=place)

    prices = await prices_of(contract, log)

    assert total(prices) == await rated(contract) > 0
    counts = await quantities(contract)
    added = Counter[str]()
    for price in prices:
        for meter in price.meters:
            added[meter.meter_key] += meter.quantity  # type: ignore[assignment]
    assert added["api_calls"] == counts["api_calls"]
    assert added["reports"] == counts["reports"]
    reasons = {price.reason for price in prices}
    assert {"billed", "included", "refused", "test", "not_billable"} <= reasons
    for call, price in zip(log, prices, strict=True):
        assert call.billable or not price.amount
    chosen = soak.random.sample(range(len(log)), 12)
    alone = [(await prices_of(contract, [log[number]]))[0] for number in chosen]
    assert alone == [prices[number] for number in chosen]


BY_EVENT = {
    "rate": "1.5",
    "fixed_per_event": "0.10",
    "free_events": 7,
    "free_amount": "20",
    "maximum": "9",
}


async def test_prices_by_single_events_add_up_to_what_the_law_makes_of_all_of_them(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market, soak: Soak
) -> None:
    charges = [
        {"meter": "reports", "model": "percentage", **BY_EVENT},
        {"meter": "assets", "unit_price": "1.50", "included": "10"},
    ]
    fee = {"amount_minor": 4900, "currency": "EUR"}
    plan = await plan_with(api, metered_market, prices=[{"base_fee": fee, "charges": charges}])
    await move_to(contract, plan)
    await some_calls(contract, soak.random, soak.count(200, 2000))

    found = await prices_of(contract, sorted(await log_of(contract), key=place))

    async with db.system_session("storing usage") as session:
        [row] = await rows("SELECT plan_version_id FROM subscriptions")
        terms = await catalog.plan_terms(session, row["plan_version_id"], "EUR")
        cells = await queries.measured(session, contract.subscription_id, MAY)
        singles = await queries.single_values(session, contract.subscription_id, MAY, {"reports"})
    usage_of = {
        "reports": MeterUsage(cells["reports"].total, singles["reports"]),
        "assets": MeterUsage(cells["assets"].peak),
    }
    assert total(found) == usage_cost(terms.charges, usage_of) > 9


def test_many_events_are_priced_one_after_the_other_as_all_at_once() -> None:
    """As many as a busy month has; nobody would wait for each to look at all that came before."""
    charge = Charge(
        "reports",
        "percentage",
        **{name: Decimal(value) for name, value in BY_EVENT.items() if name != "maximum"},  # type: ignore[arg-type]
    )
    values = [Decimal(number % 37) / 4 for number in range(1, 50_001)]
    at = before_any(charge)
    for value in values:
        at = passed(charge, at, value)
    assert at.price == amount(charge, sum(values, Decimal(0)), values)


async def test_a_price_is_the_one_at_the_call_s_place_in_the_sum(contract: Contract) -> None:
    """Starter: 10,000 calls included, then 0.002 each; 10 assets, then 1.50 each, by the peak."""
    producer = uuid4()
    kinds: list[dict[str, Any]] = [
        {"units": 9_990},
        {"units": 25},
        {"units": 5, **reported(assets="12")},
        {"units": 5, **reported(assets="11")},
    ]
    calls = [
        event(contract, producer, number, START + timedelta(hours=number), **kind)
        for number, kind in enumerate(kinds, 1)
    ]
    await store(producer, calls)

    prices = await prices_of(contract, sorted(await log_of(contract), key=place))

    shown = [
        [(m.meter_key, m.amount, m.unit_price) for m in price.meters if m.quantity]
        for price in prices
    ]
    assert [price.reason for price in prices] == ["included", "billed", "billed", "billed"]
    assert shown == [
        [("api_calls", 0, 0)],
        [("api_calls", Decimal("0.030"), Decimal("0.0012"))],
        [("api_calls", Decimal("0.010"), Decimal("0.002")), ("assets", 3, Decimal("0.25"))],
        [("api_calls", Decimal("0.010"), Decimal("0.002")), ("assets", 0, 0)],
    ]


async def test_calls_of_one_instant_come_by_their_ids(contract: Contract) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, n, START, units=10_000) for n in (1, 2)])
    log = sorted(await log_of(contract), key=place)

    alone = [(await prices_of(contract, [call]))[0].amount for call in log]

    assert alone == [0, 20]


async def test_a_late_call_moves_the_prices_behind_it_and_no_sum(contract: Contract) -> None:
    first, late = uuid4(), uuid4()
    noon = START + timedelta(hours=12)
    await store(first, [event(contract, first, 1, noon, units=10_010)])
    before = total(await prices_of(contract, await log_of(contract)))
    await store(late, [event(contract, late, 1, noon - timedelta(hours=1), units=10_000)])

    earlier, later = await prices_of(contract, sorted(await log_of(contract), key=place))

    assert (before, earlier.amount, later.amount) == (Decimal("0.02"), 0, Decimal("20.02"))
    assert await rated(contract) == Decimal("20.02")


async def test_costs_by_meter_day_and_endpoint_are_the_rated_sum(
    contract: Contract, soak: Soak
) -> None:
    await some_calls(contract, soak.random, soak.count(150, 3000))
    counts = await quantities(contract)

    for time_zone in ZONES:
        async with db.transaction(contract.organization_id) as session:
            organization = contract.organization_id
            [found] = await costs.period_costs(session, organization, START, time_zone)
        cost = await rated(contract)
        assert found.amount == cost > 0
        assert {one.meter.key: one.quantity for one in found.meters if one.quantity} == counts
        assert found.days[-1].total == sum(day.amount for day in found.days) == cost
        assert sum(one.amount for one in found.endpoints) == cost
    calls = next(one for one in found.meters if one.meter.key == "api_calls")
    following = Decimal("0.002") if counts["api_calls"] >= 10_000 else 0
    assert (calls.included, calls.next_unit_price) == (10_000, following)
    assert calls.over == max(counts["api_calls"] - 10_000, 0)


async def test_the_log_finds_what_is_asked_and_nothing_else(contract: Contract, soak: Soak) -> None:
    chance = soak.random
    calls = await some_calls(contract, chance, soak.count(200, 2000))
    calls.sort(key=place, reverse=True)
    some = chance.choice(calls)
    half = START + timedelta(days=15)
    asked: list[tuple[dict[str, Any], Any]] = [
        ({}, lambda _: True),
        ({"status": 404}, lambda call: call.status == 404),
        ({"status_class": 5}, lambda call: call.status // 100 == 5),
        ({"key_id": some.key_id}, lambda call: call.key_id == some.key_id),
        ({"route_id": some.route_id}, lambda call: call.route_id == some.route_id),
        ({"environment": "Test"}, lambda call: call.environment == "Test"),
        ({"billable": True}, lambda call: call.billable and not call.refusal),
        ({"billable": False}, lambda call: not call.billable or call.refusal),
        ({"refused": True}, lambda call: call.refusal),
        ({"refused": False}, lambda call: not call.refusal),
        ({"refused": True, "billable": True}, lambda _: False),
        ({"request_id": some.request_id}, lambda call: call.request_id == some.request_id),
        ({"product_id": uuid4()}, lambda _: False),
        ({"method": "POST"}, lambda _: False),
        ({"starts_at": half}, lambda call: call.occurred_at >= half),
        ({"starts_at": START, "ends_at": half}, lambda call: call.occurred_at < half),
        ({"status_class": 4, "ends_at": half, "refused": False},
         lambda call: call.status == 404 and call.occurred_at < half),
    ]  # fmt: skip
    for filters, matches in asked:
        found = [call.event_id for call in await log_of(contract, **filters)]
        assert found == [call.event_id for call in calls if matches(call)], filters


async def test_a_search_looks_at_so_many_calls_and_says_where_it_stopped(
    contract: Contract, soak: Soak, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = await some_calls(contract, soak.random, 200)
    calls.sort(key=place, reverse=True)
    monkeypatch.setattr(queries_log, "SCANNED", 7)

    for filters, matches in (
        ({"status": 404}, lambda call: call.status == 404),
        ({}, lambda _: True),
        ({"method": "PUT"}, lambda _: False),
    ):
        found = [call.event_id for call in await log_of(contract, limit=5, **filters)]
        assert found == [call.event_id for call in calls if matches(call)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
async def test_a_file_has_the_calls_that_match_with_prices_that_add_up(
    contract: Contract,
    metered_market: Market,
    soak: Soak,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = await some_calls(contract, soak.random, soak.count(120, 3000))
    monkeypatch.setattr(exports, "CHUNK", 17)

    whole = await file_of(metered_market, kind)
    errors = await file_of(metered_market, kind, status_class=4)

    assert [row["id"] for row in whole] == [str(c.event_id) for c in sorted(calls, key=place)]
    assert list(whole[0]) == list(COLUMNS)
    assert sum(Decimal(row["amount"]) for row in whole) == await rated(contract) > 0
    assert sum(int(row["units"]) for row in whole) == (await quantities(contract))["api_calls"]
    assert errors == [row for row in whole if int(row["status"]) // 100 == 4]
    assert {str(row["path"]) for row in whole} <= {"/farms", "", "None"}


async def file_of(market: Market, kind: str, **filters: Any) -> list[dict[str, Any]]:
    """Ask for a file of May, write it, and read it back."""
    contract, actor = market.contract, market.consumer.actor
    asked = LogFilter(
        organization_id=contract.organization_id, starts_at=START, ends_at=END, **filters
    )
    async with db.transaction(contract.organization_id, actor.user_id) as session:
        export = await exports.start(session, actor, kind, asked, clock.now())
    await exports.write(export.id, contract.organization_id)
    [row] = await rows("SELECT * FROM usage_exports WHERE id = :id", id=export.id)
    path = exports.path_of(export)
    assert (row["status"], row["bytes"]) == ("Ready", path.stat().st_size)
    assert path.stat().st_mode & 0o077 == 0
    found: list[dict[str, Any]]
    if kind == "parquet":
        found = parquet.read_table(path).to_pylist()
    elif kind == "csv":
        with path.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
    else:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert row["rows_done"] == row["rows_total"] == len(found)
    return found


async def test_a_file_that_could_not_be_written_says_so_and_the_next_attempt_makes_it(
    contract: Contract, metered_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, 1)])
    actor = metered_market.consumer.actor
    asked = LogFilter(organization_id=contract.organization_id, starts_at=START, ends_at=END)
    async with db.transaction(contract.organization_id, actor.user_id) as session:
        export = await exports.start(session, actor, "csv", asked, clock.now())
    path = exports.path_of(export)
    path.with_suffix(".part").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        await exports.write(export.id, contract.organization_id)
    assert (await state_of(export), path.exists()) == (("Failed", "storage"), False)

    path.with_suffix(".part").rmdir()
    await exports.write(export.id, contract.organization_id)
    assert (await state_of(export), path.exists()) == (("Ready", None), True)


async def test_a_file_goes_when_its_week_is_over(
    contract: Contract, metered_market: Market
) -> None:
    actor = metered_market.consumer.actor
    asked = LogFilter(organization_id=contract.organization_id, starts_at=START, ends_at=END)
    async with db.transaction(contract.organization_id, actor.user_id) as session:
        export = await exports.start(session, actor, "jsonl", asked, START)
    await exports.write(export.id, contract.organization_id)

    async with db.system_session("expire exports") as session:
        week = START + timedelta(days=7)
        assert await exports.next_due(session) == week
        assert await exports.due(session, week - timedelta(microseconds=1), 10) == []
        assert await exports.due(session, week, 10) == [(export.id, week)]
        await exports.expire(session, export.id)
        assert await exports.next_due(session) is None

    assert (await state_of(export), exports.path_of(export).exists()) == (("Expired", None), False)
    await exports.write(export.id, contract.organization_id)
    assert not exports.path_of(export).exists()


async def state_of(export: Export) -> tuple[str, str | None]:
    [row] = await rows("SELECT status, reason FROM usage_exports WHERE id = :id", id=export.id)
    return row["status"], row["reason"]


def test_no_cell_of_a_file_is_a_formula() -> None:
    for text in ("=1+1", "+31", "-1", "@SUM(A1)", "\t=1", "\r=1"):
        assert harmless(text) == f"'{text}"
    for value in ("/farms", "", "a=b", 7, True, None):
        assert harmless(value) == value
