# SPDX-License-Identifier: Apache-2.0
"""A key's monthly quota: opened, lent, counted and told like the quota of its subscription."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from nimbus.access.service import KeyTerms, change_key, create_key
from nimbus.base import db
from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from nimbus.rules.metering import Held
from nimbus.usage.service.quotas import key_quota_states
from tests.support.metered import START, STORING, Contract, Market, event, proof, rows, store
from tests.support.quotas import Tenant, tenant

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)


@pytest.fixture
async def wind(contract: Contract, metered_market: Market, settings: Settings) -> Tenant:
    """The consumer on the first of May, by the clock of the installation."""
    assert contract.subscription_id == metered_market.contract.subscription_id
    async with db.system_session(STORING) as session:
        await session.execute(text("INSERT INTO test_clock (instant) VALUES (:at)"), {"at": START})
    return tenant(metered_market, settings, START)


async def make_key(wind: Tenant, quota: int | None) -> UUID:
    consumer = wind.market.consumer
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        terms = KeyTerms(name="machine", scopes=(), monthly_quota=quota)
        key, _ = await create_key(session, consumer.actor, terms, environment="Live")
        return key.id


async def change(wind: Tenant, key_id: UUID, quota: int | None, version: int = 1) -> None:
    consumer = wind.market.consumer
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        terms = KeyTerms(name="machine", scopes=(), monthly_quota=quota)
        await change_key(session, consumer.actor, key_id, terms, version)


async def of_key(key_id: UUID) -> list[dict[str, Any]]:
    return await rows(
        "SELECT * FROM spend_standings WHERE kind = 'key_quota' AND key_id = :id"
        " ORDER BY period_starts_at",
        id=key_id,
    )


async def borrow(wind: Tenant, standing_id: UUID, units: int) -> int:
    login: dict[str, Any] = dict(database_login(wind.settings, "gateway"))
    async with await psycopg.AsyncConnection.connect(**login, autocommit=True) as connection:
        lent = await connection.execute(
            "SELECT granted FROM gateway_lease(%s, %s, %s)", (wind.producer, standing_id, units)
        )
        row = await lent.fetchone()
    assert row is not None
    return int(row[0])


async def test_a_key_s_quota_is_lent_to_its_end_and_settled_with_its_calls(
    wind: Tenant, tmp_path: Path
) -> None:
    key_id = await make_key(wind, 10)
    [may, june] = await of_key(key_id)
    assert (may["limit_micro"], may["used"], june["limit_micro"]) == (10, 0, 10)

    assert await borrow(wind, may["id"], 8) == 8
    held = {"key_id": key_id, "units": 3, "held_on": Held.KEY_QUOTA}
    await store(wind.producer, [event(wind.contract, wind.producer, n, **held) for n in (1, 2)])

    [may, _] = await of_key(key_id)
    assert (may["used"], may["leased"]) == (6, 2)
    assert await borrow(wind, may["id"], 8) == 2
    assert await proof(tmp_path) == []
    [told] = await rows("SELECT payload FROM outbox WHERE name = 'usage.threshold_reached'")
    assert (told["payload"]["kind"], told["payload"]["threshold"]) == ("key_quota", 50)
    async with db.system_session(STORING) as session:
        await session.execute(
            text("UPDATE spend_standings SET used = 5 WHERE id = :id"), {"id": may["id"]}
        )
    [wrong] = await proof(tmp_path)
    assert (wrong["problem"], wrong["key_id"]) == ("key_quota", key_id)
    assert (wrong["expected"], wrong["found"]) == ("6", "5")


async def test_a_quota_that_a_key_gets_later_has_counted_what_its_month_already_had(
    wind: Tenant,
) -> None:
    key_id = await make_key(wind, None)
    await store(
        wind.producer,
        [event(wind.contract, wind.producer, n, START + n * DAY, key_id=key_id) for n in (1, 2, 3)],
    )

    await change(wind, key_id, 5)
    await change(wind, key_id, 4, version=2)

    [may, june] = await of_key(key_id)
    assert (may["limit_micro"], may["used"], june["used"]) == (4, 3, 0)
    async with db.system_session(STORING) as session:
        [state] = await key_quota_states(session, wind.contract.organization_id, START + 4 * DAY)
    assert (state.key_id, state.remaining, state.allowed) == (key_id, Decimal(1), True)


async def test_a_month_of_a_key_ends_at_midnight_of_its_organization(wind: Tenant) -> None:
    [may, june] = await of_key(await make_key(wind, 5))

    assert may["period_ends_at"] == june["period_starts_at"]
    assert may["period_ends_at"] == datetime(2026, 5, 31, 22, tzinfo=UTC)


async def test_gateways_hear_of_a_key_s_quota_and_of_the_money_beside_it(wind: Tenant) -> None:
    key_id = await make_key(wind, 5)

    login: dict[str, Any] = dict(database_login(wind.settings, "owner"))
    with psycopg.connect(**login, autocommit=True) as connection:
        connection.execute("SET ROLE nimbus_owner")
        found = connection.execute(
            "SELECT grant_key(k) -> 'standings' FROM api_keys k WHERE id = %s", (key_id,)
        ).fetchone()
    assert found is not None
    assert {(one["kind"], one["limit"]) for one in found[0]} == {("key_quota", 5)}
