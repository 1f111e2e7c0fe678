# SPDX-License-Identifier: Apache-2.0
"""The failure table of nimbus/gateway/README.md, on real processes: what fails is really broken,
and put right again while the gateways run. failure_table.toml says which row is shown where.
"""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg import sql

from nimbus.access.secrets import new_secret
from nimbus.access.service import revoke_key
from nimbus.base import db
from nimbus.rules.metering import SlotState, UsageEvent, read_segment
from tests.support.load import Attempt, Caller, answered, call_until, certainly_within
from tests.support.rig import Customer, Rig

pytestmark = pytest.mark.anyio

SMALL_DISK = 1 << 20  # bytes: less than a segment
ENDLESS = resource.RLIM_INFINITY


@asynccontextmanager
async def no_database(rig: Rig) -> AsyncIterator[None]:
    """The gateways' connections are cut and no new one is let in, until the block ends."""
    name = sql.Identifier(rig.database)
    rig.server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
    theirs = "FROM pg_stat_activity WHERE usename = 'nimbus_gateway' AND datname = %s"
    rig.execute(f"SELECT pg_terminate_backend(pid) {theirs}", rig.database)
    await rig.until(lambda: not rig.execute(f"SELECT {theirs}", rig.database), "all are cut")
    try:
        yield
    finally:
        rig.server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


async def test_without_the_database_deny_serves_what_was_lent_and_the_others_go_on_and_count(
    rig: Rig,
) -> None:
    strict = await rig.customer("strict")
    rig.allow(strict, 1_000_000)
    loose = [await rig.customer(policy) for policy in ("warned", "allowed", "over")]
    await rig.start_gateways(2)
    [caller] = rig.callers(1, strict.key, "s")
    others = [rig.callers(1, customer.key, f"o{n}")[0] for n, customer in enumerate(loose)]
    await call_until_status(rig, caller, 200)
    for _ in range(200):
        await caller.call()
    for other in others:
        assert (await other.call()).status == 200
    async with no_database(rig):
        lent = rig.counter(strict)[1]
        after = await call_until_status(rig, caller, 503)
        assert {each.status for each in after[:-1]} <= {200}
        assert len(answered([caller])) <= lent, "never more than what was lent"
        assert b'"unavailable"' in after[-1].body
        assert int(after[-1].field("retry-after")) >= 1
        for other in others:
            for _ in range(20):
                assert (await other.call()).status == 200
        [stranger] = rig.callers(1, new_secret("Live"), "x")
        assert (await stranger.call()).status == 503, "an unknown key is not called invalid"
    await call_until_status(rig, caller, 200)
    await rig.start("drain")
    await rig.stop_gateways()
    await rig.drained()
    rig.account([caller, *others, stranger])
    for customer in loose:
        assert rig.counter(customer) == (21, 0)
        assert await rig.shown(customer) == 21
    assert rig.counter(strict) == (len(answered([caller])), 0)


async def call_until_status(rig: Rig, caller: Caller, status: int) -> list[Attempt]:
    """Call until an answer has this status; all the calls."""
    made: list[Attempt] = []
    async with asyncio.timeout(45):
        while not made or made[-1].status != status:
            made.append(await caller.call())
    return made


async def test_without_any_state_calls_are_503_and_everything_else_is_served(rig: Rig) -> None:
    nowhere = f"host={rig.settings.data_dir} dbname=none"
    rig.settings = replace(rig.settings, database_url=nowhere)
    await rig.start_gateways(1)
    async with some_api(rig.settings.api_socket):
        [caller] = rig.callers(1, new_secret("Live"))
        refused = await caller.call()
        assert (refused.status, refused.field("retry-after")) == (503, "1")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.settings.port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 204 " in await reader.readline()
        writer.close()
    assert rig.upstream.arrivals == []


@asynccontextmanager
async def some_api(path: Path) -> AsyncIterator[None]:
    """Something that answers 204 where the management API would be."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, str(path))
    try:
        async with server:
            yield
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()


async def test_a_full_disk_refuses_calls_before_they_are_forwarded_and_heals_by_itself(
    rig: Rig,
) -> None:
    customer = await rig.customer()
    await rig.start_gateways(1)
    [process] = rig.gateways
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (SMALL_DISK, ENDLESS))
    [caller] = rig.callers(1, customer.key)
    for _ in range(20):
        refused = await caller.call()
        assert refused.status == 503
        assert int(refused.field("retry-after")) >= 1
    assert rig.upstream.arrivals == []
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (ENDLESS, ENDLESS))
    await call_until_status(rig, caller, 200)
    assert (await caller.call()).status == 200
    await rig.start("drain")
    await rig.stop_gateways()
    await rig.drained()
    assert len(rig.account([caller])) == 2


async def test_a_disk_that_does_not_sync_stops_no_call_and_is_logged(rig: Rig) -> None:
    customer = await rig.customer()
    broken = "import os\ndef fail(_): raise OSError(5, 'Input/output error')\nos.fdatasync = fail"
    await rig.start_gateways(1, broken)
    [process], [caller] = rig.gateways, rig.callers(1, customer.key)

    def logged() -> bool:
        logged = "journal_not_synced" in process.log.read_text()
        return logged and len(caller.attempts) > 20

    await call_until([caller], logged)
    assert {each.status for each in caller.attempts} == {200}


# Everything that a process can ask for the time of day; what only goes forward stays as it is.
STEPPED = """
import datetime, os, time
from nimbus.base import clock
real = time.time_ns
def seconds():
    with open(os.environ["RIG_STEP"]) as file:
        return int(file.read())
class Stepped(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(time.time(), tz)
time.time_ns = lambda: real() + seconds() * 10**9
time.time = lambda: time.time_ns() / 1e9
clock.datetime = Stepped
"""


async def test_a_clock_that_steps_moves_event_times_and_no_limit(rig: Rig) -> None:
    """One gateway's clock goes an hour ahead and two back, the other's does not: no second
    allowance, nobody shut out, no call cut off, none lost and none stored twice.
    """
    step = rig.settings.data_dir / "step"
    write_whole(step, "0")
    free, limited = await rig.customer(), await rig.customer(rate_per_minute=60)
    rig.settings = replace(rig.settings, gateways=2)
    rig.gateways = [
        await rig.start("gateway"),
        await rig.start("gateway", STEPPED, RIG_STEP=str(step)),
    ]
    callers, hasty = rig.callers(24, free.key, "f"), rig.callers(24, limited.key, "l")
    for seconds in (0, 3600, -3600):
        write_whole(step, str(seconds))
        for _ in range(5):
            await asyncio.gather(*(caller.call() for caller in callers + hasty))
    assert {each.status for caller in callers for each in caller.attempts} == {200}
    assert {each.status for caller in hasty for each in caller.attempts} == {200, 429}
    sent = {each.tag: each.sent for caller in hasty for each in caller.attempts}
    flights = [(sent[a.tag], a.at) for a in rig.upstream.arrivals if a.tag in sent]
    assert certainly_within(flights, 60) <= 60 <= len(flights)
    now = datetime.now(UTC)
    shifts = {round((event.occurred_at - now) / timedelta(hours=1)) for event in journal_of(rig)}
    assert shifts == {0, 1, -1}
    assert min(event.duration_us for event in journal_of(rig)) >= 0
    assert max(event.duration_us for event in journal_of(rig)) < 1_800_000_000
    await rig.start("drain")
    await rig.stop_gateways()
    await rig.drained()
    rig.account([*callers, *hasty])


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: its reader never sees half of it."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def journal_of(rig: Rig) -> list[UsageEvent]:
    """The served calls in the journals of the rig."""
    slots = [
        slot
        for folder in rig.producers()
        for path in folder.glob("*.journal")
        for slot in read_segment(path.read_bytes())[1]
    ]
    found = [slot.record for slot in slots if slot.state is SlotState.COMPLETED]
    return [record for record in found if record is not None and not record.refusal]


async def test_a_feed_that_is_behind_leaves_the_last_state_in_force_and_shows_it(rig: Rig) -> None:
    customer = await rig.customer()
    await rig.start_gateways(2)
    [caller] = rig.callers(1, customer.key)
    assert (await caller.call()).status == 200
    await rig.until(lambda: min(rig.confirmed().values()) == rig.feed_number())
    before = rig.feed_number()
    rig.execute("REVOKE EXECUTE ON FUNCTION gateway_feed(bigint) FROM nimbus_gateway")
    await revoke(customer)
    assert rig.feed_number() > before
    lost = "feed_lost"
    await rig.until(lambda: all(lost in gateway.log.read_text() for gateway in rig.gateways))
    assert (await caller.call()).status == 200
    assert set(rig.confirmed().values()) == {before}
    rig.execute("GRANT EXECUTE ON FUNCTION gateway_feed(bigint) TO nimbus_gateway")
    await rig.until(lambda: min(rig.confirmed().values()) == rig.feed_number())
    assert (await caller.call()).status == 401


async def test_a_revocation_while_the_database_is_gone_works_as_soon_as_it_is_back(
    rig: Rig,
) -> None:
    """The commit comes in the moment the database is back, before any gateway is."""
    customer = await rig.customer()
    await rig.start_gateways(2)
    [caller] = rig.callers(1, customer.key)
    assert (await caller.call()).status == 200
    async with no_database(rig):
        await revoke(customer)
        assert (await caller.call()).status == 200, "nobody could tell the gateways"
    await rig.until(lambda: min(rig.confirmed().values()) == rig.feed_number())
    assert (await caller.call()).status == 401


async def revoke(customer: Customer) -> None:
    actor = customer.person.actor
    async with db.transaction(actor.organization_id, actor.user_id) as session:
        await revoke_key(session, actor, customer.key_id, "leaked")
