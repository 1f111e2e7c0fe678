# SPDX-License-Identifier: Apache-2.0
"""Many slots at once say what the same slots say one by one, whole, torn or mixed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np

from nimbus.rules import latency
from nimbus.rules.blocks import Block, calls_of, kinds, read_block, tally_calls
from nimbus.rules.metering import (
    CALLS,
    SLOT_SIZE,
    Slot,
    SlotState,
    UsageEvent,
    decode_slot,
    event_id,
    merge,
)
from nimbus.rules.periods import Period
from nimbus.rules.tallies import Tally, tally, within
from nimbus.usage.service.lots import make_ready
from tests.support.slots import SPAN_US, START, damaged, owners, some_slots
from tests.support.soak import Soak

PRODUCER = UUID("0190c0de-0000-7000-8000-000000000001")
SLOTS = 150


def slow(data: bytes, count: int) -> list[Slot]:
    """The slots by the law; what the bytes lack is corrupt."""
    found = []
    for sequence in range(1, count + 1):
        piece = data[(sequence - 1) * SLOT_SIZE : sequence * SLOT_SIZE]
        if len(piece) < SLOT_SIZE:
            found.append(Slot(sequence, SlotState.CORRUPT, None))
        else:
            found.append(decode_slot(piece, sequence, PRODUCER))
    return found


def comparable(tallies: Iterable[Tally]) -> dict[Any, Any]:
    """Tallies by kind, those of one kind added up, and their calls by id."""
    found: dict[Any, Any] = {}
    for one in tallies:
        key = one.kind, one.counted
        calls = {call.cells[CALLS].last_event_id: call for call in one.apart()}
        amounts = Counter({"leased": one.leased}) + Counter(one.holds) + Counter(one.held)
        if key not in found:
            found[key] = dict(one.cells), amounts, calls, one.first_at, one.last_at
            continue
        cells, known, others, first_at, last_at = found[key]
        for meter_key, cell in one.cells.items():
            cells[meter_key] = merge(cells[meter_key], cell) if meter_key in cells else cell
        found[key] = (
            cells,
            known + amounts,
            others | calls,
            min(first_at, one.first_at),
            max(last_at, one.last_at),
        )
    return found


def tallies_of(block: Block) -> list[Tally]:
    """A block's tallies, with those of the calls that arrays can't hold."""
    calls, odd = calls_of(block, np.ones(len(block.states), np.bool_))
    rest = tally(event for _, event in odd if not event.refusal)
    return tally_calls(calls.where(~calls.refused)) + rest


def served(slots: Sequence[Slot]) -> list[UsageEvent]:
    return [one.record for one in slots if one.record is not None and not one.record.refusal]


def test_a_block_says_of_each_slot_what_the_law_says_whole_torn_or_cut_short(soak: Soak) -> None:
    choice = soak.random
    for number in range(soak.count(40, 3000)):
        data = some_slots(choice, owners(choice, 3), PRODUCER, SLOTS)
        if number % 2:
            data = damaged(choice, data)
        block, slots = read_block(data, 1, SLOTS, PRODUCER), slow(data, SLOTS)

        assert [SlotState(state) for state in block.states] == [slot.state for slot in slots]
        calls, odd = calls_of(block, np.ones(SLOTS, np.bool_))
        read = {int(calls.slots["sequence"][at]): calls.event(at) for at in range(len(calls))}
        assert read | dict(odd) == {slot.sequence: slot.record for slot in slots if slot.record}
        ids = [UUID(bytes=bytes(one)) for one in calls.event_ids]
        assert ids == [event_id(PRODUCER, int(one)) for one in calls.slots["sequence"]]


def test_a_block_counts_what_its_calls_count_one_by_one(soak: Soak) -> None:
    choice = soak.random
    for _ in range(soak.count(40, 3000)):
        data = some_slots(choice, owners(choice, choice.randrange(1, 5)), PRODUCER, SLOTS)
        calls = served(slow(data, SLOTS))
        found = tallies_of(read_block(data, 1, SLOTS, PRODUCER))

        assert comparable(found) == comparable(tally(calls))
        cut = START + choice.randrange(SPAN_US) * timedelta(microseconds=1)
        for window in (Period(START - timedelta(1), cut), Period(cut, START + timedelta(1))):
            inside = [call for call in calls if call.occurred_at in window]
            assert comparable(within(found, window)) == comparable(tally(inside))


def test_a_block_says_which_keys_were_used_last_and_what_prometheus_tells_apart(
    soak: Soak,
) -> None:
    choice = soak.random
    for _ in range(soak.count(10, 500)):
        data = some_slots(choice, owners(choice, 3), PRODUCER, SLOTS)
        records = [slot.record for slot in slow(data, SLOTS) if slot.record]
        block = read_block(data, 1, SLOTS, PRODUCER)

        used: dict[UUID, Any] = {}
        for call in records:
            used[call.key_id] = max(call.occurred_at, used.get(call.key_id, call.occurred_at))
        assert make_ready(block).last_used() == used
        calls, odd = calls_of(block, np.ones(SLOTS, np.bool_))
        found = Counter({kind: len(some) for kind, some in kinds(calls)})
        found.update(_answered(call) for _, call in odd)
        assert found == Counter(map(_answered, records))


def _answered(call: UsageEvent) -> tuple[Any, ...]:
    return (
        call.route_id,
        call.subscription_id,
        call.environment,
        call.status // 100,
        call.refusal,
    )


def test_a_quantile_is_at_most_a_twentieth_or_a_microsecond_off(soak: Soak) -> None:
    choice = soak.random
    for _ in range(20):
        times = sorted(choice.randrange(1, 1 << choice.randrange(1, 41)) for _ in range(200))
        counts = Counter(map(latency.bucket, times))
        assert latency.unpack(latency.pack(counts)) == counts
        for q in (0.01, 0.5, 0.95, 1.0):
            true = times[max(1, -int(-q * len(times) // 1)) - 1]
            found = latency.quantile(counts, q)
            assert found is not None
            assert abs(found - true) <= max(1, true / 20)


def test_each_time_lies_in_its_bucket_and_buckets_leave_no_gap() -> None:
    for us in (0, 1, 2, 3, 19, 999, 1000, 1023, 1024, 10**6, 2**41 - 1):
        shortest, longest = latency.bounds(latency.bucket(us))
        assert shortest <= max(us, 1) <= longest
    assert latency.bucket(2**60) == latency.BUCKETS - 1
    assert latency.quantile({}, 0.5) is None
