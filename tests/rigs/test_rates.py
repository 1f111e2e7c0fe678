# SPDX-License-Identifier: Apache-2.0
"""One key hammered at several times its limit: no sliding window holds more than the limit and its
burst, over however many gateways (Q-01, Q-03).

A call is admitted somewhere between its caller's sending and its arrival at the upstream. Calls
whose whole flight lies within one window were certainly admitted in it, so their number proves a
violation and nothing else does: a slow machine can't fail this test, a limiter can.
"""

import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace

import pytest

from tests.support.load import Caller, Flight, answered, call_until, certainly_within
from tests.support.rig import Rig
from tests.support.soak import Soak
from tests.support.valkeys import valkey_server

pytestmark = pytest.mark.anyio

CALLERS, LIMIT, BURST = 24, 50, 20  # as the plans `window` and `bucket` of the rig say


def flights(rig: Rig, callers: list[Caller]) -> list[Flight]:
    """When each call that reached the upstream was sent and arrived."""
    sent = {each.tag: each.sent for caller in callers for each in caller.attempts}
    return [(sent[arrival.tag], arrival.at) for arrival in rig.upstream.arrivals]


def test_what_is_counted_is_only_what_is_certain() -> None:
    assert certainly_within([(0, 0.1), (0.2, 0.9), (0.5, 1.1), (1.0, 1.15)], 1) == 3
    assert certainly_within([(0, 0.5), (0.1, 2.0)], 1) == 1
    assert certainly_within([], 1) == 0


@pytest.mark.parametrize(
    ("gateways", "store", "broken"),
    [
        (1, False, ""),
        (2, True, ""),
        (4, False, ""),
        (4, True, ""),
        (4, True, "a gateway is killed"),
        (4, True, "the store is killed"),
    ],
)
async def test_no_sliding_window_holds_more_than_the_limit_and_its_burst(
    rig: Rig, soak: Soak, gateways: int, store: bool, broken: str
) -> None:
    """With the shared store, without it, and while something dies."""
    seconds = soak.count(2, 30)
    customers = {plan: await rig.customer(plan) for plan in ("window", "bucket")}
    customers["key"] = await rig.customer("open", rate_per_minute=60)
    with valkey_server() if store else nullcontext() as valkey:
        if valkey is not None:
            rig.settings = replace(rig.settings, valkey_url=valkey.url)
        await rig.start_gateways(gateways)
        callers = [
            caller
            for plan, customer in customers.items()
            for caller in rig.callers(CALLERS // 3, customer.key, plan[0])
        ]
        begin = time.monotonic()
        is_broken = not broken

        async def break_it() -> None:
            nonlocal is_broken
            await rig.until(lambda: len(rig.upstream.arrivals) > LIMIT)
            if broken == "a gateway is killed":
                await rig.replace_gateway(soak.random.randrange(gateways))
            elif valkey is not None and broken:
                valkey.kill()
            is_broken = True

        # Several times the limit and for several windows, whatever the machine does in a second.
        await call_until(
            callers,
            lambda: (
                is_broken
                and time.monotonic() - begin > seconds
                and sum(len(each.attempts) for each in callers) > 5 * LIMIT * seconds
            ),
            break_it(),
        )
        await rig.stop_gateways()
    judge(rig, soak, callers, f"{gateways} gateways, {'shared' if store else 'shares'}, {broken}")


def judge(rig: Rig, soak: Soak, callers: list[Caller], what: str) -> None:
    """No window of any length is over; nobody is shut out, who is refused hears how long."""
    seen: dict[str, list[Flight]] = defaultdict(list)
    for flight, arrival in zip(flights(rig, callers), rig.upstream.arrivals, strict=True):
        seen[arrival.tag[0]].append(flight)
    for width in (0.1, 0.5, 1.0, 2.0):
        assert certainly_within(seen["w"], width) <= LIMIT * -(-width // 1), what
        assert certainly_within(seen["b"], width) <= LIMIT * width + BURST, what
    assert certainly_within(seen["k"], 60) <= 60, what
    assert min(len(seen[name]) for name in "wbk") > 0, "nobody is shut out"
    refused = answered(callers, 429)
    assert len(refused) > len(rig.upstream.arrivals)
    assert all(int(each.field("retry-after")) >= 1 for each in refused)
    worst = {name: certainly_within(seen[name], 1) for name in "wb"}
    served = {name: len(seen[name]) for name in "wbk"}
    soak.say(f"{what}: worst second {worst} of {LIMIT} and {LIMIT + BURST}; served {served}")
