# SPDX-License-Identifier: Apache-2.0
"""GET usage, quota and the log: the numbers of the bill, for those who may see them."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from nimbus.base import clock
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
    settings,
    store,
)

__all__ = ["contract", "metered_market", "settings"]

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
PATHS = (
    "/api/developer/usage",
    "/api/developer/usage/summary",
    "/api/developer/usage/by-endpoint",
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
        "allowed": True,
        "used": "8",
        "limit": "10",
        "remaining": "2",
        "behavior": "deny",
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
