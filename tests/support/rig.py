# SPDX-License-Identifier: Apache-2.0
"""A rig: real gateways that share a port and a real drain on a real database, made in about two
seconds. What is sold is made by the product's own use cases; nothing else of it runs.

`market` is made once a run; `rig` is a test's own copy of it with its own folder and port.
"""

import asyncio
import json
import os
import secrets as randomness
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psycopg
from psycopg import sql

from nimbus.access import KeyTerms, create_key
from nimbus.app import create_app
from nimbus.base import db
from nimbus.base.config import Settings, to_environment
from nimbus.base.secrets import database_login
from tests.conftest import TEMPLATE, Server
from tests.support.load import Attempt, Caller, Upstream, answered, open_upstream
from tests.support.market import PRODUCTS, STARTER, sent, subscribe
from tests.support.people import Person, make_owner

DEADLINE_SECONDS = 60
# What `nimbus gateway` becomes, without the command line before it: in half the time.
ENTRY = """
import runpy
from nimbus.base.process import die_with
die_with({parent})
{entry}
runpy.run_module("nimbus.gateway", run_name="__main__")
"""
LOOPBACK = (ip_network("127.0.0.0/8"),)


def plan(slug: str, rank: int, policy: str, calls: int, rate: tuple[int, int | None]) -> Any:
    """A plan with a quota of calls a cycle under a policy, and a rate a second."""
    return {
        **STARTER,
        "slug": slug,
        "name": slug.title(),
        "rank": rank,
        "over_quota_policy": policy,
        "rate_limit": {"amount": rate[0], "period": "second", "burst": rate[1]},
        "prices": [
            {
                "base_fee": {"amount_minor": 100, "currency": "EUR"},
                "charges": [{"meter": "api_calls", "unit_price": "0.001"}],
            }
        ],
        "quotas": [{"meter": "api_calls", "amount": calls, "period": "cycle"}],
    }


FAST, MANY = (20_000, None), 10**9
PLANS = (
    plan("open", 10, "overage", MANY, FAST),
    plan("better", 20, "overage", MANY, (19_000, None)),
    plan("strict", 30, "deny", 0, FAST),
    plan("warned", 40, "warn", 5, FAST),
    plan("allowed", 50, "allow", 5, FAST),
    plan("over", 60, "overage", 5, FAST),
    plan("window", 70, "overage", MANY, (50, None)),
    plan("bucket", 80, "overage", MANY, (50, 20)),
    {
        **plan("capped", 90, "overage", 5, FAST),
        "quotas": [{"meter": "api_calls", "amount": 5, "period": "cycle", "overage_cap": 7}],
    },
)
ROUTES: tuple[dict[str, Any], ...] = (
    {"method": "GET", "path": "/calls/{tag}"},
    {"method": "GET", "path": "/stream/{tag}"},
    {"method": "POST", "path": "/upload/{tag}"},
    {"method": "GET", "path": "/better/{tag}", "minimum_plan": "better"},
)


@dataclass(frozen=True)
class Market:
    """A database with the product `rig` and its plans, and the socket that is its upstream."""

    template: str
    provider: Person
    listener: socket.socket


@dataclass(frozen=True)
class Customer:
    """Someone on a plan, with a key."""

    person: Person
    subscription_id: UUID
    key_id: UUID
    key: str


@dataclass
class Process:
    """A process of the rig; `log` is what it has written."""

    popen: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self.popen.kill()
        self.popen.wait()

    def status(self, name: str) -> int:
        """A number of /proc/PID/status, such as RssAnon in KiB."""
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise LookupError(name)


@asynccontextmanager
async def make_market(server: Server) -> AsyncIterator[Market]:
    """Made once a run."""
    name = f"template_rig_{randomness.token_hex(4)}"
    server.execute(_copy(name, TEMPLATE))
    settings = replace(server.settings(name), private_networks=LOOPBACK)
    with socket.socket() as listener:
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            listener.setsockopt(socket.SOL_SOCKET, buffer, 65_536)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        await db.open_database(settings)
        try:
            provider = await make_owner("provider@rig.example")
            async with _api(settings) as api:
                await _make_product(api, provider, listener.getsockname()[1])
        finally:
            await db.close_database()
        yield Market(name, provider, listener)


async def _make_product(api: httpx2.AsyncClient, provider: Person, port: int) -> None:
    product = {
        "slug": "rig",
        "name": "Rig",
        "upstreams": {"Live": {"base_url": f"http://127.0.0.1:{port}"}},
    }
    made = await sent(api, provider, "POST", PRODUCTS, product)
    place = f"{PRODUCTS}/{made['id']}"
    for each in PLANS:
        await sent(api, provider, "POST", f"{place}/plans", each)
    for each in ROUTES:
        await sent(api, provider, "POST", f"{place}/routes", each)
    await sent(api, provider, "POST", f"{place}/publish")


def _copy(name: str, template: str) -> sql.Composed:
    return sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
        sql.Identifier(name), sql.Identifier(template)
    )


@asynccontextmanager
async def _api(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=create_app(settings))
    async with httpx2.AsyncClient(transport=transport, base_url="http://nimbus.test") as client:
        yield client


@asynccontextmanager
async def make_rig(server: Server, market: Market) -> AsyncIterator["Rig"]:
    """A rig with nothing started yet but its upstream; everything is ended when the block ends."""
    name = f"rig_{randomness.token_hex(6)}"
    server.execute(_copy(name, market.template))
    with (
        tempfile.TemporaryDirectory(prefix="nimbus-rig-") as folder,
        socket.socket() as held,  # nobody else gets the port between two gateways
    ):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        data_dir = Path(folder)
        shutil.copytree(server.data_dir / "secrets", data_dir / "secrets")
        settings = replace(
            server.settings(name),
            data_dir=data_dir,
            port=held.getsockname()[1],
            public_url=f"http://127.0.0.1:{held.getsockname()[1]}",
            private_networks=LOOPBACK,
        )
        await db.open_database(settings)
        login: dict[str, Any] = dict(database_login(settings, "owner"))
        rig = Rig(settings, server, name, psycopg.connect(**login, autocommit=True))
        serving = await open_upstream(rig.upstream, market.listener.dup())
        try:
            yield rig
        finally:
            for process in rig.processes:
                process.kill()
            serving.close()
            for transport in [*rig.upstream.transports, *rig.connections()]:
                transport.abort()
            await asyncio.sleep(0)  # what was aborted is told so in the next turn of the loop
            await asyncio.sleep(0)
            await db.close_database()
            rig.connection.close()
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            server.execute(drop.format(sql.Identifier(name)))


@dataclass
class Rig:
    """The processes of one test, and what may be asked of them."""

    settings: Settings
    server: Server
    database: str
    connection: psycopg.Connection[tuple[Any, ...]]
    upstream: Upstream = field(default_factory=Upstream)
    gateways: list[Process] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    calling: list[Caller] = field(default_factory=list)

    async def start_gateways(self, count: int, entry: str = "", **variables: str) -> None:
        """Start gateways at once and wait until all are ready; `entry` is Python code that is
        run before the gateway, in its process.
        """
        self.settings = replace(self.settings, gateways=count)
        starting = [self.start("gateway", entry, **variables) for _ in range(count)]
        self.gateways += await asyncio.gather(*starting)

    async def replace_gateway(self, index: int) -> None:
        """Kill -9 the gateway in this place, and start another as the supervisor would."""
        self.gateways[index].kill()
        self.gateways[index] = await self.start("gateway")

    async def stop_gateways(self) -> None:
        """Ask them to stop, and see that they end well."""
        for process in self.gateways:
            process.popen.send_signal(signal.SIGTERM)
        for process in self.gateways:
            await self.until(lambda process=process: process.popen.poll() is not None)
            assert process.popen.returncode == 0, process.log.read_text()
        self.gateways = []

    async def start(self, role: str, entry: str = "", **variables: str) -> Process:
        """A process of this role that has said it is ready."""
        number = len(self.processes)
        log = self.settings.data_dir / f"{role}-{number}.log"
        command = [sys.executable, "-m", "nimbus", role, f"--supervisor={os.getpid()}"]
        if role == "gateway":
            command = [sys.executable, "-c", ENTRY.format(parent=os.getpid(), entry=entry)]
        notice = self.settings.data_dir / f"notice-{number}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices, log.open("wb") as file:
            notices.setblocking(False)
            notices.bind(str(notice))
            environment = {k: v for k, v in os.environ.items() if not k.startswith("NIMBUS_")}
            environment |= to_environment(self.settings) | {"NOTIFY_SOCKET": str(notice)}
            popen = subprocess.Popen(
                command,
                env={**environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
            process = Process(popen, log)
            self.processes.append(process)

            def ready() -> bool:
                assert popen.poll() is None, log.read_text()
                with suppress(BlockingIOError):
                    return notices.recv(64) == b"READY=1"
                return False

            await self.until(ready, f"{role} is ready")
        return process

    async def customer(self, plan: str = "open", **terms: Any) -> Customer:
        """A new organization on a plan, with a key; `terms` are the key's."""
        person = await make_owner(f"{randomness.token_hex(4)}@rig.example")
        started = await subscribe(person, plan, product="rig")
        key_id, key = await self.another_key(person, **terms)
        return Customer(person, started.subscription.id, key_id, key)

    async def another_key(self, person: Person, **terms: Any) -> tuple[UUID, str]:
        """A further key of an organization."""
        async with db.transaction(person.organization_id, person.actor.user_id) as session:
            chosen = KeyTerms(name="k", scopes=("assets.read",), **terms)
            key, secret = await create_key(session, person.actor, chosen, environment="Live")
            return key.id, secret

    def callers(self, count: int, key: str, name: str = "c", **options: Any) -> list[Caller]:
        """Callers with this key, at whichever gateways the kernel gives them."""
        made = [Caller(f"{name}{n}", self.settings.port, key, **options) for n in range(count)]
        self.calling += made
        return made

    def connections(self) -> list[asyncio.WriteTransport]:
        """What the callers still hold open."""
        return [each.writer.transport for each in self.calling if each.writer is not None]

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """A statement as the superuser of the rig's own database, on a connection that stays."""
        cursor = self.connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def allow(self, customer: Customer, limit: int) -> None:
        """Set the limit of the standing in force, as support would."""
        self.execute(
            "UPDATE quota_standings SET limit_units = %s WHERE subscription_id = %s"
            " AND period_starts_at <= now() AND period_ends_at > now()",
            limit,
            customer.subscription_id,
        )

    def counter(self, customer: Customer) -> tuple[int, int]:
        """Used and leased units of the standing in force."""
        [[used, leased]] = self.execute(
            "SELECT used, leased FROM quota_standings WHERE subscription_id = %s"
            " AND closed_at IS NULL AND period_starts_at <= now() AND period_ends_at > now()",
            customer.subscription_id,
        )
        return int(used), int(leased)

    async def shown(self, customer: Customer) -> int:
        """The used units that the customer's portal shows."""
        async with _api(self.settings) as api:
            answer = await sent(api, customer.person, "GET", "/api/billing/quota")
        [quota] = answer["data"]
        return int(quota["used"])

    def producers(self) -> list[Path]:
        """The journals that are not stored to their end."""
        folder = self.settings.journal_dir
        found = folder.iterdir() if folder.exists() else ()
        return [each for each in found if each.is_dir() and not each.name.startswith(".")]

    def confirmed(self) -> dict[str, int]:
        """The feed number that each gateway has confirmed, by its producer."""
        found = self.execute("SELECT id, number FROM gateway_instances")
        return {str(producer): number for producer, number in found}

    def feed_number(self) -> int:
        """The number of the latest change."""
        return int(self.execute("SELECT coalesce(max(number), 0) FROM grant_feed")[0][0])

    async def drained(self) -> None:
        """Every journal is stored to its end; the gateways have to be stopped or dead."""
        await self.until(lambda: not self.producers(), "all journals are stored")

    async def until(
        self, condition: Callable[[], bool], what: str = "", seconds: float = DEADLINE_SECONDS
    ) -> None:
        """Wait for a condition, with a deadline."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"never came to hold: {what}"
            await asyncio.sleep(0.01)

    def events(self) -> dict[str, "Event"]:
        """The stored usage events by request id, each there once."""
        rows = self.execute("SELECT request_id, event_id, units, bytes_out FROM usage_events")
        found = {row[0]: Event(*row) for row in rows}
        assert len(found) == len(rows), "a call was stored twice"
        assert len({event.event_id for event in found.values()}) == len(rows)
        return found

    def account(self, callers: list[Caller]) -> list[Attempt]:
        """Compare what callers know, what the upstream saw and what is stored, as sets; answers
        the calls that were served. Once everything is drained.
        """
        events = self.events()
        served = answered(callers)
        attempts = {each.tag: each for caller in callers for each in caller.attempts}
        ids = {each.request_id for each in served}
        assert len(ids) == len(served)
        assert ids <= set(events), f"{len(ids - set(events))} answered calls have no event"
        arrivals = {each.request_id: each for each in self.upstream.arrivals}
        assert len(arrivals) == len(self.upstream.arrivals), "a call was forwarded twice"
        assert set(events) <= set(arrivals), "an event of a call that was never forwarded"
        for each in served:
            assert arrivals[each.request_id].tag == each.tag, "an answer of another call"
            assert each.body == self.upstream.body(each.tag)
            assert events[each.request_id].bytes_out == len(each.body)
        for request_id in set(events) - ids:
            attempt = attempts[arrivals[request_id].tag]
            assert attempt.status is None, f"answered {attempt.status}, and billed"
        for arrival in self.upstream.arrivals:
            assert attempts[arrival.tag].status in {200, None}, "refused, and forwarded"
        return served


@dataclass(frozen=True, slots=True)
class Event:
    """A stored usage event."""

    request_id: str
    event_id: UUID
    units: int
    bytes_out: int


def state_number(settings: Settings) -> int:
    """The feed number of the copy on disk, 0 when there is none."""
    path = settings.data_dir / "gateway" / "grants.json"
    return int(json.loads(path.read_text())["number"]) if path.exists() else 0


Wait = Callable[[], Awaitable[None]]
