# SPDX-License-Identifier: Apache-2.0
"""Spend limits, balances and reported meters at the gate: held before, recorded, given back."""

import asyncio
from decimal import Decimal
from uuid import UUID

import pytest

from nimbus.rules.metering import Held
from tests.gateway.house import (
    EVER,
    KEY,
    ORGANIZATION,
    TEST_KEY,
    OpenGate,
    Record,
    Upstream,
    key_record,
    plan_record,
    product_record,
    route,
    standing_record,
    subscription_record,
    until,
)

pytestmark = pytest.mark.anyio

OF_ALL, OF_KEY, BALANCE, TOKENS = UUID(int=21), UUID(int=22), UUID(int=23), UUID(int=24)
CALL = 200_000  # a call at 0.002 euro, in millionths of a cent
KINDS = {OF_ALL: "organization_spend", OF_KEY: "key_spend", BALANCE: "balance"}
RESET = "2100-01-01T00:00:00Z"


def charge(meter_key: str, price: str, **changes: object) -> Record:
    return {
        "currency": "EUR",
        "meter_key": meter_key,
        "model": "unit",
        "included": "0",
        "unit_price": price,
        "terms": {},
        **changes,
    }


def money(standing: UUID, limit: int) -> Record:
    return {
        "id": str(standing),
        "kind": KINDS[standing],
        "limit": limit,
        "period_starts_at": EVER[0],
        "period_ends_at": EVER[1],
    }


def limit(gate: OpenGate, *standings: UUID, calls: int) -> None:
    """A priced plan, and limits that this many calls fit in."""
    gate.feed("plan", plan_record(charges=[charge("api_calls", "0.002")]))
    gate.feed("subscription", subscription_record(currency="EUR"))
    amounts = {standing: money(standing, calls * CALL) for standing in standings}
    for standing in standings:
        gate.house.left[standing] = calls * CALL
    of_key = [amounts.pop(OF_KEY)] if OF_KEY in amounts else []
    owner = {"id": str(ORGANIZATION), "status": "Active", "standings": list(amounts.values())}
    gate.feed("organization", owner)
    gate.feed("key", key_record(KEY, standings=of_key))


@pytest.mark.parametrize(
    ("standing", "status", "code"),
    [
        (OF_ALL, 429, "spend_limit_reached"),
        (OF_KEY, 429, "spend_limit_reached"),
        (BALANCE, 402, "balance_exhausted"),
    ],
)
async def test_calls_stop_before_the_amount_is_passed(
    gate: OpenGate, upstream: Upstream, standing: UUID, status: int, code: str
) -> None:
    limit(gate, standing, calls=3)
    gate.house.left[standing] += CALL - 1  # what is left does not cover a fourth
    for _ in range(3):
        assert (await gate.ask(b"GET", b"/echo")).status == 200
        gate.house.settle(standing, CALL, CALL)

    answer = await gate.ask(b"GET", b"/echo")

    assert (answer.status, answer.code) == (status, code)
    assert answer.has("retry-after") == (RESET in answer.json["detail"]) == (status == 429)
    assert status == 402 or int(answer["retry-after"]) > 10**9
    assert len(upstream.seen) == 3
    refused = gate.events()[-1]
    assert (refused.refusal, refused.held_micro, refused.held_on) == (code, 0, Held.NOTHING)


async def test_a_call_holds_the_most_it_can_cost_on_every_counter_and_records_it(
    gate: OpenGate, upstream: Upstream
) -> None:
    limit(gate, OF_ALL, OF_KEY, BALANCE, calls=50)
    assert (await gate.ask(b"GET", b"/heavy")).status == 200

    [event] = gate.events()
    assert event.billable
    assert event.held_micro == 5 * CALL
    assert event.held_on == Held.ORGANIZATION_SPEND | Held.KEY_SPEND | Held.BALANCE
    gate.gate.leases.return_all()
    assert [gate.house.lent[standing] for standing in KINDS] == [5 * CALL] * 3


async def test_what_is_not_billed_holds_nothing_afterwards(
    gate: OpenGate, upstream: Upstream
) -> None:
    limit(gate, OF_ALL, BALANCE, calls=50)
    upstream.say(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    assert (await gate.ask(b"GET", b"/echo")).status == 502

    [event] = gate.events()
    assert (event.held_micro, event.held_on) == (0, Held.NOTHING)
    gate.gate.leases.return_all()
    assert [gate.house.lent[standing] for standing in (OF_ALL, BALANCE)] == [0, 0]


async def test_a_call_that_the_quota_or_a_second_limit_refuses_holds_nothing(
    gate: OpenGate, upstream: Upstream
) -> None:
    limit(gate, OF_ALL, OF_KEY, calls=5)
    gate.house.left[OF_KEY] = 0
    gate.house.used[OF_KEY] = 5 * CALL

    assert (await gate.ask(b"GET", b"/echo")).code == "spend_limit_reached"

    gate.gate.leases.return_all()
    assert gate.house.lent.get(OF_ALL, 0) == 0
    assert upstream.seen == []


async def test_calls_that_cost_nothing_need_no_money(gate: OpenGate, upstream: Upstream) -> None:
    limit(gate, OF_ALL, BALANCE, calls=0)
    gate.feed("key", key_record(TEST_KEY))
    product = product_record(upstream.port)
    product["routes"].append(route("GET", "/gift", weight=0))
    gate.feed("product", product)

    assert (await gate.ask(b"GET", b"/gift")).status == 200
    assert (await gate.ask(b"GET", b"/echo", key=TEST_KEY)).status == 200
    assert gate.house.asked == []
    assert {event.held_micro for event in gate.events()} == {0}


async def test_money_that_calls_hold_and_do_not_use_is_waited_for(
    gate: OpenGate, upstream: Upstream
) -> None:
    limit(gate, OF_ALL, calls=1)
    assert (await gate.ask(b"GET", b"/echo")).status == 200

    waiting = asyncio.create_task(gate.ask(b"GET", b"/echo"))
    await until(lambda: len(gate.house.asked) > 1)
    gate.house.settle(OF_ALL, CALL, 0)  # stored: it was an included one

    assert (await waiting).status == 200


async def test_a_limit_that_only_held_money_stands_in_the_way_of_asks_to_come_again_soon(
    gate: OpenGate,
) -> None:
    limit(gate, OF_ALL, calls=1)
    assert (await gate.ask(b"GET", b"/echo")).status == 200

    answer = await gate.ask(b"GET", b"/echo")

    assert (answer.code, answer["retry-after"]) == ("spend_limit_reached", "1")


async def test_without_the_house_calls_go_on_until_the_money_they_have_is_spent(
    gate: OpenGate, upstream: Upstream
) -> None:
    limit(gate, OF_ALL, calls=10_000)
    gate.gate.leases.answer(OF_ALL, gate.house.lease(OF_ALL, 5 * CALL))
    gate.house.gone = True

    statuses = [(await gate.ask(b"GET", b"/echo")).status for _ in range(7)]

    assert statuses == [200] * 5 + [503] * 2
    assert len(upstream.seen) == 5


async def test_a_new_limit_holds_for_the_next_call(gate: OpenGate) -> None:
    limit(gate, OF_ALL, calls=0)
    gate.house.used[OF_ALL] = 1
    assert (await gate.ask(b"GET", b"/echo")).code == "spend_limit_reached"
    gate.feed("organization", {"id": str(ORGANIZATION), "status": "Active", "standings": []})
    assert (await gate.ask(b"GET", b"/echo")).status == 200


async def test_between_two_months_a_limited_call_waits(gate: OpenGate) -> None:
    limit(gate, OF_ALL, calls=9)
    over = {**money(OF_ALL, 9 * CALL), "period_ends_at": "2020-01-01T00:00:00Z"}
    gate.feed("organization", {"id": str(ORGANIZATION), "status": "Active", "standings": [over]})
    answer = await gate.ask(b"GET", b"/echo")
    assert (answer.status, answer.code, answer["retry-after"]) == (503, "unavailable", "1")


async def test_a_route_holds_the_most_of_a_denied_meter_until_its_answer_is_stored(
    gate: OpenGate, upstream: Upstream
) -> None:
    product = product_record(upstream.port)
    product["routes"].append(route("POST", "/chat", holds={"tokens": 400, "images": 1}))
    gate.feed("product", product)
    tokens = standing_record(1000, id=str(TOKENS), meter_key="tokens")
    gate.feed("subscription", subscription_record(standings=[tokens]))
    gate.house.left[TOKENS] = 1000
    upstream.say(b"HTTP/1.1 200 OK\r\nX-Nimbus-Usage: tokens=150\r\nContent-Length: 0\r\n\r\n")

    for _ in range(2):
        assert (await gate.ask(b"POST", b"/chat", b"Content-Length: 0")).status == 200
    third = await gate.ask(b"POST", b"/chat", b"Content-Length: 0")
    assert (third.code, third["retry-after"]) == ("quota_exceeded", "1")
    for event in gate.events()[:2]:
        assert event.holds == (("tokens", 400),)
        assert event.meters == (("tokens", Decimal(150)),)
        gate.house.settle(TOKENS, 400, 150)
    assert (await gate.ask(b"POST", b"/chat", b"Content-Length: 0")).status == 200


async def test_money_for_reported_meters_is_held_with_that_of_the_call(
    gate: OpenGate, upstream: Upstream
) -> None:
    limit(gate, OF_ALL, calls=1_000_000)
    priced = [charge("api_calls", "0.002", included="10000"), charge("tokens", "0.00001")]
    gate.feed("plan", plan_record(charges=priced))
    product = product_record(upstream.port)
    product["routes"].append(route("POST", "/chat", holds={"tokens": 4000}))
    gate.feed("product", product)

    assert (await gate.ask(b"POST", b"/chat", b"Content-Length: 0")).status == 200

    [event] = gate.events()
    assert event.held_micro == CALL + 4_000_000  # four cents for 4,000 tokens
    assert event.holds == ()
