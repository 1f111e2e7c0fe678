# SPDX-License-Identifier: Apache-2.0
"""A market for tests: a product with routes, meters and the two plans of spec 02, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import httpx2
import pytest

from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.catalog import published_plan
from nimbus.identity import organization_facts
from nimbus.subscriptions import Started, start
from tests.support.people import Person

PRODUCTS = "/api/provider/products"
REPORTS = {"meter": "reports", "model": "unit", "unit_price": "2.50"}
STARTER: dict[str, Any] = {
    "slug": "starter",
    "name": "Starter",
    "rank": 10,
    "over_quota_policy": "overage",
    "payment_on_invoice": True,
    "rate_limit": {"amount": 600, "period": "second", "burst": None},
    "prices": [
        {
            "base_fee": {"amount_minor": 4900, "currency": "EUR"},
            "charges": [
                {"meter": "api_calls", "unit_price": "0.002", "included": "10000"},
                {"meter": "assets", "unit_price": "1.50", "included": "10"},
                REPORTS,
            ],
        }
    ],
    "quotas": [
        {"meter": "api_calls", "amount": 10000, "period": "cycle"},
        {"meter": "assets", "amount": 10, "period": "cycle"},
    ],
}
PROFESSIONAL: dict[str, Any] = {
    **STARTER,
    "slug": "professional",
    "name": "Professional",
    "rank": 20,
    "rate_limit": {"amount": 2000, "period": "second", "burst": None},
    "prices": [
        {
            "base_fee": {"amount_minor": 19900, "currency": "EUR"},
            "charges": [
                {"meter": "api_calls", "unit_price": "0.001", "included": "250000"},
                {"meter": "assets", "unit_price": "1", "included": "250"},
                REPORTS,
            ],
        }
    ],
    "quotas": [
        {"meter": "api_calls", "amount": 250000, "period": "cycle"},
        {"meter": "assets", "amount": 250, "period": "cycle"},
    ],
}
ADD_ON: dict[str, Any] = {
    "slug": "support",
    "name": "Support",
    "prices": [{"base_fee": {"amount_minor": 3000, "currency": "EUR"}}],
}


@pytest.fixture
def loopback_settings(settings: Settings) -> Settings:
    """The test's settings, with upstreams allowed on this machine."""
    return replace(settings, private_networks=(ip_network("127.0.0.0/8"),))


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    """The address of something that takes connections and says nothing."""
    async with listening() as address:
        yield address


@asynccontextmanager
async def listening() -> AsyncIterator[str]:
    """The same, for as long as the block runs."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def new_product(base_url: str, **fields: Any) -> dict[str, Any]:
    """What is sent to make the Wind API."""
    return {
        "slug": "wind",
        "name": "Wind API",
        "upstreams": {"Live": {"base_url": base_url}},
        **fields,
    }


async def sent(
    api: httpx2.AsyncClient, person: Person, method: str, path: str, body: Any = None
) -> Any:
    """What a call that must succeed answers."""
    answer = await api.request(method, path, json=body, headers=person.headers)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


async def make_wind(
    api: httpx2.AsyncClient,
    provider: Person,
    base_url: str,
    *,
    published: bool = True,
    **fields: Any,
) -> dict[str, Any]:
    """A Wind API with its meters, a few routes and both plans."""
    made = await sent(api, provider, "POST", PRODUCTS, new_product(base_url, **fields))
    product = f"{PRODUCTS}/{made['id']}"
    for key, aggregation in (("assets", "max"), ("reports", "sum")):
        meter = {"key": key, "unit": key, "aggregation": aggregation}
        await sent(api, provider, "POST", f"{product}/meters", meter)
    for plan in (STARTER, PROFESSIONAL):
        await sent(api, provider, "POST", f"{product}/plans", plan)
    for route in (
        {"method": "GET", "path": "/farms", "scope": "assets.read"},
        {"method": "GET", "path": "/farms/{id}", "scope": "assets.read"},
        {"method": "POST", "path": "/reports", "minimum_plan": "professional"},
    ):
        await sent(api, provider, "POST", f"{product}/routes", route)
    if published:
        made = await sent(api, provider, "POST", f"{product}/publish")
    return made


async def subscribe(
    consumer: Person, plan: str = "starter", *, payment: Any = "invoice", product: str = "wind"
) -> Started:
    """Start a subscription for the consumer's organization now, by the use case."""
    actor = consumer.actor
    async with db.transaction(actor.organization_id, actor.user_id) as session:
        organization = await organization_facts(session, actor.organization_id)
        chosen = await published_plan(session, product, plan)
        return await start(session, actor, organization, chosen, payment=payment, as_of=clock.now())
