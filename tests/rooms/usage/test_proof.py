# SPDX-License-Identifier: Apache-2.0
"""The proof of the counters names each kind of difference, and none that is only under way."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from nimbus import drain, usage, worker
from nimbus.base import clock, db, proofs
from nimbus.base.config import Settings
from nimbus.base.proofs import Report
from tests.support.metered import (
    END,
    START,
    STORING,
    Contract,
    Gateway,
    allow,
    event,
    failed,
    in_test,
    part_of_a_stream,
    proof,
    refused,
    reported,
    rows,
    store,
)

LATER = START + timedelta(hours=30)
CELL = (
    "organization_id, provider_organization_id, subscription_id, product_id, key_id, route_id,"
    " status_class, environment, meter_key, events, quantity_sum, quantity_max, quantity_last,"
    " last_at, last_event_id, duration_us, bytes_in, bytes_out, latency"
)
ONE_CELL = f"SELECT {CELL}, hour FROM usage_deltas ORDER BY id LIMIT 1"
ONE_DAY = f"SELECT {CELL}, hour::date FROM usage_deltas ORDER BY id LIMIT 1"
FIRST = "WHERE id = (SELECT min(id) FROM usage_deltas)"
FAULTS = {
    "an hour is there twice": (
        "roll_up",
        f"INSERT INTO usage_hourly ({CELL}, hour) {ONE_CELL}",
    ),
    "a day is there twice": ("daily", f"INSERT INTO usage_daily ({CELL}, day) {ONE_DAY}"),
    "a delta is there twice": ("roll_up", f"INSERT INTO usage_deltas ({CELL}, hour) {ONE_CELL}"),
    "a delta is gone": ("roll_up", f"DELETE FROM usage_deltas {FIRST}"),
    "a delta counts one more": (
        "roll_up",
        f"UPDATE usage_deltas SET quantity_sum = quantity_sum + 1 {FIRST}",
    ),
    "a delta is of another key": (
        "roll_up",
        f"UPDATE usage_deltas SET key_id = gen_random_uuid() {FIRST}",
    ),
    "an hour was slower": (
        "roll_up",
        "UPDATE usage_deltas SET latency[1] = latency[1] + 1 WHERE latency <> '{}'",
    ),
    "an event is gone": ("producer", "DELETE FROM usage_events WHERE sequence = 2"),
    "an event weighs more": ("roll_up", "UPDATE usage_events SET units = 2 WHERE sequence = 2"),
    "a refusal is gone": ("producer", "DELETE FROM refused_calls"),
    "a producer says less": (
        "producer",
        "UPDATE usage_producers SET served = served - 1, closed = closed + 1",
    ),
    "a quota counts one more": ("standing", "UPDATE quota_standings SET used = used + 1"),
    "a quota lends what nobody has": ("lease", "UPDATE quota_standings SET leased = leased + 1"),
    "a month counts more money": (
        "spend",
        "UPDATE spend_standings SET used = used + 1 WHERE kind = 'organization_spend'",
    ),
    "money is lent that nobody has": ("money_lease", "UPDATE spend_standings SET leased = 5"),
    "a period is rated higher": ("rated", "UPDATE rated_periods SET cost = cost + 1"),
}


async def lived(contract: Contract) -> None:
    """Calls of several kinds in two hours of two days."""
    await allow(contract, 1, "overage")
    producer = uuid4()
    calls = [
        event(contract, producer, 1, units=11_000),
        event(contract, producer, 2, LATER, duration_us=90_000),
        event(contract, producer, 3, LATER, **failed()),
        event(contract, producer, 4, LATER, **refused("rate_limited", 429)),
        event(contract, producer, 5, LATER, **in_test()),
        event(contract, producer, 6, LATER, **reported(assets="12", reports="3")),
        event(contract, producer, 7, LATER, **part_of_a_stream()),
    ]
    await store(producer, calls)


async def test_each_kind_of_difference_is_named(
    contract: Contract, database: Settings, tmp_path: Path
) -> None:
    await lived(contract)
    assert await proof(tmp_path) == []
    login = str(database.database_owner_url)

    async def connect() -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(login)

    intruder = create_async_engine("postgresql+psycopg://", async_creator=connect)
    for fault, (problem, statement) in FAULTS.items():
        async with AsyncSession(intruder) as session:
            await session.execute(text("SET LOCAL session_replication_role = replica"))
            await session.execute(text(statement))
            report = await usage.reconcile(session, tmp_path)
            await session.rollback()
        found = [one for one in report.differences if one["problem"] == problem]
        assert found, fault
        for one in found:
            assert one["expected"] != one["found"], fault
            assert "producer" in one or one["organization_id"] == contract.organization_id, fault
    await intruder.dispose()
    assert await proof(tmp_path) == []


async def test_a_journal_s_call_that_is_stored_otherwise_is_named(
    contract: Contract, owner: Callable[[str], None], tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, contract)
    gateway.calls(3)
    journals: dict[Any, drain.Journal] = {}
    await drained(tmp_path, journals)
    gateway.call()
    assert await proof(tmp_path) == []

    owner("UPDATE usage_events SET duration_us = 7 WHERE sequence = 2")
    [one] = [each for each in await proof(tmp_path) if each["problem"] == "journal"]
    gateway.die()

    assert (one["producer"], one["sequence"]) == (gateway.producer, 2)
    assert one["organization_id"] == contract.organization_id
    assert one["expected"] == {"duration_us": 1500}
    assert one["found"] == {"duration_us": 7}


async def test_segments_that_are_gone_before_they_were_stored_are_a_hole(
    contract: Contract, database: Settings, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, contract, slots=4)
    gateway.calls(10)
    gateway.journal.prepare()
    (gateway.journal.folder / "000000000002.journal").unlink()
    [one] = await proof(tmp_path)
    gateway.die()

    assert one == {
        "problem": "journal_hole",
        "producer": gateway.producer,
        "first_sequence": 5,
        "last_sequence": 8,
    }


async def test_what_lies_in_journals_is_said_and_no_difference(
    contract: Contract, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, contract)
    gateway.begin()
    gateway.calls(2, LATER)
    async with db.system_session("proofs", snapshot=True) as session:
        report = await usage.reconcile(session, tmp_path)
    gateway.die()

    assert report.ok
    assert report.notes == (
        "2 calls are in journals and not stored yet, since 2026-05-02T06:00:00Z.",
    )


async def test_months_whose_events_are_dropped_are_said_and_no_difference(
    contract: Contract, owner: Callable[[str], None], tmp_path: Path
) -> None:
    producer = uuid4()
    first = [event(contract, producer, n) for n in (1, 2)]
    await store(producer, [*first, event(contract, producer, 3, END)])
    async with db.system_session(STORING) as session:
        assert await usage.retire(session, END + timedelta(days=70), 62) == 2
    # A call that comes very late is all there is of its month.
    await store(producer, [event(contract, producer, 4)], first=4)
    async with db.system_session("proofs", snapshot=True) as session:
        report = await usage.reconcile(session, tmp_path)

    assert report.differences == ()
    [note] = report.notes
    assert "2026-05" in note
    assert " 3 " in note
    owner("UPDATE usage_deltas SET quantity_sum = 9 WHERE hour >= '2026-06-01'")
    assert {one["problem"] for one in await proof(tmp_path)} >= {"roll_up"}
    owner("DROP TABLE usage_events_2026_06")
    assert {one["problem"] for one in await proof(tmp_path)} >= {"events_gone", "producer"}


async def test_calls_may_go_on_while_everything_is_counted_again(
    contract: Contract, tmp_path: Path
) -> None:
    """Each proof sees one moment of a database that is written to all the time."""
    gateway = Gateway(tmp_path, contract)
    journals: dict[Any, drain.Journal] = {}
    stop = asyncio.Event()

    async def calling() -> None:
        while not stop.is_set():
            gateway.calls(20)
            await drain.turn(tmp_path, journals)

    task = asyncio.create_task(calling())
    for _ in range(5):
        async with db.system_session("proofs", snapshot=True) as session:
            assert (await usage.reconcile(session, tmp_path)).differences == ()
    stop.set()
    await task
    gateway.die()
    assert (await rows("SELECT served FROM usage_producers"))[0]["served"] >= 20


async def drained(journal_dir: Path, journals: dict[Any, drain.Journal]) -> None:
    """Store what is there, as the drain does."""
    while await drain.turn(journal_dir, journals):
        pass


async def test_a_nightly_proof_is_kept_and_made_once_a_night(
    contract: Contract, owner: Callable[[str], None], database: Settings
) -> None:
    await lived(contract)
    owner("UPDATE quota_standings SET used = used + 1")
    await worker.prove.func("usage")
    [run] = await rows("SELECT * FROM proof_runs")
    waiting = (
        "SELECT args ->> 'proof' AS proof FROM procrastinate_jobs"
        " WHERE task_name = 'proofs.nightly' AND status = 'todo'"
    )
    for _ in range(2):
        await worker.defer_proofs()

    assert (run["proof"], run["found"]) == ("usage", len(run["differences"]))
    assert {one["problem"] for one in run["differences"]} == {"standing"}
    assert sorted(one["proof"] for one in await rows(waiting)) == ["audit", "ledger"]


@pytest.mark.parametrize(
    ("last", "is_due"),
    [("2026-11-20T02:29:59Z", True), ("2026-11-20T02:30:00Z", False), (None, True)],
)
async def test_a_proof_is_due_when_it_has_not_run_since_the_last_night(
    database: Settings, last: str | None, is_due: bool
) -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    async with db.system_session("proofs") as session:
        if last is not None:
            at = clock.from_wire(last)
            await proofs.keep(session, "usage", at, at, Report(3, ()))
        assert await proofs.due(session, "usage", noon) == is_due
        just_before = datetime(2026, 11, 21, 2, 29, tzinfo=UTC)
        assert await proofs.due(session, "usage", just_before) == is_due
        assert await proofs.due(session, "usage", just_before + timedelta(minutes=1))
