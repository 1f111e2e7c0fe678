# SPDX-License-Identifier: Apache-2.0
"""What the gateway writes down as billed is what the published table says, outcome by outcome."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from itertools import product

import pytest

from nimbus.rules.billable import BELOW_500, End, billable, read_statuses
from nimbus.rules.metering import Environment
from tests.gateway.house import (
    KEY,
    STANDING,
    TEST_KEY,
    OpenGate,
    Seen,
    Upstream,
    product_record,
    request,
    route,
    standing_record,
    subscription_record,
    until,
)

pytestmark = pytest.mark.anyio

KEYS: dict[Environment, bytes] = {"Live": KEY, "Test": TEST_KEY}
LISTS = (None, ["2xx", "404"])
STATUSES = (200, 204, 302, 304, 404, 429, 499, 500, 503, 599)
Act = Callable[[OpenGate, Upstream, bytes], Awaitable[None]]


def whole(status: int) -> bytes:
    length = b"" if status in {204, 304} else b"Content-Length: 2\r\n"
    body = b"" if status in {204, 304} else b"ok"
    return b"HTTP/1.1 %d X\r\n%s\r\n%s" % (status, length, body)


def begun(status: int) -> bytes:
    """An answer whose end does not come."""
    return b"HTTP/1.1 %d X\r\nContent-Length: 9\r\n\r\nabc" % status


async def hang(
    _: Upstream, __: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Say nothing until the gate gives up."""
    await reader.read()
    writer.close()


def answers(status: int) -> Act:
    async def act(gate: OpenGate, upstream: Upstream, key: bytes) -> None:
        upstream.say(whole(status))
        assert (await gate.ask(b"GET", b"/echo", key=key)).status == status

    return act


def caller_leaves(status: int | None) -> Act:
    async def act(gate: OpenGate, upstream: Upstream, key: bytes) -> None:
        before = len(upstream.seen)
        if status is None:
            upstream.script = hang
        else:
            upstream.say(begun(status))
        async with gate.caller() as caller:
            await caller.send(request(b"GET", b"/echo", key=key))
            if status is None:
                await until(lambda: len(upstream.seen) > before, 30)
            else:
                await caller.reader.readuntil(b"abc")
            caller.reset()

    return act


def request_breaks(status: int | None) -> Act:
    async def act(gate: OpenGate, upstream: Upstream, key: bytes) -> None:
        upstream.read_bodies = False
        before = len(upstream.seen)
        if status is None:
            upstream.script = hang
        else:
            upstream.say(begun(status))
        async with gate.caller() as caller:
            await caller.send(request(b"POST", b"/echo", b"Transfer-Encoding: chunked", key=key))
            await caller.send(b"3\r\nabc\r\n")
            if status is None:
                await until(lambda: len(upstream.seen) > before, 30)
            else:
                await caller.reader.readuntil(b"abc")
            await caller.send(b"no chunk\r\n")
            await caller.reader.read()

    return act


async def is_refused(gate: OpenGate, _: Upstream, key: bytes) -> None:
    assert (await gate.ask(b"GET", b"/scoped", key=key)).status == 403


async def finds_nobody(gate: OpenGate, _: Upstream, key: bytes) -> None:
    assert (await gate.ask(b"GET", b"/echo", key=key)).code == "upstream_unreachable"


async def waits_too_long(gate: OpenGate, upstream: Upstream, key: bytes) -> None:
    upstream.script = hang
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo", key=key))
        answer = asyncio.create_task(caller.answer())

        def swept() -> bool:
            gate.door.sweep()
            return answer.done()

        await until(swept, 30)
        assert (await answer).code == "upstream_timeout"


async def is_cut_off(gate: OpenGate, upstream: Upstream, key: bytes) -> None:
    upstream.say(begun(200), close=True)
    assert (await gate.ask(b"GET", b"/echo", key=key)).body is None


async def reads_nonsense(gate: OpenGate, upstream: Upstream, key: bytes) -> None:
    upstream.say(b"SMTP/1.0 220 hello\r\n\r\n", close=True)
    assert (await gate.ask(b"GET", b"/echo", key=key)).status == 502


OUTCOMES: list[tuple[End, int | None, Act]] = [
    *(("answered", status, answers(status)) for status in STATUSES),
    *(("caller_left", status, caller_leaves(status)) for status in (None, 200, 404, 429, 500)),
    *(("request_broken", status, request_breaks(status)) for status in (None, 200, 404, 429, 500)),
    ("refused", None, is_refused),
    ("unreachable", None, finds_nobody),
    ("timeout", None, waits_too_long),
    ("broken_off", 200, is_cut_off),
    ("broken_off", None, reads_nonsense),
]


def prepare(gate: OpenGate, upstream: Upstream, act: Act, statuses: list[str] | None) -> None:
    """Let the product bill these statuses, and its upstream be as the act needs it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    port = nobody if act is finds_nobody else upstream.port
    record = product_record(port, billable_statuses=statuses)
    if act is waits_too_long:
        for place in record["upstreams"].values():
            place["answer_timeout_ms"] = 1
    record["routes"] = [
        route("GET", "/echo"),
        route("POST", "/echo"),
        route("GET", "/scoped", scope="wind.write"),
    ]
    gate.feed("product", record)
    upstream.script, upstream.read_bodies = None, True


def test_the_outcomes_are_enough_and_of_every_end() -> None:
    assert len(OUTCOMES) * len(KEYS) * len(LISTS) >= 60
    assert {end for end, _, _ in OUTCOMES} == set(End.__args__)


@pytest.mark.parametrize("end", End.__args__)
async def test_each_outcome_is_billed_as_the_table_says(
    gate: OpenGate, upstream: Upstream, end: End
) -> None:
    outcomes = [(status, act) for which, status, act in OUTCOMES if which == end]
    cells = list(product(outcomes, KEYS, LISTS))
    gate.feed("subscription", subscription_record(standings=[standing_record(1000)]))
    gate.house.left[STANDING] = 1000

    for (_, act), environment, statuses in cells:
        prepare(gate, upstream, act, statuses)
        await act(gate, upstream, KEYS[environment])

    await until(lambda: len(gate.events()) == len(cells), 30)
    for event, ((status, _), environment, statuses) in zip(gate.events(), cells, strict=True):
        cell = (status, environment, statuses)
        bills = BELOW_500 if statuses is None else read_statuses(statuses)
        billed = billable(end, status, environment, bills)
        assert event.billable is billed, cell
        assert (event.units, event.leased) == ((1, 1) if billed else (0, 0)), cell
        assert event.environment == environment
        assert bool(event.refusal) == (end in {"refused", "unreachable"}), cell
        if end in {"answered", "caller_left", "request_broken"} and status is not None:
            assert event.status == status, cell
