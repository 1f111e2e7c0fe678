# SPDX-License-Identifier: Apache-2.0
"""Units in an upstream's answer: in its JSON, in the last event of a stream, however it is cut."""

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest

from nimbus.gateway import tap as module
from nimbus.gateway.head import read_response
from nimbus.gateway.tap import DOCUMENT_MAX, EVENT_MAX, Tap, open_tap
from nimbus.rules.meters import read_path
from tests.gateway.house import OpenGate, Upstream, product_record, request, until
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

TAPS = (("tokens", read_path("usage.total_tokens")), ("size", read_path("$.data[1].size")))
RECORDS = [
    {"meter": "tokens", "path": "usage.total_tokens"},
    {"meter": "size", "path": "data[1].size"},
]
USED = {"usage": {"total_tokens": 532}, "data": [{"size": 1}, {"size": 0.25}]}
FOUND = (("tokens", Decimal(532)), ("size", Decimal("0.25")))
JSON, STREAM = b"Content-Type: application/json", b"Content-Type: text/event-stream"


def opened(*lines: bytes) -> Tap | None:
    """The tap on an answer with these header lines."""
    data = bytearray(b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n")
    head = read_response(data, b"GET")
    assert head is not None
    return open_tap(TAPS, head)


def read(kind: bytes, pieces: Iterable[bytes], *lines: bytes) -> tuple[Any, str]:
    """What a tap finds in these pieces, and its trouble."""
    tap = opened(kind, *lines)
    assert tap is not None
    for piece in pieces:
        tap.take(memoryview(piece))
    found = tap.found()
    return found, tap.trouble


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def cut(soak_random: Any, text: bytes) -> list[bytes]:
    """The text in pieces."""
    ends = sorted(soak_random.choices(range(len(text) + 1), k=soak_random.randrange(12)))
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def test_the_units_of_a_document_are_found_however_it_is_cut(soak: Soak) -> None:
    choice, text = soak.random, json.dumps(USED).encode()
    for _ in range(soak.count(50, 2000)):
        assert read(JSON, cut(choice, text)) == (FOUND, "")
    assert read(b"Content-Type: application/vnd.wind+json; charset=utf-8", [text]) == (FOUND, "")


@pytest.mark.parametrize(
    "document",
    [{}, [], 7, None, {"usage": 7}, {"usage": {"total_tokens": None}}, {"data": [{"size": 1}]}],
)
def test_a_document_without_them_reports_nothing(document: Any) -> None:
    assert read(JSON, [json.dumps(document).encode()]) == ((), "")


@pytest.mark.parametrize(
    "value", ["-1", "true", '"532"', "1e99", "NaN", "1" * 16, "0.1234567890123"]
)
def test_what_is_no_quantity_is_not_counted(value: str) -> None:
    found, _ = read(JSON, [b'{"usage": {"total_tokens": %b}}' % value.encode()])
    assert found == ()


@pytest.mark.parametrize(
    ("text", "why"), [(b"{", "no_json"), (b"[" * 99_999, "no_json"), (b"", "")]
)
def test_what_can_t_be_read_is_told(text: bytes, why: str) -> None:
    assert read(JSON, [text]) == ((), why)


def test_a_document_beyond_the_bound_is_let_go() -> None:
    text = json.dumps(USED).encode()
    fits = text + b" " * (DOCUMENT_MAX - len(text))
    assert read(JSON, [fits]) == (FOUND, "")
    assert read(JSON, [fits, b" "]) == ((), "too_long")
    assert read(JSON, [fits[:-1], b"  ", b"x" * 9]) == ((), "too_long")


def test_other_answers_are_not_read_and_compressed_ones_are_told() -> None:
    assert opened(b"Content-Type: text/html") is None
    assert opened() is None
    for kind in (JSON, STREAM):
        assert read(kind, [b"\x1f\x8b"], b"Content-Encoding: gzip") == ((), "compressed")
    assert read(JSON, [json.dumps(USED).encode()], b"Content-Encoding: identity") == (FOUND, "")


def test_the_last_event_that_has_them_counts_however_the_stream_is_cut(soak: Soak) -> None:
    choice = soak.random
    early = {"usage": {"total_tokens": 7}, "data": [0, {"size": 9}]}
    stream = b": hello\n\n" + event({"delta": 'say "total_tokens"'}) + event(early)
    stream += b"event: usage\nid: 3\n" + event(USED) + event({"usage": None}) + b"data: [DONE]\n\n"
    for end in (b"\n", b"\r\n", b"\r"):
        text = stream.replace(b"\n", end)
        for _ in range(soak.count(40, 2000)):
            assert read(STREAM, cut(choice, text)) == (FOUND, "")
    assert read(STREAM, [event(USED).rstrip(b"\n")]) == (FOUND, "")


def test_the_data_of_an_event_may_stand_on_several_lines() -> None:
    lines = json.dumps(USED, indent=1).encode().splitlines()
    assert read(STREAM, [b"".join(b"data:%b\n" % line for line in lines) + b"\n"]) == (FOUND, "")


def test_an_event_beyond_the_bound_is_let_go_and_the_next_one_counts() -> None:
    long = b"data: " + b"x" * (EVENT_MAX + 1)
    for pieces in (
        [long + b"\n\n", event(USED)],
        [long, b"y" * 99, b"\n\n", event(USED)],
        [b"data: x\n" * (EVENT_MAX + 1) + b"\n", event(USED)],
    ):
        assert read(STREAM, pieces) == (FOUND, "too_long")


def test_no_more_is_kept_of_a_stream_than_its_bound() -> None:
    tap = opened(STREAM)
    assert isinstance(tap, module._Stream)
    for _ in range(100):
        tap.take(b"x" * EVENT_MAX)
        assert len(tap._rest) + sum(map(len, tap._data)) <= 2 * EVENT_MAX


def feed(gate: OpenGate, upstream: Upstream, records: Any = RECORDS) -> None:
    gate.feed("product", product_record(upstream.port, taps=records))


def answer(body: bytes, *lines: bytes) -> bytes:
    head = b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"Content-Length: %d" % len(body)))
    return head + b"\r\n\r\n" + body


async def test_a_call_is_written_down_with_what_its_answer_says(
    gate: OpenGate, upstream: Upstream
) -> None:
    feed(gate, upstream)
    body = json.dumps(USED).encode()
    for said, meters in (
        (answer(body, JSON), FOUND),
        (answer(body, JSON, b"X-Nimbus-Usage: size=3"), (("size", Decimal(3)), FOUND[0])),
        (answer(body, JSON, b"Content-Encoding: gzip"), ()),
        (answer(body, b"Content-Type: text/plain"), ()),
        (answer(b"", JSON), ()),
    ):
        upstream.say(said)
        for _ in range(3):  # the way of usual calls must not be taken
            heard = await gate.ask(b"GET", b"/echo")
            assert (heard.status, heard.body) == (200, said.partition(b"\r\n\r\n")[2])
            assert gate.events()[-1].meters == meters


async def test_a_stream_s_call_has_what_its_last_event_says_though_the_caller_leaves(
    gate: OpenGate, upstream: Upstream
) -> None:
    feed(gate, upstream)
    head = b"HTTP/1.1 200 OK\r\n" + STREAM + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    text = event({"delta": "a"}) + event(USED)
    chunk = b"%x\r\n%b\r\n" % (len(text), text)
    upstream.say(head, chunk[:20], chunk[20:], b"0\r\n\r\n")
    assert (await gate.ask(b"GET", b"/echo")).body == text
    assert gate.events()[-1].meters == FOUND

    upstream.say(head, chunk)
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo"))
        await caller.reader.readuntil(b"total_tokens")
        caller.reset()
    await until(lambda: len(gate.events()) == 2)
    assert gate.events()[-1].meters == FOUND


async def test_answers_that_break_off_or_stand_nowhere_report_nothing(
    gate: OpenGate, upstream: Upstream
) -> None:
    feed(gate, upstream, [{"meter": "tokens", "path": "a..b"}, {"meter": "size"}, *RECORDS])
    body = json.dumps(USED).encode()
    upstream.say(answer(body + b" " * 9, JSON)[:-9], close=True)
    async with gate.caller() as caller:
        await caller.send(request(b"GET", b"/echo"))
        assert (await caller.reader.read()).endswith(body)
    [event_] = gate.events()
    assert (event_.meters, event_.billable) == ((), False)
    upstream.say(answer(body, JSON))
    await gate.ask(b"GET", b"/echo")
    assert gate.events()[-1].meters == FOUND
