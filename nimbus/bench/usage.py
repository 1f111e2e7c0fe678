# SPDX-License-Identifier: Apache-2.0
"""Usage: how fast calls are stored, how soon a call is a number, how fast numbers are read.

Storing is the product's own drain on journals that are full when it starts: rows, roll-ups, quota,
money and watermark, on one core (drain and database together) and on two. Reading is by the use
case of the API, on a tenant with very many calls in a month.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any
from uuid import UUID, uuid4

import psycopg

from nimbus.base import clock, db, secrets
from nimbus.base.config import Settings
from nimbus.bench import machine, market, months, reported
from nimbus.bench.goals import Goal
from nimbus.bench.processes import LOOPBACK, BenchError, program
from nimbus.gateway.meter import Journal
from nimbus.rules.metering import (
    BILLABLE,
    HEADER_SIZE,
    LIVE,
    LOCK_NAME,
    SLOT_SIZE,
    SLOTS_PER_SEGMENT,
    SegmentHeader,
    encode_call,
    encode_header,
    record_ids,
    segment_name,
    write_completed,
)
from nimbus.usage import DELTAS, fold

RECORD = Path("build/bench/usage.json")
Facts = dict[str, Any]
Say = Callable[[str], None]
Connection = psycopg.Connection[tuple[Any, ...]]

CUSTOMERS = 20
SEGMENTS = 40  # 655,360 calls a round
CORES = 2  # that the goal of storing is about; one core is shown beside it
MINUTES = 10  # in which the calls of a round were made
SAMPLES = 200
WAIT_SECONDS = 300.0
LOG = "drain.log"
LOG_LINES = 20
READS = 400
TENANT_CALLS = 1_800_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose calls they are: the ids as a slot has them."""

    ids: bytes


def run(rounds: int, say: Say) -> Facts:
    """All of it in an installation of its own; the record is also written to RECORD."""
    facts: Facts = {
        "date": f"{clock.machine_now():%Y-%m-%d}",
        "machine": machine.describe(),
        "storing": {},
    }
    usable = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="nimbus-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the database server of root runs as another user
        with market.database(folder) as settings:
            with socket.create_server((LOOPBACK, 0)) as upstream:  # who sells must be reachable
                address = f"http://{LOOPBACK}:{upstream.getsockname()[1]}"
                market.open_market(settings, address, CUSTOMERS)
            callers = _callers(settings)
            for cores in (1, CORES):
                for reporting in (0, 10):
                    what = "plain" if not reporting else "one in ten reports"
                    found = [
                        _storing(settings, callers, cores, reporting, usable) for _ in range(rounds)
                    ]
                    best = max(found, key=lambda one: one["per_second"])
                    facts["storing"][f"{what}, cores: {cores}"] = best
                    say(f"stored with {cores} core(s), {what}: {best}")
            facts["fresh"] = _freshness(settings, callers)
            say(f"from call to shown number: {facts['fresh']}")
            facts["reported"] = reported.measure(settings)
            say(f"reported by HTTP in batches of {reported.BATCH}: {facts['reported']}")
            facts["read"] = asyncio.run(_reading(settings, callers[0]))
            say(f"this month by endpoint and day: {facts['read']}")
    os.sched_setaffinity(0, usable)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def judge(facts: Facts) -> list[Goal]:
    """The goals of usage, and how a run stands to them."""
    goals = [
        Goal(f"calls stored/s, {name}", row["per_second"], 200_000, 80_000, more=True, unit="/s")
        for name, row in facts["storing"].items()
        if name.endswith(f"cores: {CORES}")
    ]
    fresh, read = facts["fresh"]["p99_ms"], facts["read"]["p99_ms"]
    by_http = facts["reported"]["per_second"]
    return [
        *goals,
        Goal("events reported/s, HTTP", by_http, 20_000, 20_000, more=True, unit="/s"),
        Goal("call to shown number, p99", fresh, 2_000, 2_000, more=False, unit="ms"),
        Goal("this month by endpoint and day, p99", read, 15, 50, more=False, unit="ms"),
    ]


def _callers(settings: Settings) -> list[Caller]:
    """Each key with each route of the product: what is the same in all of its calls."""
    statement = (
        "SELECT k.organization_id, s.provider_organization_id, k.id, s.id, p.id, r.id"
        " FROM api_keys k JOIN subscriptions s ON s.organization_id = k.organization_id"
        " JOIN products p ON p.id = s.product_id JOIN routes r ON r.product_id = p.id"
        " WHERE r.path = ANY (%s) ORDER BY k.id, r.id"
    )
    paths = [market.SMALL, market.LARGE, market.HUGE]
    with _connected(settings) as connection:
        return [Caller(record_ids(*row)) for row in connection.execute(statement, (paths,))]


@contextmanager
def _connected(settings: Settings) -> Iterator[Connection]:
    login: dict[str, Any] = dict(secrets.database_login(settings, "system"))
    with psycopg.connect(**login, autocommit=True) as connection:
        yield connection


def _storing(
    settings: Settings, callers: Sequence[Caller], cores: int, reporting: int, usable: set[int]
) -> Facts:
    """Calls a second from the drain's first batch on; processor time as microseconds a call."""
    count = SEGMENTS * SLOTS_PER_SEGMENT
    producer = write_journal(settings.journal_dir, callers, SEGMENTS, reporting)
    own = sorted(usable)[:cores]
    database = market.database_pid(settings)
    machine.pin(database, own)
    with _connected(settings) as connection, _drain(settings, own[-1]) as process:
        _wait_until(settings, connection, process, producer, 1)
        begun, already = clock.monotonic(), _stored(connection, producer)
        before, beside = machine.tree_cpu(process.pid), machine.tree_cpu(database)
        _wait_until(settings, connection, process, producer, count)
        seconds = clock.monotonic() - begun
        stored = count - already
        cpu = machine.tree_cpu(process.pid) - before
        database_cpu = machine.tree_cpu(database) - beside
    folding = asyncio.run(_fold_all(settings))
    machine.pin(database, usable)
    return {
        "calls": stored,
        "per_second": round(stored / seconds),
        "drain_us": round(cpu.total / stored * 1e6, 2),
        "database_us": round(database_cpu.total / stored * 1e6, 2),
        **folding,
    }


async def _fold_all(settings: Settings) -> Facts:
    """What folding the deltas of a round takes."""
    await db.open_database(settings)
    begun, folded, last = clock.monotonic(), 0, DELTAS
    try:
        while last == DELTAS:
            async with db.system_session("fold usage") as session:
                last = await fold(session)
                folded += last
    finally:
        await db.close_database()
    seconds = clock.monotonic() - begun
    return {"deltas": folded, "folded_per_second": round(folded / max(seconds, 1e-9))}


def write_journal(
    journal_dir: Path, callers: Sequence[Caller], segments: int, reporting: int = 0
) -> UUID:
    """The whole journal of a gateway that is gone; each `reporting`th call reported tokens (0: none
    did). Answers the producer.
    """
    producer = uuid4()
    folder = journal_dir / f".{producer}"
    folder.mkdir(parents=True, mode=0o700)
    (folder / LOCK_NAME).touch(mode=0o600)
    epoch_us = int(clock.machine_now().timestamp() * 1e6)  # the contracts have begun by now
    step_us = MINUTES * 60_000_000 // (segments * SLOTS_PER_SEGMENT)
    sequence = 0
    for number in range(1, segments + 1):
        header = SegmentHeader(producer, number, sequence + 1, SLOTS_PER_SEGMENT)
        data = bytearray(HEADER_SIZE + SLOTS_PER_SEGMENT * SLOT_SIZE)
        data[:HEADER_SIZE] = encode_header(header)
        for place in range(SLOTS_PER_SEGMENT):
            sequence += 1
            payload = _payload(callers, sequence, epoch_us + sequence * step_us, reporting)
            write_completed(data, HEADER_SIZE + place * SLOT_SIZE, sequence, payload)
        (folder / segment_name(number)).write_bytes(data)
    folder.rename(journal_dir / str(producer))
    return producer


def _payload(callers: Sequence[Caller], sequence: int, at_us: int, reporting: int) -> bytes:
    reports = reporting and sequence % reporting == 0
    return encode_call(
        at_us,
        callers[sequence * 7919 % len(callers)].ids,
        200 if sequence % 50 else 404,
        LIVE | BILLABLE,
        2_000 + sequence * 37 % 9_000,
        1_500,
        180,
        207,
        1,
        0,
        0,
        bytes((127, 0, 0, 1)),
        b"GET",
        b"",
        b"01a1f97c-2cad-769c-9e39-%012x" % sequence,
        b"tokens=%d" % (sequence % 900) if reports else b"",
    )


def _stored(connection: Connection, producer: UUID) -> int:
    row = connection.execute(
        "SELECT watermark FROM usage_producers WHERE producer = %s", (producer,)
    ).fetchone()
    return 0 if row is None else int(row[0])


def _wait_until(
    settings: Settings,
    connection: Connection,
    process: "subprocess.Popen[bytes]",
    producer: UUID,
    count: int,
) -> None:
    deadline = clock.monotonic() + WAIT_SECONDS
    while _stored(connection, producer) < count:
        _check(settings, process, deadline)
        time.sleep(0.005)


def _check(settings: Settings, process: "subprocess.Popen[bytes]", deadline: float) -> None:
    """Raise `BenchError` with the end of the drain's log when it is gone, or took too long."""
    if process.poll() is None and clock.monotonic() < deadline:
        return
    lines = (settings.data_dir / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    said = "\n".join(lines[-LOG_LINES:])
    raise BenchError(f"the drain did not store what it should; its log ends:\n{said}")


@contextmanager
def _drain(settings: Settings, core: int) -> Iterator["subprocess.Popen[bytes]"]:
    log = settings.data_dir / LOG
    words = [sys.executable, "-m", "nimbus", "drain"]
    with program(words, core, log, market.environment(settings)) as process:
        yield process


def _freshness(settings: Settings, callers: Sequence[Caller]) -> Facts:
    """How long after a call's last byte the sums that everybody reads have it."""
    journal = Journal(settings.journal_dir, uuid4())
    statement = "SELECT coalesce(sum(events), 0)::bigint FROM usage_hours WHERE hour >= %s"
    since = clock.machine_now() + timedelta(days=3)
    hour = since.replace(minute=0, second=0, microsecond=0)
    taken = []
    core = machine.choose_cores().gateway
    with _connected(settings) as connection, _drain(settings, core) as process:
        for number in range(SAMPLES):
            sequence = journal.reserve()
            assert sequence is not None, "there is room"
            payload = _payload(callers, sequence, int(since.timestamp() * 1e6) + sequence, 0)
            journal.complete(sequence, payload)
            begun = clock.monotonic()
            while True:
                row = connection.execute(statement, (hour,)).fetchone()
                if row is not None and row[0] > number:
                    break
                _check(settings, process, begun + WAIT_SECONDS)
            taken.append((clock.monotonic() - begun) * 1000)
            time.sleep(number % 17 / 100)
    journal.close()
    return _spread(taken)


async def _reading(settings: Settings, caller: Caller) -> Facts:
    """This month by endpoint and day of a tenant with very many calls, and that it is what the rows
    come to.
    """
    organization = UUID(bytes=caller.ids[:16])
    month = datetime(2025, 3, 1, tzinfo=UTC)
    login: dict[str, Any] = dict(secrets.database_login(settings, "owner"))
    with psycopg.connect(**login, autocommit=True) as connection:
        months.fill(connection, organization, month, TENANT_CALLS)
        raw = months.counted_raw(connection, organization, month)
    await db.open_database(settings)
    taken = []
    try:
        for _ in range(READS):
            async with db.transaction(organization) as session:
                begun = clock.monotonic()
                shown = await months.by_endpoint_and_day(session, organization, month)
                taken.append((clock.monotonic() - begun) * 1000)
    finally:
        await db.close_database()
    if shown != raw:
        raise BenchError("what is shown is not what the calls add up to")
    return {"calls": sum(raw.values()), "rows": len(raw), **_spread(taken)}


def _spread(taken: Sequence[float]) -> Facts:
    cuts = quantiles(taken, n=100, method="inclusive")
    return {"p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2)}
