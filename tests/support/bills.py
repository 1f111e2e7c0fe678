# SPDX-License-Identifier: Apache-2.0
"""A sale to bill: the operator sells the Wind API, a customer is on it since 1 May 2026."""

import secrets as randomness
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from psycopg import sql

from nimbus.app import create_app
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.base.config import Settings
from nimbus.billing.models import Invoice
from nimbus.billing.service import runs
from tests.support.market import listening, make_wind, sent
from tests.support.metered import END, START, Contract, event, reported, rows, store
from tests.support.people import Person, make_owner

SETTINGS = "/api/admin/settings"
REFERENCE_LINES = [4900, 2500, 2250, 2000]
SELLER: dict[str, Any] = {
    "name": "Nimbus Wind B.V.",
    "address": {"street": "Kade 1", "postal_code": "3011 AA", "city": "Rotterdam"},
    "country": "NL",
    "vat_number": "NL123456782B90",
    "company_number": "12345678",
    "email": "billing@nimbus.example",
    "iban": "NL91ABNA0417164300",
    "time_zone": "Europe/Amsterdam",
    "terms_version": "2026-01",
    "terms_body": "Be kind.",
}


@dataclass(frozen=True)
class Sale:
    """The operator's admin, who owns its organization; a customer and its subscription."""

    admin: Person
    customer: Person
    contract: Contract

    @property
    def subscription_id(self) -> UUID:
        return self.contract.subscription_id


async def sell(api: httpx2.AsyncClient, upstream: str) -> Sale:
    """A customer on Starter of the Wind API from 1 May 2026, 00:00 UTC, billed on invoice."""
    clock.set_instant(START)
    admin = await make_owner("admin@nimbus.example", platform_role="admin")
    await set_seller(api, admin)
    await make_wind(api, admin, upstream)
    customer = await make_owner("ada@acme.example")
    return Sale(admin, customer, await subscribe(api, customer))


@pytest.fixture(scope="session")
async def sold(server: Any) -> tuple[str, Sale]:
    """A database with a sale, made once; each test gets a copy."""
    name = f"sold_{randomness.token_hex(4)}"
    server.execute(copy_of("template_nimbus", name))
    settings = replace(server.settings(name), private_networks=(ip_network("127.0.0.0/8"),))
    await db.open_database(settings)
    transport = httpx2.ASGITransport(app=create_app(settings))
    async with (
        listening() as upstream,
        httpx2.AsyncClient(transport=transport, base_url="http://nimbus.test") as api,
    ):
        sale = await sell(api, upstream)
    await db.close_database()
    clock.set_instant(None)
    return name, sale


@pytest.fixture
def settings(server: Any, sold: tuple[str, Sale]) -> Iterator[Settings]:
    """Settings of a copy of the database with the sale."""
    name = f"test_{randomness.token_hex(6)}"
    server.execute(copy_of(sold[0], name))
    yield replace(server.settings(name), private_networks=(ip_network("127.0.0.0/8"),))
    dropped = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    server.execute(dropped)


@pytest.fixture
def sale(database: Settings, sold: tuple[str, Sale]) -> Sale:
    """A customer on Starter since 1 May 2026 and a known seller; it is that instant still."""
    clock.set_instant(START)
    return sold[1]


def copy_of(template: str, name: str) -> sql.Composed:
    """The statement that copies a database."""
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    return copy.format(sql.Identifier(name), sql.Identifier(template))


async def set_seller(api: httpx2.AsyncClient, admin: Person, **changes: Any) -> Any:
    """Say who sells: the admin's organization."""
    body = {**SELLER, "operator_organization_id": str(admin.organization_id), **changes}
    return await sent(api, admin, "PUT", SETTINGS, body)


async def subscribe(
    api: httpx2.AsyncClient, customer: Person, plan: str = "starter", product: str = "wind"
) -> Contract:
    """Start a subscription over HTTP; the ids that a call on it carries."""
    choice = {"product": product, "plan": plan, "payment": "invoice"}
    made = await sent(api, customer, "POST", "/api/billing/subscription", choice)
    [found] = await rows(
        "SELECT s.organization_id, s.provider_organization_id, s.id AS subscription_id,"
        " s.product_id, s.plan_version_id, min(r.id::text)::uuid AS route_id, k.id AS key_id"
        " FROM subscriptions s JOIN routes r ON r.product_id = s.product_id"
        " JOIN api_keys k ON k.subscription_id = s.id WHERE s.id = :id GROUP BY s.id, k.id",
        id=UUID(made["subscription"]["id"]),
    )
    return Contract(**found)


async def use(
    contract: Contract,
    *,
    calls: int = 22_500,
    at: datetime = START + timedelta(days=10),
    **meters: str,
) -> None:
    """Store usage as the drain does: calls in hundreds, and what the upstream reported."""
    producer = uuid4()
    hundreds, rest = divmod(calls, 100)
    weights = [100] * hundreds + ([rest] if rest else [])
    events = [
        event(contract, producer, number, at + timedelta(seconds=number), units=units)
        for number, units in enumerate(weights, 1)
    ]
    if meters:
        last = len(events) + 1
        said = {**reported(**meters), "units": 0, "billable": True}
        events.append(event(contract, producer, last, at + timedelta(seconds=last), **said))
    await store(producer, events)


async def use_as_in_the_reference(contract: Contract) -> None:
    """22,500 calls, 25 assets, 8 reports in May 2026."""
    await use(contract, assets="25", reports="8")


async def bill(subscription_id: UUID, as_of: datetime = END) -> Invoice | None:
    """The bill run of one subscription when business time has come to `as_of`."""
    clock.set_instant(as_of)
    async with db.system_session("bill run") as session:
        return await runs.bill(session, SYSTEM, subscription_id, as_of)


async def counts(tables: Iterable[str]) -> dict[str, int]:
    """How many rows tables hold."""
    return {table: (await rows(f"SELECT count(*) AS n FROM {table}"))[0]["n"] for table in tables}


def amounts(lines: Iterable[Any]) -> list[int]:
    """The amounts of lines, in minor units."""
    return [line.amount_minor for line in lines]
