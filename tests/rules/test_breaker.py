# SPDX-License-Identifier: Apache-2.0
"""The circuit breaker: a dead upstream is left alone, and tried again by one call at a time."""

from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.breaker import FAILURES_TO_OPEN, FIRST_PAUSE, MAX_PAUSE, Breaker
from nimbus.rules.limits import SECOND


def opened(at: int) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.wait(at) == 0
        breaker.start()
        breaker.fail(at)
    return breaker


def test_ten_failures_in_a_row_open_it_for_a_second() -> None:
    breaker = opened(0)
    assert breaker.wait(0) == FIRST_PAUSE
    assert breaker.wait(SECOND // 2) == SECOND // 2
    assert breaker.wait(SECOND) == 0


def test_an_answer_between_failures_keeps_it_closed() -> None:
    breaker = Breaker()
    for _ in range(5 * FAILURES_TO_OPEN):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.fail(0)
        breaker.succeed()
    assert breaker.wait(0) == 0


def test_one_call_at_a_time_is_on_trial_and_its_answer_closes_it() -> None:
    breaker = opened(0)
    breaker.start()
    assert breaker.wait(SECOND) > 0, "the trial's outcome is awaited"
    breaker.succeed()
    assert breaker.wait(SECOND) == 0
    breaker.start()
    assert breaker.wait(SECOND) == 0, "closed, calls go side by side"


def test_each_failed_trial_doubles_the_pause_up_to_half_a_minute() -> None:
    breaker, now, pauses = opened(0), 0, []
    for _ in range(8):
        pauses.append(breaker.wait(now) // SECOND)
        now += breaker.wait(now)
        breaker.start()
        breaker.fail(now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_calls_that_were_under_way_when_it_opened_do_not_prolong_it() -> None:
    breaker = opened(0)
    for late in range(1, 50):
        breaker.fail(late)
    assert breaker.wait(SECOND) == 0


def test_a_trial_whose_caller_left_makes_room_for_the_next() -> None:
    breaker = opened(0)
    breaker.start()
    breaker.abandon()
    assert breaker.wait(SECOND) == 0


@given(st.lists(st.sampled_from(["start", "succeed", "fail", "abandon"]), max_size=60))
def test_whatever_happens_a_call_is_let_through_within_the_longest_pause(steps: list[str]) -> None:
    breaker, now = Breaker(), 0
    for step in steps:
        now += SECOND
        if step == "start":
            if breaker.wait(now) == 0:
                breaker.start()
        elif step == "fail":
            breaker.fail(now)
        elif step == "succeed":
            breaker.succeed()
        else:
            breaker.abandon()
    breaker.abandon()
    assert 0 <= breaker.wait(now) <= MAX_PAUSE
