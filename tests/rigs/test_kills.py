# SPDX-License-Identifier: Apache-2.0
"""kill -9 of gateways at full load: each answered call has exactly one event (U-01, U-03, Q-02).

An event without an answered call is right only where its caller could not get the answer: it is
counted, and the caller's own log shows the broken connection.
"""

import pytest

from tests.support.load import call_until
from tests.support.rig import Rig
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

GATEWAYS, CALLERS = 3, 48
BETWEEN = (150, 600)  # calls that are answered between two kills


async def test_a_killed_gateway_loses_no_answered_call_and_repeats_none(
    rig: Rig, soak: Soak
) -> None:
    chance, kills = soak.random, soak.count(2, 30)
    customer = await rig.customer("strict")
    rig.allow(customer, 10**9)
    await rig.start_gateways(GATEWAYS)
    await rig.start("drain")
    callers = rig.callers(CALLERS, customer.key)
    killed = 0

    async def kill() -> None:
        nonlocal killed
        for number in range(kills):
            enough = len(rig.upstream.arrivals) + chance.randint(*BETWEEN)
            await rig.until(lambda enough=enough: len(rig.upstream.arrivals) > enough)
            await rig.replace_gateway(chance.randrange(GATEWAYS))
            soak.say(f"kill {number + 1}: {len(rig.upstream.arrivals)} calls so far")
        enough = len(rig.upstream.arrivals) + BETWEEN[1]
        await rig.until(lambda: len(rig.upstream.arrivals) > enough)
        killed = kills

    await call_until(callers, lambda: killed == kills, kill(), soak.count(120, 1800))
    await rig.stop_gateways()
    await rig.drained()
    served, events = rig.account(callers), rig.events()
    broken = sum(each.status is None for caller in callers for each in caller.attempts)
    assert len(served) <= len(events) <= len(served) + broken
    assert rig.counter(customer) == (len(events), 0)
    assert await rig.shown(customer) == len(events)
    soak.say(
        f"{kills} kills: {len(served)} answered calls, each with one event; {broken} broken off,"
        f" {len(events) - len(served)} of them with an event"
    )
