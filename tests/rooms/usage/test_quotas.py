# SPDX-License-Identifier: Apache-2.0
"""Quotas: lent to gateways without ever going over, opened in time, counted from the events."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

from nimbus import usage
from nimbus.base import clock, db, jobs
from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from nimbus.rules.metering import CALLS
from nimbus.subscriptions import lock_subscription
from nimbus.subscriptions.service.changes import change_plan
from nimbus.usage.jobs import open_standings
from tests.support.metered import (
    END,
    START,
    STORING,
    Contract,
    Market,
    allow,
    event,
    failed,
    proof,
    quantities,
    reported,
    rows,
    standing,
    store,
)

pytestmark = pytest.mark.anyio

LESSEES = 8
SEED = 20260502
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)


def connect(settings: Settings) -> psycopg.Connection[Any]:
    login: dict[str, Any] = dict(database_login(settings, "gateway"))
    return psycopg.connect(**login, autocommit=True)


def lease(connection: psycopg.Connection[Any], gateway: UUID, quota: UUID, units: int) -> Any:
    """Borrow as a gateway does: granted, used, leased, limit."""
    statement = "SELECT * FROM gateway_lease(%s, %s, %s)"
    return connection.execute(statement, (gateway, quota, units)).fetchone()


def give_back(connection: psycopg.Connection[Any], gateway: UUID, quota: UUID, units: int) -> None:
    connection.execute("SELECT gateway_give_back(%s, %s, %s)", (gateway, quota, units))


async def test_eight_lessees_at_the_last_units_never_get_more_than_are_left(
    contract: Contract, settings: Settings
) -> None:
    quota = await allow(contract, 500, "deny")

    def borrow(seed: int) -> int:
        choice, gateway, held = random.Random(seed), uuid4(), 0
        with connect(settings) as connection:
            for _ in range(60):
                granted = lease(connection, gateway, quota, choice.randrange(1, 12))[0]
                back = choice.randrange(granted + 1) if granted else 0
                give_back(connection, gateway, quota, back)
                held += granted - back
        return held

    with ThreadPoolExecutor(LESSEES) as pool:
        held = sum(pool.map(borrow, range(SEED, SEED + LESSEES)))

    state = await standing(contract)
    assert held == state["leased"] <= 500
    with connect(settings) as connection:
        assert lease(connection, uuid4(), quota, 501) == (500 - held, 0, 500, 500)
        assert lease(connection, uuid4(), quota, 1) == (0, 0, 500, 500)


async def test_eight_lessees_that_wait_for_a_batch_share_what_it_leaves(
    contract: Contract, settings: Settings
) -> None:
    quota = await allow(contract, 30, "deny")
    producer = uuid4()
    calls = [event(contract, producer, n) for n in range(1, 11)]

    def borrow(_: int) -> int:
        with connect(settings) as connection:
            return int(lease(connection, uuid4(), quota, 7)[0])

    with ThreadPoolExecutor(LESSEES) as pool:
        async with db.system_session(STORING) as session:
            await usage.store_batch(session, producer, 1, 10, calls)
            asked = pool.map(borrow, range(LESSEES))
            await until_all_wait(settings)
        granted = sorted(asked)

    assert granted == [0, 0, 0, 0, 0, 6, 7, 7]
    state = await standing(contract)
    assert (state["used"], state["leased"]) == (10, 20)


async def until_all_wait(settings: Settings) -> None:
    """Every lessee has asked, and waits for the batch."""
    statement = (
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'nimbus_gateway'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    deadline = clock.monotonic() + 60
    login: dict[str, Any] = dict(database_login(settings, "owner"))
    with psycopg.connect(**login, autocommit=True) as connection:
        while connection.execute(statement).fetchone() != (LESSEES,):
            assert clock.monotonic() < deadline, "the lessees never waited"
            await asyncio.sleep(0.01)


async def test_what_is_used_and_lent_stays_within_the_limit_while_batches_are_stored(
    contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    quota = await allow(contract, 100, "deny")
    choice = random.Random(SEED)
    gateways = {uuid4(): [0, 0] for _ in range(3)}  # units held, calls made
    with connect(settings) as connection:
        for _ in range(60):
            gateway = choice.choice(list(gateways))
            held, made = gateways[gateway]
            held += lease(connection, gateway, quota, choice.randrange(1, 8))[0]
            calls = choice.randrange(held + 1)
            numbers = range(made + 1, made + calls + 1)
            served = [event(contract, gateway, n, leased=1) for n in numbers]
            if served and choice.random() < 0.3:
                served[0] = event(contract, gateway, numbers[0], **failed())
                held += 1
            await store(gateway, served, first=made + 1)
            gateways[gateway] = [held - calls, made + calls]
            state = await standing(contract)
            assert state["used"] + state["leased"] <= 100
            assert state["leased"] == sum(held for held, _ in gateways.values())
        for gateway, (held, _) in gateways.items():
            give_back(connection, gateway, quota, held)
    assert (await standing(contract))["leased"] == 0
    assert await proof(tmp_path) == []


@pytest.mark.parametrize("policy", ["warn", "allow", "overage"])
async def test_only_deny_ends_at_the_limit(
    contract: Contract, settings: Settings, policy: str
) -> None:
    quota = await allow(contract, 10, policy)

    with connect(settings) as connection:
        assert lease(connection, uuid4(), quota, 25) == (25, 0, 25, 10)


async def test_nobody_gives_back_more_than_it_holds(contract: Contract, settings: Settings) -> None:
    quota = await allow(contract, 10, "deny")
    one, other = uuid4(), uuid4()
    with connect(settings) as connection:
        assert lease(connection, one, quota, 4)[0] == 4
        assert lease(connection, other, quota, 4)[0] == 4
        give_back(connection, one, quota, 100)
        give_back(connection, one, quota, 100)
        give_back(connection, uuid4(), quota, 100)
        assert lease(connection, one, quota, 100)[0] == 6


async def test_an_unknown_standing_lends_nothing(contract: Contract, settings: Settings) -> None:
    with connect(settings) as connection:
        assert lease(connection, uuid4(), uuid4(), 5) == (0, None, None, None)


async def test_the_gateway_may_lend_and_return_but_read_no_counter(
    contract: Contract, settings: Settings
) -> None:
    with connect(settings) as connection:
        for table in ("quota_standings", "quota_leases", "usage_events", "usage_producers"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT 1 FROM {table}")


async def standings(contract: Contract, meter_key: str = CALLS) -> list[dict[str, Any]]:
    return await rows(
        "SELECT * FROM quota_standings WHERE subscription_id = :id AND meter_key = :meter_key"
        " ORDER BY period_starts_at",
        id=contract.subscription_id,
        meter_key=meter_key,
    )


async def test_a_subscription_begins_with_this_window_and_the_next_one_open(
    contract: Contract,
) -> None:
    found = await standings(contract)

    assert [(row["period_starts_at"], row["period_ends_at"]) for row in found] == [
        (START, END),
        (END, END + 30 * DAY),
    ]
    assert {(row["limit_units"], row["policy"], row["used"]) for row in found} == {
        (10_000, "overage", Decimal(0))
    }
    assert len(await standings(contract, "assets")) == 2


async def test_windows_open_one_ahead_as_time_goes_by_and_tile_without_gap(
    contract: Contract,
) -> None:
    async with db.system_session(STORING) as session:
        due_at = await jobs.next_due(session)
    assert due_at == END

    for _ in range(5):
        [row] = await rows("SELECT due_at FROM quota_schedules")
        await open_standings(str(contract.subscription_id), clock.to_wire(row["due_at"]))
        await open_standings(str(contract.subscription_id), clock.to_wire(row["due_at"]))

    found = await standings(contract)
    assert len(found) == 7
    for before, after in pairwise(found):
        assert before["period_ends_at"] == after["period_starts_at"]
    assert found[-1]["period_ends_at"] == datetime(2026, 12, 1, 1, tzinfo=UTC)


async def test_a_window_that_opens_waits_for_who_changes_the_subscription(
    contract: Contract,
) -> None:
    async with db.system_session(STORING) as session, asyncio.TaskGroup() as group:
        await lock_subscription(session, contract.subscription_id)
        group.create_task(open_standings(str(contract.subscription_id), clock.to_wire(END)))
        await somebody_waits_for_a_lock()
        await usage.open_standings(session, contract.subscription_id, END)
        await session.commit()

    assert len(await standings(contract)) == 3


WAITING = """SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'"""


async def somebody_waits_for_a_lock() -> None:
    async with asyncio.timeout(20):
        while not await rows(WAITING):
            await asyncio.sleep(0.02)


async def test_a_new_plan_s_limit_holds_at_once_and_what_was_used_stays(
    contract: Contract, metered_market: Market, tmp_path: Path
) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, n) for n in range(1, 8)])
    consumer = metered_market.consumer

    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        await change_plan(
            session,
            consumer.actor,
            contract.subscription_id,
            "professional",
            direction="upgrade",
            version=1,
            as_of=START + DAY,
        )
        clock.set_instant(START + DAY)

    found = await standings(contract)
    assert [(row["limit_units"], row["used"]) for row in found] == [(250_000, 7), (250_000, 0)]
    assert await proof(tmp_path) == []


async def test_a_quota_that_opens_late_counts_what_its_window_already_had(
    contract: Contract, tmp_path: Path
) -> None:
    producer = uuid4()
    at = END + 40 * DAY  # no worker ran since May
    calls = [
        event(contract, producer, n, at + n * MICROSECOND, **reported(assets=str(n)))
        for n in range(1, 6)
    ]
    await store(producer, calls)

    async with db.system_session(STORING) as session:
        await usage.open_standings(session, contract.subscription_id, at + DAY)
        states = await usage.quota_states(session, [contract.subscription_id], at + DAY)

    assert {state.meter_key: state.used for state in states} == {CALLS: 5, "assets": 5}
    assert await proof(tmp_path) == []


async def test_a_gauge_s_standing_shows_its_peak_not_its_sum(
    contract: Contract, tmp_path: Path
) -> None:
    producer = uuid4()
    sizes = ["7", "25", "10"]
    await store(
        producer,
        [event(contract, producer, n, **reported(assets=s)) for n, s in enumerate(sizes, 1)],
    )

    assert (await standing(contract, "assets"))["used"] == 25
    assert await proof(tmp_path) == []


async def test_gateways_hear_of_a_standing_that_opens_or_changes_not_of_one_that_counts(
    contract: Contract,
) -> None:
    async def number() -> int:
        [row] = await rows(
            "SELECT number FROM grant_feed WHERE entity_id = :id", id=contract.subscription_id
        )
        return int(row["number"])

    before = await number()
    producer = uuid4()
    await store(producer, [event(contract, producer, 1)])
    assert await number() == before

    await allow(contract, 5, "deny")
    assert await number() > before


async def test_the_state_of_a_quota_says_what_is_left_and_whether_the_next_unit_is_served(
    contract: Contract,
) -> None:
    producer = uuid4()
    await allow(contract, 3, "deny")
    for n, (allowed, remaining) in enumerate([(True, 2), (True, 1), (False, 0)], 1):
        await store(producer, [event(contract, producer, n)], first=n)
        async with db.system_session(STORING) as session:
            found = await usage.quota_states(session, [contract.subscription_id], START)
        state = next(one for one in found if one.meter_key == CALLS)
        assert (state.allowed, state.used) == (allowed, Decimal(n))
        assert state.remaining == Decimal(remaining)
    await allow(contract, None, "deny")
    async with db.system_session(STORING) as session:
        found = await usage.quota_states(session, [contract.subscription_id], START)
    state = next(one for one in found if one.meter_key == CALLS)
    assert (state.allowed, state.limit, state.remaining) == (True, None, None)


async def test_a_trial_is_a_cycle_of_its_own_and_the_paid_cycles_begin_at_its_end(
    contract: Contract, settings: Settings
) -> None:
    ends_at = START + 14 * DAY
    login: dict[str, Any] = dict(database_login(settings, "owner"))
    with psycopg.connect(**login, autocommit=True) as connection:
        connection.execute("DELETE FROM quota_standings")
        connection.execute(
            "UPDATE subscriptions SET status = 'Trial', trial_ends_at = %(at)s,"
            " period_ends_at = %(at)s",
            {"at": ends_at},
        )
        await open_standings(str(contract.subscription_id), clock.to_wire(START))
        connection.execute(
            "UPDATE subscriptions SET status = 'Active', anchor_at = %(at)s,"
            " period_starts_at = %(at)s, period_ends_at = %(at)s + interval '1 month'",
            {"at": ends_at},
        )
        await open_standings(str(contract.subscription_id), clock.to_wire(ends_at))

    found = await standings(contract)
    assert [row["period_starts_at"] for row in found] == [
        START,
        ends_at,
        datetime(2026, 6, 15, tzinfo=UTC),
    ]
    assert found[0]["period_ends_at"] == ends_at


async def test_who_is_neither_consumer_nor_provider_sees_no_usage(
    contract: Contract, metered_market: Market
) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, 1)])
    tables = ("usage_events", "usage_hours", "quota_standings", "quota_schedules")

    async def seen_by(organization_id: UUID) -> list[int]:
        async with db.transaction(organization_id) as session:
            return [
                int(await session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)
                for table in tables
            ]

    assert await seen_by(uuid4()) == [0, 0, 0, 0]
    assert min(await seen_by(contract.organization_id)) >= 1
    assert min(await seen_by(contract.provider_organization_id)) >= 1


async def test_a_meter_that_tells_values_apart_counts_no_call_and_stops_nothing(
    contract: Contract, tmp_path: Path
) -> None:
    async with db.system_session(STORING) as session:
        await session.execute(text("UPDATE meters SET aggregation = 'unique' WHERE key = 'assets'"))
        await usage.open_standings(session, contract.subscription_id, END + 40 * DAY)
    producer = uuid4()
    at = END + 40 * DAY
    await store(producer, [event(contract, producer, 1, at, **reported(assets="3"))])

    found = await quantities(contract, at, at + DAY)
    assert (found[CALLS], found.get("assets", 0)) == (1, 0)
    async with db.system_session(STORING) as session:
        states = await usage.quota_states(session, [contract.subscription_id], at)
    assert {state.meter_key: state.used for state in states} == {CALLS: 1, "assets": 0}
    assert await proof(tmp_path) == []
