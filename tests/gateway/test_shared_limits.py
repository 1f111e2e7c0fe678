# SPDX-License-Identifier: Apache-2.0
"""Limits that gateways share, in simulated time: the gateways' own code, the store's own script,
a real Valkey; clocks, network, failures and callers are ours.
"""

import os
import random
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nimbus.gateway import tokens
from nimbus.gateway.tokens import Phase
from nimbus.rules.limits import SECOND, Rate, promise
from tests.support.fleets import Gateway, World, worst_window
from tests.support.soak import Soak
from tests.support.valkeys import Client, Server, valkey_server

NAME = b"limit"
SEED = int(os.environ.get("TEST_SEED", "20261120"))
DAY = 86_400


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    print(f"TEST_SEED={SEED}")
    with valkey_server() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    asking = Client(server)
    yield asking
    asking.close()


def fleet_of(world: World, count: int) -> list[Gateway]:
    """Gateways with clocks of their own that have found together."""
    gateways = [
        Gateway(world, place, count, offset=world.random.randint(0, 10**10))
        for place in range(count)
    ]
    world.until(world.now + SECOND // 2)
    assert all(gateway.fleet.phase is Phase.SHARED for gateway in gateways)
    return gateways


def hammer(world: World, gateways: list[Gateway], rate: Rate, callers: int, seconds: int) -> None:
    """Callers that call again a moment after each answer, whatever it was."""
    end = world.now + seconds * SECOND

    def go_on(gateway: Gateway) -> None:
        def again() -> None:
            if world.now < end:
                gateway.at(world.now + world.random.randint(500, 5_000), partial(go_on, gateway))

        gateway.call(gateway.limit(NAME, rate), answered=again)

    for number in range(callers):
        go_on(gateways[number % len(gateways)])
    world.until(end)


def load(
    world: World, gateways: list[Gateway], rate: Rate, per_window: float, windows: float
) -> int:
    """Evenly spaced calls, one gateway after the other; how many."""
    length = rate.period_s * SECOND
    step = max(1, int(length / per_window))
    calls = int(windows * length / step)
    for number in range(calls):
        gateway = gateways[number % len(gateways)]
        world.at(world.now + number * step, lambda g=gateway: g.call(g.limit(NAME, rate)))
    world.until(world.now + calls * step)
    world.until(world.now + SECOND // 10)
    return calls


RATES = [
    Rate(1, 1),
    Rate(10, 1, 1),
    Rate(100, 1),
    Rate(100, 1, 20),
    Rate(3, 60),
    Rate(300, 60),
    Rate(200, 60, 10),
    Rate(50, 3600),
    Rate(100, DAY, 5),
]


LOADS = (0.9, 1, 1.5, 2, 10)


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_at_any_load_no_window_is_over_the_limit_and_98_percent_of_it_get_through(
    client: Client, monkeypatch: pytest.MonkeyPatch, soak: Soak, rate: Rate
) -> None:
    """In `make test` each rate with a few loads and gateways; in `make soak` with all."""
    cells = [(overload, gateways) for overload in LOADS for gateways in (1, 2, 4, 9)]
    small = [(1, 4), (2, 9)] if rate.amount <= 100 else [(1.5, 4)]
    for overload, gateways in cells if soak.full else small:
        hold_the_limit(client, monkeypatch, rate, gateways, overload)


def hold_the_limit(
    client: Client, monkeypatch: pytest.MonkeyPatch, rate: Rate, gateways: int, overload: float
) -> None:
    length = rate.period_s * SECOND
    # Greetings ten times a second would be most of a simulated day.
    monkeypatch.setattr(tokens, "LAPSE", max(SECOND, length // 30))
    world = World(client, SEED, greeting=tokens.LAPSE // 10)
    fleet = fleet_of(world, gateways)
    windows = 4
    calls = load(world, fleet, rate, rate.amount * overload, windows)
    wanted = min(calls, rate.amount * windows)
    assert world.worst(length) <= rate.amount + (rate.burst or 0)
    # Calls that come every 2/3 of a window of one can use every second place only.
    sparse = rate.amount == 1 and overload == 1.5
    assert len(world.admitted) >= wanted * (0.66 if sparse else 0.98)


@pytest.mark.parametrize(
    ("trip", "stalls", "through"),
    [((60, 200), 0, 0.98), ((500, 15_000), 0, 0.95), ((500, 15_000), 30_000, 0.95)],
    ids=["near", "far", "far and busy"],
)
@pytest.mark.parametrize("rate", [Rate(50, 1, 20), Rate(200, 1, 30), Rate(50, 1)], ids=str)
def test_a_way_of_1_to_30_ms_and_processes_that_stand_still_for_30_ms_lose_no_tokens(
    client: Client, rate: Rate, trip: tuple[int, int], stalls: int, through: float
) -> None:
    world = World(client, SEED, trip=trip, stalls=stalls)
    seconds = 5
    hammer(world, fleet_of(world, 4), rate, 12, seconds)
    assert world.worst(SECOND) <= rate.amount + (rate.burst or 0)
    assert len(world.admitted) >= through * (rate.amount * seconds + (rate.burst or 0))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rate=st.sampled_from([Rate(5, 1), Rate(40, 1), Rate(40, 1, 7), Rate(300, 1), Rate(6, 2, 1)]),
    gateways=st.integers(1, 5),
    slow=st.sampled_from([(50, 200), (50, 3_000), (1_000, 40_000), (100_000, 200_000)]),
    stalls=st.sampled_from([0, 30_000]),
    seed=st.integers(0, 10**6),
)
def test_no_window_is_over_the_limit_whatever_the_callers_and_the_way_to_the_store_do(
    client: Client, *, rate: Rate, gateways: int, slow: tuple[int, int], stalls: int, seed: int
) -> None:
    world = World(client, seed, trip=slow, stalls=stalls)
    chance = random.Random(seed)
    fleet = [Gateway(world, place, gateways) for place in range(gateways)]
    favourite = chance.choice(fleet)
    for number in range(400):
        if number % 100 == 99:
            # What was granted with a long life is followed by tokens with a short one.
            world.trip = chance.choice([slow, (60, 200)])
        world.until(world.now + chance.choice([0, 0, 50, 2_000, 30_000]))
        gateway = chance.choice([favourite, *fleet])
        gateway.call(gateway.limit(NAME, rate))
    world.until(world.now + 3 * SECOND)
    # Of tokens that travel for longer than they live, all may come too late.
    assert world.admitted or slow[1] > tokens.LIFE_MAX // 2
    assert world.worst(rate.period_s * SECOND) <= rate.amount + (rate.burst or 0)


def storm(world: World, fleet: list[Gateway], rate: Rate, seconds: float, share: float) -> None:
    """Three times the limit, `share` of it at the first gateway, for some seconds."""
    end = world.now + int(seconds * SECOND)
    step = rate.period_s * SECOND // (3 * rate.amount)
    while world.now < end:
        world.until(world.now + step)
        first = world.random.random() < share
        gateway = fleet[0] if first else world.random.choice(fleet)
        gateway.call(gateway.limit(NAME, rate))


LIMITS = [(Rate(30, 1), 0.0), (Rate(30, 1, 6), 0.9), (Rate(7, 2), 0.9)]
FAILURES = ["down", "flushed", "fails over", "garbage", "slow", "cut from one", "clock steps"]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(("rate", "skew"), LIMITS, ids=str)
def test_while_the_store_fails_and_comes_back_no_window_is_over_the_limit(
    client: Client, failure: str, rate: Rate, skew: float
) -> None:
    world = World(client, SEED)
    fleet = fleet_of(world, 3)
    length = rate.period_s * SECOND
    for _ in range(2):
        storm(world, fleet, rate, 1.5 * rate.period_s, skew)
        before = len(world.admitted)
        fail(world, fleet, failure)
        storm(world, fleet, rate, 2.5 * rate.period_s + 2, skew)
        assert len(world.admitted) - before >= rate.amount // 2, "calls go on by the shares"
        mend(world, fleet)
        storm(world, fleet, rate, 2.5 * rate.period_s + 1, skew)
        assert all(gateway.fleet.phase is Phase.SHARED for gateway in fleet)
        assert world.worst(length) <= rate.amount + (rate.burst or 0)
    before = len(world.admitted)
    storm(world, fleet, rate, 4 * rate.period_s, 1.0)
    assert len(world.admitted) - before >= 0.95 * 4 * rate.amount, "one alone has it all again"
    assert world.worst(length) <= rate.amount + (rate.burst or 0)


def fail(world: World, fleet: list[Gateway], failure: str) -> None:
    if failure == "down":
        world.up = False
    elif failure == "flushed":
        world.client.call(b"FLUSHALL")
        world.script = world.client.call(b"SCRIPT", b"LOAD", world_script())
    elif failure == "fails over":
        # The replica that takes over has everything but the last writes.
        for key in world.client.call(b"KEYS", b"*:*:*") or ():
            world.client.call(b"DEL", key)
        world.run += b"+"
        for gateway in fleet:
            gateway._lose()
    elif failure == "garbage":
        world.garbage = [7, b"?"]
    elif failure == "slow":
        world.trip = (900_000, 1_100_000)
    elif failure == "cut from one":
        fleet[1].cut = True
    else:
        world.store_offset += 3600 * SECOND


def mend(world: World, fleet: list[Gateway]) -> None:
    world.up, world.garbage, world.trip = True, None, (60, 200)
    for gateway in fleet:
        gateway.cut = False


def world_script() -> bytes:
    from tests.support.valkeys import simulated_script

    return simulated_script()


def test_without_the_store_each_admits_its_exact_share(client: Client) -> None:
    world = World(client, SEED, up=False)
    rate = Rate(10, 60)
    fleet = [Gateway(world, place, 4) for place in range(4)]
    world.until(world.now + 2 * SECOND)
    for gateway in fleet:
        for _ in range(10):
            gateway.call(gateway.limit(NAME, rate))
    admitted = [place for _, place in world.admitted]
    assert [admitted.count(place) for place in range(4)] == [3, 3, 2, 2]


@pytest.mark.parametrize("rate", [Rate(5, 3), Rate(12, 3, 4)], ids=str)
def test_a_gateway_that_is_killed_and_starts_again_brings_no_second_allowance(
    client: Client, rate: Rate
) -> None:
    world = World(client, SEED)
    fleet = fleet_of(world, 3)
    for number in range(12):
        storm(world, fleet, rate, 0.7, 0.5)
        place = number % 3
        fleet[place].kill()
        storm(world, fleet, rate, world.random.choice([0.05, 1.3]), 0.5)
        fleet[place] = Gateway(world, place, 3)
    assert world.worst(rate.period_s * SECOND) <= rate.amount + (rate.burst or 0)


@pytest.mark.parametrize("failure", ["flushed", "down"])
@pytest.mark.parametrize("seed", range(4))
def test_a_gateway_killed_as_the_store_loses_its_data_brings_no_more_than_its_own_calls_again(
    client: Client, failure: str, seed: int
) -> None:
    world, rate = World(client, seed), Rate(12, 3, 4)
    fleet = fleet_of(world, 3)
    storm(world, fleet, rate, 2, 0.5)
    fail(world, fleet, failure)
    storm(world, fleet, rate, 3, 0.5)
    own = sorted(instant for instant, place in world.admitted if place == 0)
    forgotten = worst_window(own, rate.period_s * SECOND)
    fleet[0].kill()
    mend(world, fleet)
    fleet[0] = Gateway(world, 0, 3)
    storm(world, fleet, rate, 8, 0.5)
    worst = world.worst(rate.period_s * SECOND)
    assert worst <= rate.amount + (rate.burst or 0) + forgotten


@pytest.mark.parametrize("gateways", [1, 4])
@pytest.mark.parametrize("rate", [Rate(3, 60), Rate(40, 60), Rate(1, 1), Rate(20, 60, 3)], ids=str)
def test_who_waits_as_long_as_told_is_never_refused_and_never_told_more_within_the_time_told(
    client: Client, rate: Rate, gateways: int
) -> None:
    world = World(client, SEED)
    fleet = fleet_of(world, gateways)
    told: list[tuple[int, int, int]] = []
    for number in range(3 * rate.amount + 5):
        gateway = fleet[number % gateways]
        limit = gateway.limit(NAME, rate)
        before = world.refused
        gateway.call(limit)
        world.until(world.now + 5_000)
        if world.refused > before:
            seconds = max(1, -(-limit.wait(gateway.clock()) // SECOND))
            world.until(world.now + seconds * SECOND)
            refused = world.refused
            gateway.call(limit)
            world.until(world.now + 60_000)
            assert world.refused == refused
        if gateways == 1:
            remaining, holds = promise(limit, gateway.clock())
            assert remaining >= 0
            assert all(
                remaining <= earlier
                for instant, earlier, seconds in told
                if world.now < instant + seconds * SECOND
            )
            told.append((world.now, remaining, holds))
        world.until(world.now + world.random.randint(0, SECOND // 2))


def test_tokens_that_one_gateway_did_not_use_are_there_for_another(client: Client) -> None:
    world = World(client, SEED)
    rate = Rate(2_000, 10)
    fleet = fleet_of(world, 2)
    limit = fleet[0].limit(NAME, rate)
    left_over = []
    for number in range(120):
        for _ in range(8 if number % 40 < 12 else 0):
            fleet[0].call(limit)
        world.until(world.now + 5_000)
        left_over.append(limit.remaining(fleet[0].clock()) - limit._left)
    assert any(left_over), "tokens were fetched ahead"
    key = fleet[0].fleet.key(limit)
    world.until(world.now + SECOND // 2)
    fleet[0].call(limit)
    world.until(world.now + SECOND // 2)
    total = client.call(b"LINDEX", key, b"0")
    assert isinstance(total, bytes)
    assert int(total) == len(world.admitted)
    assert len(world.admitted) < rate.amount


def test_one_busy_limit_does_not_hold_up_others(client: Client) -> None:
    world = World(client, SEED)
    fleet = fleet_of(world, 2)
    busy, quiet = Rate(50, 1), Rate(10, 1)
    for number in range(2_500):
        gateway = fleet[number % 2]
        world.at(world.now + number * 400, lambda g=gateway: g.call(g.limit(b"busy", busy)))
    for number in range(10):
        world.until(world.now + 99_000)
        other = fleet[number % 2]
        limit = other.limit(b"quiet", quiet)
        other.call(limit)
    world.until(world.now + SECOND // 10)
    used = 0
    for gateway in fleet:
        window = gateway.limit(b"quiet", quiet)._own
        assert window is not None
        used += window.total
    assert used == 10
