# SPDX-License-Identifier: Apache-2.0
"""A subscription to the Wind API, for the tests of usage."""

import httpx2
import pytest
from sqlalchemy import text

from nimbus.base import db
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from tests.support.market import loopback_settings as settings
from tests.support.market import make_wind, upstream
from tests.support.metered import END, START, STORING, Contract, rows
from tests.support.people import make_owner

__all__ = ["contract", "settings", "upstream"]


@pytest.fixture
async def contract(api: httpx2.AsyncClient, upstream: str, database: Settings) -> Contract:
    """An organization's subscription to Starter of another one's Wind API, since May 2026."""
    provider = await make_owner("peter@wind.example")
    consumer = await make_owner("ada@acme.example")
    made = await make_wind(api, provider, upstream)
    return await subscribe(consumer.organization_id, made["id"])


async def subscribe(organization_id, product_id):
    [found] = await rows(
        "SELECT v.id AS version, p.id AS plan, p.organization_id AS provider, r.id AS route FROM plans p JOIN plan_versions v ON v.id=p.current_version_id"
        " JOIN routes r ON r.product_id = p.product_id AND r.path='/farms' WHERE p.product_id = :product AND p.slug = 'starter'",
        product=product_id,
    )
    sub = new_id()
    async with db.system_session(STORING) as session:
        await session.execute(
            text(
                "INSERT INTO subscriptions (id, organization_id, provider_organization_id, product_id, plan_id, plan_version_id,"
                " status, currency, started_at, anchor_at, time_zone, period_number, period_starts_at, period_ends_at, auto_renew, payment, version, created_at, updated_at)"
                " VALUES (:id, :o, :p, :product, :plan, :version, 'Active', 'EUR', :s, :s, 'UTC', 0, :s, :e, true, 'invoice', 1, :s, :s)"
            ),
            {
                "id": sub,
                "o": organization_id,
                "p": found["provider"],
                "product": product_id,
                "plan": found["plan"],
                "version": found["version"],
                "s": START,
                "e": END,
            },
        )
    return Contract(
        organization_id,
        found["provider"],
        sub,
        product_id,
        found["version"],
        found["route"],
        new_id(),
    )
