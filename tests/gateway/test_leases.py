# SPDX-License-Identifier: Apache-2.0
"""Quota units are borrowed: never over-granted under `deny`, never in the way otherwise."""

import asyncio
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from nimbus.base import clock
from nimbus.gateway.leases import Granted, Leases, Shortage
from nimbus.rules.grants import Standing
from tests.gateway.house import (
    STANDING,
    House,
    OpenGate,
    Upstream,
    open_gate,
    request,
    standing_record,
    subscription_record,
    until,
)

pytestmark = pytest.mark.anyio

DAY, MONTH = UUID(int=50), UUID(int=51)
NOW = clock.from_wire("2026-05-01T00:00:00Z")
END = clock.from_wire("2026-06-01T00:00:00Z")


def standing(identity: UUID = DAY, limit: int | None = 10, policy: str = "deny") -> Standing:
    return Standing(identity, "api_calls", limit, policy, NOW, END)  # type: ignore[arg-type]


def borrower(house: House, gateways: int = 1, delay: int = 1) -> Leases:
    """Leases whose bank answers `delay` turns of the loop later."""
    loop = asyncio.get_running_loop()

    def answer(standing_id: UUID, units: int, turns: int) -> None:
        if turns:
            loop.call_soon(answer, standing_id, units, turns - 1)
        else:
            leases.answer(standing_id, house.lease(standing_id, units))

    leases = Leases(gateways, lambda who, units: answer(who, units, delay), house.give_back)
    return leases


async def take(leases: Leases, *standings: Standing, units: int = 1) -> bool:
    needs = tuple((each, units) for each in standings)
    taken = leases.take(needs)
    if taken is None:
        found = await leases.wait_for(needs, NOW)
        taken = None if isinstance(found, Shortage) else found
    return taken is not None


@pytest.mark.parametrize("gateways", [1, 4])
@pytest.mark.parametrize("limit", [1, 7, 500])
async def test_exactly_the_limit_gets_through_however_many_ask_at_once(
    gateways: int, limit: int
) -> None:
    house = House(left={DAY: limit})
    banks = [borrower(house, gateways, delay) for delay in range(gateways)]
    calls = [take(banks[n % gateways], standing(limit=limit)) for n in range(limit + 200)]
    served = sum(await asyncio.gather(*calls))
    assert served <= limit
    if limit < 64 * gateways:
        assert served == limit, "near the limit nobody holds units that others wait for"
    for bank in banks:
        bank.tend()
        bank._of(DAY).used_at -= 10
        bank.tend()
        bank._of(DAY).empty_until = 0
    served += sum([await take(banks[0], standing(limit=limit)) for _ in range(200)])
    assert served == limit
    assert house.left[DAY] == 0


async def test_many_calls_share_one_request_for_units() -> None:
    house = House(left={DAY: 10**6})
    leases = borrower(house, delay=5)
    await asyncio.gather(*(take(leases, standing(limit=10**6)) for _ in range(100)))
    assert len(house.asked) <= 3


async def test_a_weighted_call_takes_all_its_units_or_none() -> None:
    house = House(left={DAY: 4})
    leases = borrower(house)
    assert not await take(leases, standing(limit=4), units=5)
    leases.tend()
    assert house.left[DAY] == 4
    results = await asyncio.gather(*(take(leases, standing(limit=4), units=2) for _ in range(5)))
    assert sum(results) == 2


async def test_every_standing_of_a_meter_has_to_have_room() -> None:
    house = House(left={DAY: 2, MONTH: 100})
    leases = borrower(house)
    both = standing(DAY, 2), standing(MONTH, 100)
    results = [await take(leases, *both) for _ in range(4)]
    assert results == [True, True, False, False]
    leases.return_all()
    assert (house.left[DAY], house.left[MONTH]) == (0, 98)


async def test_units_given_back_are_there_for_the_next_who_asks_elsewhere() -> None:
    house = House(left={DAY: 1})
    one, two = borrower(house), borrower(house)
    assert await take(one, standing(limit=1))
    assert not await take(two, standing(limit=1))
    one.refund(((standing(limit=1), 1),))
    two._of(DAY).empty_until = 0
    assert await take(two, standing(limit=1))
    assert house.left[DAY] == 0


async def test_without_the_database_deny_closes_when_its_lease_is_spent() -> None:
    house = House(left={DAY: 10**6})
    leases = borrower(house)
    far = standing(limit=10**6)
    for _ in range(50):
        assert await take(leases, far)
    house.gone = True
    held = leases._of(DAY).available
    assert held > 0
    results = [await take(leases, far) for _ in range(held + 5)]
    assert results == [True] * held + [False] * 5
    found = await leases.wait_for(((far, 1),), NOW)
    assert isinstance(found, Shortage)
    assert found.code == "unavailable"


@pytest.mark.parametrize("policy", ["warn", "allow", "overage"])
async def test_the_other_policies_wait_for_the_first_word_only_and_never_for_units(
    policy: str,
) -> None:
    house = House(left={DAY: 3}, policy=policy)
    leases = borrower(house)
    need = ((standing(limit=3, policy=policy), 1),)
    assert leases.take(need) is None, "nobody knows yet what is left"
    assert await leases.wait_for(need, NOW) is True
    assert leases.remaining(need[0][0]) == 2
    taken = []
    for _ in range(10):
        taken.append(leases.take(need))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert None not in taken
    assert True in taken, "units are counted as leased once there is a lease"
    house.gone = True
    assert None not in [leases.take(need) for _ in range(10**4)]


@pytest.mark.parametrize("silent", [False, True])
async def test_the_other_policies_go_on_when_the_house_can_not_or_does_not_say(
    silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nimbus.gateway.leases.FIRST_WORD_SECONDS", 0.01 if silent else 30)
    leases = borrower(House(gone=True), delay=10**6 if silent else 1)
    need = ((standing(limit=3, policy="warn"), 1),)
    assert await leases.wait_for(need, NOW) is False
    assert leases.take(need) is False, "who has waited once is not made to wait again"


async def test_a_standing_without_a_limit_needs_no_lease() -> None:
    house = House()
    assert borrower(house).take(((standing(limit=None), 1),)) is False
    assert house.asked == []


async def test_unused_units_go_back_when_idle_and_at_the_end() -> None:
    house = House(left={DAY: 10**6})
    leases = borrower(house)
    for _ in range(20):
        await take(leases, standing(limit=10**6))
    assert leases._of(DAY).available > 0
    leases.tend()
    leases._of(DAY).used_at -= 10
    leases.tend()
    assert house.left[DAY] == 10**6 - 20
    await take(leases, standing(limit=10**6))
    leases.return_all()
    assert house.left[DAY] == 10**6 - 21


async def test_the_remainder_told_is_what_nobody_has_used_or_borrowed_plus_what_we_hold() -> None:
    leases = borrower(House())
    assert leases.remaining(standing()) is None
    leases.answer(DAY, Granted(units=5, used=20, leased=30, limit=100))
    assert leases.remaining(standing(limit=100)) == 55
    leases.take(((standing(limit=100), 2),))
    assert leases.remaining(standing(limit=100)) == 53


async def test_two_hundred_connections_race_for_the_last_unit(
    gate: OpenGate, upstream: Upstream
) -> None:
    gate.house.left[STANDING] = 1
    gate.feed("subscription", subscription_record(standings=[standing_record(1)]))
    answers = await asyncio.gather(*(gate.ask(b"GET", b"/echo") for _ in range(200)))
    assert Counter(answer.status for answer in answers) == {200: 1, 429: 199}
    assert len([event for event in gate.events() if event.billable]) == 1
    assert len(upstream.seen) == 1


async def test_two_gateways_on_one_standing_let_through_what_it_holds(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with (
        open_gate(tmp_path / "a", upstream.port, gateways=2) as one,
        open_gate(tmp_path / "b", upstream.port, gateways=2) as two,
    ):
        one.house.left[STANDING] = 25
        two.house.left, two.house.lent = one.house.left, one.house.lent
        for gate in (one, two):
            gate.feed("subscription", subscription_record(standings=[standing_record(25)]))
        calls = [gate.ask(b"GET", b"/echo") for _ in range(30) for gate in (one, two)]
        answers = await asyncio.gather(*calls)
        assert sum(answer.status == 200 for answer in answers) == 25
        assert len(upstream.seen) == 25


async def test_an_upstreams_failure_gives_its_unit_back(gate: OpenGate, upstream: Upstream) -> None:
    gate.house.left[STANDING] = 3
    gate.feed("subscription", subscription_record(standings=[standing_record(3)]))
    upstream.say(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    for _ in range(10):
        assert (await gate.ask(b"GET", b"/echo")).status == 500
    assert gate.house.left[STANDING] == 3


async def test_a_caller_who_leaves_while_a_lease_is_awaited_holds_nothing(
    gate: OpenGate,
) -> None:
    house = gate.house
    gate.feed("subscription", subscription_record(standings=[standing_record(5)]))
    leases, waiting = gate.gate.leases, []
    leases._ask = lambda standing_id, units: waiting.append((standing_id, units))
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo"))
        await until(lambda: bool(waiting))
        caller.reset()
    await until(lambda: not gate.door.connections)
    house.left[STANDING] = 5
    leases.answer(STANDING, house.lease(*waiting[0]))
    leases.tend()
    assert house.left[STANDING] == 5
    assert gate.events() == []
