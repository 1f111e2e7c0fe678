# SPDX-License-Identifier: Apache-2.0
"""What a gateway answered is stored once, whatever comes again, and summed up with it."""

import random
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nimbus import usage
from nimbus.base import db
from nimbus.rules.metering import CALLS, UsageEvent, aggregate, merge, quantities, roll_up
from tests.support.metered import (
    END,
    START,
    STORING,
    Contract,
    allow,
    event,
    failed,
    in_test,
    part_of_a_stream,
    proof,
    refused,
    reported,
    rows,
    standing,
    store,
)
from tests.support.metered import (
    quantities as used,
)

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)


def some_calls(contract: Contract, producer: UUID, count: int, seed: int) -> list[UsageEvent]:
    """Calls of every kind, over two days, out of order."""
    choice = random.Random(seed)
    kinds: list[dict[str, Any]] = [
        {},
        {"units": 3},
        {"status": 404},
        reported(assets="25", reports="1"),
        reported(assets="7", reports="0.5"),
        failed(),
        failed(499),
        in_test() | reported(reports="1"),
        part_of_a_stream() | reported(reports="2"),
        refused("rate_limited", 429),
    ]
    return [
        event(
            contract,
            producer,
            sequence,
            START + choice.randrange(172_800_000_000) * MICROSECOND,
            key_id=choice.choice([contract.key_id, contract.route_id]),
            **choice.choice(kinds),
        )
        for sequence in range(1, count + 1)
    ]


async def test_a_stored_call_is_there_with_all_that_was_measured(contract: Contract) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, 1, START, units=2, **reported(reports="1"))])

    [stored] = await rows("SELECT * FROM usage_events")
    assert stored["occurred_at"] == START
    assert stored["organization_id"] == contract.organization_id
    assert stored["provider_organization_id"] == contract.provider_organization_id
    assert (stored["status"], stored["units"], stored["billable"]) == (200, 2, True)
    assert (stored["duration_us"], stored["bytes_in"], stored["bytes_out"]) == (1500, 100, 2000)
    assert (str(stored["ip"]), stored["request_id"]) == ("198.51.100.7", "request-1")
    assert stored["meters"] == {"reports": "1"}
    assert await used(contract) == {CALLS: 2, "reports": 1}


async def test_batches_that_come_again_in_any_cut_and_order_change_nothing(
    contract: Contract, tmp_path: Path
) -> None:
    producer, choice = uuid4(), random.Random(5)
    await allow(contract, 1000, "warn")
    calls = some_calls(contract, producer, 60, seed=5)
    await store(producer, calls)
    before = await rows("SELECT * FROM usage_hours ORDER BY hour, meter_key, status_class")
    counted = await standing(contract)

    for _ in range(20):
        first = choice.randrange(1, 60)
        again = calls[first - 1 : choice.randrange(first, 61)]
        choice.shuffle(again)
        await store_cut(producer, first, again, calls)

    assert await rows("SELECT count(*) FROM usage_events") == [
        {"count": sum(not call.refusal for call in calls)}
    ]
    after = await rows("SELECT * FROM usage_hours ORDER BY hour, meter_key, status_class")
    assert after == before
    assert await standing(contract) == counted
    assert await proof(tmp_path) == []


async def store_cut(
    producer: UUID, first: int, again: list[UsageEvent], calls: list[UsageEvent]
) -> None:
    last = max((calls.index(call) + 1 for call in again), default=first)
    async with db.system_session(STORING) as session:
        await usage.store_batch(session, producer, first, last, again)


async def test_a_batch_may_overlap_what_is_stored_and_go_on_from_there(
    contract: Contract, tmp_path: Path
) -> None:
    producer = uuid4()
    calls = [event(contract, producer, sequence) for sequence in range(1, 31)]

    await store(producer, calls[:10])
    await store(producer, calls[5:20], first=6)
    mark = await store(producer, calls, first=1)

    assert mark == usage.Mark(30, frozenset(), ended=False)
    assert await used(contract) == {CALLS: 30}
    assert await proof(tmp_path) == []


async def test_a_batch_that_leaves_out_slots_is_refused(contract: Contract) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, 1)])

    with pytest.raises(usage.JournalHoleError):
        await store(producer, [event(contract, producer, 3)], first=3)

    assert await used(contract) == {CALLS: 1}


async def test_an_event_of_another_producer_or_slot_is_refused(contract: Contract) -> None:
    producer = uuid4()

    for wrong in (event(contract, uuid4(), 1), event(contract, producer, 9)):
        with pytest.raises(ValueError, match="not of this producer and range"):
            await store(producer, [wrong])

    assert await rows("SELECT * FROM usage_events") == []


async def test_nothing_of_a_batch_stays_when_its_transaction_fails(
    contract: Contract, tmp_path: Path
) -> None:
    producer = uuid4()
    await allow(contract, 10, "deny")
    calls = [event(contract, producer, sequence) for sequence in (1, 2, 3)]

    with pytest.raises(RuntimeError):
        async with db.system_session(STORING) as session:
            await usage.store_batch(session, producer, 1, 3, calls)
            raise RuntimeError("the process ends here")

    assert await rows("SELECT * FROM usage_events") == []
    assert await rows("SELECT * FROM usage_producers") == []
    assert (await standing(contract))["used"] == 0
    await store(producer, calls)
    assert await used(contract) == {CALLS: 3}
    assert await proof(tmp_path) == []


async def test_a_call_that_stays_open_waits_alone_and_is_stored_when_it_ends(
    contract: Contract, tmp_path: Path
) -> None:
    producer = uuid4()
    calls = {sequence: event(contract, producer, sequence) for sequence in range(1, 7)}
    async with db.system_session(STORING) as session:
        done = [calls[sequence] for sequence in (1, 3, 4)]
        mark = await usage.store_batch(session, producer, 1, 4, done, waiting={2})
    assert mark == usage.Mark(4, frozenset({2}), ended=False)
    assert await used(contract) == {CALLS: 3}

    async with db.system_session(STORING) as session:
        done = [calls[sequence] for sequence in (2, 5)]
        mark = await usage.store_batch(session, producer, 2, 6, done, waiting={6})

    assert mark == usage.Mark(6, frozenset({6}), ended=False)
    assert await used(contract) == {CALLS: 5}
    assert await proof(tmp_path) == []


async def test_every_slot_is_accounted_for_by_what_became_of_it(contract: Contract) -> None:
    producer = uuid4()
    calls = [
        event(contract, producer, 1),
        event(contract, producer, 2, **refused("quota_exceeded", 429)),
    ]
    async with db.system_session(STORING) as session:
        await usage.store_batch(session, producer, 1, 5, calls, waiting={4}, corrupt={5})

    [row] = await rows("SELECT * FROM usage_producers")
    counts = [row[name] for name in ("watermark", "served", "refused", "closed", "corrupt")]
    assert counts == [5, 1, 1, 1, 1]
    assert row["waiting"] == [4]


async def test_a_call_at_the_end_of_a_period_belongs_to_the_next_one(contract: Contract) -> None:
    producer = uuid4()
    await allow(contract, 100, "warn")
    instants = [START - MICROSECOND, START, END - MICROSECOND, END, END + MICROSECOND]
    await store(producer, [event(contract, producer, n, at) for n, at in enumerate(instants, 1)])

    assert await used(contract) == {CALLS: 2}
    assert await used(contract, END, END + timedelta(days=30)) == {CALLS: 2}
    assert (await standing(contract))["used"] == 2


@pytest.mark.parametrize("minute", [0, 17, 59])
async def test_periods_that_begin_and_end_within_an_hour_tile_all_calls(
    contract: Contract, minute: int
) -> None:
    producer, choice = uuid4(), random.Random(minute)
    calls = some_calls(contract, producer, 120, seed=minute)
    await store(producer, calls)
    cuts = [START + choice.randrange(172_800) * timedelta(seconds=1) for _ in range(4)]
    cuts += [START + timedelta(hours=30, minutes=minute), choice.choice(calls).occurred_at]
    edges = sorted([START, *cuts, START + timedelta(days=2)])

    parts: Counter[str] = Counter()
    for starts_at, ends_at in pairwise(edges):
        inside = [c for c in calls if starts_at <= c.occurred_at < ends_at]
        found = await used(contract, starts_at, ends_at)
        assert found == expected(inside)
        parts += Counter({key: found[key] for key in found if key != "assets"})

    whole = expected(calls)
    assert {key: value for key, value in whole.items() if key != "assets"} == dict(parts)


def expected(calls: list[UsageEvent]) -> dict[str, Decimal]:
    """What live calls come to, added up one by one."""
    aggregations = {CALLS: "count", "assets": "max", "reports": "sum"}
    served = [call for call in calls if not call.refusal and call.environment == "Live"]
    totals: dict[str, Any] = {}
    for key, cell in roll_up(served).items():
        known = totals.get(key.meter_key)
        totals[key.meter_key] = cell if known is None else merge(known, cell)
    return {key: aggregate(key, aggregations[key], cell) for key, cell in totals.items()}


async def test_tests_failures_and_refusals_are_logged_and_count_for_nothing(
    contract: Contract, tmp_path: Path
) -> None:
    producer = uuid4()
    await allow(contract, 10, "deny")
    extra = reported(reports="5")
    calls = [
        event(contract, producer, 1, **extra),
        event(contract, producer, 2, **in_test(), **extra),
        event(contract, producer, 3, **failed(503), **extra),
        event(contract, producer, 4, **refused("plan_required", 403)),
        event(contract, producer, 5, environment="Test", **extra),
    ]
    await store(producer, calls)

    assert await used(contract) == {CALLS: 1, "reports": 5}
    assert (await standing(contract))["used"] == 1
    logged = await rows("SELECT environment, status, units FROM usage_events ORDER BY sequence")
    assert [tuple(row.values()) for row in logged] == [
        ("Live", 200, 1),
        ("Test", 200, 0),
        ("Live", 503, 0),
        ("Test", 200, 0),
    ]
    [row] = await rows("SELECT code, status, event_id FROM refused_calls")
    assert (row["code"], row["status"], row["event_id"]) == (
        "plan_required",
        403,
        calls[3].event_id,
    )
    assert await proof(tmp_path) == []


async def test_a_long_stream_is_one_call_and_all_that_it_carried(
    contract: Contract, tmp_path: Path
) -> None:
    producer = uuid4()
    parts = [
        event(contract, producer, 1, bytes_out=10, **reported(reports="1")),
        event(
            contract,
            producer,
            2,
            START + timedelta(hours=1),
            **part_of_a_stream(),
            **reported(reports="2"),
        ),
    ]
    await store(producer, parts)
    assert await used(contract) == {CALLS: 1, "reports": 3}
    cells = await rows(
        "SELECT events, bytes_out FROM usage_hours WHERE meter_key = 'api_calls' ORDER BY hour"
    )
    assert [(cell["events"], cell["bytes_out"]) for cell in cells] == [(1, 10), (0, 2000)]
    logged = await rows("SELECT continued FROM usage_events ORDER BY occurred_at")
    assert [row["continued"] for row in logged] == [False, True]
    assert await proof(tmp_path) == []


async def test_a_meter_named_like_the_calls_can_not_be_reported(contract: Contract) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, 1, **reported(api_calls="1000"))])

    assert await used(contract) == {CALLS: 1}


async def test_calls_of_far_months_get_partitions_of_their_own(contract: Contract) -> None:
    producer = uuid4()
    instants = [START.replace(year=2019, month=2), START, START.replace(year=2031, month=12)]
    await store(producer, [event(contract, producer, n, at) for n, at in enumerate(instants, 1)])

    found = await rows(
        "SELECT tableoid::regclass::text AS name FROM usage_events ORDER BY occurred_at"
    )
    assert [row["name"] for row in found] == [
        "usage_events_2019_02",
        "usage_events_2026_05",
        "usage_events_2031_12",
    ]


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_roll_ups_are_the_same_however_calls_are_ordered_and_cut(data: st.DataObject) -> None:
    made = Contract(*(uuid4() for _ in range(7)))
    producer = uuid4()
    calls = [
        c for c in some_calls(made, producer, 40, data.draw(st.integers(0, 99))) if not c.refusal
    ]
    whole = roll_up(calls)

    shuffled = data.draw(st.permutations(calls))
    cut = data.draw(st.integers(0, len(shuffled)))
    joined = roll_up(shuffled[:cut])
    for key, cell in roll_up(shuffled[cut:]).items():
        joined[key] = merge(joined[key], cell) if key in joined else cell

    assert joined == whole
    total = sum(q for call in calls for key, q in quantities(call) if key == CALLS)
    assert total == sum(cell.total for key, cell in whole.items() if key.meter_key == CALLS)
