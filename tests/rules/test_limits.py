# SPDX-License-Identifier: Apache-2.0
"""Rate limits admit no call too many in any window; leases near a limit hold nothing back."""

from bisect import bisect_left

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nimbus.rules.limits import (
    MAX_BLOCK,
    SECOND,
    Gcra,
    Rate,
    SlidingWindow,
    lease_size,
    limiter,
    share,
)

rates = st.builds(
    Rate,
    amount=st.integers(1, 400),
    period_s=st.sampled_from([1, 60, 3600]),
    burst=st.none() | st.integers(1, 50),
)
gaps = st.lists(
    st.one_of(st.just(0), st.integers(0, SECOND // 50), st.integers(0, 90 * SECOND)),
    min_size=1,
    max_size=400,
)


def admitted(rate: Rate, instants: list[int]) -> list[int]:
    subject, found = limiter(rate), []
    for now in instants:
        if subject.wait(now) == 0:
            subject.take(now)
            found.append(now)
    return found


def worst_window(instants: list[int], length: int) -> int:
    """The most calls in any half-open window of this length."""
    return max(
        (bisect_left(instants, start + length) - n for n, start in enumerate(instants)), default=0
    )


def running(steps: list[int]) -> list[int]:
    total, found = 10**12, []
    for step in steps:
        total += step
        found.append(total)
    return found


@given(rates, gaps)
@example(Rate(300, 1), [0, 1_000, 0, SECOND])
def test_who_asks_and_takes_at_once_is_told_the_same(rate: Rate, steps: list[int]) -> None:
    at_once, apart = limiter(rate), limiter(rate)
    for now in running(steps):
        pause = apart.wait(now)
        if not pause:
            apart.take(now)
        assert at_once.admit(now) == pause
        assert at_once.remaining(now) == apart.remaining(now)
        assert at_once.reset(now) == apart.reset(now)


@given(rates, gaps)
@example(Rate(1, 1, 1), [0] * 5)
def test_no_window_holds_more_than_the_limit_and_its_burst(rate: Rate, steps: list[int]) -> None:
    found = admitted(rate, running(steps))
    assert worst_window(found, rate.period_s * SECOND) <= rate.amount + (rate.burst or 0)


@pytest.mark.parametrize(("index", "gateways"), [(0, 1), (0, 4), (3, 4), (8, 9)])
@given(rates)
def test_shares_of_all_gateways_add_up_to_the_rate(index: int, gateways: int, rate: Rate) -> None:
    shares = [share(rate, n, gateways) for n in range(gateways)]
    assert sum(part.amount for part in shares) == rate.amount
    # A bucket of n holds amount + n - 1 in any window: one call beyond the amount less than n.
    beyond = sum((part.burst or 1) - 1 for part in shares)
    assert beyond <= max(0, (rate.burst or 0) - 1)
    assert all((part.burst is None) == (rate.burst is None) for part in shares)
    assert shares[index].period_s == rate.period_s


def test_a_share_of_nothing_admits_nothing_and_says_when_to_come_back() -> None:
    empty = limiter(share(Rate(1, 60), 1, 2))
    assert empty.wait(5) == 60 * SECOND
    assert empty.remaining(5) == 0


@pytest.mark.parametrize("load", [0.9, 1, 1.5, 2, 10])
@pytest.mark.parametrize(
    "rate", [Rate(100, 1), Rate(1000, 60), Rate(3600, 3600), Rate(100, 1, 20), Rate(600, 60, 10)]
)
def test_under_any_load_at_least_99_percent_of_the_limit_gets_through(
    rate: Rate, load: float
) -> None:
    step = max(1, int(rate.period_s * SECOND / (rate.amount * load)))
    windows = 6
    instants = list(range(10**9, 10**9 + windows * rate.period_s * SECOND, step))
    found = admitted(rate, instants)
    wanted = min(len(instants), rate.amount * windows)
    assert len(found) >= wanted * 0.99 - 1


@given(rates, gaps)
def test_who_waits_as_long_as_told_is_admitted_and_not_a_microsecond_earlier(
    rate: Rate, steps: list[int]
) -> None:
    subject, now = limiter(rate), 10**12
    for step in steps:
        now += step
        pause = subject.wait(now)
        if pause:
            assert subject.remaining(now) == 0
            assert subject.wait(now + pause - 1) > 0
            now += pause
        assert subject.wait(now) == 0
        assert subject.remaining(now) >= 1
        subject.take(now)


@given(rates, gaps)
def test_remaining_is_how_many_get_in_at_once(rate: Rate, steps: list[int]) -> None:
    subject = limiter(rate)
    for now in running(steps):
        if subject.wait(now) == 0:
            subject.take(now)
    now = running(steps)[-1]
    promised, got = subject.remaining(now), 0
    while subject.wait(now) == 0:
        subject.take(now)
        got += 1
    assert got == promised


@given(rates, gaps)
def test_a_limiter_called_idle_can_be_forgotten(rate: Rate, steps: list[int]) -> None:
    subject = limiter(rate)
    for now in running(steps):
        if subject.idle(now):
            assert subject.remaining(now) == limiter(rate).remaining(now)
        if subject.wait(now) == 0:
            subject.take(now)


def test_a_window_lets_the_whole_amount_come_at_once_and_a_bucket_its_burst() -> None:
    assert isinstance(limiter(Rate(5, 60)), SlidingWindow)
    assert len(admitted(Rate(5, 60), [0] * 20)) == 5
    assert isinstance(limiter(Rate(60, 60, 5)), Gcra)
    assert len(admitted(Rate(60, 60, 5), [0] * 20)) == 5


@given(
    needed=st.integers(1, 10**6),
    left=st.none() | st.integers(0, 10**9),
    recent=st.integers(0, 10**6),
    gateways=st.integers(1, 16),
)
def test_a_lease_covers_what_waits_and_holds_nothing_back_near_the_limit(
    needed: int, left: int | None, recent: int, gateways: int
) -> None:
    asked = lease_size(needed, left, recent, gateways)
    assert needed <= asked <= needed + MAX_BLOCK
    if left is not None and left - needed <= 64 * gateways:
        assert asked == needed
    if left is not None:
        assert (asked - needed) * gateways <= max(0, left - needed)
