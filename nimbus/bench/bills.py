# SPDX-License-Identifier: Apache-2.0
"""A month's bill run over very many subscriptions, whose usage lies in the roll-ups already.

The customers are copies of one that the use cases made; the run is the product's own, in as many
processes as are asked for, with every reaction in force: trail, outbox, jobs for documents and
mails, which nobody works off here.
"""

import asyncio
import json
import os
import secrets as randomness
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from nimbus import payments, rooms, worker
from nimbus.base import clock, db, secrets
from nimbus.base.config import Settings
from nimbus.base.garbage import collect_rarely
from nimbus.bench import crowd, machine, market
from nimbus.bench.goals import Goal
from nimbus.bench.processes import BenchError
from nimbus.billing import jobs
from nimbus.billing.service import runs
from nimbus.billing.service.proposals import Proposal, propose
from nimbus.billing.service.reading import Case
from nimbus.demo import people, wind
from nimbus.demo.kept import Upstreams
from nimbus.demo.people import Account
from nimbus.demo.provider import put_operator

START = datetime(2026, 5, 1, tzinfo=UTC)
END = datetime(2026, 6, 1, tzinfo=UTC)
WHOLE = 100_000
"""The subscriptions that the goal is about."""
POINTS = 10
RECORD = Path("build/bench/bills.json")
Facts = dict[str, Any]
Say = Callable[[str], None]
OWN = {
    "organizations": crowd.OWN["organizations"],
    "subscriptions": {**crowd.OWN["subscriptions"], "parked_reason": "NULL"},
    "contract_terms": {
        "id": "md5('terms' || n)::uuid",
        "organization_id": "o.id",
        "subscription_id": "s.id",
    },
}
# So many cells of each subscription: days 1 to 25, and on each the same meters, routes and classes;
# how much was used differs. They lie as days of folding leave them: day after day, by key.
CELLS = """
    INSERT INTO usage_daily (organization_id, provider_organization_id, subscription_id, product_id,
        key_id, route_id, status_class, environment, day, meter_key, events, quantity_sum,
        quantity_max, quantity_last, last_at, last_event_id, duration_us, bytes_in, bytes_out)
    SELECT s.organization_id, s.provider_organization_id, s.id, s.product_id, s.id,
           md5('route' || c / 75)::uuid, 2, 'Live', date '2026-05-01' + c %% 25,
           (ARRAY['api_calls', 'assets', 'reports'])[1 + c / 25 %% 3], 300,
           (ARRAY[300 + s.share, 10 + s.share %% 90, 1])[1 + c / 25 %% 3],
           (ARRAY[2, 10 + s.share %% 90, 1])[1 + c / 25 %% 3],
           (ARRAY[2, 10 + s.share %% 90, 1])[1 + c / 25 %% 3],
           timestamptz '2026-05-01 12:00Z' + make_interval(days => c %% 25), s.id, 0, 0, 0
    FROM (SELECT *, abs(hashtext(id::text)) %% 1000 AS share FROM subscriptions) s,
        generate_series(0, %(cells)s - 1) c
    ORDER BY c %% 25, s.organization_id, s.id, c
"""


def run(subscriptions: int, cells: int, processes: int, say: Say) -> Facts:
    """Fill a throw-away installation, bill it, tell, and keep the record in RECORD."""
    facts: Facts = {
        "date": f"{clock.machine_now():%Y-%m-%d}",
        "machine": machine.describe(),
        "subscriptions": subscriptions,
        "cells": cells,
        "processes": processes,
    }
    with tempfile.TemporaryDirectory(prefix="nimbus-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the database server of root runs as another user
        with market.database(folder) as settings:
            asyncio.run(_open(settings))
            say(f"{subscriptions:,} subscriptions with {cells} rows of the roll-up each")
            _fill(settings, subscriptions, cells)
            facts |= _measure(settings, processes, say)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for line in _told(facts):
        say(line)
    return facts


def judge(facts: Facts) -> list[Goal]:
    """The goals of a bill run, and how a run stands to them. Of fewer subscriptions than WHOLE, the
    pace is held against the goal, and the name says so.
    """
    billed = facts["subscriptions"]
    seconds = facts["seconds"] * WHOLE / billed
    pace = "" if billed == WHOLE else f", at the pace of {billed:,}"
    points = [mib for _, mib in facts["memory_mib"]]
    growth = points[-1] / points[len(points) // 4]
    return [
        Goal(f"bills of {WHOLE:,}{pace}", seconds, 20, 60, more=False, unit="s"),
        Goal("memory at the end, of that at a quarter", growth, 1.1, 1.25, more=False, unit="%"),
    ]


async def bill(settings: Settings) -> None:
    """One bill run of the month, in this process; what the bench measures."""
    assert rooms.JOBS, "every reaction is in force"
    deciding = 0.0

    def timed(case: Case, as_of: datetime) -> Proposal:
        nonlocal deciding
        begun = time.process_time()
        proposal = propose(case, as_of)
        deciding += time.process_time() - begun
        return proposal

    runs.propose = timed  # type: ignore[attr-defined]  # what the run calls
    clock.set_instant(END)
    collect_rarely(worker.GARBAGE)
    started = time.process_time()
    await db.open_database(settings)
    try:
        async for outcome in jobs.run(END):
            assert outcome.error is None, outcome.error
    finally:
        await db.close_database()
    used = time.process_time()
    cpu = {"start": started, "law": deciding, "read and write": used - started - deciding}
    sys.stdout.write(json.dumps(cpu))


def _told(facts: Facts) -> Iterator[str]:
    count, seconds = facts["invoices"], facts["seconds"]
    yield (
        f"{count:,} invoices, {facts['lines']:,} lines, {facts['transfers']:,} transfers in"
        f" {seconds:.1f} s: {count / seconds:,.0f} a second"
    )
    for phase, used in facts["cpu_seconds"].items():
        yield f"  {used:6.1f} s CPU {used / count * 1e3:6.3f} ms an invoice  {phase}"
    yield f"  other processes used {facts['noise']:.0%} of a core meanwhile"
    points = ", ".join(f"{invoices:,}: {mib}" for invoices, mib in facts["memory_mib"])
    yield f"  MiB of the larger run after so many invoices: {points}"


async def _open(settings: Settings) -> None:
    """The operator, its product, and one customer on Starter since 1 May 2026."""
    assert rooms.JOBS, "every reaction is in force"
    clock.set_instant(START)
    await db.open_database(settings)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    try:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        password = randomness.token_urlsafe(16)
        await put_operator(_account("admin@nimbus.example", password), Upstreams(address, address))
        owner = await people.put_account(_account("owner@customers.example", password))
        details = {
            "name": "Customer B.V.",
            "country": "NL",
            "billing_email": "owner@customers.example",
            "address": {"street": "Plein 1", "postal_code": "3511 AB", "city": "Utrecht"},
        }
        owner = await people.put_organization(owner, people.details(details))
        await people.put_active(owner)
        async with db.transaction(owner.organization_id, owner.user_id) as session:
            await payments.start_subscription(
                session, owner, product=wind.SLUG, plan="starter", payment="invoice", as_of=START
            )
    finally:
        server.close()
        await db.close_database()
        clock.set_instant(None)


def _fill(settings: Settings, subscriptions: int, cells: int) -> None:
    with _owner(settings) as connection:
        # Copies of rows that hold: what triggers and foreign keys would say of them is known.
        connection.execute("SET LOCAL session_replication_role = replica")
        for table, own in OWN.items():
            statement = crowd.copies(connection, table, own)
            connection.execute(statement, {"count": subscriptions - 1})
        connection.execute(CELLS, {"cells": cells})
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE")


def _measure(settings: Settings, processes: int, say: Say) -> Facts:
    program = (
        "import asyncio; from nimbus.base import config; from nimbus.bench import bills;"
        " asyncio.run(bills.bill(config.load()))"
    )
    command = [sys.executable, "-c", program]
    environment = market.environment(settings)
    server = market.database_pid(settings)
    memory: list[tuple[int, int]] = []
    with _owner(settings) as connection:
        connection.autocommit = True
        all_before, database_before = machine.machine_cpu_seconds(), machine.tree_cpu(server)
        own_before = machine.tree_cpu(os.getpid())
        began = clock.monotonic()
        workers = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        while any(process.poll() is None for process in workers):
            time.sleep(1)
            invoices = _count(connection, "invoices")
            largest = max(machine.memory_kib(process.pid) for process in workers) // 1024
            if invoices and largest:
                memory.append((invoices, largest))
            say(f"  {clock.monotonic() - began:5.1f} s  {invoices:,} invoices, {largest} MiB")
        said = [json.loads(process.communicate()[0] or "{}") for process in workers]
        seconds = clock.monotonic() - began
        if any(process.returncode for process in workers):
            raise BenchError("a bill run failed")
        database = machine.tree_cpu(server) - database_before
        own = machine.tree_cpu(os.getpid()) - own_before
        others = machine.machine_cpu_seconds() - all_before - own.total
        cpu = {phase: sum(one[phase] for one in said) for phase in said[0]}
        return {
            "seconds": round(seconds, 2),
            "invoices": _count(connection, "invoices"),
            "lines": _count(connection, "invoice_lines"),
            "transfers": _count(connection, "ledger_transfers"),
            "cpu_seconds": {**cpu, "database": round(database.total, 2)},
            "noise": round(max(0.0, others) / seconds, 2),
            "memory_mib": memory[:: max(1, len(memory) // POINTS)],
        }


def _count(connection: psycopg.Connection[tuple[Any, ...]], table: str) -> int:
    statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
    row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


def _owner(settings: Settings) -> psycopg.Connection[tuple[Any, ...]]:
    login: dict[str, Any] = dict(secrets.database_login(settings, "owner"))
    return psycopg.connect(**login)


def _account(email: str, password: str) -> Account:
    return Account(email=email, password=password, first_name="Bench", last_name="Nimbus")
