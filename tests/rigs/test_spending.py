# SPDX-License-Identifier: Apache-2.0
"""Spend limits and balances at the last cent: gateways, never a call over, no cent lost (Q-01).

A round raises the limit by a cent, which is ten calls; callers fight for them until the counter
says that the cent is spent. What a killed gateway held comes back when its journal is stored.
"""

import asyncio
from decimal import Decimal

import pytest

from nimbus.base import db
from nimbus.base.actors import SYSTEM
from nimbus.billing.service.wallets import grant
from nimbus.rules.money import Money
from nimbus.rules.spending import MICRO
from tests.support.load import Caller, answered
from tests.support.rig import Customer, Rig
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

GATEWAYS, CALLERS = 2, 24
CALLS_A_CENT = 10  # at 0.001 euro


def counter(rig: Rig, customer: Customer, kind: str) -> tuple[Decimal, int]:
    """What is spent and held, in millionths of a cent."""
    [[used, leased]] = rig.execute(
        "SELECT used, leased FROM spend_standings WHERE organization_id = %s AND kind = %s"
        " AND period_starts_at <= now() AND period_ends_at > now()",
        customer.person.organization_id,
        kind,
    )
    return used, leased


async def spend(rig: Rig, customer: Customer, callers: list[Caller], kind: str, cents: int) -> None:
    """Call until so much is spent."""
    over = asyncio.Event()

    async def watch() -> None:
        await rig.until(
            lambda: counter(rig, customer, kind)[0] >= cents * MICRO, f"{cents} cents are spent"
        )
        over.set()

    async def call_on(caller: Caller) -> None:
        while not over.is_set():
            await caller.call()

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for caller in callers:
            group.create_task(call_on(caller))


async def test_of_the_last_cent_exactly_its_calls_get_through_also_while_a_gateway_dies(
    rig: Rig, soak: Soak
) -> None:
    chance, rounds, kills = soak.random, soak.count(2, 200), soak.count(1, 20)
    customer = await rig.customer("open")
    owner = customer.person.organization_id
    rig.execute("UPDATE organizations SET monthly_spend_limit_minor = 0 WHERE id = %s", owner)
    await rig.start_gateways(GATEWAYS)
    await rig.start("drain")
    callers = rig.callers(CALLERS, customer.key)
    doomed = set(chance.sample(range(1, rounds + 1), kills))
    for cents in range(1, rounds + 1):
        rig.execute(
            "UPDATE organizations SET monthly_spend_limit_minor = %s WHERE id = %s", cents, owner
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(spend(rig, customer, callers, "organization_spend", cents))
            if cents in doomed:
                group.create_task(rig.replace_gateway(chance.randrange(GATEWAYS)))
        assert len(answered(callers)) <= cents * CALLS_A_CENT
        assert counter(rig, customer, "organization_spend") == (cents * MICRO, 0)
    await rig.stop_gateways()
    await rig.drained()
    rig.account(callers)
    assert len(rig.events()) == rounds * CALLS_A_CENT
    assert counter(rig, customer, "key_spend")[0] == rounds * MICRO
    soak.say(f"{rounds} cents, {kills} kills: {len(answered(callers))} served, 0 over")


async def test_a_prepaid_balance_is_called_up_to_its_last_cent(rig: Rig, soak: Soak) -> None:
    cents = soak.count(3, 300)
    customer = await rig.customer("open")
    async with db.system_session("platform pages") as session:
        amount = Money(cents, "EUR")
        owner = customer.person.organization_id
        await grant(session, SYSTEM, owner, amount, reason="paid ahead")
    await rig.start_gateways(GATEWAYS)
    await rig.start("drain")
    callers = rig.callers(CALLERS, customer.key)

    await spend(rig, customer, callers, "balance", cents)

    await rig.stop_gateways()
    await rig.drained()
    rig.account(callers)
    assert counter(rig, customer, "balance") == (cents * MICRO, 0)
    assert len(rig.events()) == len(answered(callers)) == cents * CALLS_A_CENT
