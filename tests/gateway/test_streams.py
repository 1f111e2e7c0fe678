# SPDX-License-Identifier: Apache-2.0
"""Streams that last: WebSockets, server-sent events, and how their usage is written down."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from nimbus.gateway import door, server
from nimbus.gateway.websocket import METER, accept_of
from nimbus.rules.limits import SECOND
from nimbus.rules.metering import SlotState
from tests.gateway.house import (
    STANDING,
    Caller,
    OpenGate,
    Seen,
    Upstream,
    count_slots,
    open_gate,
    open_upstream,
    product_record,
    request,
    standing_record,
    subscription_record,
    until,
)

pytestmark = pytest.mark.anyio

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
WISH = (
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: " + KEY,
    b"Sec-WebSocket-Protocol: chat",
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def echo(
    _: Upstream, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Open the WebSocket, then send back what comes."""
    accept = accept_of(seen.fields["sec-websocket-key"].encode())
    writer.write(SWITCH + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\nhello")
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def with_websockets(gate: OpenGate, upstream: Upstream, **changes: Any) -> None:
    gate.feed("product", product_record(upstream.port, websockets=True, **changes))


async def opened(caller: Caller) -> None:
    await caller.send(request(b"GET", b"/echo", *WISH))
    answer = await caller.answer()
    assert answer.status == 101
    assert answer["sec-websocket-accept"] == accept_of(KEY).decode()
    assert answer["upgrade"] == "websocket"


async def test_a_websocket_carries_bytes_both_ways_and_is_one_call_with_its_bytes(
    tmp_path: Path,
) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        with_websockets(gate, upstream)
        upstream.script = echo
        async with gate.caller() as caller:
            await opened(caller)
            assert await caller.reader.readexactly(5) == b"hello"
            for number in range(1, 101):
                data = b"%06d" % number * 100
                await caller.send(data)
                assert await caller.reader.readexactly(len(data)) == data
        await until(lambda: count_slots(gate.gate.journal.folder, SlotState.RESERVED) == 0)
        [event] = gate.events()
        assert (event.status, event.billable, event.units) == (101, True, 1)
        assert (event.bytes_in, event.bytes_out) == (60_000, 60_005)
        assert event.meters == ((METER, Decimal(120_005)),)
        fields = upstream.seen[0].fields
        assert fields["upgrade"] == "websocket"
        assert fields["connection"] == "Upgrade"
        assert fields["sec-websocket-protocol"] == "chat"
        assert "authorization" not in fields


async def test_a_product_without_websockets_has_none_and_a_bad_handshake_goes_nowhere(
    tmp_path: Path,
) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        assert (await gate.ask(b"GET", b"/echo", *WISH)).code == "not_implemented"
        with_websockets(gate, upstream)
        bad = [line.replace(b"Version: 13", b"Version: 8") for line in WISH]
        assert (await gate.ask(b"GET", b"/echo", *bad)).code == "malformed_request"
        assert upstream.seen == []


@pytest.mark.parametrize(
    "answer",
    [
        SWITCH + b"Sec-WebSocket-Accept: " + accept_of(b"other") + b"\r\n\r\n",
        SWITCH + b"\r\n",
        SWITCH.replace(b"websocket", b"h2c") + b"\r\n",
    ],
)
async def test_an_upstream_that_switches_to_something_else_is_no_upstream(
    tmp_path: Path, answer: bytes
) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        with_websockets(gate, upstream)
        upstream.say(answer)
        assert (await gate.ask(b"GET", b"/echo", *WISH)).code == "upstream_unreachable"
        [event] = gate.events()
        assert not event.billable


async def test_an_upstream_may_say_no_to_a_websocket_and_is_heard(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        with_websockets(gate, upstream)
        upstream.say(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        answer = await gate.ask(b"GET", b"/echo", *WISH)
        assert (answer.status, answer.body) == (403, b"no")


async def test_a_switch_that_nobody_asked_for_is_a_fault_of_the_upstream(tmp_path: Path) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        with_websockets(gate, upstream)
        upstream.say(SWITCH + b"Sec-WebSocket-Accept: " + accept_of(KEY) + b"\r\n\r\n")
        assert (await gate.ask(b"GET", b"/echo")).code == "upstream_unreachable"


@pytest.mark.parametrize("who", ["caller", "upstream"])
async def test_when_one_side_of_a_websocket_ends_so_does_the_other(
    tmp_path: Path, who: str
) -> None:
    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        with_websockets(gate, upstream)
        upstream.script = echo
        async with gate.caller() as caller:
            await opened(caller)
            await caller.reader.readexactly(5)
            if who == "caller":
                caller.writer.close()
                await until(upstream.writers[0].is_closing)
            else:
                upstream.writers[0].close()
                assert await caller.closed()
        await until(lambda: count_slots(gate.gate.journal.folder, SlotState.RESERVED) == 0)
        [event] = gate.events()
        assert (event.status, event.units) == (101, 1)


async def test_a_websocket_whose_caller_does_not_read_holds_its_upstream_back(
    tmp_path: Path,
) -> None:
    poured = 0

    async def pour(
        _: Upstream, seen: Seen, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal poured
        accept = accept_of(seen.fields["sec-websocket-key"].encode())
        writer.write(SWITCH + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65536)
            await writer.drain()
            poured += 65536

    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        with_websockets(gate, upstream)
        upstream.script = pour
        async with gate.caller() as caller:
            await opened(caller)
            [connection] = gate.door.connections
            await until(lambda: connection._full)
            await until(lambda: not _flows(lambda: poured))
            transport = connection._transport
            assert transport is not None
            assert transport.get_write_buffer_size() < 256 * 1024
            caller.reset()
            await until(lambda: count_slots(gate.gate.journal.folder, SlotState.RESERVED) == 0)


_last: list[int] = []


def _flows(amount: Any) -> bool:
    """Whether it has changed over the last looks."""
    _last.append(amount())
    return len(_last) < 20 or len(set(_last[-20:])) > 1


async def test_a_long_stream_is_written_down_in_parts_that_are_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "PART_SECONDS", 0)
    more = asyncio.Event()

    async def stream(
        _: Upstream, __: Seen, ___: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(EVENTS + b"5\r\nfirst\r\n")
        await more.wait()
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        gate.house.left[STANDING] = 10
        gate.feed("subscription", subscription_record(standings=[standing_record(10)]))
        upstream.script = stream
        async with gate.caller() as caller:
            await caller.send(request(b"GET", b"/echo"))
            await caller.reader.readuntil(b"first\r\n")
            gate.door.sweep()
            await until(lambda: len(gate.events()) == 1)
            more.set()
            assert (await caller.reader.readuntil(b"0\r\n\r\n")).startswith(b"6\r\nsecond")
        first, second = gate.events()
        assert (first.units, first.leased, first.bytes_out, first.continued) == (1, 1, 5, False)
        assert (second.units, second.leased, second.bytes_out, second.continued) == (0, 0, 6, True)
        assert second.billable
        assert first.request_id == second.request_id
        assert gate.house.left[STANDING] + gate.house.lent[STANDING] == 10


async def test_events_are_passed_on_one_by_one(tmp_path: Path) -> None:
    steps = [asyncio.Event() for _ in range(3)]

    async def stream(
        _: Upstream, __: Seen, ___: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(EVENTS)
        for number, step in enumerate(steps):
            await step.wait()
            writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
        writer.write(b"0\r\n\r\n")

    async with open_upstream() as upstream, open_gate(tmp_path, upstream.port) as gate:
        upstream.script = stream
        async with gate.caller() as caller:
            await caller.send(request(b"GET", b"/echo"))
            await caller.reader.readuntil(b"\r\n\r\n")
            for number, step in enumerate(steps):
                step.set()
                await caller.reader.readuntil(b"data: %d\n\n\r\n" % number)
            assert await caller.reader.readexactly(5) == b"0\r\n\r\n"


async def test_each_byte_of_a_body_buys_time_and_a_single_one_not_much(tmp_path: Path) -> None:
    async with (
        open_upstream() as upstream,
        open_gate(tmp_path, upstream.port) as gate,
        gate.caller() as caller,
    ):
        await caller.send(request(b"POST", b"/echo", b"Content-Length: 1000"))
        await until(lambda: len(upstream.seen) == 1)
        [connection] = gate.door.connections
        connection.deadline -= 20 * SECOND
        before = connection.deadline
        await caller.send(b"x")
        await until(lambda: connection.deadline > before)
        assert connection.deadline == before + SECOND // server.BODY_RATE
        connection.deadline = 1
        gate.door.sweep()
        assert (await caller.answer()).code == "request_timeout"


async def test_an_address_has_so_many_connections_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_PER_ADDRESS", 2)
    async with (
        open_upstream() as upstream,
        open_gate(tmp_path, upstream.port) as gate,
        gate.caller() as one,
        gate.caller() as two,
    ):
        for each in (one, two):
            await each.send(request(b"GET", b"/echo"))
            assert (await each.answer()).status == 200
        async with gate.caller() as three:
            refused = await three.answer()
            assert (refused.status, refused.code) == (503, "unavailable")
            assert await three.closed()
        two.writer.close()
        await until(lambda: len(gate.door.connections) == 1)
        assert (await gate.ask(b"GET", b"/echo")).status == 200
