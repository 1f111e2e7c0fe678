# SPDX-License-Identifier: Apache-2.0
"""Ends of quotas over several gateways: an overage's cap, a key's quota, a reset by hand."""

import asyncio

import pytest

from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.usage.service import adjustments
from tests.support.load import Attempt, Caller
from tests.support.rig import Customer, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("store")]

GATEWAYS, CALLERS = 2, 16


async def calls(callers: list[Caller], rounds: int) -> list[Attempt]:
    """Every caller calls so often, all at once; what came of it."""

    async def call_on(caller: Caller) -> None:
        for _ in range(rounds):
            await caller.call()

    known = {caller.name: len(caller.attempts) for caller in callers}
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(call_on(caller))
    return [one for caller in callers for one in caller.attempts[known[caller.name] :]]


def served(attempts: list[Attempt]) -> int:
    assert {one.status for one in attempts} <= {200, 429}
    return sum(one.status == 200 for one in attempts)


async def reset(customer: Customer) -> None:
    async with db.system_session("adjust quotas") as session:
        await adjustments.reset(
            session,
            SYSTEM,
            customer.subscription_id,
            meter_key=None,
            period=None,
            reason="ours",
            as_of=clock.now(),
        )


async def test_an_overage_ends_at_its_cap_and_a_reset_opens_it_again_within_a_second(
    rig: Rig,
) -> None:
    customer = await rig.customer("capped")
    await rig.start_gateways(GATEWAYS)
    await rig.start("drain")
    callers = rig.callers(CALLERS, customer.key)

    first = await calls(callers, 3)
    assert served(first) == 5 + 7
    told = [int(one.field("x-quota-remaining")) for one in first if one.status == 200]
    assert max(told) <= 5
    await rig.until(lambda: rig.counter(customer)[0] == 12, "all is stored")

    await reset(customer)
    again: list[Attempt] = []

    async def call_until_served() -> None:
        while served(again) < 12:
            again.extend(await calls(callers, 1))

    async with asyncio.timeout(30):
        await call_until_served()
    assert served([*again, *await calls(callers, 1)]) == 12
    await rig.until(lambda: rig.counter(customer) == (12, 0), "all is stored and nothing lent")


async def test_a_key_ends_at_its_quota_and_another_key_goes_on(rig: Rig) -> None:
    customer = await rig.customer("open", monthly_quota=9)
    _, other = await rig.another_key(customer.person)
    await rig.start_gateways(GATEWAYS)
    await rig.start("drain")

    attempts = await calls(rig.callers(CALLERS, customer.key), 2)
    assert served(attempts) == 9
    refused = next(one for one in attempts if one.status == 429)
    assert '"code":"quota_exceeded"' in refused.body.decode().replace(" ", "")
    assert served(await calls(rig.callers(2, other, "o"), 3)) == 6

    def settled() -> bool:
        [[used, leased]] = rig.execute(
            "SELECT used, leased FROM spend_standings WHERE kind = 'key_quota' AND key_id = %s"
            " AND period_starts_at <= now() AND period_ends_at > now()",
            customer.key_id,
        )
        return (int(used), int(leased)) == (9, 0)

    await rig.until(settled, "what the key held is settled")
