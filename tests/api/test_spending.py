# SPDX-License-Identifier: Apache-2.0
"""Spend limits, spend and balances over HTTP: set, read, credited, refused field by field."""

from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import text

from nimbus.base import clock, db
from nimbus.base.config import Settings
from tests.support.bills import START, Sale, settings, sold, use_as_in_the_reference
from tests.support.market import sent

__all__ = ["settings", "sold"]

pytestmark = pytest.mark.anyio

LIMIT = "/api/billing/spend-limit"
SPEND = "/api/billing/spend"
KEYS = "/api/developer/api-keys"


@pytest.fixture
async def sale(database: Settings, sold: tuple[str, Sale]) -> Sale:
    """A customer on Starter since 1 May 2026 who used what the reference invoice bills."""
    clock.set_instant(START)
    async with db.system_session("test") as session:
        await session.execute(text("INSERT INTO test_clock (instant) VALUES (:at)"), {"at": START})
    await use_as_in_the_reference(sold[1].contract)
    return sold[1]


def euro(cents: int) -> dict[str, Any]:
    return {"amount_minor": cents, "currency": "EUR"}


async def refusal(
    api: httpx2.AsyncClient, sale: Sale, method: str, path: str, body: Any, **headers: str
) -> tuple[int, str, list[str]]:
    whose = sale.admin if path.startswith("/api/admin/") else sale.customer
    answer = await api.request(method, path, json=body, headers=whose.headers | headers)
    problem = answer.json()
    return answer.status_code, problem["code"], [one["field"] for one in problem["errors"]]


async def test_spend_is_what_the_invoice_will_ask_for_usage(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    organization = await sent(api, sale.customer, "GET", "/api/organizations/me")
    assert organization["monthly_spend_limit"] is None
    before = await sent(api, sale.customer, "GET", SPEND)
    assert before["month"]["used"] == "67.5"
    assert (before["month"]["limit"], before["month"]["remaining"]) == (None, None)
    assert before["balance"] is None

    body = {"monthly_spend_limit": euro(7000), "version": organization["version"]}
    changed = await sent(api, sale.customer, "PUT", LIMIT, body)

    assert changed["monthly_spend_limit"] == euro(7000)
    shown = await sent(api, sale.customer, "GET", SPEND)
    assert shown["currency"] == "EUR"
    assert shown["month"] == {
        "starts_at": "2026-04-30T22:00:00Z",
        "resets_at": "2026-05-31T22:00:00Z",
        "limit": "70",
        "used": "67.5",
        "held": "0",
        "remaining": "2.5",
    }


async def test_a_spend_limit_is_refused_when_it_is_stale_negative_or_in_other_money(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    version = (await sent(api, sale.customer, "GET", "/api/organizations/me"))["version"]
    field = "monthly_spend_limit"
    for limit, at, expected in (
        (euro(1), version + 1, (409, "stale_version", [])),
        (euro(-1), version, (422, "validation_failed", [f"{field}.amount_minor"])),
        (
            {**euro(1), "currency": "USD"},
            version,
            (422, "validation_failed", [f"{field}.currency"]),
        ),
    ):
        body = {"monthly_spend_limit": limit, "version": at}
        assert await refusal(api, sale, "PUT", LIMIT, body) == expected
    body = {"monthly_spend_limit": None, "version": version}
    assert (await sent(api, sale.customer, "PUT", LIMIT, body))["monthly_spend_limit"] is None


async def test_a_key_has_a_limit_of_its_own(api: httpx2.AsyncClient, sale: Sale) -> None:
    asked = {"name": "small", "environment": "Live", "monthly_spend_limit": euro(500)}
    key = await sent(api, sale.customer, "POST", KEYS, asked)
    assert key["monthly_spend_limit"] == euro(500)
    [shown] = [
        one
        for one in (await sent(api, sale.customer, "GET", SPEND))["keys"]
        if one["key_id"] == key["id"]
    ]
    assert (shown["limit"], shown["used"], shown["remaining"]) == ("5", "0", "5")

    change = {"name": "small", "version": key["version"]}
    key = await sent(api, sale.customer, "PUT", f"{KEYS}/{key['id']}", change)
    assert key["monthly_spend_limit"] is None
    wrong = {**asked, "monthly_spend_limit": {**euro(1), "currency": "JPY"}}
    assert await refusal(api, sale, "POST", KEYS, wrong) == (
        422,
        "validation_failed",
        ["monthly_spend_limit.currency"],
    )


async def test_a_balance_is_credited_once_whatever_is_repeated_and_its_owner_sees_it(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    path = f"/api/admin/organizations/{sale.customer.organization_id}/balance-credits"
    body = {"amount": euro(2500), "reason": "paid ahead"}
    headers = sale.admin.headers | {"Idempotency-Key": "once"}

    answers = [await api.post(path, json=body, headers=headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    listed = await sent(api, sale.customer, "GET", "/api/billing/balance-credits")
    assert [(one["amount"], one["reason"]) for one in listed["data"]] == [
        (euro(2500), "paid ahead")
    ]
    shown = await sent(api, sale.customer, "GET", SPEND)
    assert shown["balance"] == {"limit": "25", "used": "0", "held": "0", "remaining": "25"}
    async with db.system_session("test") as session:
        told = "SELECT count(*) FROM outbox WHERE name = 'balance.credited'"
        assert await session.scalar(text(told)) == 1


async def test_a_credit_is_refused_field_by_field(api: httpx2.AsyncClient, sale: Sale) -> None:
    path = f"/api/admin/organizations/{sale.customer.organization_id}/balance-credits"
    for body, field in (
        ({"amount": euro(0), "reason": "x"}, "amount.amount_minor"),
        ({"amount": {**euro(1), "currency": "USD"}, "reason": "x"}, "amount.currency"),
        ({"amount": euro(1), "reason": " "}, "reason"),
    ):
        found = await refusal(api, sale, "POST", path, body)
        assert found == (422, "validation_failed", [field])
    nobody = f"/api/admin/organizations/{uuid4()}/balance-credits"
    body = {"amount": euro(1), "reason": "x"}
    assert (await refusal(api, sale, "POST", nobody, body))[:2] == (404, "not_found")
