# SPDX-License-Identifier: Apache-2.0
"""What must hold for any bytes: each function raises AssertionError when it does not.

Two strict parsers of others give the second and third opinion: what both refuse, we refuse; what
we accept and they read, they read as we do.
"""

import re
from dataclasses import dataclass, replace

import h11
import httptools

from nimbus.gateway.body import BodyReader
from nimbus.gateway.head import (
    BadMessageError,
    HeadReader,
    RequestHead,
    ResponseHead,
    known_answer,
    known_request,
    read_response,
)

MOST_HEADS = 8
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
LIMIT = 1 << 20


@dataclass(frozen=True)
class Refusal:
    """The verdict that bytes can't be accepted."""

    code: str


def head_is_read_the_same(data: bytes) -> None:
    """A request's head: however it is split, by the quick look as by the careful one, and with
    the framing that h11 and httptools see.
    """
    whole, used = _read_head([data])
    for cut in {1, len(data) // 3, len(data) // 2, len(data) - 1}:
        pieces = [data[:cut], data[cut:]]
        assert _read_head(pieces) == (whole, used), f"split at {cut}"
    assert _read_head([data[at : at + 1] for at in range(len(data))]) == (whole, used), "by bytes"
    quick = known_request(data)
    if quick is not None:
        assert isinstance(whole, RequestHead), "the quick look accepts what is refused"
        assert _plain(quick) == _plain(whole)
        assert quick.size == used
    if not isinstance(whole, RequestHead):
        return
    raw = data[:used].removeprefix(b"\r\n")
    theirs = [reading for reading in (_h11_request(raw), _httptools_request(raw)) if reading]
    assert theirs, "both others refuse it"
    length = whole.block.length
    for method, framing in theirs:
        assert method == whole.method
        assert framing == length, f"{framing} instead of {length}"
    _target_is_safe(whole.line.path, whole.line.query)


def target_is_normal(data: bytes) -> None:
    """A request target: what is accepted means one thing, and stays what it is read again."""
    head, _ = _read_head([b"GET %s HTTP/1.1\r\nHost: gw.test\r\n\r\n" % data])
    if not isinstance(head, RequestHead):
        return
    line = head.line
    _target_is_safe(line.path, line.query)
    target = line.path if line.query is None else line.path + b"?" + line.query
    again, _ = _read_head([b"GET %s HTTP/1.1\r\nHost: gw.test\r\n\r\n" % target])
    assert isinstance(again, RequestHead), "what is sent upstream is refused when it comes back"
    assert (again.line.path, again.line.query) == (line.path, line.query)


def chunks_are_read_the_same(data: bytes) -> None:
    """A chunked body: however it is split, and as h11 reads it."""
    whole = _read_chunks([data])
    for cut in {1, len(data) // 3, len(data) // 2, len(data) - 1}:
        assert _read_chunks([data[:cut], data[cut:]]) == whole, f"split at {cut}"
    assert _read_chunks([data[at : at + 1] for at in range(len(data))]) == whole, "by bytes"
    if isinstance(whole, Refusal):
        return
    payload, _, done = whole
    theirs = [each for each in (_h11_chunks(data), _httptools_chunks(data)) if each is not None]
    if not theirs:
        # RFC 9112 section 7.1.1 has white space before an extension be read; they don't.
        assert re.search(rb"[0-9A-Fa-f][ \t]+;", data), "both others refuse it"
        return
    if done:
        assert payload in theirs, "nobody else reads the same payload"


def answer_is_read_the_same(data: bytes) -> None:
    """An upstream's answer: however it is split, by the quick look as by the careful one, and
    with the framing that h11 and httptools see.
    """
    for method in (b"GET", b"HEAD"):
        whole, used = _read_answer([data], method)
        for cut in {1, len(data) // 3, len(data) // 2, len(data) - 1}:
            assert _read_answer([data[:cut], data[cut:]], method) == (whole, used), f"at {cut}"
        if isinstance(whole, Refusal) or whole is None:
            continue
        if method == b"GET":
            quick = known_answer(data)
            assert quick is None or quick == whole
        raw = data[:used]
        theirs = [each for each in (_h11_answer(raw, method), _httptools_answer(raw)) if each]
        assert theirs, "both others refuse it"
        for status in theirs:
            assert status == whole.status


def _plain(head: RequestHead) -> tuple[object, ...]:
    return head.line, replace(head.block, made={}), head.prefix, head.secret


def _read_head(pieces: list[bytes]) -> tuple[RequestHead | Refusal | None, int]:
    reader = HeadReader()
    head: RequestHead | None = None
    before = 0
    try:
        for piece in pieces:
            reader.buffer += piece
            before += len(piece)
            if head is None:
                head = reader.next()
    except BadMessageError as error:
        return Refusal(error.code), 0
    return head, before - len(reader.buffer) if head is not None else 0


def _read_answer(pieces: list[bytes], method: bytes) -> tuple[ResponseHead | Refusal | None, int]:
    buffer, head, before = bytearray(), None, 0
    try:
        for piece in pieces:
            buffer += piece
            before += len(piece)
            if head is None:
                head = read_response(buffer, method)
    except BadMessageError as error:
        return Refusal(error.code), 0
    return head, before - len(buffer) if head is not None else 0


def _read_chunks(pieces: list[bytes]) -> tuple[bytes, int, bool] | Refusal:
    reader, buffer, payload, came = BodyReader(None, LIMIT), bytearray(), b"", 0
    try:
        for piece in pieces:
            buffer += piece
            came += len(piece)
            if not reader.done:
                payload += reader.read(buffer)
    except BadMessageError as error:
        return Refusal(error.code)
    return payload, came - len(buffer) if reader.done else 0, reader.done


def _target_is_safe(path: bytes, query: bytes | None) -> None:
    """No reading of the path that decodes once or drops path parameters leaves its folder."""
    assert path.startswith(b"/")
    for seen in (path, _ENCODED.sub(lambda match: bytes((int(match[1], 16),)), path)):
        segments = seen.split(b"/")[1:]
        assert b"" not in segments[:-1], "an empty segment"
        assert not {segment.partition(b";")[0] for segment in segments} & {b".", b".."}, "dots"
        assert not any(byte < 0x20 or byte == 0x7F for byte in seen), "a control byte"
        assert b"\\" not in seen
    assert all(0x20 < byte < 0x7F for byte in path + (query or b""))


def _h11_request(raw: bytes) -> tuple[bytes, int | None] | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.ProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    fields = dict(event.headers)
    if b"transfer-encoding" in fields:
        return event.method, None
    return event.method, int(fields.get(b"content-length", b"0"))


class _Heard:
    """What httptools calls back."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.body = b""
        self.head_done = False
        self.message_done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.head_done = True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.message_done = True


def _httptools_request(raw: bytes) -> tuple[bytes, int | None] | None:
    heard = _Heard()
    parser = httptools.HttpRequestParser(heard)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    if not heard.head_done:
        return None
    if b"transfer-encoding" in heard.fields:
        return parser.get_method(), None
    return parser.get_method(), int(heard.fields.get(b"content-length", b"0"))


CHUNKED = b"POST / HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n"


def _h11_chunks(data: bytes) -> bytes | None:
    connection, payload = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT), b""
    connection.receive_data(CHUNKED + data)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                payload += bytes(event.data)
            elif not isinstance(event, h11.Request):
                return payload
    except h11.ProtocolError:
        return None


def _httptools_chunks(data: bytes) -> bytes | None:
    heard = _Heard()
    try:
        httptools.HttpRequestParser(heard).feed_data(CHUNKED + data)
    except httptools.HttpParserError:
        return heard.body if heard.message_done else None
    return heard.body


def _h11_answer(raw: bytes, method: bytes) -> int | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LIMIT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "gw.test")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.ProtocolError:
        return None
    if isinstance(event, h11.Response | h11.InformationalResponse):
        return int(event.status_code)
    return None


def _httptools_answer(raw: bytes) -> int | None:
    heard = _Heard()
    parser = httptools.HttpResponseParser(heard)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        if not heard.head_done:
            return None
    return int(parser.get_status_code()) if heard.head_done else None
