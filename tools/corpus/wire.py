# SPDX-License-Identifier: Apache-2.0
"""Messages as they were on the wire: heads and bodies taken apart, and whether three strict
parsers agree on what a connection carried.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import h11
import httptools

from nimbus.gateway.body import BodyReader
from nimbus.gateway.head import BadMessageError, HeadReader

FRAMING: Final = (b"content-length", b"transfer-encoding")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_FOLD = re.compile(rb"\r\n[ \t]")

Field = tuple[bytes, bytes]
Parsed = tuple[bytes, bytes, bytes]  # method, target, payload


@dataclass(slots=True)
class Message:
    """A head and what of its body has come; `whole` when nothing of it is missing."""

    start: bytes
    fields: list[Field]
    body: bytes
    whole: bool
    raw: bytes

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.start.split(b" ", 2)[1])

    @property
    def method(self) -> bytes:
        """The method of a request."""
        return self.start.split(b" ", 1)[0]

    @property
    def target(self) -> str:
        """The target of a request."""
        return self.start.split(b" ")[1].decode("latin-1")

    def values(self, name: str) -> list[str]:
        """The values of all lines of this name, in lower case or not."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for lower, value in self.fields if lower == wanted]


def read_head(raw: bytes) -> Message:
    """A head that ends with its empty line, taken apart without a judgement."""
    lines = raw[:-4].split(b"\r\n")
    fields = []
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        fields.append((name.strip().lower(), value.strip(b" \t")))
    return Message(lines[0], fields, b"", whole=False, raw=raw)


def read_answers(data: bytes, method_of: Callable[[str, int], bytes | None]) -> list[Message]:
    """The answers that a caller's connection carried, the last one perhaps cut.

    `method_of(request id, position)` tells which method a final answer belongs to, None when
    nobody knows: then an answer whose body is missing altogether is taken for one to HEAD.
    """
    answers: list[Message] = []
    position, final = 0, 0
    while position < len(data):
        end = data.find(b"\r\n\r\n", position)
        if end < 0:
            answers.append(Message(b"HTTP/1.1 0 cut", [], b"", whole=False, raw=data[position:]))
            break
        answer = read_head(data[position : end + 4])
        start, position = position, end + 4
        if answer.status >= 200:
            method = method_of(next(iter(answer.values("x-request-id")), ""), final)
            if method is None and data[position : position + 7] in {b"", b"HTTP/1."}:
                method = b"HEAD"
            position += _take_body(answer, data[position:], method or b"GET")
            final += 1
        else:
            answer.whole = True
        answer.raw = data[start:position]
        answers.append(answer)
    return answers


def _take_body(answer: Message, rest: bytes, method: bytes) -> int:
    """Fill in the answer's body; how many bytes it took."""
    if method == b"HEAD" or answer.status in {204, 304}:
        answer.whole = True
        return 0
    lengths = answer.values("content-length")
    if answer.values("transfer-encoding"):
        reader = BodyReader(None, limit=None)
        buffer = bytearray(rest)
        try:
            answer.body = reader.read(buffer)
        except BadMessageError:
            answer.body = rest
            return len(rest)
        answer.whole = reader.done
        return len(rest) - len(buffer)
    if not lengths:
        answer.body, answer.whole = rest, True
        return len(rest)
    answer.body = rest[: int(lengths[0])]
    answer.whole = len(answer.body) == int(lengths[0])
    return len(answer.body)


def faults_of(stream: bytes) -> list[str]:
    """What is wrong with the bytes that went to the upstream on one connection (rule G2)."""
    faults = []
    readings = {
        "h11": _by_h11(stream),
        "httptools": _by_httptools(stream),
        "nimbus": _by_nimbus(stream),
    }
    if len(set(map(str, readings.values()))) > 1:
        known = {name: _short(reading) for name, reading in readings.items()}
        faults.append(f"three parsers read the upstream's bytes differently: {known}")
    for name, reading in readings.items():
        if isinstance(reading, str):
            faults.append(f"{name} refuses what the upstream got: {reading}")
    return faults + _forbidden(stream)


def _short(reading: list[Parsed] | str) -> str:
    if isinstance(reading, str):
        return reading
    return str([(method, target, len(body)) for method, target, body in reading])


def _forbidden(stream: bytes) -> list[str]:
    """Byte by byte: what must never be in a head or between chunks, whoever tolerates it."""
    found = []
    position = 0
    while (end := stream.find(b"\r\n\r\n", position)) >= 0:
        raw = stream[position : end + 4]
        head = read_head(raw)
        lines = [name for name, _ in head.fields if name in FRAMING]
        if len(lines) > 1:
            found.append("two framings in a head to the upstream")
        if _BARE.search(raw):
            found.append("a bare CR, LF or NUL in a head to the upstream")
        if _FOLD.search(raw):
            found.append("a folded line in a head to the upstream")
        position = end + 4
        if head.values("content-length"):
            position += int(head.values("content-length")[0])
        elif head.values("transfer-encoding"):
            position, fault = _pass_chunks(stream, position)
            found += fault
    return found


def _pass_chunks(stream: bytes, position: int) -> tuple[int, list[str]]:
    while (end := stream.find(b"\r\n", position)) >= 0:
        size = stream[position:end]
        if not re.fullmatch(rb"[0-9A-Fa-f]+", size):
            return len(stream), ["a chunk's size with an extension went to the upstream"]
        position = end + 2
        if int(size, 16) == 0:
            trailer = stream[position : position + 2]
            fault = ["a trailer went to the upstream"] if trailer not in {b"", b"\r\n"} else []
            return position + 2, fault
        position += int(size, 16) + 2
    return len(stream), []


def _by_nimbus(stream: bytes) -> list[Parsed] | str:
    found: list[Parsed] = []
    reader = HeadReader()
    reader.buffer += stream
    try:
        while (head := reader.next()) is not None:
            body = BodyReader(head.block.length, limit=None)
            payload = b"" if body.done else body.read(reader.buffer)
            line = head.line
            target = line.path if line.query is None else line.path + b"?" + line.query
            found.append((head.method, target, payload))
            if not body.done:
                break
    except BadMessageError as error:
        return f"{error.code}: {error.detail}"
    return found


def _by_h11(stream: bytes) -> list[Parsed] | str:
    found: list[Parsed] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=65_536)
    connection.receive_data(stream)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                found.append((event.method, event.target, b""))
            elif isinstance(event, h11.Data):
                method, target, body = found[-1]
                found[-1] = method, target, body + bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if event.headers:
                    return "a trailer"
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    break
                connection.start_next_cycle()
            else:
                break
    except h11.ProtocolError as error:
        return str(error)
    return found


class _Seen:
    """What httptools calls back."""

    def __init__(self) -> None:
        self.found: list[Parsed] = []
        self.parser = httptools.HttpRequestParser(self)
        self.target = b""

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.target += url

    def on_headers_complete(self) -> None:
        """The head is read."""
        self.found.append((self.parser.get_method(), self.target, b""))
        self.target = b""

    def on_body(self, body: bytes) -> None:
        """A piece of the payload."""
        method, target, before = self.found[-1]
        self.found[-1] = method, target, before + body


def _by_httptools(stream: bytes) -> list[Parsed] | str:
    seen = _Seen()
    try:
        seen.parser.feed_data(stream)
    except httptools.HttpParserUpgrade:
        return "an upgrade"
    except httptools.HttpParserError as error:
        return str(error)
    return seen.found
