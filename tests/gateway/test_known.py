# SPDX-License-Identifier: Apache-2.0
"""What is known by its bytes is what a careful reading finds, and nothing secret is remembered."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.gateway import head
from nimbus.gateway.head import (
    BadMessageError,
    HeadReader,
    RequestHead,
    ResponseHead,
    known_answer,
    known_request,
    read_response,
)
from tests.gateway.house import KEY, UNKNOWN_KEY

CORPUS = Path(__file__).parents[1] / "cases" / "http_corpus.json"
TABLES = (head._lines, head._blocks, head._fields_read, head._answers)


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    for table in TABLES:
        table.clear()  # type: ignore[attr-defined]


def careful(data: bytes) -> tuple[RequestHead | None, bytes] | str:
    """The first head by the careful reader alone, and what is left; or the code of a refusal."""
    kept = [dict(table) for table in TABLES]  # type: ignore[call-overload]
    forget()
    reader = HeadReader()
    reader.buffer += data
    try:
        return reader.next(), bytes(reader.buffer)
    except BadMessageError as error:
        return error.code
    finally:
        for table, rows in zip(TABLES, kept, strict=True):
            table.update(rows)  # type: ignore[attr-defined]


def agrees(data: bytes) -> bool:
    """Whether these bytes are known; what is known has to be what a careful reading finds."""
    found = known_request(data)
    if found is None:
        return False
    assert careful(data) == (found, data[found.size :])
    return True


def learn(data: bytes) -> None:
    """Read this once, as a connection would."""
    reader = HeadReader()
    reader.buffer += data
    try:
        while reader.next() is not None:
            pass
    except BadMessageError:
        pass


LINES = [
    b"GET /a HTTP/1.1",
    b"POST /a/%7Eb HTTP/1.1",
    b"GET /a HTTP/1.0",
    b"HEAD /a?b=%20 HTTP/1.1",
]
FIELDS = [
    b"Host: gw.test",
    b"host:gw.test:80",
    b"Authorization: Bearer " + KEY,
    b"Authorization: Bearer " + UNKNOWN_KEY + b" ",
    b"Authorization: Bearer a\x00b",
    b"authorization: Bearer " + UNKNOWN_KEY,
    b"X-API-Key: " + KEY,
    b"Cookie: session=" + KEY,
    b"Accept: */*",
    b"Accept:\t*/* ",
    b"Connection: close, X-Hop",
    b"X-Hop: 1",
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Upgrade: websocket",
    b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    b"X-Odd: \xff",
    b"X-Bad: a\nb",
    b"no colon",
    b"",
]
lines = st.sampled_from(LINES)
blocks = st.lists(st.sampled_from(FIELDS), max_size=7)
requests = st.tuples(lines, blocks).map(lambda parts: b"\r\n".join((parts[0], *parts[1], b"", b"")))
mutations = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([b"", b"\r", b"\n", b"\0", b" ", b":", b"x"])),
    max_size=2,
)


def mutated(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for place, byte in changes:
        at = place % (len(data) + 1)
        data = data[:at] + byte + data[at + (place % 2) :]
    return data


@given(
    st.lists(requests, min_size=1, max_size=3), requests, mutations, st.sampled_from([b"", b"abc"])
)
def test_what_is_known_is_what_a_careful_reading_finds(
    read: list[bytes], asked: bytes, changes: list[tuple[int, bytes]], body: bytes
) -> None:
    for data in read:
        learn(data)
    for data in (*read, asked):
        agrees(data + body)
        agrees(mutated(data, changes) + body)
        agrees(data + data)


@given(blocks, blocks, lines)
def test_a_credential_apart_changes_nothing_of_the_block(
    before: list[bytes], after: list[bytes], line: bytes
) -> None:
    for credential in (KEY, UNKNOWN_KEY, b"a b", b"", b"x\x7f", b"x\ry"):
        fields = [*before, b"Authorization: Bearer " + credential, *after]
        data = b"\r\n".join((line, *fields, b"", b""))
        agrees(data)
        learn(data)
        agrees(data)


def test_the_usual_request_is_known_the_second_time_whatever_its_key_and_query() -> None:
    learn(b"GET /a HTTP/1.1\r\nHost: gw.test\r\nAuthorization: Bearer " + KEY + b"\r\n\r\n")
    for target in (b"/a", b"/a?b=c%20d"):
        for key in (KEY, UNKNOWN_KEY):
            lines = (b"Host: gw.test", b"Authorization: Bearer " + key)
            assert agrees(b"\r\n".join((b"GET %s HTTP/1.1" % target, *lines, b"", b"")))
    assert not agrees(b"GET /a?b=%zz HTTP/1.1\r\nHost: gw.test\r\n\r\n")


def test_the_hundred_lines_are_counted_with_the_credential() -> None:
    fields = [b"Host: gw.test", *[b"a:"] * 99]
    learn(b"\r\n".join((b"GET / HTTP/1.1", *fields, b"", b"")))
    agrees(b"\r\n".join((b"GET / HTTP/1.1", *fields, b"Authorization: Bearer " + KEY, b"", b"")))


def test_no_hostile_case_is_known_for_something_else() -> None:
    """Every request of the corpus, beside all the others that were read before."""
    cases = json.loads(CORPUS.read_text())["cases"]
    sent = [
        step["send"].replace("{{KEY}}", KEY.decode()).encode("latin-1")
        for case in cases
        for step in case["client"]
        if "send" in step
    ]
    assert len(sent) > 200
    for data in sent:
        learn(data)
    assert sum([agrees(data) for data in sent]) > 20, "the comparison is not empty"


SECRETS = (KEY, UNKNOWN_KEY)


def test_nothing_that_may_hold_a_secret_is_remembered() -> None:
    for key in SECRETS:
        for field in (
            b"Authorization: Bearer " + key,
            b"Authorization: Basic " + key,
            b"X-Api-Key: " + key,
            b"Cookie: a=" + key,
            b"Proxy-Authorization: " + key,
        ):
            for line in (b"GET /a HTTP/1.1", b"GET /a?api_key=" + key + b" HTTP/1.1"):
                learn(b"\r\n".join((line, b"Host: gw.test", field, b"Accept: */*", b"", b"")))
    buffer = bytearray(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=" + KEY + b"\r\nContent-Length: 0\r\n\r\n"
    )
    assert read_response(buffer, b"GET") is not None
    remembered = repr(TABLES).encode()
    assert b"gw.test" in remembered
    assert not any(key in remembered for key in SECRETS)


def test_what_is_remembered_is_bounded() -> None:
    for number in range(5_000):
        field = b"X-Number: %d" % number
        learn(b"\r\n".join((b"GET /%d HTTP/1.1" % number, b"Host: gw.test", field, b"", b"")))
        answer = bytearray(b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: 0\r\n\r\n" % field)
        assert read_response(answer, b"GET") is not None
    assert [len(table) <= 2_048 for table in TABLES] == [True] * 4


ANSWERS = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.0 200",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 103 Early Hints",
    b"HTTP/1.1 999 X",
]
ANSWER_FIELDS = [
    b"Content-Length: 2",
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"X-Nimbus-Usage: a=1",
    b"Set-Cookie: a=b",
    b"X: a\nb",
    b"Server: x",
]
answers = st.tuples(
    st.sampled_from(ANSWERS), st.lists(st.sampled_from(ANSWER_FIELDS), max_size=4)
).map(lambda parts: b"\r\n".join((parts[0], *parts[1], b"", b"ok")))


def read_carefully(data: bytes, method: bytes) -> ResponseHead | str | None:
    try:
        return read_response(bytearray(data), method)
    except BadMessageError as error:
        return error.code


@given(st.lists(answers, min_size=1, max_size=4), mutations)
def test_a_known_answer_is_what_a_careful_reading_finds(
    seen: list[bytes], changes: list[tuple[int, bytes]]
) -> None:
    for data in seen:
        read_carefully(data, b"HEAD")
        read_carefully(data, b"GET")
    for data in (*seen, *(mutated(each, changes) for each in seen)):
        found = known_answer(data)
        if found is not None:
            forget()
            assert read_carefully(data, b"GET") == found
