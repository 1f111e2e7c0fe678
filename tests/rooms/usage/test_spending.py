# SPDX-License-Identifier: Apache-2.0
"""Spend and balances: counted as the bill counts, lent without ever going over, settled exactly."""

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

from nimbus import catalog, ledger, usage
from nimbus.access.service import KeyTerms, change_key, create_key
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from nimbus.billing.service.wallets import grant
from nimbus.identity import lock_organization_facts
from nimbus.identity.service.organizations import change_spend_limit
from nimbus.rules.invoicing import MeterUsage, usage_cost
from nimbus.rules.metering import Held, UsageEvent
from nimbus.rules.money import Money
from nimbus.rules.spending import MICRO, micro
from nimbus.subscriptions.service.changes import change_plan
from nimbus.usage.jobs import open_spend
from nimbus.usage.service import spending
from tests.support.metered import (
    END,
    START,
    STORING,
    Contract,
    Market,
    event,
    failed,
    in_test,
    proof,
    quantities,
    reported,
    rows,
    store,
)
from tests.support.people import Person

pytestmark = pytest.mark.anyio

SEED = 20261120
LESSEES = 8
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
AFTER = datetime(2026, 7, 1, tzinfo=UTC)
CENT = MICRO  # what a standing counts a cent as
REPORT = 250 * CENT
MIDNIGHT = datetime(2026, 5, 31, 22, tzinfo=UTC)  # in Amsterdam
EVERYTHING = Held.ORGANIZATION_SPEND | Held.KEY_SPEND | Held.BALANCE


@pytest.fixture
async def consumer(database: Settings, metered_market: Market) -> Person:
    """The subscriber, at START by the clock of the installation."""
    async with db.system_session(STORING) as session:
        await session.execute(text("INSERT INTO test_clock (instant) VALUES (:at)"), {"at": START})
    return metered_market.consumer


@pytest.fixture
async def keys(contract: Contract, consumer: Person) -> Sequence[UUID]:
    """Two keys of the subscriber."""
    return [await make_key(consumer) for _ in range(2)]


async def make_key(consumer: Person, limit_cents: int | None = None) -> UUID:
    limit = None if limit_cents is None else Money(limit_cents, "EUR")
    terms = KeyTerms(name="k", scopes=(), monthly_spend_limit=limit)
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        key, _ = await create_key(session, consumer.actor, terms, environment="Live")
        return key.id


async def limit_key(consumer: Person, key_id: UUID, cents: int | None) -> None:
    limit = None if cents is None else Money(cents, "EUR")
    terms = KeyTerms(name="k", scopes=(), monthly_spend_limit=limit)
    [known] = await rows("SELECT version FROM api_keys WHERE id = :id", id=key_id)
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        await change_key(session, consumer.actor, key_id, terms, known["version"])


async def limit_organization(consumer: Person, cents: int | None) -> None:
    limit = None if cents is None else Money(cents, "EUR")
    owner = consumer.organization_id
    [known] = await rows("SELECT version FROM organizations WHERE id = :id", id=owner)
    async with db.transaction(owner, consumer.actor.user_id) as session:
        await change_spend_limit(session, consumer.actor, limit, known["version"])


async def give_balance(consumer: Person, cents: int) -> None:
    async with db.system_session("platform pages") as session:
        amount = Money(cents, "EUR")
        await grant(session, SYSTEM, consumer.organization_id, amount, reason="paid ahead")


async def standings(consumer: Person, kind: str = "organization_spend") -> list[dict[str, Any]]:
    return await rows(
        "SELECT * FROM spend_standings WHERE organization_id = :id AND kind = :kind"
        " ORDER BY period_starts_at, key_id",
        id=consumer.organization_id,
        kind=kind,
    )


def connect(settings: Settings) -> psycopg.Connection[Any]:
    login: dict[str, Any] = dict(database_login(settings, "gateway"))
    return psycopg.connect(**login, autocommit=True)


def lease(connection: psycopg.Connection[Any], gateway: UUID, standing: UUID, units: int) -> int:
    statement = "SELECT granted FROM gateway_lease(%s, %s, %s)"
    row = connection.execute(statement, (gateway, standing, units)).fetchone()
    assert row is not None
    return int(row[0])


def calls_of(
    contract: Contract, keys: Sequence[UUID], producer: UUID, seed: int, count: int
) -> list[UsageEvent]:
    """Calls of every kind in May and June, in no order."""
    choice = random.Random(seed)
    kinds: list[dict[str, Any]] = [
        {"units": 900},
        {"units": 1},
        reported(assets="25", reports="1"),
        reported(assets="7", reports="0.5"),
        failed(),
        in_test(),
    ]
    return [
        event(
            contract,
            producer,
            sequence,
            START + choice.randrange(60 * 24 * 60) * timedelta(minutes=1),
            key_id=choice.choice(keys),
            **choice.choice(kinds),
        )
        for sequence in range(1, count + 1)
    ]


async def billed(contract: Contract, starts_at: datetime, ends_at: datetime) -> Decimal:
    """What the usage of a period costs by the law of the bill, in millionths of a cent."""
    async with db.system_session(STORING) as session:
        terms = await catalog.plan_terms(session, contract.plan_version_id, "EUR")
    used = await quantities(contract, starts_at, ends_at)
    usage_of = {meter: MeterUsage(quantity) for meter, quantity in used.items()}
    return micro(usage_cost(terms.charges, usage_of), "EUR")


async def test_what_is_shown_as_spent_is_what_is_billed_by_organization_and_by_key(
    contract: Contract, consumer: Person, keys: Sequence[UUID], tmp_path: Path
) -> None:
    print("seed", SEED)
    choice = random.Random(SEED)
    for gateway in range(3):
        producer = uuid4()
        calls = calls_of(contract, keys, producer, SEED + gateway, 40)
        first = 1
        while first <= len(calls):
            size = choice.randrange(1, 20)
            await store(producer, calls[first - 1 : first - 1 + size], first=first)
            first += size

    owed = await billed(contract, START, END) + await billed(contract, END, AFTER)
    of_all, of_keys = await standings(consumer), await standings(consumer, "key_spend")
    assert owed > 100 * CENT
    assert sum(one["used"] for one in of_all) == owed
    assert sum(one["used"] for one in of_keys) == owed
    assert {one["key_id"] for one in of_keys} == set(keys)
    assert [one["period_starts_at"] for one in of_all][1] == MIDNIGHT
    assert await proof(tmp_path) == []


async def test_a_call_counts_in_the_month_of_the_organization_s_time_zone(
    contract: Contract, consumer: Person, keys: Sequence[UUID]
) -> None:
    producer = uuid4()
    report = {"key_id": keys[0], **reported(reports="1")}
    before = event(contract, producer, 1, MIDNIGHT - timedelta(microseconds=1), **report)
    after = event(contract, producer, 2, MIDNIGHT, **report)

    await store(producer, [before, after])

    assert [one["used"] for one in await standings(consumer)] == [REPORT, REPORT]
    assert (await standings(consumer))[0]["period_ends_at"] == MIDNIGHT


async def test_a_limit_holds_for_what_the_month_had_already_and_for_the_next_month(
    contract: Contract, consumer: Person, keys: Sequence[UUID], settings: Settings
) -> None:
    producer = uuid4()
    report = {"key_id": keys[0], **reported(reports="1")}
    await store(producer, [event(contract, producer, 1, START, **report)])

    await limit_organization(consumer, 300)
    await limit_key(consumer, keys[0], 400)

    for kind, limit in (("organization_spend", 300 * CENT), ("key_spend", 400 * CENT)):
        now, following = await standings(consumer, kind)
        assert (now["used"], now["limit_micro"], now["followed"]) == (REPORT, limit, True)
        assert (following["used"], following["limit_micro"]) == (0, limit)
        assert now["period_ends_at"] == following["period_starts_at"] == MIDNIGHT
        with connect(settings) as gateway:
            assert lease(gateway, uuid4(), now["id"], 10 * REPORT) == limit - REPORT


async def test_the_next_month_opens_when_one_begins_however_often_it_is_asked_for(
    contract: Contract, consumer: Person
) -> None:
    await limit_organization(consumer, 300)
    await make_key(consumer, limit_cents=50)
    owner = str(consumer.organization_id)

    async with db.system_session(STORING) as session:
        assert await spending.next_due(session) == MIDNIGHT
        assert await spending.due(session, MIDNIGHT - HOUR, 9) == []
        assert await spending.due(session, MIDNIGHT, 9) == [(consumer.organization_id, MIDNIGHT)]
    await open_spend(owner, clock.to_wire(MIDNIGHT - HOUR))
    assert len(await standings(consumer)) == 2
    for _ in range(2):
        await open_spend(owner, clock.to_wire(MIDNIGHT))

    assert [one["limit_micro"] for one in await standings(consumer)] == [300 * CENT] * 3
    assert [one["limit_micro"] for one in await standings(consumer, "key_spend")] == [50 * CENT] * 3


async def test_a_limit_that_is_lifted_lends_whatever_is_asked(
    contract: Contract, consumer: Person, settings: Settings
) -> None:
    await limit_organization(consumer, 0)
    now = (await standings(consumer))[0]
    with connect(settings) as gateway:
        assert lease(gateway, uuid4(), now["id"], 1) == 0
        await limit_organization(consumer, None)
        assert lease(gateway, uuid4(), now["id"], 7) == 7


async def test_storing_gives_back_what_calls_held_and_adds_what_they_cost(
    contract: Contract,
    consumer: Person,
    keys: Sequence[UUID],
    settings: Settings,
    tmp_path: Path,
) -> None:
    await limit_organization(consumer, 10_000)
    await limit_key(consumer, keys[0], 5_000)
    await give_balance(consumer, 2_000)
    producer = uuid4()
    found = [
        (await standings(consumer, kind))[0]
        for kind in ("organization_spend", "key_spend", "balance")
    ]
    with connect(settings) as gateway:
        for one in found:
            assert lease(gateway, producer, one["id"], 4 * REPORT) == 4 * REPORT
    held = {"key_id": keys[0], "held_micro": REPORT, "held_on": EVERYTHING}
    calls = [
        event(contract, producer, 1, START, **held, **reported(reports="1")),
        event(contract, producer, 2, START + HOUR, **held, **reported(reports="0.5")),
        event(contract, producer, 3, START + HOUR, key_id=keys[0], **failed()),
    ]

    for _ in range(2):
        await store(producer, calls)

    for one in found:
        [now] = await rows("SELECT * FROM spend_standings WHERE id = :id", id=one["id"])
        assert (now["used"], now["leased"]) == (375 * CENT, 2 * REPORT)
    assert await proof(tmp_path) == []


async def test_takers_of_the_last_cents_never_pass_the_limit_while_calls_are_stored(
    contract: Contract,
    consumer: Person,
    keys: Sequence[UUID],
    settings: Settings,
    tmp_path: Path,
) -> None:
    print("seed", SEED)
    limit = 20 * REPORT + REPORT // 2
    await limit_organization(consumer, limit // CENT)
    now = (await standings(consumer))[0]["id"]
    choice = random.Random(SEED)

    def borrow(seed: int) -> tuple[UUID, int]:
        taker, gateway, held = random.Random(seed), uuid4(), 0
        with connect(settings) as connection:
            for _ in range(6):
                held += lease(connection, gateway, now, taker.randrange(1, 3) * REPORT)
        return gateway, held

    with ThreadPoolExecutor(LESSEES) as pool:
        takers = dict(pool.map(borrow, range(SEED, SEED + LESSEES)))
    assert sum(takers.values()) == limit

    made = 0
    for gateway, held in takers.items():
        count = held // REPORT
        calls = [
            event(
                contract,
                gateway,
                number,
                START + number * HOUR,
                key_id=choice.choice(keys),
                held_micro=REPORT,
                held_on=Held.ORGANIZATION_SPEND,
                **reported(reports="1"),
            )
            for number in range(1, count + 1)
        ]
        await store(gateway, calls)
        made += count
        state = (await standings(consumer))[0]
        assert state["used"] + state["leased"] <= limit
    state = (await standings(consumer))[0]
    assert state["used"] == made * REPORT == await billed(contract, START, END)
    assert await proof(tmp_path) == []


async def test_a_dead_gateway_s_money_comes_back_once_its_journal_is_stored_and_once(
    contract: Contract,
    consumer: Person,
    keys: Sequence[UUID],
    settings: Settings,
    tmp_path: Path,
) -> None:
    await limit_organization(consumer, 1_000)
    now = (await standings(consumer))[0]["id"]
    producer, other = uuid4(), uuid4()
    with connect(settings) as gateway:
        assert lease(gateway, producer, now, 3 * REPORT) == 3 * REPORT
        assert lease(gateway, other, now, REPORT) == REPORT
    held = {"held_micro": REPORT, "held_on": Held.ORGANIZATION_SPEND, "key_id": keys[0]}
    await store(producer, [event(contract, producer, 1, START, **held, **reported(reports="1"))])

    for _ in range(2):
        async with db.system_session(STORING) as session:
            await usage.end_producer(session, producer)

    state = (await standings(consumer))[0]
    assert (state["used"], state["leased"]) == (REPORT, REPORT)
    with connect(settings) as gateway:
        assert lease(gateway, producer, now, 1) == 0
        assert lease(gateway, other, now, 1000 * REPORT) == 1_000 * CENT - 2 * REPORT
    assert await proof(tmp_path) == []


async def test_a_plan_change_prices_the_whole_running_period_anew(
    contract: Contract, consumer: Person, keys: Sequence[UUID], tmp_path: Path
) -> None:
    producer = uuid4()
    many = event(contract, producer, 1, START, key_id=keys[0], units=260_000)
    await store(producer, [many])
    assert (await standings(consumer))[0]["used"] == 250_000 * CENT // 5
    [row] = await rows(
        "SELECT version FROM subscriptions WHERE id = :id", id=contract.subscription_id
    )

    clock.set_instant(START + DAY)
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        changed = await change_plan(
            session,
            consumer.actor,
            contract.subscription_id,
            "professional",
            direction="upgrade",
            version=row["version"],
            as_of=START + DAY,
        )
        version_id = changed.plan_version_id
    clock.set_instant(None)
    await store(producer, [event(contract, producer, 2, START + DAY, key_id=keys[0])], first=2)

    moved = replace(contract, plan_version_id=version_id)
    state = (await standings(consumer))[0]
    assert state["used"] == await billed(moved, START, END) == 10_001 * CENT // 10
    assert await proof(tmp_path) == []


async def test_a_balance_is_what_was_credited_and_the_book_has_it(
    contract: Contract, consumer: Person, keys: Sequence[UUID], settings: Settings
) -> None:
    await give_balance(consumer, 300)
    await give_balance(consumer, 200)
    producer = uuid4()
    report = {"key_id": keys[0], **reported(reports="1")}
    await store(producer, [event(contract, producer, 1, START, **report)])

    [balance] = await standings(consumer, "balance")
    assert (balance["limit_micro"], balance["used"]) == (500 * CENT, REPORT)
    with connect(settings) as gateway:
        assert lease(gateway, uuid4(), balance["id"], 1000 * REPORT) == 500 * CENT - REPORT
        assert lease(gateway, uuid4(), balance["id"], 1) == 0
    async with db.system_session(STORING) as session:
        owed = await ledger.balance(session, "customer_balance", "EUR", consumer.organization_id)
        assert owed == -500
        assert (await ledger.check(session)).differences == ()


async def told(consumer: Person) -> list[tuple[int, int, int]]:
    """Threshold, used and of how much, in cents, of each notice that was announced."""
    found = await rows(
        "SELECT payload FROM outbox WHERE name = 'usage.threshold_reached'"
        " AND organization_id = :id ORDER BY id",
        id=consumer.organization_id,
    )
    said = [row["payload"] for row in found]
    assert {(one["kind"], one["resets_at"]) for one in said} <= {("balance", None)}
    return [
        (one["threshold"], int(Decimal(one["used"]) / CENT), int(Decimal(one["limit"]) / CENT))
        for one in said
    ]


async def test_a_balance_tells_at_50_80_and_100_percent_of_what_was_there_when_money_came_in(
    contract: Contract, consumer: Person, keys: Sequence[UUID], tmp_path: Path
) -> None:
    producer, made = uuid4(), 0

    async def spend(reports: str) -> None:
        nonlocal made
        made += 1
        report = {"key_id": keys[0], **reported(reports=reports)}
        await store(producer, [event(contract, producer, made, START, **report)], first=made)

    await spend("3")  # before there is a balance
    await give_balance(consumer, 1_000)
    await spend("1")
    assert await told(consumer) == []
    await spend("1")
    assert await told(consumer) == [(50, 500, 1_000)]
    await give_balance(consumer, 500)  # 1,000 cents again
    await spend("1.5")
    assert await told(consumer) == [(50, 500, 1_000)]
    await spend("1.75")
    assert await told(consumer) == [(50, 500, 1_000), (50, 812, 1_000), (80, 812, 1_000)]
    # An invoice takes the rest for something else.
    async with db.system_session("platform pages") as session:
        for _ in range(2):
            await usage.settle_balance(
                session, consumer.organization_id, billed_minor=0, spent_minor=187, left_minor=0
            )
    assert (await told(consumer))[3:] == [(100, 1_000, 1_000)]
    mails = await rows("SELECT data FROM notices WHERE template = 'balance_threshold' ORDER BY id")
    assert [(mail["data"]["percent"], mail["data"]["left"]) for mail in mails] == [
        ("50", "€5.00"),
        ("80", "€1.88"),
        ("100", "€0.00"),
    ]
    assert await proof(tmp_path) == []


async def test_a_balance_that_begins_while_calls_are_stored_counts_each_of_them_or_none(
    contract: Contract, consumer: Person, keys: Sequence[UUID], tmp_path: Path
) -> None:
    async def keep_storing() -> None:
        producer = uuid4()
        for number in range(1, 9):
            report = {"key_id": keys[0], **reported(reports="1")}
            await store(producer, [event(contract, producer, number, START, **report)], number)

    async def credit() -> None:
        for _ in range(2):
            await give_balance(consumer, 100)

    async with asyncio.TaskGroup() as group:
        for work in (keep_storing, keep_storing, credit, credit):
            group.create_task(work())

    [balance] = await standings(consumer, "balance")
    assert balance["limit_micro"] == 400 * CENT
    assert balance["used"] + balance["spent_before"] == 16 * REPORT
    assert await proof(tmp_path) == []


async def test_storing_changing_limits_and_changing_plans_at_once_come_to_an_end(
    contract: Contract, consumer: Person, keys: Sequence[UUID], tmp_path: Path
) -> None:
    months = [START + number * 31 * DAY for number in range(6)]

    async def keep_storing() -> None:
        producer = uuid4()
        for number, month in enumerate(months, 1):
            report = {"key_id": keys[number % 2], **reported(reports="1")}
            await store(producer, [event(contract, producer, number, month, **report)], number)

    async def keep_limiting() -> None:
        for cents in range(1, 7):
            await limit_organization(consumer, cents)
            await limit_key(consumer, keys[cents % 2], cents)

    async def keep_opening() -> None:
        for _ in months:
            async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
                await lock_organization_facts(session, consumer.organization_id)
                await usage.open_standings(session, contract.subscription_id, START)

    async with asyncio.TaskGroup() as group:
        for work in (keep_storing, keep_storing, keep_limiting, keep_opening):
            group.create_task(work())

    of_all = await standings(consumer)
    assert sum(one["used"] for one in of_all) == 12 * REPORT
    assert all(one["period_ends_at"] == two["period_starts_at"] for one, two in pairwise(of_all))
    assert await proof(tmp_path) == []


async def test_the_proof_finds_money_that_is_wrong(
    contract: Contract, consumer: Person, keys: Sequence[UUID], settings: Settings, tmp_path: Path
) -> None:
    await limit_organization(consumer, 1_000)
    now = (await standings(consumer))[0]["id"]
    producer = uuid4()
    with connect(settings) as gateway:
        lease(gateway, producer, now, 7)
    report = {"key_id": keys[0], **reported(reports="1")}
    await store(producer, [event(contract, producer, 1, START, **report)])
    await give_balance(consumer, 2_000)
    # Of a key that is not known any more, and after the balance began.
    await store(producer, [event(contract, producer, 2, START, **reported(reports="1"))], first=2)
    assert await proof(tmp_path) == []

    for statement, problem in (
        ("UPDATE spend_standings SET used = used + 1 WHERE kind = 'balance'", "balance"),
        ("UPDATE spend_standings SET used = used + 1 WHERE kind = 'key_spend'", "key_spend"),
        (
            "UPDATE spend_standings SET used = used + 1 WHERE kind = 'organization_spend'",
            "spend",
        ),
        ("UPDATE spend_standings SET leased = leased + 1", "money_lease"),
        ("UPDATE rated_periods SET cost = cost + 1", "rated"),
        ("UPDATE usage_producers SET ended_at = now()", "money_lease_of_the_dead"),
    ):
        async with db.system_session(STORING) as session:
            await session.execute(text(statement))
        assert problem in {one["problem"] for one in await proof(tmp_path)}


async def test_what_was_stored_before_there_were_counters_counts_with_the_next_call(
    contract: Contract, consumer: Person, keys: Sequence[UUID], settings: Settings, tmp_path: Path
) -> None:
    producer = uuid4()
    report = {"key_id": keys[0], **reported(reports="1")}
    await store(producer, [event(contract, producer, 1, START, **report)])
    owner_login: dict[str, Any] = dict(database_login(settings, "owner"))
    with psycopg.connect(**owner_login) as connection:
        connection.execute("TRUNCATE rated_periods, spend_standings, spend_leases")

    await store(producer, [event(contract, producer, 2, START + HOUR, **report)], first=2)

    assert (await standings(consumer))[0]["used"] == 2 * REPORT
    assert (await standings(consumer, "key_spend"))[0]["used"] == REPORT
    assert await proof(tmp_path) == []


async def test_reported_units_that_a_call_held_are_given_back_with_what_it_used(
    contract: Contract, consumer: Person, settings: Settings, tmp_path: Path
) -> None:
    async with db.system_session(STORING) as session:
        await session.execute(
            text(
                "UPDATE quota_standings SET limit_units = 100, policy = 'deny'"
                " WHERE subscription_id = :id AND meter_key = 'assets'"
            ),
            {"id": contract.subscription_id},
        )
    [assets, *_] = await rows(
        "SELECT id FROM quota_standings WHERE subscription_id = :id AND meter_key = 'assets'"
        " AND period_starts_at <= :at AND period_ends_at > :at",
        id=contract.subscription_id,
        at=START,
    )
    producer = uuid4()
    with connect(settings) as gateway:
        assert lease(gateway, producer, assets["id"], 60) == 60
        assert lease(gateway, producer, assets["id"], 60) == 40

    held = event(contract, producer, 1, START, holds=(("assets", 30),), **reported(assets="12"))
    await store(producer, [held])

    [state] = await rows("SELECT * FROM quota_standings WHERE id = :id", id=assets["id"])
    assert (state["used"], state["leased"]) == (12, 70)
    assert await proof(tmp_path) == []
