# SPDX-License-Identifier: Apache-2.0
"""An abusive key at fifty times the pace of others starves nobody and pays for nothing (Q-09).

Judged by counts: which part of its attempts each well-behaved key gets through.
"""

import asyncio

import pytest

from tests.support.load import Caller, answered, call_until, certainly_within
from tests.support.rig import Rig
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

PACE, KEYS, ABUSERS = 50, 4, 16
LIMIT = 50  # calls a second: the plan `window` of the rig
FAIR = 0.95


def fairness(shares: list[float]) -> float:
    """Jain's index: 1 when all get the same share, 1/n when one gets all."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def test_fairness_is_one_for_equals_and_a_share_of_one_for_a_winner() -> None:
    assert fairness([0.5, 0.5, 0.5, 0.5]) == 1
    assert fairness([1, 0, 0, 0]) == 0.25


async def test_an_abusive_key_starves_nobody_and_its_refusals_cost_nothing(
    rig: Rig, soak: Soak
) -> None:
    calls = soak.count(60, 2000)
    abuser = await rig.customer("window")
    others = [await rig.customer() for _ in range(KEYS)]
    await rig.start_gateways(2)
    await rig.start("drain")
    crowd = rig.callers(ABUSERS, abuser.key, "a", source="127.0.0.2")
    good = [rig.callers(1, other.key, f"g{n}x")[0] for n, other in enumerate(others)]
    over = False

    def abuse() -> int:
        return sum(len(each.attempts) for each in crowd)

    async def behave(caller: Caller) -> None:
        for number in range(calls):
            await rig.until(lambda number=number: abuse() >= PACE * number)
            await caller.call()

    async def everybody() -> None:
        nonlocal over
        await asyncio.gather(*(behave(caller) for caller in good))
        over = True

    await call_until(crowd, lambda: over, everybody(), soak.count(120, 1800))
    await rig.stop_gateways()
    await rig.drained()
    rig.account([*crowd, *good])
    shares = [len(answered([caller])) / calls for caller in good]
    assert fairness(shares) >= FAIR
    assert min(shares) >= FAIR
    assert abuse() >= PACE * (calls - 1)
    sent = {each.tag: each.sent for caller in crowd for each in caller.attempts}
    flights = [(sent[a.tag], a.at) for a in rig.upstream.arrivals if a.tag in sent]
    assert certainly_within(flights, 1) <= LIMIT
    assert rig.counter(abuser) == (len(answered(crowd)), 0)
    soak.say(f"{abuse()} abusive calls, {len(flights)} served; shares of the others: {shares}")
