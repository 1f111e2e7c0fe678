# SPDX-License-Identifier: Apache-2.0
"""Usage from outside for tests: events, how they are sent, and meters of every kind."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx2

from nimbus.base import clock
from tests.support.market import sent
from tests.support.metered import START, Contract, Market, rows

REPORT = "/api/billing/usage"
CLOUD = "application/cloudevents+json"
CLOUD_BATCH = "application/cloudevents-batch+json"
METERS: tuple[dict[str, Any], ...] = (
    {"key": "jobs", "unit": "job", "aggregation": "count"},
    {"key": "peak", "unit": "seat", "aggregation": "max"},
    {"key": "seats", "unit": "seat", "aggregation": "last"},
    {"key": "users", "unit": "user", "aggregation": "unique", "property": "user"},
    {"key": "storage", "unit": "GB-month", "aggregation": "time_weighted"},
    {
        "key": "tokens",
        "unit": "token",
        "aggregation": "sum",
        "filters": {"model": ["large", "huge"]},
    },
)


async def make_meters(api: httpx2.AsyncClient, market: Market) -> None:
    """Meters of every kind beside those of the Wind API."""
    product = f"/api/provider/products/{market.contract.product_id}"
    for meter in METERS:
        await sent(api, market.provider, "POST", f"{product}/meters", meter)


def usage(contract: Contract, number: int | str, meter: str, **changes: Any) -> dict[str, Any]:
    """One event of the value 1 at START, but for `changes`; None leaves a field out."""
    event = {
        "id": str(number),
        "subscription_id": str(contract.subscription_id),
        "meter": meter,
        "value": "1",
        "at": clock.to_wire(START),
    } | changes
    return {name: value for name, value in event.items() if value is not None}


def cloud(event: dict[str, Any], source: str = "/billing") -> dict[str, Any]:
    """The same as a CloudEvent."""
    names = {"id": "id", "subscription_id": "subject", "meter": "type", "at": "time"}
    data = {name: event[name] for name in ("value", "mode", "properties") if name in event}
    given = {names[name]: value for name, value in event.items() if name in names}
    return {"specversion": "1.0", "source": source, "data": data} | given


def at(instant: datetime) -> dict[str, str]:
    """The change of an event that happened then."""
    return {"at": clock.to_wire(instant)}


async def report(
    api: httpx2.AsyncClient, market: Market, body: Any, kind: str = "application/json"
) -> httpx2.Response:
    """What the provider hears that reports these."""
    headers = market.provider.headers | {"Content-Type": kind}
    return await api.post(REPORT, content=json.dumps(body), headers=headers)


async def counted(
    api: httpx2.AsyncClient, market: Market, body: Any, kind: str = "application/json"
) -> dict[str, Any]:
    """What became of events that are reported."""
    answer = await report(api, market, body, kind)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refusals(found: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Which events were not taken, and why."""
    return [(one["index"], one["field"], one["code"]) for one in found["rejected"]]


async def plan_with(api: httpx2.AsyncClient, market: Market, **terms: Any) -> dict[str, Any]:
    """The Starter plan with these terms, as its next version."""
    product = f"/api/provider/products/{market.contract.product_id}"
    listed = await sent(api, market.provider, "GET", f"{product}/plans")
    [plan] = [one for one in listed["data"] if one["slug"] == "starter"]
    body = {name: plan[name] for name in ("prices", "name", "rank", "version")} | terms
    changed: dict[str, Any] = await sent(
        api, market.provider, "PUT", f"{product}/plans/{plan['id']}", body
    )
    return changed


async def move_to(contract: Contract, plan: dict[str, Any]) -> None:
    """Put the subscription on the plan's current version."""
    await rows(
        "UPDATE subscriptions SET plan_version_id ="
        " (SELECT current_version_id FROM plans WHERE id = :plan) WHERE id = :id RETURNING id",
        plan=UUID(plan["id"]),
        id=contract.subscription_id,
    )
