# SPDX-License-Identifier: Apache-2.0
"""Calls for tests of usage: a subscription, events, journals as a gateway writes them."""

import asyncio
import secrets as randomness
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from psycopg import sql
from sqlalchemy import text, update

from nimbus import catalog, subscriptions, usage
from nimbus.app import create_app
from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from nimbus.gateway.meter import Journal
from nimbus.identity import organization_facts
from nimbus.rules.metering import UsageEvent, encode_record, event_id
from nimbus.usage.models import QuotaStanding
from tests.conftest import TEMPLATE, Server
from tests.support.market import make_wind
from tests.support.people import Person, make_owner

START = datetime(2026, 5, 1, tzinfo=UTC)
END = datetime(2026, 6, 1, tzinfo=UTC)
STORING = "storing usage"


@dataclass(frozen=True, slots=True)
class Contract:
    """Who calls what: the ids that an event carries."""

    organization_id: UUID
    provider_organization_id: UUID
    subscription_id: UUID
    product_id: UUID
    plan_version_id: UUID
    route_id: UUID
    key_id: UUID


@dataclass(frozen=True, slots=True)
class Market:
    """A database with a Wind API and a subscriber to it, to be copied for each test."""

    template: str
    provider: Person
    consumer: Person
    contract: Contract


@pytest.fixture(scope="session")
async def metered_market(server: Server) -> Market:
    """Made once a run: an organization's subscription to Starter of another one's Wind API."""
    name = f"template_metered_{randomness.token_hex(4)}"
    server.execute(_copy(name, TEMPLATE))
    made_in = replace(server.settings(name), private_networks=(ip_network("127.0.0.0/8"),))
    await db.open_database(made_in)
    try:
        provider = await make_owner("peter@wind.example")
        consumer = await make_owner("ada@acme.example")
        upstream = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        transport = httpx2.ASGITransport(app=create_app(made_in))
        client = httpx2.AsyncClient(transport=transport, base_url="http://nimbus.test")
        async with upstream, client as api:
            port = upstream.sockets[0].getsockname()[1]
            made = await make_wind(api, provider, f"http://127.0.0.1:{port}")
        return Market(name, provider, consumer, await contract_for(consumer, made))
    finally:
        await db.close_database()


@pytest.fixture
def settings(server: Server, metered_market: Market) -> Iterator[Settings]:
    """Settings of a database of this test's own, with the market in it."""
    name = f"test_{randomness.token_hex(6)}"
    server.execute(_copy(name, metered_market.template))
    yield server.settings(name)
    server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def contract(metered_market: Market, database: Settings) -> Contract:
    """The subscription of the market, in this test's database."""
    return metered_market.contract


def _copy(name: str, template: str) -> sql.Composed:
    return sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
        sql.Identifier(name), sql.Identifier(template)
    )


async def contract_for(consumer: Person, product: dict[str, Any]) -> Contract:
    """A subscription to the Starter plan of a Wind API, since May 2026."""
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        plan = await catalog.published_plan(session, product["slug"], "starter")
        organization = await organization_facts(session, consumer.organization_id)
        started = await subscriptions.start(
            session, consumer.actor, organization, plan, payment="invoice", as_of=START
        )
        clock.set_instant(START)  # the reactions run now, at the instant of the start
    clock.set_instant(None)
    [route] = await rows(
        "SELECT id FROM routes WHERE product_id = :product_id AND path = '/farms'",
        product_id=plan.product.id,
    )
    return Contract(
        organization_id=consumer.organization_id,
        provider_organization_id=plan.product.provider_organization_id,
        subscription_id=started.subscription.id,
        product_id=plan.product.id,
        plan_version_id=plan.plan_version_id,
        route_id=route["id"],
        key_id=new_id(),
    )


def event(
    contract: Contract,
    producer: UUID,
    sequence: int,
    at: datetime = START,
    **changes: Any,
) -> UsageEvent:
    """A live call of one unit, answered with 200, but for `changes`."""
    call = UsageEvent(
        event_id=event_id(producer, sequence),
        occurred_at=at,
        organization_id=contract.organization_id,
        provider_organization_id=contract.provider_organization_id,
        key_id=contract.key_id,
        subscription_id=contract.subscription_id,
        product_id=contract.product_id,
        route_id=contract.route_id,
        environment="Live",
        method="GET",
        status=200,
        refusal="",
        duration_us=1500,
        upstream_us=1000,
        bytes_in=100,
        bytes_out=2000,
        units=1,
        leased=0,
        billable=True,
        ip=ip_address("198.51.100.7"),
        request_id=f"request-{sequence}",
        meters=(),
    )
    return replace(call, **changes)


def reported(**meters: str) -> dict[str, Any]:
    """The change of an event whose upstream reported these quantities."""
    return {"meters": tuple((key, Decimal(value)) for key, value in meters.items())}


def refused(code: str, status: int) -> dict[str, Any]:
    """The changes of an event that was refused with this code."""
    return {"refusal": code, "status": status, "units": 0, "billable": False, "upstream_us": 0}


def failed(status: int = 502) -> dict[str, Any]:
    """The changes of an event whose upstream failed."""
    return {"status": status, "units": 0, "billable": False}


def part_of_a_stream() -> dict[str, Any]:
    """The changes of what goes on from a call that was written down before."""
    return {"continued": True, "units": 0, "upstream_us": 0}


def in_test() -> dict[str, Any]:
    """The changes of a call with a test key."""
    return {"environment": "Test", "units": 0, "billable": False}


async def store(
    producer: UUID, events: list[UsageEvent], first: int = 1, **options: Any
) -> usage.Mark:
    """Store events as the slots from `first` on, in a transaction of its own."""
    async with db.system_session(STORING) as session:
        last = first + len(events) - 1
        return await usage.store_batch(session, producer, first, last, events, **options)


async def rows(statement: str, **values: Any) -> list[dict[str, Any]]:
    """What the database holds, over all organizations."""
    async with db.system_session(STORING) as session:
        return [dict(row) for row in (await session.execute(text(statement), values)).mappings()]


async def quantities(
    contract: Contract, starts_at: datetime = START, ends_at: datetime = END
) -> dict[str, Decimal]:
    """What a bill run would find for a period."""
    async with db.system_session(STORING) as session:
        found = await usage.period_quantities(session, contract.subscription_id, starts_at, ends_at)
    return {key: used.quantity for key, used in found.items()}


async def standing(contract: Contract, meter_key: str = "api_calls") -> dict[str, Any]:
    """The standing whose window begins at START."""
    found = await rows(
        "SELECT * FROM quota_standings WHERE subscription_id = :id AND meter_key = :meter_key"
        " AND period_starts_at <= :at AND period_ends_at > :at",
        id=contract.subscription_id,
        meter_key=meter_key,
        at=START,
    )
    assert len(found) == 1
    return found[0]


async def proof(journal_dir: Path) -> list[dict[str, Any]]:
    """The differences that the reconciliation finds."""
    async with db.system_session(STORING) as session:
        return list((await usage.reconcile(session, journal_dir)).differences)


async def allow(contract: Contract, limit: int | None, policy: str) -> UUID:
    """Let the standing of May say `limit` calls under `policy`."""
    async with db.system_session(STORING) as session:
        changed = await session.execute(
            update(QuotaStanding)
            .where(
                QuotaStanding.subscription_id == contract.subscription_id,
                QuotaStanding.meter_key == "api_calls",
                QuotaStanding.period_starts_at == START,
            )
            .values(limit_units=limit, policy=policy)
            .returning(QuotaStanding.id)
        )
        return changed.scalar_one()


class Gateway:
    """A gateway's journal, written as the gateway writes it."""

    def __init__(self, journal_dir: Path, contract: Contract, slots: int = 64) -> None:
        self.producer = uuid4()
        self.journal = Journal(journal_dir, self.producer, slots_per_segment=slots)
        self.contract = contract

    def begin(self) -> int:
        """A call is forwarded; its slot."""
        sequence = self.journal.reserve()
        assert sequence is not None
        return sequence

    def finish(self, sequence: int, at: datetime = START, **changes: Any) -> None:
        """The call of this slot is answered."""
        call = event(self.contract, self.producer, sequence, at, **changes)
        self.journal.complete(sequence, encode_record(call))

    def call(self, at: datetime = START, **changes: Any) -> int:
        """A whole call; its slot."""
        sequence = self.begin()
        self.finish(sequence, at, **changes)
        self.journal.prepare()
        return sequence

    def calls(self, count: int, at: datetime = START, **changes: Any) -> None:
        """Whole calls, a millisecond apart."""
        for number in range(count):
            self.call(at + number * timedelta(milliseconds=1), **changes)

    def die(self) -> None:
        """The process is gone, with whatever it had open: its lock is free."""
        self.journal.close()
