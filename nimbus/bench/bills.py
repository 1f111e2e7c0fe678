# SPDX-License-Identifier: Apache-2.0
"""A month's bill run over very many subscriptions, whose usage lies in the roll-ups already.

The customers are copies of one that the use cases made; the run is the product's own, in as many
processes as are asked for, with every reaction in force: trail, outbox, jobs for documents and
mails, which nobody works off here.
"""

import asyncio
import json
import resource
import secrets as randomness
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from nimbus import payments, rooms, worker
from nimbus.base import clock, db, secrets
from nimbus.base.config import Settings
from nimbus.base.garbage import collect_rarely
from nimbus.bench import crowd, market
from nimbus.billing import jobs
from nimbus.demo import people, wind
from nimbus.demo.kept import Upstreams
from nimbus.demo.people import Account
from nimbus.demo.provider import put_operator

START = datetime(2026, 5, 1, tzinfo=UTC)
END = datetime(2026, 6, 1, tzinfo=UTC)
CEILING_SECONDS = 60
GOAL_SECONDS = 20
RECORD = Path("build/bench/bill.json")
OWN = {
    "organizations": crowd.OWN["organizations"],
    "subscriptions": {**crowd.OWN["subscriptions"], "parked_reason": "NULL"},
    "contract_terms": {
        "id": "md5('terms' || n)::uuid",
        "organization_id": "o.id",
        "subscription_id": "s.id",
    },
}
# So many cells of each subscription: days 1 to 25, and on each the same meters, routes and classes.
CELLS = """
    INSERT INTO usage_daily (organization_id, provider_organization_id, subscription_id, product_id,
        key_id, route_id, status_class, environment, day, meter_key, events, quantity_sum,
        quantity_max, quantity_last, last_at, last_event_id, duration_us, bytes_in, bytes_out)
    SELECT s.organization_id, s.provider_organization_id, s.id, s.product_id, s.id,
           md5('route' || c / 75)::uuid, 2, 'Live', date '2026-05-01' + c %% 25,
           (ARRAY['api_calls', 'assets', 'reports'])[1 + c / 25 %% 3], 300,
           (ARRAY[600, 20 + c %% 25, 1])[1 + c / 25 %% 3],
           (ARRAY[2, 20 + c %% 25, 1])[1 + c / 25 %% 3],
           (ARRAY[2, 20 + c %% 25, 1])[1 + c / 25 %% 3],
           timestamptz '2026-05-01 12:00Z' + make_interval(days => c %% 25), s.id, 0, 0, 0
    FROM subscriptions s, generate_series(0, %(cells)s - 1) c
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a run came to; memory is the largest of the processes', in MiB."""

    subscriptions: int
    cells: int
    processes: int
    seconds: float
    invoices: int
    lines: int
    transfers: int
    cpu_seconds: float
    memory_mib: int


def run(subscriptions: int, cells: int, processes: int, say: Callable[[str], None]) -> Record:
    """Fill a throw-away installation, bill it, tell, and keep the record in RECORD."""
    with tempfile.TemporaryDirectory(prefix="nimbus-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the database server of root runs as another user
        with market.database(folder) as settings:
            asyncio.run(_open(settings))
            say(f"{subscriptions} subscriptions with {cells} rows of the roll-up each")
            _fill(settings, subscriptions, cells)
            record = _measure(settings, processes, say)
    record = Record(**{**asdict(record), "subscriptions": subscriptions, "cells": cells})
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    say(
        f"{record.invoices} invoices, {record.lines} lines, {record.transfers} transfers in"
        f" {record.seconds:.1f} s: {record.invoices / record.seconds:.0f} a second;"
        f" {record.cpu_seconds:.1f} s of the runs' CPU, {record.memory_mib} MiB"
        f" (goal {GOAL_SECONDS} s, ceiling {CEILING_SECONDS} s)"
    )
    return record


async def bill(settings: Settings) -> None:
    """One bill run of the month, in this process; what the bench measures."""
    assert rooms.JOBS, "every reaction is in force"
    clock.set_instant(END)
    collect_rarely(worker.GARBAGE)
    await db.open_database(settings)
    try:
        async for outcome in jobs.run(END):
            assert outcome.error is None, outcome.error
    finally:
        await db.close_database()
    used = resource.getrusage(resource.RUSAGE_SELF)
    sys.stdout.write(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss // 1024]))


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


def _measure(settings: Settings, processes: int, say: Callable[[str], None]) -> Record:
    program = (
        "import asyncio; from nimbus.base import config; from nimbus.bench import bills;"
        " asyncio.run(bills.bill(config.load()))"
    )
    command = [sys.executable, "-c", program]
    environment = market.environment(settings)
    began = time.perf_counter()
    runs = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    with _owner(settings) as connection:
        connection.autocommit = True
        while any(run.poll() is None for run in runs):
            time.sleep(2)
            say(
                f"  {time.perf_counter() - began:5.1f} s  {_count(connection, 'invoices')} invoices"
            )
        said = [json.loads(run.communicate()[0]) for run in runs]
        seconds = time.perf_counter() - began
        if any(run.returncode for run in runs):
            raise RuntimeError("a bill run failed")
        return Record(
            subscriptions=0,
            cells=0,
            processes=processes,
            seconds=seconds,
            invoices=_count(connection, "invoices"),
            lines=_count(connection, "invoice_lines"),
            transfers=_count(connection, "ledger_transfers"),
            cpu_seconds=sum(cpu for cpu, _ in said),
            memory_mib=max(memory for _, memory in said),
        )


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
