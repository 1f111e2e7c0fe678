# SPDX-License-Identifier: Apache-2.0
"""What a tenant may do: listed, checked, and used up in the same step."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from nimbus import subscriptions
from nimbus.base import db
from nimbus.base.config import Settings
from tests.support.market import STARTER, sent
from tests.support.metered import (
    START,
    STORING,
    Contract,
    Market,
    contract,
    metered_market,
    proof,
    rows,
    settings,
)
from tests.support.people import Person
from tests.support.quotas import MONTH, Tenant, offer, tenant

__all__ = ["contract", "metered_market", "settings"]

pytestmark = pytest.mark.anyio

CHECK = "/api/entitlements/check"
ENTITLEMENTS = [
    {"key": "pdf", "type": "boolean", "enabled": True},
    {"key": "sso", "type": "boolean", "enabled": False},
    {"key": "support", "type": "value", "value": "gold"},
    {"key": "report_limit", "type": "limit", "meter": "reports"},
]


@pytest.fixture
async def wind(contract: Contract, metered_market: Market, settings: Settings) -> Tenant:
    """The consumer on a plan with entitlements of each type, on the first of May."""
    async with db.system_session(STORING) as session:
        await session.execute(text("INSERT INTO test_clock (instant) VALUES (:at)"), {"at": START})
    made = tenant(metered_market, settings, START)
    assert made.contract == contract
    quotas = [{**MONTH, "amount": 40}, {"meter": "reports", "period": "month", "amount": 5}]
    await offer(metered_market, "entitled", quotas, entitlements=ENTITLEMENTS)
    await made.move("entitled")
    return made


@pytest.fixture
def consumer(wind: Tenant) -> Person:
    """Who asks."""
    return wind.market.consumer


async def check(api: httpx2.AsyncClient, person: Person, key: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await sent(api, person, "POST", CHECK, {"entitlement": key, **more})
    return answer


async def test_each_type_of_entitlement_is_answered(
    api: httpx2.AsyncClient, consumer: Person
) -> None:
    answers = [await check(api, consumer, key) for key in ("pdf", "sso", "support", "nothing")]

    assert [(a["type"], a["allowed"], a["value"], a["reason"]) for a in answers] == [
        ("boolean", True, None, None),
        ("boolean", False, None, "not_entitled"),
        ("value", True, "gold", None),
        (None, False, None, "not_entitled"),
    ]
    limit = await check(api, consumer, "report_limit", quantity="5")
    assert {"allowed": True, "used": "0", "limit": "5", "remaining": "5"}.items() <= limit.items()
    assert limit["behavior"] == "deny"
    assert not (await check(api, consumer, "report_limit", quantity="6"))["allowed"]
    [listed] = (await sent(api, consumer, "GET", "/api/entitlements"))["data"]
    assert [one["entitlement"] for one in listed["entitlements"]] == [
        *("api_calls", "assets", "pdf", "report_limit", "reports", "sso", "support")
    ]


async def test_what_is_used_up_is_a_usage_event_that_counts_everywhere(
    api: httpx2.AsyncClient, wind: Tenant, tmp_path: Path
) -> None:
    consumer = wind.market.consumer
    taken = await check(api, consumer, "report_limit", quantity="3", consume=True)
    beyond = await check(api, consumer, "report_limit", quantity="3", consume=True)

    assert (taken["consumed"], taken["used"], taken["remaining"]) == (True, "3", "2")
    assert (beyond["consumed"], beyond["allowed"], beyond["reason"]) == (
        False,
        False,
        "quota_exceeded",
    )
    [quota] = [
        one
        for one in (await sent(api, consumer, "GET", "/api/billing/quota"))["data"]
        if one["meter"] == "reports" and one["limit"]
    ]
    assert (quota["used"], quota["remaining"], quota["resets_at"]) == ("3", "2", quota["ends_at"])
    assert [(t["percent"], t["units"], t["reached"]) for t in quota["thresholds"]] == [
        (50, "2.5", True),
        (80, "4", False),
        (100, "5", False),
    ]
    assert len(await rows("SELECT 1 FROM usage_events WHERE source = 'entitlements'")) == 1
    assert len(await rows("SELECT 1 FROM usage_dedupe")) == 1
    assert await proof(tmp_path) == []


async def test_the_last_units_are_used_up_once_however_many_ask_at_once(
    api: httpx2.AsyncClient, wind: Tenant, tmp_path: Path
) -> None:
    consumer = wind.market.consumer
    answers = await asyncio.gather(
        *(check(api, consumer, "reports", consume=True) for _ in range(9))
    )

    assert sorted(one["consumed"] for one in answers) == [False] * 4 + [True] * 5
    assert (await wind.standing("reports"))["used"] == 5
    assert await proof(tmp_path) == []
    told = await rows("SELECT 1 FROM outbox WHERE name = 'quota.exceeded'")
    assert len(told) == 1


async def test_what_a_gateway_was_lent_is_not_used_up_beside_it(
    api: httpx2.AsyncClient, wind: Tenant
) -> None:
    assert await wind.borrow(38) == 38

    answer = await check(api, wind.market.consumer, "api_calls", quantity="3", consume=True)

    assert (answer["consumed"], answer["reason"]) == (False, "quota_exceeded")
    assert (await wind.standing())["used"] == 0


async def test_the_same_key_uses_nothing_up_again_also_after_the_stored_answer_is_gone(
    api: httpx2.AsyncClient, wind: Tenant
) -> None:
    consumer = wind.market.consumer
    headers = {**consumer.headers, "Idempotency-Key": "order-17"}
    body = {"entitlement": "reports", "quantity": "2", "consume": True}
    first = await api.post(CHECK, json=body, headers=headers)
    async with db.system_session(STORING) as session:
        await session.execute(text("DELETE FROM idempotency_keys"))
    again = await api.post(CHECK, json=body, headers=headers)

    assert first.json()["used"] == again.json()["used"] == "2"
    assert (first.json()["consumed"], again.json()["consumed"]) == (True, True)


async def test_a_spend_limit_stops_what_would_pass_it(
    api: httpx2.AsyncClient, wind: Tenant
) -> None:
    consumer = wind.market.consumer
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        await session.execute(text("UPDATE organizations SET monthly_spend_limit_minor = 600"))
    seen = [
        await check(api, consumer, "reports", quantity=quantity, consume=consume)
        for quantity, consume in (("2", False), ("3", False), ("2", True), ("1", True))
    ]

    assert [(one["allowed"], one["reason"]) for one in seen] == [
        (True, None),
        (False, "spend_limit_reached"),
        (True, None),
        (False, "spend_limit_reached"),
    ]
    spent = await sent(api, consumer, "GET", "/api/billing/spend")
    assert (spent["month"]["used"], spent["month"]["limit"]) == ("5", "6")
    told = await rows("SELECT payload FROM outbox WHERE name = 'usage.threshold_reached'")
    kinds = [(one["payload"]["kind"], one["payload"]["threshold"]) for one in told]
    assert ("organization_spend", 80) in kinds


async def test_only_who_may_uses_up(api: httpx2.AsyncClient, wind: Tenant) -> None:
    consumer = wind.market.consumer

    async def with_key(scopes: Sequence[str], environment: str = "Live") -> httpx2.Response:
        body = {"name": "machine", "environment": environment, "scopes": [*scopes]}
        key = await sent(api, consumer, "POST", "/api/developer/api-keys", body)
        asked = {"entitlement": "reports", "consume": True}
        headers = {"Authorization": f"Bearer {key['secret']}"}
        return await api.post(CHECK, json=asked, headers=headers)

    assert (await with_key(["billing.read"])).status_code == 403
    assert (await with_key(["billing.read", "usage.write"])).json()["consumed"] is True
    tried = (await with_key(["billing.read", "usage.write"], "Test")).json()
    assert (tried["consumed"], tried["used"]) == (True, "1")


async def test_a_level_or_a_value_is_not_used_up(api: httpx2.AsyncClient, wind: Tenant) -> None:
    headers = wind.market.consumer.headers
    for key, field in (("support", "consume"), ("pdf", "consume")):
        body = {"entitlement": key, "consume": True}
        answer = await api.post(CHECK, json=body, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == field


async def test_no_subscription_entitles_to_nothing(api: httpx2.AsyncClient, wind: Tenant) -> None:
    consumer = wind.market.consumer
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        await subscriptions.cancel(
            session,
            consumer.actor,
            wind.contract.subscription_id,
            reason="no wind",
            as_of=START,
            at_once=True,
            version=None,
        )

    answer = await check(api, wind.market.consumer, "pdf")

    assert (answer["allowed"], answer["reason"]) == (False, "subscription_required")


async def test_an_entitlement_says_what_its_type_says(
    api: httpx2.AsyncClient, wind: Tenant
) -> None:
    provider, product = wind.market.provider, wind.contract.product_id
    wrong = (
        ({"key": "a", "type": "boolean"}, "enabled"),
        ({"key": "a", "type": "limit", "meter": "nothing"}, "meter"),
        ({"key": "a", "type": "value", "value": "x", "enabled": True}, "enabled"),
    )
    for one, field in wrong:
        body = {**STARTER, "slug": "wrong", "rank": 77, "entitlements": [one]}
        answer = await api.post(
            f"/api/provider/products/{product}/plans", json=body, headers=provider.headers
        )
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == f"entitlements.0.{field}"
