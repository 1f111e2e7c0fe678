# SPDX-License-Identifier: Apache-2.0
"""One key hammered at several times its limit: no sliding window holds more than the limit and its
burst, over however many gateways (Q-01, Q-03).

A call is admitted somewhere between its caller's sending and its arrival at the upstream. Calls
whose whole flight lies within one window were certainly admitted in it, so their number proves a
violation and nothing else does: a slow machine can't fail this test, a limiter can.
"""

from collections import defaultdict

import pytest

from tests.support.load import Caller, Flight, answered, call_until, certainly_within
from tests.support.rig import Rig
from tests.support.soak import Soak

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


@pytest.mark.parametrize("gateways", [1, 2, 4])
async def test_no_sliding_window_holds_more_than_the_limit_and_its_burst(
    rig: Rig, soak: Soak, gateways: int
) -> None:
    seconds = soak.count(2, 30)
    windowed, bucketed = await rig.customer("window"), await rig.customer("bucket")
    limited = await rig.customer("open", rate_per_minute=60)
    await rig.start_gateways(gateways)
    callers = {
        "window": rig.callers(CALLERS // 3, windowed.key, "w"),
        "bucket": rig.callers(CALLERS // 3, bucketed.key, "b"),
        "key": rig.callers(CALLERS // 3, limited.key, "k"),
    }
    everybody = [caller for each in callers.values() for caller in each]
    begin = everybody[0]
    await begin.call()
    # Several times the limit and for several windows, whatever the machine does in a second.
    await call_until(
        everybody,
        lambda: (
            begin.attempts[-1].done - begin.attempts[0].done > seconds
            and sum(len(each.attempts) for each in everybody) > 5 * LIMIT * seconds
        ),
    )
    await rig.stop_gateways()
    seen: dict[str, list[Flight]] = defaultdict(list)
    for sent, arrival in zip(
        flights(rig, everybody), (each.tag for each in rig.upstream.arrivals), strict=True
    ):
        seen[arrival[0]].append(sent)
    for width in (0.1, 0.5, 1.0, 2.0):
        whole = -(-width // 1)
        assert certainly_within(seen["w"], width) <= LIMIT * whole
        assert certainly_within(seen["b"], width) <= LIMIT * width + BURST
    assert certainly_within(seen["k"], 60) <= 60
    assert min(len(found) for found in seen.values()) >= LIMIT // 4, "nobody is shut out"
    refused = answered(everybody, 429)
    assert len(refused) > len(rig.upstream.arrivals)
    assert all(int(each.field("retry-after")) >= 1 for each in refused)
    for name, bound in (("w", LIMIT), ("b", LIMIT + BURST)):
        soak.say(
            f"{gateways} gateways, {name}: worst second {certainly_within(seen[name], 1)} of"
            f" {bound}, {len(seen[name])} served in {seconds} s"
        )
