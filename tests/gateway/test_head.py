# SPDX-License-Identifier: Apache-2.0
"""The parser takes one meaning or none, and the same one however the bytes are split."""

import itertools

import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.gateway.body import BodyReader
from nimbus.gateway.head import (
    MAX_BODY,
    MAX_HEADER_BLOCK,
    MAX_HEADER_LINES,
    MAX_REQUEST_LINE,
    METHODS,
    BadMessageError,
    HeadReader,
    RequestHead,
    read_response,
)

PLAIN = b"GET /echo HTTP/1.1\r\nHost: gw.test\r\n\r\n"


def head(data: bytes) -> RequestHead | None:
    reader = HeadReader()
    reader.buffer += data
    return reader.next()


def code(data: bytes) -> str:
    with pytest.raises(BadMessageError) as caught:
        head(data)
    return caught.value.code


def verdict(pieces: list[bytes]) -> tuple[object, ...]:
    """What one gets to know by feeding these pieces one after the other: heads, then a code."""
    reader, found = HeadReader(), []
    for piece in pieces:
        reader.buffer += piece
        try:
            while (request := reader.next()) is not None:
                found.append(request)
        except BadMessageError as error:
            return (*found, error.code)
    return tuple(found)


def request(line: bytes = b"GET /echo HTTP/1.1", *lines: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: gw.test", *lines, b"", b""))


MALFORMED = [
    b"GET /echo HTTP/1.1\nHost: gw.test\n\n",
    b"GET /echo HTTP/1.1\r\nHost: gw.test\n\r\n",
    request(b"GET  /echo HTTP/1.1"),
    request(b"GET\t/echo\tHTTP/1.1"),
    request(b" GET /echo HTTP/1.1"),
    request(b"GET /echo HTTP/1.1 "),
    request(b"GET /echo HTTP/ 1.1"),
    request(b"GET /echo HTTP/1,1"),
    request(b"GET /echo http/1.1"),
    request(b"GET /echo ICE/1.0"),
    request(b"GET /echo"),
    request(b"GET /echo HTTP/1.10"),
    request(b"GET * HTTP/1.1"),
    request(b"GET echo HTTP/1.1"),
    request(b"GET http://other.test/echo HTTP/1.1"),
    request(b"GET ftp://gw.test/echo HTTP/1.1"),
    request(b"GET http://a@gw.test/echo HTTP/1.1"),
    request(b"GET /a#b HTTP/1.1"),
    request(b"GET /a\x00 HTTP/1.1"),
    request(b"GET /a\x7f HTTP/1.1"),
    request(b"GET /\xff\xfe HTTP/1.1"),
    request(b"GET /a%zz HTTP/1.1"),
    request(b"GET /a?b=%zz HTTP/1.1"),
    request(b"GET //a HTTP/1.1"),
    request(b"GET /a//b HTTP/1.1"),
    request(b"GET /a/../b HTTP/1.1"),
    request(b"GET /a/.. HTTP/1.1"),
    request(b"GET /a/./b HTTP/1.1"),
    request(b"GET /a/%2e%2e/b HTTP/1.1"),
    request(b"GET /a/.%2E/b HTTP/1.1"),
    request(b"GET /a/..;/b HTTP/1.1"),
    request(b"GET /a%2fb HTTP/1.1"),
    request(b"GET /a%5Cb HTTP/1.1"),
    request(b"GET /a\\b HTTP/1.1"),
    request(b"GET /a%00b HTTP/1.1"),
    request(b"GET /a%0d%0ab HTTP/1.1"),
    b"GET /echo HTTP/1.1\r\n\r\n",
    request(b"GET /echo HTTP/1.1", b"Host: gw.test"),
    request(b"GET /echo HTTP/1.1", b"Content-Length : 5"),
    request(b"GET /echo HTTP/1.1", b"Content-Length\t: 5"),
    request(b"GET /echo HTTP/1.1", b" folded: yes"),
    request(b"GET /echo HTTP/1.1", b"X: a", b"\tb"),
    request(b"GET /echo HTTP/1.1", b"no colon"),
    request(b"GET /echo HTTP/1.1", b": no name"),
    request(b"GET /echo HTTP/1.1", b"b@d: name"),
    request(b"GET /echo HTTP/1.1", b"X: a\x00b"),
    request(b"GET /echo HTTP/1.1", b"X: a\rb"),
    request(b"GET /echo HTTP/1.1", b"X: a\nb"),
    request(b"GET /echo HTTP/1.1", b"X: a\x0bb"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: 5", b"Content-Length: 5"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: 5, 5"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: +5"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: -1"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: 0x5"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: 5_0"),
    request(b"POST /echo HTTP/1.1", b"Content-Length:"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: \xb2"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: 5\x85"),
    request(b"POST /echo HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding:"),
    request(b"POST /echo HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    request(b"POST /echo HTTP/1.0", b"Transfer-Encoding: chunked"),
    b"\r\n\r\n" + PLAIN,
]
BAD_HOSTS = [
    b"",
    b"gw.test, other.test",
    b"gw.test@evil.test",
    b"gw.test/other",
    b"gw.test other",
    b"gw.test#a",
    b"gw.test\xa0",
    b"gw.test:",
    b"gw.test:99999",
    b"-gw.test",
]
OTHER_CODES = [
    (request(b"GET /echo HTTP/2.0"), "version_not_supported"),
    (request(b"GET /echo HTTP/1.2"), "version_not_supported"),
    (request(b"GET /echo HTTP/0.9"), "version_not_supported"),
    (request(b"get /echo HTTP/1.1"), "not_implemented"),
    (request(b"TRACE /echo HTTP/1.1"), "not_implemented"),
    (request(b"CONNECT 169.254.169.254:80 HTTP/1.1"), "not_implemented"),
    (request(b"POST / HTTP/1.1", b"Transfer-Encoding: xchunked"), "not_implemented"),
    (request(b"POST / HTTP/1.1", b"Transfer-Encoding: gzip, chunked"), "not_implemented"),
    (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked, identity"), "not_implemented"),
    (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked;q=1"), "not_implemented"),
    (request(b"POST / HTTP/1.1", b"Content-Length: %d" % (MAX_BODY + 1)), "payload_too_large"),
    (request(b"POST / HTTP/1.1", b"Content-Length: 18446744073709551616"), "payload_too_large"),
    (request(b"POST / HTTP/1.1", b"Expect: magic", b"Content-Length: 5"), "expectation_failed"),
    (request(b"POST / HTTP/1.1", b"Expect: 100-continue, x"), "expectation_failed"),
    (request(b"GET /" + b"a" * MAX_REQUEST_LINE + b" HTTP/1.1"), "uri_too_long"),
    (b"GET /" + b"a" * 70_000, "uri_too_long"),
    (request(b"GET / HTTP/1.1", *[b"X: y"] * MAX_HEADER_LINES), "headers_too_large"),
    (request(b"GET / HTTP/1.1", b"X: " + b"y" * MAX_HEADER_BLOCK), "headers_too_large"),
    (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, "headers_too_large"),
]


@pytest.mark.parametrize("data", MALFORMED)
def test_what_could_be_read_in_two_ways_is_malformed(data: bytes) -> None:
    assert code(data) == "malformed_request"


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_a_host_is_a_name_and_perhaps_a_port(host: bytes) -> None:
    assert code(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") == "malformed_request"


@pytest.mark.parametrize(("data", "expected"), OTHER_CODES)
def test_each_refusal_of_http_itself_has_its_code(data: bytes, expected: str) -> None:
    assert code(data) == expected


def test_a_plain_request_is_read() -> None:
    found = head(
        b"POST /api/v1/wind/farms?x=%20&y=a/b? HTTP/1.1\r\nHost: GW.test:80\r\n"
        b"Content-Length:  5 \r\nX-Note:\tcaf\xe9 \r\nConnection: close, X-Note\r\n\r\nhello"
    )
    assert found is not None
    line, block = found.line, found.block
    assert (line.method, line.path, line.query) == (
        b"POST",
        b"/api/v1/wind/farms",
        b"x=%20&y=a/b?",
    )
    assert (block.host, block.port, line.minor, block.length) == (b"gw.test", 80, 1, 5)
    assert block.values(b"x-note") == [b"caf\xe9"]
    assert block.connection == {b"close", b"x-note"}
    assert not found.keep_alive


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", None),
        (b"/?", b"/", b""),
        (b"http://gw.test", b"/", None),
        (b"HTTP://gw.test/a?b", b"/a", b"b"),
        (b"http://gw.test?b", b"/", b"b"),
        (b"/%7Euser/%61%2D%2e%5F", b"/~user/a-._", None),
        (b"/a%20b/%C3%A9/%25", b"/a%20b/%C3%A9/%25", None),
        (b"/free/%252e%252e/pro", b"/free/%252e%252e/pro", None),
        (b"/a;b=c,d+e!f$g&h'i(j)k*l:m@n", b"/a;b=c,d+e!f$g&h'i(j)k*l:m@n", None),
        (b'/a?q="<>|{}^`', b"/a", b'q="<>|{}^`'),
        (b"/.well-known/x", b"/.well-known/x", None),
        (b"/a/...", b"/a/...", None),
    ],
)
def test_targets_keep_their_bytes_but_for_needless_escapes(
    target: bytes, path: bytes, query: bytes | None
) -> None:
    found = head(request(b"GET " + target + b" HTTP/1.1"))
    assert found is not None
    assert (found.line.path, found.line.query) == (path, query)


def test_the_limits_are_reached_but_not_passed() -> None:
    line = b"GET /" + b"a" * (MAX_REQUEST_LINE - 14) + b" HTTP/1.1"
    assert len(line) == MAX_REQUEST_LINE
    assert head(request(line)) is not None
    assert head(request(b"GET / HTTP/1.1", *[b"X: y"] * (MAX_HEADER_LINES - 1))) is not None
    padding = MAX_HEADER_BLOCK - len(b"Host: gw.test\r\nX: \r\n")
    assert head(request(b"GET / HTTP/1.1", b"X: " + b"y" * padding)) is not None
    assert code(request(b"GET / HTTP/1.1", b"X: " + b"y" * (padding + 1))) == "headers_too_large"


def test_pipelined_requests_come_one_by_one_and_one_empty_line_is_forgiven() -> None:
    found = verdict([PLAIN + b"\r\n" + PLAIN + PLAIN + b"XYZZY\r\n\r\n"])
    assert [type(item) for item in found] == [RequestHead] * 3 + [str]


@pytest.mark.parametrize("data", [data for data, _ in OTHER_CODES if len(data) < 400] + MALFORMED)
def test_every_split_in_two_gives_the_same_verdict(data: bytes) -> None:
    data += PLAIN
    whole = verdict([data])
    for cut in range(1, len(data)):
        assert verdict([data[:cut], data[cut:]]) == whole
    assert verdict([data[n : n + 1] for n in range(len(data))]) == whole


pieces_of_requests = st.lists(
    st.sampled_from(
        [
            b"GET /echo HTTP/1.1",
            b"\r\n",
            b"\r",
            b"\n",
            b"\0",
            b"Host: gw.test",
            b"Host: ",
            b"X: " + b"y" * 400,
            b"X: y\r\n" * 40,
            b" ",
            b":",
            b"Content-Length: 0",
            b"y" * MAX_REQUEST_LINE,
            b"y" * MAX_HEADER_BLOCK,
        ]
    ),
    max_size=30,
).map(b"".join)


@given(pieces_of_requests, st.lists(st.integers(0, 80_000), max_size=4))
def test_no_split_of_hostile_bytes_changes_the_verdict(data: bytes, cuts: list[int]) -> None:
    data = b"GET / HTTP/1.1\r\n" + data
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert verdict(pieces) == verdict([data])


names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: (
        name.lower()
        not in {
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "expect",
            "upgrade",
            "proxy-connection",
        }
    )
)


@given(
    method=st.sampled_from(sorted(METHODS)),
    path=st.from_regex(r"(/[A-Za-z0-9_~-]{1,8}){1,4}", fullmatch=True),
    query=st.none() | st.from_regex(r"[a-z0-9=&%20]{0,12}", fullmatch=True),
    lines=st.lists(st.tuples(names, st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True))),
    length=st.integers(0, 50),
)
def test_what_we_take_h11_and_httptools_read_the_same_way(
    method: bytes, path: str, query: str | None, lines: list[tuple[str, str]], length: int
) -> None:
    target = path + ("" if query is None else f"?{query}")
    block = "".join(f"{name}: {value}\r\n" for name, value in lines)
    data = b"%s %s HTTP/1.1\r\nHost: gw.test\r\nContent-Length: %d\r\n%s\r\n" % (
        method,
        target.encode(),
        length,
        block.encode(),
    )
    try:
        ours = head(data)
    except BadMessageError:
        return
    assert ours is not None
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    second = connection.next_event()
    assert isinstance(second, h11.Request)
    assert (second.method, second.target) == (ours.line.method, target.encode())
    assert list(second.headers) == [(name, value) for name, _, value in ours.block.fields]
    third = Listener()
    parser = httptools.HttpRequestParser(third)
    parser.feed_data(data)
    assert (parser.get_method(), third.url) == (ours.line.method, target.encode())
    assert third.headers == [(name, value) for _, name, value in ours.block.fields]


class Listener:
    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def body(pieces: list[bytes], length: int | None) -> tuple[bytes, bytes] | str:
    """Payload and left-over bytes, or the code of the refusal."""
    reader, buffer, found = BodyReader(length), bytearray(), b""
    try:
        for piece in pieces:
            buffer += piece
            if not reader.done:
                found += reader.read(buffer)
    except BadMessageError as error:
        return error.code
    return (found, bytes(buffer)) if reader.done else "incomplete"


GOOD_CHUNKS = [
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"0\r\n\r\n", b""),
    (b"00000\r\n\r\n", b""),
    (b"5;a=b\r\nhello\r\n1 ; c\r\n!\r\n0;x\r\nX-T: v\r\n\r\n", b"hello!"),
    (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
]
BAD_CHUNKS = [
    (b"5\nhello\n0\n\n", "malformed_request"),
    (b"5\r\nhello\n0\r\n\r\n", "malformed_request"),
    (b"5\r\nhello world\r\n0\r\n\r\n", "malformed_request"),
    (b"5\r\nhelloXX0\r\n\r\n", "malformed_request"),
    (b"+5\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"-5\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b" 5\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"5 \r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"5g\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"0x5\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"10000000000000005\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", "payload_too_large"),
    (b"5;a\rb\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"5;a\0b\r\nhello\r\n0\r\n\r\n", "malformed_request"),
    (b"0\r\nGET /second HTTP/1.1\r\nHost: gw.test\r\n\r\n", "malformed_request"),
    (b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n", "malformed_request"),
    (b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", "malformed_request"),
    (b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", "malformed_request"),
    (b"0\r\nX: y\r\r\n\r\n", "malformed_request"),
    (b"0\r\n" + b"X-T: v\r\n" * 2_000 + b"\r\n", "headers_too_large"),
    (b"0\r\nX-T: " + b"v" * 9_000 + b"\r\n\r\n", "headers_too_large"),
    (b"".join(b"1;" + b"x" * 2_048 + b"\r\na\r\n" for _ in range(20)), "malformed_request"),
    (b"%x\r\n" % (MAX_BODY + 1), "payload_too_large"),
]


@pytest.mark.parametrize(("data", "payload"), GOOD_CHUNKS)
def test_chunks_are_read_and_the_next_request_is_left_alone(data: bytes, payload: bytes) -> None:
    assert body([data + PLAIN], None) == (payload, PLAIN)
    for cut in range(1, len(data)):
        assert body([data[:cut], data[cut:] + PLAIN], None) == (payload, PLAIN)


@pytest.mark.parametrize(("data", "expected"), BAD_CHUNKS)
def test_chunks_that_could_be_read_in_two_ways_are_refused(data: bytes, expected: str) -> None:
    assert body([data], None) == expected
    for cut in range(1, len(data), max(1, len(data) // 200)):
        assert body([data[:cut], data[cut:]], None) == expected


@pytest.mark.parametrize("data", [b"5\r\nhello\r\n", b"5\r\nhel", b"5", b"0\r\nX: y\r\n", b""])
def test_a_chunked_body_that_is_cut_is_never_complete(data: bytes) -> None:
    assert body([data], None) == "incomplete"


@given(st.binary(max_size=400), st.lists(st.integers(1, 50)))
def test_a_body_of_known_length_ends_exactly_there(payload: bytes, cuts: list[int]) -> None:
    data, pieces = payload + PLAIN, []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    assert body([*pieces, data], len(payload)) == (payload, PLAIN)


ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"GET", (200, 2, False, True)),
    (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n", b"GET", (200, 2, False, True)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n", b"GET", (200, None, True, True)),
    (b"HTTP/1.1 200 OK\r\n\r\n", b"GET", (200, None, False, False)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b"HEAD", (200, 0, False, True)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD", (200, 0, False, True)),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"GET", (204, 0, False, True)),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET", (304, 0, False, True)),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", b"GET", (200, 2, False, False)),
    (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n",
        b"GET",
        (200, 2, False, False),
    ),
    (b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n", b"GET", (103, 0, False, True)),
]
HOSTILE_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 099 X\r\n\r\n",
    b"HTTP/1.1 999 X\r\n\r\n",
    b"HTTP/1.1 20 X\r\n\r\n",
    b"HTTP/1.1 2000 X\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/0.9 200 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-A: a\nSet-Cookie: evil=1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-A: a\r\n folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"v" * 1_000_000,
    b"v" * 10_000,
]


@pytest.mark.parametrize(("data", "method", "expected"), ANSWERS)
def test_answers_are_framed_by_status_method_and_fields(
    data: bytes, method: bytes, expected: tuple[int, int | None, bool, bool]
) -> None:
    buffer = bytearray()
    for n in range(len(data) - 1):
        buffer += data[n : n + 1]
        assert read_response(buffer, method) is None
    buffer += data[-1:] + b"rest"
    found = read_response(buffer, method)
    assert found is not None
    assert (found.status, found.length, found.chunked, found.keep_alive) == expected
    assert buffer == b"rest"


@pytest.mark.parametrize("data", HOSTILE_ANSWERS)
def test_a_hostile_answer_is_not_believed(data: bytes) -> None:
    with pytest.raises(BadMessageError):
        read_response(bytearray(data), b"GET")
