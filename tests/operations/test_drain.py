# SPDX-License-Identifier: Apache-2.0
"""The drain on real journals, a real database and real kills: each call once, none passed over."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import SQLAlchemyError

from nimbus import drain, usage
from nimbus.base import clock, db
from nimbus.base.config import Settings, to_environment
from nimbus.base.secrets import database_login
from nimbus.rules.metering import CALLS, HEADER_SIZE, SLOT_SIZE
from tests.support.metered import (
    END,
    Contract,
    Gateway,
    allow,
    contract,
    failed,
    in_test,
    metered_market,
    proof,
    quantities,
    refused,
    rows,
    settings,
    standing,
)

__all__ = ["contract", "metered_market", "settings"]

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 60.0
SEED = 20260501


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    """Wait until a condition holds; fails after the deadline."""
    deadline = clock.monotonic() + DEADLINE_SECONDS
    while not await holds():
        assert clock.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def draining(journal_dir: Path) -> AsyncIterator[dict[Any, drain.Journal]]:
    """The drain's loop, in this process."""
    journals: dict[Any, drain.Journal] = {}
    stopping = asyncio.Event()

    async def loop() -> None:
        while not stopping.is_set():
            if not await drain.turn(journal_dir, journals):
                await asyncio.sleep(0.005)

    task = asyncio.create_task(loop())
    yield journals
    stopping.set()
    await task


async def stored(gateway: Gateway) -> int:
    """How many slots of a gateway are accounted for."""
    mark = (
        await rows(
            "SELECT watermark - cardinality(waiting) AS n FROM usage_producers WHERE producer = :p",
            p=gateway.producer,
        )
    ) or [{"n": 0}]
    return int(mark[0]["n"])


async def ended(gateway: Gateway) -> bool:
    """Whether the gateway's journal is wholly stored and seen off."""
    statement = "SELECT 1 FROM usage_producers WHERE producer = :p AND ended_at IS NOT NULL"
    return bool(await rows(statement, p=gateway.producer))


async def test_a_living_gateway_s_calls_are_stored_as_they_end(
    contract: Contract, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, contract)
    async with draining(tmp_path):
        gateway.calls(3)
        await until(lambda: _is(stored(gateway), 3))
        gateway.calls(200)  # over several segments
        await until(lambda: _is(stored(gateway), 203))
        assert await quantities(contract) == {CALLS: 203}
        await until(lambda: _holds(len(list(gateway.journal.folder.glob("*.journal"))) <= 2))
        assert not await ended(gateway)
    gateway.die()


async def _is(value: Awaitable[int], wanted: int) -> bool:
    return await value == wanted


async def _holds(value: bool) -> bool:
    return value


async def test_a_call_that_stays_open_holds_up_no_other(contract: Contract, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, contract)
    async with draining(tmp_path):
        streams = [gateway.begin() for _ in range(20)]
        gateway.calls(300)
        await until(lambda: _is(stored(gateway), 300))
        first_segment = gateway.journal.folder / "000000000001.journal"
        assert first_segment.exists()

        for stream in streams[1:]:
            gateway.finish(stream, units=2)
        await until(lambda: _is(stored(gateway), 319))
        gateway.finish(streams[0])
        await until(lambda: _is(stored(gateway), 320))
        await until(lambda: _holds(not first_segment.exists()))

    assert await quantities(contract) == {CALLS: 300 + 19 * 2 + 1}
    assert await proof(tmp_path) == []
    gateway.die()


async def test_a_dead_gateway_s_journal_is_stored_to_its_end_and_removed(
    contract: Contract, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, contract)
    gateway.calls(70)
    in_flight = [gateway.begin() for _ in range(3)]
    gateway.calls(70, **failed())
    gateway.call(**refused("quota_exceeded", 429))
    gateway.call(**in_test())
    in_flight.append(gateway.begin())
    gateway.die()

    async with draining(tmp_path):
        await until(lambda: ended(gateway))
        await until(lambda: _holds(not gateway.journal.folder.exists()))

    [row] = await rows("SELECT * FROM usage_producers")
    counts = [row[name] for name in ("watermark", "served", "refused", "closed", "corrupt")]
    assert counts == [146, 141, 1, len(in_flight), 0]
    assert await quantities(contract) == {CALLS: 70}
    assert await proof(tmp_path) == []


async def test_a_dead_gateway_is_seen_off_only_after_the_last_of_many_batches(
    contract: Contract, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, contract, slots=4096)
    count = drain.BATCH_SLOTS + 100
    gateway.calls(count)
    gateway.die()

    async with draining(tmp_path):
        await until(lambda: ended(gateway))

    assert await quantities(contract) == {CALLS: count}
    assert await proof(tmp_path) == []


async def test_a_gateway_that_never_served_leaves_nothing_behind(
    contract: Contract, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, contract)
    gateway.die()

    async with draining(tmp_path):
        await until(lambda: _holds(not gateway.journal.folder.exists()))

    assert await ended(gateway)


async def test_a_dead_gateway_s_lease_comes_back_once_its_journal_is_stored_and_only_once(
    contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    lessee = Gateway(tmp_path, contract)
    other = Gateway(tmp_path, contract)
    quota = await allow(contract, 100, "deny")
    assert lease(settings, lessee, quota, 60) == 60
    assert lease(settings, other, quota, 60) == 40
    lessee.calls(25, leased=1)
    lessee.begin()
    lessee.die()

    async with draining(tmp_path):
        await until(lambda: ended(lessee))
        state = await standing(contract)
        assert (state["used"], state["leased"]) == (25, 40)
    async with db.system_session("storing usage") as session:
        await usage.end_producer(session, lessee.producer)

    state = await standing(contract)
    assert (state["used"], state["leased"]) == (25, 40)
    assert lease(settings, lessee, quota, 1) == 0, "the dead borrow nothing"
    assert lease(settings, other, quota, 100) == 35
    assert await proof(tmp_path) == []
    other.die()


def lease(settings: Settings, gateway: Gateway, quota: Any, units: int) -> int:
    """Borrow as the gateway does."""
    login: dict[str, Any] = dict(database_login(settings, "gateway"))
    with psycopg.connect(**login) as connection:
        row = connection.execute(
            "SELECT granted FROM gateway_lease(%s, %s, %s)", (gateway.producer, quota, units)
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_gateway_whose_journal_is_gone_ends_and_its_lost_calls_are_reported(
    contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, contract)
    quota = await allow(contract, 100, "deny")
    lease(settings, gateway, quota, 60)
    gateway.calls(5, leased=1)
    async with draining(tmp_path):
        await until(lambda: _is(stored(gateway), 5))
    say(settings, "SELECT gateway_hello(%s, 'node', 'journal')", gateway.producer)
    say(settings, "SELECT gateway_confirm(%s, 1, 7)", gateway.producer)
    gateway.die()
    shutil.rmtree(gateway.journal.folder)

    async def absent() -> dict[Any, int]:
        async with db.system_session("storing usage") as session:
            return await usage.absent_producers(session, [], "node")

    assert await absent() == {}, "it was heard of a moment ago"
    login: dict[str, Any] = dict(database_login(settings, "owner"))
    with psycopg.connect(**login, autocommit=True) as connection:
        connection.execute("UPDATE gateway_instances SET seen_at = seen_at - interval '1 hour'")
    assert await absent() == {gateway.producer: 7}
    await drain.end_absent(tmp_path, gateway.producer, 7)

    assert await absent() == {}
    state = await standing(contract)
    assert (state["used"], state["leased"]) == (5, 0)
    assert [each["problem"] for each in await proof(tmp_path)] == ["unreadable_segment"]
    async with db.system_session("storing usage") as session:
        assert await usage.drained_through(session, END)


@pytest.mark.parametrize("fault", ["flipped", "emptied", "cut_short", "header", "no_segment"])
async def test_what_can_not_be_read_is_counted_kept_and_reported_and_the_rest_is_stored(
    contract: Contract, tmp_path: Path, fault: str
) -> None:
    gateway = Gateway(tmp_path, contract, slots=16)
    gateway.calls(40)
    gateway.die()
    segment = gateway.journal.folder / "000000000002.journal"
    lost = _damage(segment, fault)

    async with draining(tmp_path):
        await until(lambda: _holds(not gateway.journal.folder.exists()))

    [row] = await rows("SELECT * FROM usage_producers")
    assert (row["watermark"], row["served"], row["corrupt"]) == (40, 40 - lost, lost)
    assert await quantities(contract) == {CALLS: 40 - lost}
    found = await proof(tmp_path)
    if not lost:
        assert found == []
        return
    assert [each["problem"] for each in found] == ["unreadable_segment"]
    shutil.rmtree(tmp_path / usage.QUARANTINE)
    assert await proof(tmp_path) == []


def _damage(segment: Path, fault: str) -> int:
    """Spoil a segment; how many calls can't be read any more."""
    data = bytearray(segment.read_bytes())
    third = HEADER_SIZE + 2 * SLOT_SIZE
    if fault == "no_segment":
        segment.unlink()
        return 16
    if fault == "flipped":
        data[third + 100] ^= 4
    elif fault == "emptied":
        data[third : third + 2 * SLOT_SIZE] = bytes(2 * SLOT_SIZE)
    elif fault == "cut_short":
        data = data[: third + 100]
    else:
        data[20] ^= 1
    segment.write_bytes(data)
    return {"flipped": 1, "emptied": 2, "cut_short": 14, "header": 0}[fault]


async def test_the_end_of_the_period_is_stored_before_it_is_called_drained(
    contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    async def drained() -> bool:
        async with db.system_session("storing usage") as session:
            return await usage.drained_through(session, END)

    assert await drained()
    gateway = Gateway(tmp_path, contract)
    say(settings, "SELECT gateway_hello(%s, 'node', 'journal')", gateway.producer)
    move_clock(settings, "2026-05-01T00:00Z")
    gateway.calls(5, END - timedelta(seconds=1))
    assert not await drained(), "the gateway has not said how far it is"

    say(settings, "SELECT gateway_confirm(%s, 1000000, 5)", gateway.producer)
    assert not await drained(), "its calls are not stored"
    async with draining(tmp_path):
        await until(lambda: _is(stored(gateway), 5))
    assert await drained()

    move_clock(settings, "2026-06-01T00:00Z")
    say(settings, "SELECT gateway_confirm(%s, 0, 5)", gateway.producer)
    assert not await drained(), "the gateway does not know yet that it is June"

    gateway.call(END - timedelta(microseconds=1))
    gateway.die()
    async with draining(tmp_path):
        await until(lambda: ended(gateway))
    assert await drained()


def say(settings: Settings, statement: str, producer: Any) -> None:
    """What a gateway tells the house."""
    login: dict[str, Any] = dict(database_login(settings, "gateway"))
    with psycopg.connect(**login, autocommit=True) as connection:
        connection.execute(statement, (producer,))


def move_clock(settings: Settings, instant: str) -> None:
    """Set the test clock of this database."""
    login: dict[str, Any] = dict(database_login(settings, "system"))
    with psycopg.connect(**login, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO test_clock (instant) VALUES (%s)"
            " ON CONFLICT (one) DO UPDATE SET instant = excluded.instant",
            (instant,),
        )


async def test_a_database_that_goes_away_again_and_again_costs_nothing(
    contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    choice = random.Random(SEED)
    gateway = Gateway(tmp_path, contract)
    await allow(contract, 100_000, "warn")
    login: dict[str, Any] = dict(database_login(settings, "owner"))

    async with draining(tmp_path):
        for _ in range(25):
            gateway.calls(choice.randrange(1, 60))
            for _ in range(choice.randrange(1, 40)):
                await asyncio.sleep(0)  # let the drain go some random way
            with psycopg.connect(**login, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'nimbus_system' AND datname = current_database()"
                )
        total = gateway.journal.last_sequence
        await until(lambda: _settled(gateway, total))

    assert await quantities(contract) == {CALLS: total}
    assert (await standing(contract))["used"] == total
    assert await proof(tmp_path) == []
    gateway.die()


async def _settled(gateway: Gateway, total: int) -> bool:
    try:
        return await stored(gateway) == total
    except SQLAlchemyError:  # our own connection was ended too
        return False


@asynccontextmanager
async def drain_process(settings: Settings) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`nimbus drain` on a data folder, ended with the test."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("NIMBUS_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "nimbus", "drain"],
        env=environ | to_environment(settings),
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def installation(settings: Settings, folder: Path) -> Settings:
    """The same database with a data folder, and so with journals, of this test's own."""
    shutil.copytree(settings.secrets_dir, folder / "secrets")
    return replace(settings, data_dir=folder)


async def test_a_drain_that_is_killed_at_any_point_stores_each_call_once(
    contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    own = installation(settings, tmp_path)
    choice = random.Random(SEED)
    quota = await allow(contract, 100_000, "deny")
    gateways = [Gateway(own.journal_dir, contract, slots=256) for _ in range(2)]
    for gateway in gateways:
        lease(settings, gateway, quota, 2000)

    for _ in range(4):
        goal = sum([await stored(gateway) for gateway in gateways]) + choice.randrange(300)
        async with drain_process(own) as process:
            while sum([await stored(gateway) for gateway in gateways]) <= goal:
                assert process.poll() is None
                for gateway in gateways:
                    gateway.calls(choice.randrange(40), leased=1)
            process.send_signal(signal.SIGKILL)
            process.wait()
    total = sum(gateway.journal.last_sequence for gateway in gateways)
    for gateway in gateways:
        gateway.begin()
        gateway.die()

    async with drain_process(own) as process:
        for gateway in gateways:
            await until(lambda gateway=gateway: ended(gateway))  # type: ignore[misc]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0

    assert await quantities(contract) == {CALLS: total}
    state = await standing(contract)
    assert (state["used"], state["leased"]) == (total, 0)
    assert await proof(own.journal_dir) == []


async def test_a_second_drain_on_the_same_journals_refuses_to_start(
    contract: Contract, settings: Settings, tmp_path: Path
) -> None:
    own = installation(settings, tmp_path)
    gateway = Gateway(own.journal_dir, contract)
    gateway.calls(1)
    async with drain_process(own):
        await until(lambda: _is(stored(gateway), 1))
        async with drain_process(own) as second:
            assert second.wait(DEADLINE_SECONDS) == 1
    gateway.die()
