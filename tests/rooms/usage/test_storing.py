# SPDX-License-Identifier: Apache-2.0
"""What is stored from arrays is what is stored call by call; folding and dropping change no sum."""

from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import usage
from nimbus.base import db
from nimbus.rules.blocks import Block, read_block
from nimbus.rules.metering import CALLS, SLOT_SIZE, UsageEvent, decode_slot
from tests.support.metered import (
    END,
    START,
    STORING,
    Contract,
    allow,
    event,
    proof,
    quantities,
    refused,
    reported,
    rows,
    standing,
    store,
)
from tests.support.slots import some_slots
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

COUNT = 120
LATER = END + timedelta(days=120)
OWN = "row_to_json(t)::jsonb - '{created_at,updated_at,id}'::text[]"
STORED = {
    "usage_events": OWN,
    "refused_calls": OWN,
    "quota_standings": OWN,
    "spend_standings": OWN,
    "rated_periods": OWN,
    "usage_producers": OWN,
}
CELLS = """
    SELECT organization_id, subscription_id, product_id, key_id, route_id, status_class,
           environment, {at}, meter_key, sum(events) AS events, sum(quantity_sum) AS total,
           max(quantity_max) AS peak,
           (array_agg(quantity_last ORDER BY last_at DESC, last_event_id DESC))[1] AS last,
           max(last_at) AS last_at, sum(duration_us) AS duration_us, sum(bytes_in) AS bytes_in,
           sum(bytes_out) AS bytes_out,
           latency_merge(string_to_array(string_agg(array_to_string(latency, ','), ',')
               FILTER (WHERE latency <> '{{}}'), ',')::bigint[]) AS latency
    FROM {view} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""


def owners(contract: Contract) -> list[dict[str, UUID]]:
    """The contract's organization with two keys."""
    ids = {
        "organization_id": contract.organization_id,
        "provider_organization_id": contract.provider_organization_id,
        "subscription_id": contract.subscription_id,
        "product_id": contract.product_id,
        "route_id": contract.route_id,
    }
    return [{**ids, "key_id": contract.key_id}, {**ids, "key_id": contract.route_id}]


async def everything(session: AsyncSession) -> dict[str, Any]:
    """All that storing writes, but for when."""
    found: dict[str, Any] = {}
    for table, row in STORED.items():
        statement = f"SELECT {row} AS r FROM {table} t ORDER BY 1"
        found[table] = list(await session.scalars(text(statement)))
    for view, at in (("usage_hours", "hour"), ("usage_days", "day")):
        cells = await session.execute(text(CELLS.format(view=view, at=at)))
        found[view] = [tuple(cell) for cell in cells]
    return found


class UndoneError(Exception):
    """Nothing of a transaction is to stay."""


async def stored_as(
    producer: UUID,
    events: list[UsageEvent],
    block: Block | None = None,
    ready: usage.Ready | None = None,
) -> Any:
    """What there would be when these calls were stored; nothing stays of it."""
    found: dict[str, Any] = {}
    with suppress(UndoneError):  # what was announced goes with it
        async with db.system_session(STORING) as session:
            await usage.store_batch(session, producer, 1, COUNT, events, block=block, ready=ready)
            found = await everything(session)
            raise UndoneError
    return found


async def test_calls_stored_from_arrays_are_stored_as_one_by_one(
    contract: Contract, tmp_path: Path, soak: Soak
) -> None:
    choice = soak.random
    await allow(contract, 10_000, "warn")
    for _ in range(soak.count(3, 200)):
        producer = UUID(int=choice.getrandbits(128))
        data = some_slots(choice, owners(contract), producer, COUNT)
        pieces = [data[at : at + SLOT_SIZE] for at in range(0, len(data), SLOT_SIZE)]
        slots = [decode_slot(piece, n, producer) for n, piece in enumerate(pieces, 1)]
        calls = [slot.record for slot in slots if slot.record is not None]
        block = read_block(data, 1, COUNT, producer)

        ready = usage.make_ready(block)
        quick = await stored_as(producer, [], block)
        ahead = await stored_as(producer, [], block, ready)
        slow = await stored_as(producer, calls)

        for part, expected in slow.items():
            assert quick[part] == expected, part
            assert ahead[part] == expected, part
        async with db.system_session(STORING) as session:  # some, then all of it worked out before
            some = choice.randrange(1, COUNT)
            await usage.store_batch(
                session,
                producer,
                1,
                some,
                [slot.record for slot in slots[:some] if slot.record is not None],
            )
        async with db.system_session(STORING) as session:
            await usage.store_batch(session, producer, 1, COUNT, [], block=block, ready=ready)
        async with db.system_session(STORING) as session:  # again, in another cut, by the other way
            await usage.store_batch(session, producer, 1, COUNT, calls)
    assert await proof(tmp_path) == []


async def test_folding_what_was_appended_changes_no_sum_however_it_is_cut(
    contract: Contract, tmp_path: Path, soak: Soak
) -> None:
    choice, producer = soak.random, uuid4()
    for number in range(4):
        first = 1 + number * 30
        calls = [
            event(
                contract,
                producer,
                first + one,
                START + choice.randrange(3 * 86_400) * timedelta(seconds=1),
                duration_us=choice.randrange(1 << 20),
                **choice.choice([{}, {"status": 404}, reported(assets=str(one))]),
            )
            for one in range(30)
        ]
        await store(producer, calls, first)
        async with db.system_session(STORING) as session:
            before = await everything(session)
        async with db.system_session(STORING) as session:
            await usage.fold(session, choice.randrange(1, 60))
        async with db.system_session(STORING) as session:
            assert await everything(session) == before

    async with db.system_session(STORING) as session:
        await usage.fold(session)
    assert await rows("SELECT count(*) FROM usage_deltas") == [{"count": 0}]
    assert await proof(tmp_path) == []


async def test_a_histogram_that_grows_long_is_added_up(contract: Contract) -> None:
    producer = uuid4()
    for sequence in range(1, 81):
        call = event(contract, producer, sequence, duration_us=1 << sequence % 20)
        await store(producer, [call], sequence)
        async with db.system_session(STORING) as session:
            await usage.fold(session)

    [cell] = await rows("SELECT cardinality(latency) AS n, events FROM usage_hourly")
    assert cell["events"] == 80
    assert cell["n"] <= 65


async def test_a_month_is_dropped_and_every_sum_stays(contract: Contract, tmp_path: Path) -> None:
    producer, cut = uuid4(), START + timedelta(days=9, hours=10, minutes=30)
    await rows_changed(
        "UPDATE quota_standings SET period_ends_at = :cut WHERE period_starts_at = :start",
        cut=cut,
        start=START,
    )
    minute = timedelta(minutes=1)
    instants = [START, cut - 20 * minute, cut - minute, cut, cut + minute, cut + 60 * minute]
    calls = [event(contract, producer, n, at) for n, at in enumerate(instants, 1)]
    await store(producer, [*calls, event(contract, producer, 7, cut, **refused("blocked", 403))])
    periods = [(START, END), (START, cut), (cut, END)]
    before = [await quantities(contract, *period) for period in periods]
    counted = await standing(contract)

    async with db.system_session(STORING) as session:
        assert await usage.retire(session, LATER, 365) == 0
        assert await usage.retire(session, LATER, 62) == 6

    assert before == [{CALLS: Decimal(n)} for n in (6, 3, 3)]
    assert [await quantities(contract, *period) for period in periods] == before
    assert await standing(contract) == counted
    for table in ("usage_events", "refused_calls"):
        assert await rows(f"SELECT count(*) FROM {table}") == [{"count": 0}]
    assert await rows("SELECT served, refused FROM usage_retired") == [{"served": 6, "refused": 1}]
    assert await proof(tmp_path) == []

    await store(producer, [event(contract, producer, 8, cut)], 8)  # a call that comes very late
    assert await quantities(contract, cut, END) == {CALLS: 4}
    async with db.system_session(STORING) as session:
        assert await usage.retire(session, LATER, 62) == 1
    assert await quantities(contract, cut, END) == {CALLS: 4}


async def rows_changed(statement: str, **values: Any) -> None:
    async with db.system_session(STORING) as session:
        await session.execute(text(statement), values)


async def test_a_month_that_is_not_wholly_rolled_up_is_not_dropped(contract: Contract) -> None:
    producer = uuid4()
    await store(producer, [event(contract, producer, 1)])
    await rows_changed("DELETE FROM usage_deltas")

    with pytest.raises(DBAPIError, match="rolled up"):
        async with db.system_session(STORING) as session:
            await usage.retire(session, LATER, 62)

    assert await rows("SELECT count(*) FROM usage_events") == [{"count": 1}]


async def test_addresses_are_cut_after_their_days_and_not_before(contract: Contract) -> None:
    producer = uuid4()
    calls = [
        event(contract, producer, 1, START),
        event(contract, producer, 2, START + timedelta(days=20)),
        event(contract, producer, 3, START, **refused("blocked", 403)),
    ]
    await store(producer, calls)

    for everything_again in (False, True):
        async with db.system_session(STORING) as session:
            await usage.cut_addresses(
                session, START + timedelta(days=35), 30, everything=everything_again
            )

    found = await rows("SELECT ip::text, sequence FROM usage_events ORDER BY sequence")
    assert [row["ip"] for row in found] == ["198.51.100.0/24", "198.51.100.7/32"]
    assert [row["ip"] for row in await rows("SELECT ip::text FROM refused_calls")] == [
        "198.51.100.0/24"
    ]
