# SPDX-License-Identifier: Apache-2.0
"""What a gateway holds in memory: no more after much load than after a little.

Judged by the process's own pages (RssAnon), so that the mapped journal does not blur it.
"""

import asyncio
import time

import pytest

from nimbus.access.secrets import new_secret
from tests.support.load import Caller, answered
from tests.support.rig import Rig
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

CALLERS = 12
GROWTH, GROWTH_KIB = 1.10, 2048
SOAK_SECONDS, SAMPLE_SECONDS = 600, 60


async def test_memory_is_as_after_a_fifth_of_the_load(rig: Rig, soak: Soak) -> None:
    """Callers come and go, some with keys that nobody knows."""
    customer = await rig.customer()
    await rig.start_gateways(1)
    await rig.start("drain")
    strangers = rig.callers(2, new_secret("Live"), "x", source="127.0.0.2")
    callers = rig.callers(CALLERS - 2, customer.key) + strangers
    few = soak.count(1_500, 20_000)
    await load(callers, few)
    before = rig.gateways[0].status("RssAnon")
    ends = time.monotonic() + (soak.hours * 3600 or SOAK_SECONDS if soak.full else 0)
    samples = [before]
    calls = few
    while calls < 5 * few or time.monotonic() < ends:
        calls += await load(callers, few)
        samples.append(rig.gateways[0].status("RssAnon"))
        rig.upstream.arrivals.clear()
        if soak.full:
            soak.say(f"{calls} calls: {samples[-1]} KiB, {before} KiB in the beginning")
    assert samples[-1] <= before * GROWTH + GROWTH_KIB, f"KiB: {samples}"
    await rig.stop_gateways()


async def load(callers: list[Caller], calls: int) -> int:
    """At least so many answered calls, a connection for every fifty; how many there were."""
    for caller in callers:
        caller.attempts.clear()

    async def go_on(caller: Caller) -> None:
        while len(answered(callers)) < calls:
            await caller.call()
            if len(caller.attempts) % 50 == 0:
                caller.hang_up()
        caller.hang_up()

    await asyncio.gather(*(go_on(caller) for caller in callers))
    return sum(len(caller.attempts) for caller in callers)
