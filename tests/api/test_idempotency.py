# SPDX-License-Identifier: Apache-2.0
"""Every operation that takes an `Idempotency-Key` does its work once, whoever asks again.

The operations are read from the API document; one without a request here fails the test.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2
import psycopg
import pytest

from nimbus.base import clock
from nimbus.base.ids import new_id
from tests.support.estate import Estate, estate, sold
from tests.support.market import ADD_ON, STARTER
from tests.support.operations import Operation, operations
from tests.support.people import Person

__all__ = ["estate", "sold"]

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 15.0
SHOWN_ONCE = {"secret", "access_token"}
NUMBERS = count(1000)
KEYED = [one for one in operations() if one.declared.get("idempotency") == "key"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that does something, and another one.

    `{}` in a text and None stand for a text and a number that are new each time.
    """

    body: dict[str, Any]
    other: dict[str, Any]
    by: str = "neighbour"


PLAN = {**STARTER, "slug": "s-{}", "rank": None}
ROUTE = {"method": "GET", "path": "/panels/{}"}
METER = {"key": "m{}", "unit": "panels", "aggregation": "max"}
PRODUCT = {"slug": "p-{}", "name": "Product"}
EXTRA = {**ADD_ON, "slug": "a-{}"}
MOVE = {"to_plan": "starter", "reason": "dearer {}"}
KEY = {"name": "k-{}", "environment": "Test"}
GUEST = {"email": "g{}@solar.example", "role": "viewer"}
BLOCK = {"network": "203.0.113.0/24", "minutes": 5, "reason": "It scans: {}"}
CREDIT = {"amount": {"amount_minor": 100, "currency": "EUR"}, "reason": "paid {}"}
NOTE = {
    "lines": [{"position": 1, "amount_minor": 1}],
    "disposition": "refund",
    "reason": "a cent less: {}",
}
TOP_UP = {"amount": {"amount_minor": 100, "currency": "EUR"}}
COUPON = {"code": "C-{}", "name": "Coupon", "percent": "10"}
ITEM = {"description": "Training {}", "amount": {"amount_minor": 100, "currency": "EUR"}}
FILE = {"format": "csv", "from": "2026-05-01T00:00:00Z", "to": "2026-06-01T00:00:00Z"}
RESET = {"reason": "their fault was ours: {}"}
INCREASE = {
    "reason": "a busy week: {}",
    "meter": "api_calls",
    "period": "cycle",
    "units": 5,
    "ends_at": "2026-07-20T00:00:00Z",
}
TAKEN = {"entitlement": "api_calls", "consume": True, "product": "wind"}
REQUESTS = {
    "provider_reset_quota": Request(RESET, {**RESET, "meter": "api_calls"}, by="admin"),
    "provider_increase_quota": Request(INCREASE, {**INCREASE, "units": 6}, by="admin"),
    "admin_reset_quota": Request(RESET, {**RESET, "meter": "api_calls"}, by="admin"),
    "admin_increase_quota": Request(INCREASE, {**INCREASE, "units": 6}, by="admin"),
    "check_entitlement": Request(TAKEN, {**TAKEN, "quantity": "2"}, by="customer"),
    "start_usage_export": Request(FILE, {**FILE, "format": "jsonl"}),
    # A plan is taken once: the first answer of the next test is 200, and is repeated as such.
    "choose_plan": Request(
        {"product": "wind", "plan": "starter", "payment": "invoice"},
        {"product": "wind", "plan": "professional", "payment": "invoice"},
    ),
    "start_subscription": Request(
        {"product": "solar", "plan": "starter", "payment": "invoice"},
        {"product": "solar", "plan": "professional", "payment": "invoice"},
    ),
    "create_api_key": Request(KEY, {**KEY, "environment": "Live"}),
    "rotate_api_key": Request({"grace_hours": 1}, {"grace_hours": 2}, by="customer"),
    "invite_member": Request(GUEST, {**GUEST, "role": "admin"}),
    "create_organization": Request(
        {"name": "Org {}", "country": "NL"}, {"name": "Org {}", "country": "BE"}
    ),
    "create_product": Request(PRODUCT, {**PRODUCT, "name": "Other"}),
    "create_meter": Request(METER, {**METER, "unit": "roofs"}),
    "create_plan": Request(PLAN, {**PLAN, "name": "Other"}),
    "create_add_on": Request(EXTRA, {**EXTRA, "name": "Other"}),
    "move_plan_subscribers": Request(MOVE, {**MOVE, "reason": "other"}),
    "create_credit_note": Request(NOTE, {**NOTE, "disposition": "credit"}, by="admin"),
    "top_up_wallet": Request(TOP_UP, {"amount": {"amount_minor": 200, "currency": "EUR"}}),
    "admin_create_coupon": Request(COUPON, {**COUPON, "percent": "20"}, by="admin"),
    "admin_add_item": Request(ITEM, {**ITEM, "description": "other {}"}, by="admin"),
    "admin_credit_balance": Request(CREDIT, {**CREDIT, "reason": "other {}"}, by="admin"),
    "add_product_host": Request({"name": "{}.solar.example"}, {"name": "other{}.solar.example"}),
    "set_block": Request(BLOCK, {**BLOCK, "minutes": 6}, by="admin"),
    "create_route": Request(ROUTE, {**ROUTE, "method": "PUT"}),
}

OF_THEIRS = {
    "admin_add_item",
    "admin_increase_quota",
    "admin_reset_quota",
    "provider_increase_quota",
    "provider_reset_quota",
}
"""What the operator does to a customer's subscription: the neighbour has none."""

each_operation = pytest.mark.parametrize("operation", KEYED, ids=lambda operation: operation.id)


class Caller:
    """One who repeats a request with one key."""

    def __init__(self, estate: Estate, operation: Operation) -> None:
        self.estate, self.operation = estate, operation
        self.request = REQUESTS[operation.id]
        self.key = str(new_id())
        self.number = next(NUMBERS)
        self.person: Person = getattr(estate, self.request.by)
        estate.forget_throttles()

    async def ask(self, *, other: bool = False, person: Person | None = None) -> httpx2.Response:
        """Send the request, or another one, with the key."""
        chosen = self.request.other if other else self.request.body
        body = {
            name: value.replace("{}", f"x{self.number}") if isinstance(value, str) else value
            for name, value in chosen.items()
        }
        body |= {name: self.number for name, value in chosen.items() if value is None}
        own = {} if self.operation.id in OF_THEIRS else self.estate.own
        ids = {**self.estate.theirs, **own}
        headers = {**(person or self.person).headers, "Idempotency-Key": self.key}
        path = self.operation.path.format_map(ids)
        return await self.estate.api.post(path, json=body, headers=headers)

    def facts(self) -> int:
        """How many changes the audit trail knows."""
        [(known,)] = self.estate.execute("SELECT count(*) FROM audit_log")
        return int(known)


def without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_secrets(v) for k, v in value.items() if k not in SHOWN_ONCE}
    return [without_secrets(item) for item in value] if isinstance(value, list) else value


def secrets_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any((k in SHOWN_ONCE and v) or secrets_in(v) for k, v in value.items())
    return isinstance(value, list) and any(map(secrets_in, value))


def test_every_operation_with_a_key_has_a_request_here() -> None:
    assert {operation.id for operation in KEYED} == REQUESTS.keys()


@each_operation
async def test_again_answers_the_first_answer_and_changes_nothing(
    estate: Estate, operation: Operation
) -> None:
    caller = Caller(estate, operation)
    first = await caller.ask()
    known = caller.facts()
    again = await caller.ask()

    assert first.is_success, first.text
    assert again.status_code == first.status_code
    assert again.headers["idempotency-replayed"] == "true"
    assert without_secrets(again.json()) == without_secrets(first.json())
    assert not secrets_in(again.json())
    assert caller.facts() == known


@each_operation
async def test_another_request_with_the_key_is_a_conflict(
    estate: Estate, operation: Operation
) -> None:
    caller = Caller(estate, operation)
    first = await caller.ask()
    known = caller.facts()
    conflict = await caller.ask(other=True)

    assert first.is_success, first.text
    assert (conflict.status_code, conflict.json()["code"]) == (422, "idempotency_conflict")
    assert caller.facts() == known


@each_operation
async def test_another_organization_s_key_is_of_no_use(
    estate: Estate, operation: Operation
) -> None:
    """T-10: the same key and request by someone else is their own first one."""
    caller = Caller(estate, operation)
    first = await caller.ask()
    someone = estate.customer if caller.request.by == "admin" else estate.admin
    other = await caller.ask(person=someone)

    assert first.is_success, first.text
    assert "idempotency-replayed" not in other.headers
    assert other.json().get("code") != "idempotency_conflict"


@each_operation
async def test_while_the_first_is_running_the_second_is_told_so(
    estate: Estate, operation: Operation
) -> None:
    caller = Caller(estate, operation)
    place = str(estate.settings.database_owner_url)
    with psycopg.connect(place) as holder:
        # Nobody can store an answer now: the first request waits just before its end.
        holder.execute("LOCK TABLE idempotency_keys IN EXCLUSIVE MODE")
        first = asyncio.create_task(caller.ask())
        await until(lambda: _someone_waits(estate))
        second = await caller.ask()
        holder.rollback()
        answered = await first
    again = await caller.ask()

    assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_flight")
    assert answered.is_success, answered.text
    assert again.headers["idempotency-replayed"] == "true"


async def _someone_waits(estate: Estate) -> bool:
    return bool(
        estate.execute(
            "SELECT 1 FROM pg_locks WHERE relation = 'idempotency_keys'::regclass AND NOT granted"
        )
    )


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds; fails after the deadline."""
    deadline = clock.monotonic() + DEADLINE_SECONDS
    while not await holds():
        assert clock.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.01)
