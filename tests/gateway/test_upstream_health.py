# SPDX-License-Identifier: Apache-2.0
"""An upstream that fails is left alone; one that is slow gets only so many calls at a time."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from nimbus.rules.breaker import FAILURES_TO_OPEN
from tests.gateway.house import (
    PRODUCT,
    Seen,
    Upstream,
    open_gate,
    open_upstream,
    product_record,
    request,
    until,
)

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_HTTP = b"nonsense\r\n\r\n"
NEIGHBOUR = UUID(int=555)


async def test_after_ten_failures_in_a_row_nobody_waits_for_a_dead_upstream(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        upstream.say(NO_HTTP, close=True)
        for _ in range(FAILURES_TO_OPEN):
            assert (await gate.ask(b"GET", b"/echo")).status == 502
        refused = await gate.ask(b"GET", b"/echo")
        assert (refused.status, refused.code) == (502, "upstream_unreachable")
        assert int(refused["retry-after"]) >= 1
        assert len(upstream.seen) == FAILURES_TO_OPEN, "the last one was not even tried"
        [told] = [event for event in gate.events() if event.refusal]
        assert (told.refusal, told.billable, told.units) == ("upstream_unreachable", False, 0)


async def test_once_it_answers_again_it_gets_its_calls_again(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        upstream.say(NO_HTTP, close=True)
        for _ in range(FAILURES_TO_OPEN):
            await gate.ask(b"GET", b"/echo")
        upstream.script = None
        async with asyncio.timeout(30):
            while (await gate.ask(b"GET", b"/echo")).status != 200:
                pass
        assert (await gate.ask(b"GET", b"/echo")).status == 200


async def test_an_upstream_s_own_errors_are_answers_and_open_nothing(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        upstream.say(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        for _ in range(2 * FAILURES_TO_OPEN):
            assert (await gate.ask(b"GET", b"/echo")).status == 503
        assert len(upstream.seen) == 2 * FAILURES_TO_OPEN


async def test_a_neighbour_at_the_same_address_hears_nothing_of_it(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        gate.feed("product", product_record(upstream.port, id=str(NEIGHBOUR), slug="other"))
        upstream.say(NO_HTTP, close=True)
        for _ in range(FAILURES_TO_OPEN + 1):
            await gate.ask(b"GET", b"/echo")
        lanes = gate.door.pool.lanes
        assert {place[0]: lane.breaker.failures for place, lane in lanes.items()} == {
            f"{PRODUCT}/Live": FAILURES_TO_OPEN
        }
        other = gate.gate.state.product(b"other")
        assert other is not None
        assert (
            gate.door.pool.lane(other.upstreams["Live"]).refusal(other.upstreams["Live"], 0) is None
        )


async def test_only_so_many_calls_are_under_way_at_an_upstream(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(
        _: Upstream, __: Seen, ___: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await go.wait()
        writer.write(OK)

    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        record = product_record(upstream.port)
        record["upstreams"]["Live"]["max_concurrent"] = 2
        gate.feed("product", record)
        upstream.script = slow
        async with gate.caller() as one, gate.caller() as two:
            await one.send(request(b"GET", b"/echo"))
            await two.send(request(b"GET", b"/echo"))
            await until(lambda: len(upstream.seen) == 2)
            refused = await gate.ask(b"GET", b"/echo")
            assert (refused.status, refused.code) == (503, "unavailable")
            assert refused.has("retry-after")
            go.set()
            assert [(await each.answer()).status for each in (one, two)] == [200, 200]
        assert (await gate.ask(b"GET", b"/echo")).status == 200
        assert len(upstream.seen) == 3
