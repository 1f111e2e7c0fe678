# SPDX-License-Identifier: Apache-2.0
"""Hard quota at the last unit: 64 callers, 4 gateways, never a unit over, none lost (Q-01, Q-02).

A round raises the limit by one, and all callers fight for that unit until somebody has it; then
each asks once more. With a gateway killed in the middle its unit comes back when its journal is
stored, so the round still ends with the unit used.
"""

import asyncio

import pytest

from tests.support.load import Caller, answered
from tests.support.rig import Customer, Rig
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

GATEWAYS, CALLERS = 4, 64


async def fight(rig: Rig, customer: Customer, callers: list[Caller], rounds: int) -> None:
    """One round: until the counter says that the unit is used."""

    def used() -> bool:
        return rig.counter(customer)[0] >= rounds

    over = asyncio.Event()

    async def watch() -> None:
        await rig.until(used, f"the unit of round {rounds} is used")
        over.set()

    async def call_on(caller: Caller) -> None:
        while not over.is_set():
            await caller.call()
        await caller.call()

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for caller in callers:
            group.create_task(call_on(caller))


async def test_of_the_last_unit_exactly_one_call_gets_through_also_while_gateways_die(
    rig: Rig, soak: Soak
) -> None:
    chance, rounds, kills = soak.random, soak.count(8, 1000), soak.count(2, 30)
    customer = await rig.customer("strict")
    await rig.start_gateways(GATEWAYS)
    await rig.start("drain")
    callers = rig.callers(CALLERS, customer.key)
    doomed = set(chance.sample(range(1, rounds + 1), kills))
    for number in range(1, rounds + 1):
        before = len(answered(callers))
        rig.allow(customer, number)
        async with asyncio.TaskGroup() as group:
            group.create_task(fight(rig, customer, callers, number))
            if number in doomed:
                group.create_task(rig.replace_gateway(chance.randrange(GATEWAYS)))
        assert len(answered(callers)) - before <= 1, f"round {number}: more than the one unit"
        used, leased = rig.counter(customer)
        assert (used, leased) == (number, 0)
        if number % 50 == 0:
            soak.say(f"{number} rounds")
    await rig.stop_gateways()
    await rig.drained()
    served = rig.account(callers)
    events = rig.events()
    assert sum(event.units for event in events.values()) == len(events) == rounds
    assert rig.counter(customer) == (rounds, 0)
    assert await rig.shown(customer) == rounds
    assert len(served) >= rounds - kills, "a unit was used that no caller got an answer for"
    attempts = sum(len(caller.attempts) for caller in callers)
    soak.say(f"{rounds} rounds, {kills} kills: {attempts} calls, {len(served)} served, 0 over")
