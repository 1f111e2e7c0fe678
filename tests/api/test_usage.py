# SPDX-License-Identifier: Apache-2.0
"""GET usage, quota and the log: the numbers of the bill, for those who may see them."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from nimbus.base import clock
from nimbus.usage.jobs import write_export
from nimbus.usage.service import exports
from tests.support.metered import (
    END,
    START,
    Contract,
    Market,
    allow,
    contract,
    event,
    failed,
    in_test,
    metered_market,
    refused,
    reported,
    rows,
    settings,
    store,
)
from tests.support.people import make_owner

__all__ = ["contract", "metered_market", "settings"]

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
PATHS = (
    "/api/developer/usage",
    "/api/developer/usage/summary",
    "/api/developer/usage/by-endpoint",
    "/api/developer/usage/detailed",
    "/api/developer/usage/costs",
    "/api/developer/usage/export",
    "/api/developer/usage/logs",
    "/api/billing/usage/current",
    "/api/billing/quota",
)
MAY = {"from": clock.to_wire(START), "to": clock.to_wire(END)}


@pytest.fixture(autouse=True)
def _in_may() -> None:
    """These are read on the second of May."""
    clock.set_instant(START + timedelta(days=1))


async def calls(contract: Contract) -> None:
    """Nine calls of every kind, a second apart."""
    producer = uuid4()
    kinds: list[dict[str, Any]] = [
        {},
        {"units": 3, "status": 404},
        reported(assets="25", reports="0.5"),
        reported(assets="7", reports="1"),
        failed(502),
        in_test(),
        refused("plan_required", 403),
        {},
        {},
    ]
    await store(
        producer,
        [
            event(contract, producer, number, START + number * SECOND, **kind)
            for number, kind in enumerate(kinds, 1)
        ],
    )


async def read(api: httpx2.AsyncClient, market: Market, path: str, **params: Any) -> dict[str, Any]:
    answer = await api.get(path, params=params, headers=market.consumer.headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_usage_shows_the_period_s_quantities_and_what_is_left(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await allow(contract, 10, "deny")
    await calls(contract)

    [use] = (await read(api, metered_market, "/api/developer/usage"))["data"]

    assert use["subscription_id"] == str(contract.subscription_id)
    assert use["product"] == {"slug": "wind", "name": "Wind API"}
    assert use["plan"] == {"slug": "starter", "name": "Starter"}
    assert use["period"] == {"starts_at": "2026-05-01T00:00:00Z", "ends_at": "2026-06-01T00:00:00Z"}
    assert {each["meter"]: each["quantity"] for each in use["meters"]} == {
        "api_calls": "8",
        "assets": "25",
        "reports": "1.5",
    }
    quotas = {quota["meter"]: quota for quota in use["quotas"]}
    assert quotas["api_calls"] == {
        "subscription_id": str(contract.subscription_id),
        "product": {"slug": "wind", "name": "Wind API"},
        "meter": "api_calls",
        "period": "cycle",
        "starts_at": "2026-05-01T00:00:00Z",
        "ends_at": "2026-06-01T00:00:00Z",
        "resets_at": "2026-06-01T00:00:00Z",
        "allowed": True,
        "used": "8",
        "limit": "10",
        "remaining": "2",
        "behavior": "deny",
        "thresholds": [
            {"percent": 50, "units": "5", "reached": True},
            {"percent": 80, "units": "8", "reached": True},
            {"percent": 100, "units": "10", "reached": False},
        ],
        "overage_cap": None,
        "rolled_over": "0",
        "increase": "0",
        "increase_ends_at": None,
        "used_before": "0",
    }
    assert quotas["assets"]["used"] == "25"
    assert (await read(api, metered_market, "/api/billing/quota"))["data"] == use["quotas"]
    del use["quotas"]
    assert (await read(api, metered_market, "/api/billing/usage/current"))["data"] == [use]


async def test_usage_of_one_product_leaves_out_the_others(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    found = await read(api, metered_market, "/api/developer/usage", product="wind")
    assert len(found["data"]) == 1

    answer = await api.get(
        "/api/developer/usage",
        params={"product": "sun"},
        headers=metered_market.consumer.headers,
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_period_that_waits_for_its_invoice_is_not_the_current_one(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)
    clock.set_instant(END)

    [use] = (await read(api, metered_market, "/api/billing/usage/current"))["data"]

    assert use["period"]["starts_at"] == "2026-06-01T00:00:00Z"
    assert {each["quantity"] for each in use["meters"]} == {"0"}


async def test_the_summary_counts_calls_by_day_and_status(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)

    found = await read(api, metered_market, "/api/developer/usage/summary", **MAY)

    assert found["by_status"] == {"2xx": 5, "4xx": 1, "5xx": 1}
    assert found["total"] == {
        "calls": 7,
        "units": "8",
        "errors": 2,
        "bytes_in": 700,
        "bytes_out": 14000,
        "duration_ms_mean": 1.5,
        "duration_ms": {"p50": 1.483, "p95": 1.483, "p99": 1.483},
    }
    assert found["refused"] == {"plan_required": 1}
    assert [(day["day"], day["calls"]) for day in found["days"]] == [("2026-05-01", 7)]
    tests = await read(
        api, metered_market, "/api/developer/usage/summary", environment="Test", **MAY
    )
    assert (tests["total"]["calls"], tests["total"]["units"]) == (1, "0")


async def test_a_range_without_an_end_has_the_calls_of_this_instant(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, 1, clock.now())])

    found = await read(api, metered_market, "/api/developer/usage/summary")

    assert found["total"]["calls"] == 1


async def test_by_endpoint_names_the_operations(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)

    [row] = (await read(api, metered_market, "/api/developer/usage/by-endpoint", **MAY))["data"]

    assert (row["method"], row["path"], row["calls"], row["units"]) == ("GET", "/farms", 7, "8")


async def test_the_log_lists_every_call_newest_first_page_by_page(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)
    path, found = "/api/developer/usage/logs", []
    page = await read(api, metered_market, path, limit=4)
    while True:
        found += page["data"]
        if page["next_cursor"] is None:
            break
        page = await read(api, metered_market, path, limit=4, cursor=page["next_cursor"])

    assert [call["request_id"] for call in found] == [f"request-{n}" for n in range(9, 0, -1)]
    assert [call["code"] for call in found if call["code"]] == ["plan_required"]
    by_number = {int(call["request_id"].removeprefix("request-")): call for call in found}
    assert by_number[2] == {
        "id": by_number[2]["id"],
        "at": "2026-05-01T00:00:02Z",
        "subscription_id": str(contract.subscription_id),
        "product_id": str(contract.product_id),
        "key_id": str(contract.key_id),
        "route_id": str(contract.route_id),
        "environment": "Live",
        "method": "GET",
        "path": "/farms",
        "status": 404,
        "code": None,
        "billable": True,
        "continued": False,
        "units": 3,
        "meters": {},
        "source": None,
        "duration_ms": 1.5,
        "upstream_ms": 1.0,
        "bytes_in": 100,
        "bytes_out": 2000,
        "ip": "198.51.100.7",
        "request_id": "request-2",
    }
    assert by_number[3]["meters"] == {"assets": "25", "reports": "0.5"}
    assert [by_number[n]["billable"] for n in (5, 6, 7)] == [False, False, False]


async def test_another_organization_s_calls_are_not_listed(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)

    for path in PATHS:
        answer = await api.get(path, headers=metered_market.provider.headers)
        assert answer.status_code == 200
        body = answer.json()
        assert body.get("data", []) == [], path
        assert body.get("total", {"calls": 0})["calls"] == 0, path


@pytest.mark.parametrize("path", PATHS)
async def test_a_visitor_is_asked_to_sign_in(
    api: httpx2.AsyncClient, contract: Contract, path: str
) -> None:
    answer = await api.get(path)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        ("/api/developer/usage/logs", {"cursor": "nonsense"}, "cursor"),
        ("/api/developer/usage/logs", {"cursor": "MjAyNi0wNS0wMQ"}, "cursor"),
        ("/api/developer/usage/logs", {"limit": "201"}, "limit"),
        ("/api/developer/usage/summary", {"from": "2026-05-01T00:00:00"}, "from"),
        ("/api/developer/usage/summary", {"from": MAY["to"], "to": MAY["from"]}, "from"),
        ("/api/developer/usage/summary", {**MAY, "from": "2020-01-01T00:00:00Z"}, "from"),
        ("/api/developer/usage/by-endpoint", {"environment": "Staging"}, "environment"),
        ("/api/developer/usage/by-endpoint", {"to": "yesterday"}, "to"),
        ("/api/developer/usage/detailed", {"by": "consumer"}, "by"),
        ("/api/developer/usage/detailed", {"key_id": "mine"}, "key_id"),
        ("/api/developer/usage/costs", {"at": "2026-05-01T00:00:00"}, "at"),
        ("/api/developer/usage/logs", {"status": "44"}, "status"),
        ("/api/developer/usage/logs", {"from": "2026-05-01T00:00:00"}, "from"),
    ],
)
async def test_a_wrong_question_is_refused_with_its_field(
    api: httpx2.AsyncClient,
    metered_market: Market,
    path: str,
    params: dict[str, str],
    field: str,
) -> None:
    answer = await api.get(path, params=params, headers=metered_market.consumer.headers)

    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == [field]


async def test_a_call_s_detail_says_what_it_cost_and_why(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    """Starter: 10 assets included, by the peak; reports 2.50 each."""
    await calls(contract)
    log = await read(api, metered_market, "/api/developer/usage/logs")
    by_number = {int(call["request_id"].removeprefix("request-")): call for call in log["data"]}

    async def price(number: int, **params: str) -> Any:
        path = f"/api/developer/usage/logs/{by_number[number]['id']}"
        call = await read(api, metered_market, path, **params)
        price = call.pop("price")
        assert call == by_number[number]
        return price

    assert await price(3, at=by_number[3]["at"]) == {
        "reason": "billed",
        "currency": "EUR",
        "amount": "23.75",
        "meters": [
            {"meter": "api_calls", "quantity": "1", "unit_price": "0", "amount": "0"},
            {"meter": "assets", "quantity": "25", "unit_price": "0.9", "amount": "22.5"},
            {"meter": "reports", "quantity": "0.5", "unit_price": "2.5", "amount": "1.25"},
        ],
    }
    reasons = {number: (await price(number))["reason"] for number in (1, 2, 4, 5, 6, 7)}
    assert reasons == {
        1: "included", 2: "included", 4: "billed", 5: "not_billable", 6: "test", 7: "refused",
    }  # fmt: skip


async def test_costs_are_those_of_the_coming_invoice(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)

    [found] = (await read(api, metered_market, "/api/developer/usage/costs", product="wind"))[
        "data"
    ]

    assert (found["amount"], found["currency"]) == ("26.25", "EUR")
    assert found["billed"] == {"amount_minor": 2625, "currency": "EUR"}
    assert {one["meter"]: (one["quantity"], one["amount"]) for one in found["meters"]} == {
        "api_calls": ("8", "0"),
        "assets": ("25", "22.5"),
        "reports": ("1.5", "3.75"),
    }
    assert found["days"] == [{"day": "2026-05-01", "amount": "26.25", "total": "26.25"}]
    assert [(one["path"], one["amount"]) for one in found["endpoints"]] == [("/farms", "26.25")]
    past = await read(
        api, metered_market, "/api/developer/usage/costs", at=clock.to_wire(START - 30 * DAY)
    )
    assert past == {"data": []}


async def test_details_are_grouped_and_filtered_as_asked(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)
    path = "/api/developer/usage/detailed"

    by_status = await read(
        api, metered_market, path, by=["endpoint", "status"], percentiles=True, **MAY
    )
    hours = await read(api, metered_market, path, interval="hour", by="key", status="4xx", **MAY)
    nobody = await read(api, metered_market, path, key_id=str(uuid4()), **MAY)

    rows = [(row["at"], row["path"], row["status"], row["calls"]) for row in by_status["data"]]
    assert rows == [
        ("2026-05-01", "/farms", "2xx", 5),
        ("2026-05-01", "/farms", "4xx", 1),
        ("2026-05-01", "/farms", "5xx", 1),
    ]
    assert by_status["data"][0]["duration_ms"] == {"p50": 1.483, "p95": 1.483, "p99": 1.483}
    assert [(row["at"], row["key_id"], row["units"]) for row in hours["data"]] == [
        ("2026-05-01T00:00:00Z", str(contract.key_id), "3")
    ]
    assert (nobody["data"], nobody["total"]["calls"]) == ([], 0)


async def test_a_provider_sees_the_use_of_its_products_and_the_names_of_its_consumers(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)
    path = "/api/provider/analytics"

    answer = await api.get(path, params=MAY, headers=metered_market.provider.headers)
    found = answer.json()
    own = await read(api, metered_market, path, **MAY)

    assert answer.status_code == 200, answer.text
    assert (found["total"]["calls"], found["total"]["units"], found["consumers"]) == (7, "8", 1)
    assert found["by_status"] == {"2xx": 5, "4xx": 1, "5xx": 1}
    assert [(one["slug"], one["calls"]) for one in found["products"]] == [("wind", 7)]
    assert [(one["path"], one["errors"]) for one in found["endpoints"]] == [("/farms", 2)]
    [consumer] = found["top_consumers"]
    organization = await api.get("/api/organizations/me", headers=metered_market.consumer.headers)
    assert consumer["organization_id"] == str(contract.organization_id)
    assert (consumer["name"], consumer["calls"]) == (organization.json()["name"], 7)
    assert (own["total"]["calls"], own["consumers"], own["top_consumers"]) == (0, 0, [])


async def test_a_file_is_asked_for_watched_and_fetched(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)
    headers, path = metered_market.consumer.headers, "/api/developer/usage/export"
    body = {"format": "csv", **MAY, "status": "2xx", "product": "wind"}

    asked = await api.post(path, json=body, headers=headers)
    waiting = await api.get(f"{path}/{asked.json()['id']}/file", headers=headers)
    [job] = await rows("SELECT args FROM procrastinate_jobs WHERE task_name = 'usage.export'")
    await write_export(**job["args"])
    [shown] = (await read(api, metered_market, path))["data"]
    file = await api.get(f"{path}/{shown['id']}/file", headers=headers)

    assert (asked.status_code, asked.json()["status"]) == (202, "Waiting")
    assert (waiting.status_code, waiting.json()["code"]) == (503, "unavailable")
    assert (shown["status"], shown["progress"], shown["rows"]) == ("Ready", 1.0, 6)
    assert file.headers["content-type"] == "text/csv; charset=utf-8"
    assert "calls-2026-05-01-2026-06-01.csv" in file.headers["content-disposition"]
    assert len(file.content) == shown["bytes"]
    assert file.text.splitlines()[0].startswith("id,at,environment,product,method,path,status,")
    assert len(file.text.splitlines()) == 7


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
async def test_a_file_says_what_it_is_and_on_the_way_how_far_it_has_come(
    api: httpx2.AsyncClient,
    contract: Contract,
    metered_market: Market,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(exports, "CHUNK", 1)
    for _ in range(3):
        await calls(contract)
    headers, path = metered_market.consumer.headers, "/api/developer/usage/export"
    await api.post(path, json={"format": kind, **MAY}, headers=headers)
    [job] = await rows("SELECT args FROM procrastinate_jobs WHERE task_name = 'usage.export'")

    seen = {0.0}
    writing = asyncio.create_task(write_export(**job["args"]))
    while not writing.done():
        [shown] = (await read(api, metered_market, path))["data"]
        assert shown["progress"] >= max(seen)
        seen.add(shown["progress"])
    await writing
    [shown] = (await read(api, metered_market, path))["data"]
    file = await api.get(f"{path}/{shown['id']}/file", headers=headers)

    assert (shown["status"], shown["progress"], shown["rows"]) == ("Ready", 1.0, 27)
    assert [share for share in seen if 0 < share < 1]
    named = {"jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}
    assert file.headers["content-type"].startswith(named[kind])
    assert f"calls-2026-05-01-2026-06-01.{kind}" in file.headers["content-disposition"]


async def test_the_operator_sees_who_calls_who_came_and_what_is_invoiced(
    api: httpx2.AsyncClient, contract: Contract, metered_market: Market
) -> None:
    await calls(contract)
    admin = await make_owner("root@nimbus.example", platform_role="admin")
    found: dict[str, Any] = {}
    for name in ("usage", "top-users", "users", "revenue"):
        path = f"/api/admin/analytics/{name}"
        answer = await api.get(path, params=MAY, headers=admin.headers)
        refused = await api.get(path, headers=metered_market.consumer.headers)
        assert (answer.status_code, refused.status_code) == (200, 403), answer.text
        found[name] = answer.json()

    assert (found["usage"]["total"]["calls"], found["usage"]["consumers"]) == (7, 1)
    [top] = found["top-users"]["data"]
    assert (top["organization_id"], top["calls"]) == (str(contract.organization_id), 7)
    assert (found["users"]["users"], found["users"]["organizations"]) == (3, {"Active": 3})
    assert (found["users"]["calling_organizations"], found["users"]["live_subscriptions"]) == (1, 1)
    assert found["revenue"]["data"] == []
