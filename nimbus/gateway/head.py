# SPDX-License-Identifier: Apache-2.0
"""The strict parser: request heads, response heads and bodies, from bytes and nothing else.

    HeadReader      bytes as they come → RequestHead, the same verdict however they are split
    ResponseReader  the same for an upstream's answers
    BodyReader      Content-Length or chunked → payload bytes; CloseReader: until the end

What two parsers could read differently is refused: bare CR or LF, folded lines, white space
around names, two Hosts, two framings, anything but `chunked`, paths that an upstream may
normalise. `BadMessageError` carries the code of spec 08; the connection closes after it.
Limits are on raw bytes. A verdict falls at the earliest byte that justifies it, so that the
same bytes in other pieces get the same answer.
"""

import re
from dataclasses import dataclass
from typing import Final

MAX_REQUEST_LINE: Final = 8_192
MAX_HEADER_BLOCK: Final = 32_768
MAX_HEADER_LINES: Final = 100
MAX_BODY: Final = 10_485_760
MAX_CHUNK_EXTENSIONS: Final = 16_384
MAX_TRAILERS: Final = 8_192
MAX_EMPTY_LINES: Final = 1  # before a request: some old clients end a body with one too many

METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))

_ILLEGAL = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]+)([/?].*)?", re.DOTALL)
_HOST = re.compile(
    rb"((?:[a-z0-9_](?:[a-z0-9_\-.]*[a-z0-9_])?\.?)|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?"
)
_PATH = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(rb"(?:[!\"$&-~]|%[0-9A-Fa-f]{2})*")
_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_LENGTH = re.compile(rb"[0-9]{1,19}")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Bytes that no path may hold even when encoded: an upstream that decodes once would see
# another path than the one that was checked.
_HIDDEN = frozenset(range(0x20)) | frozenset(b"/\\\x7f")
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"host", b"trailer"))

Field = tuple[bytes, bytes, bytes]  # name in lower case, name as sent, value


class BadMessageError(Exception):
    """The peer's bytes can't be accepted; `code` says why, in the words of spec 08."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request that may be answered. `path` has its unreserved escapes decoded and holds no
    dot segment, empty segment or hidden separator; `query` is None without a `?`.
    `length` is the body's, None when it comes in chunks.
    """

    method: bytes
    path: bytes
    query: bytes | None
    minor: int
    host: bytes
    port: int | None
    fields: tuple[Field, ...]
    connection: frozenset[bytes]
    length: int | None
    expects_continue: bool
    keep_alive: bool
    size: int

    @property
    def has_body(self) -> bool:
        """Whether body bytes follow the head."""
        return self.length != 0

    def values(self, name: bytes) -> list[bytes]:
        """The values of all lines of this (lower-case) name."""
        return [value for lower, _, value in self.fields if lower == name]


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """An upstream's final answer. `length` None: chunked when `chunked`, else until it closes."""

    status: int
    reason: bytes
    fields: tuple[Field, ...]
    connection: frozenset[bytes]
    length: int | None
    chunked: bool
    keep_alive: bool


class HeadReader:
    """Gathers one request's head; what comes after it stays in `buffer`."""

    __slots__ = ("_empty_lines", "_line", "_line_end", "_scanned", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._line: tuple[bytes, bytes, int] | None = None
        self._line_end = 0
        self._scanned = 0
        self._empty_lines = 0

    @property
    def started(self) -> bool:
        """Whether bytes of a request have come that is not complete yet."""
        return bool(self.buffer)

    def next(self) -> RequestHead | None:
        """The next complete head, taken off the buffer; None when more bytes are needed."""
        buffer = self.buffer
        if self._line is None:
            while self._empty_lines < MAX_EMPTY_LINES and buffer.startswith(b"\r\n"):
                self._empty_lines += 1
                del buffer[:2]
            self._line_end = _line_end(buffer)
            if self._line_end < 0:
                return None
            self._line = _request_line(bytes(buffer[: self._line_end]))
            self._scanned = self._line_end
        end = _block_end(buffer, self._line_end, self._scanned)
        if end < 0:
            self._scanned = len(buffer)
            return None
        block = bytes(buffer[self._line_end + 2 : end - 2])
        head = _request_head(self._line, block, end)
        del buffer[:end]
        self._line, self._line_end, self._scanned, self._empty_lines = None, 0, 0, 0
        return head


class BodyReader:
    """Takes a message's payload off a buffer; `done` once its last byte was read.

    `length` None reads chunks: their extensions and trailers are checked, bounded and dropped.
    `limit` bounds the payload (None: no bound); over it the code is `payload_too_large`.
    """

    __slots__ = ("_extensions", "_left", "_limit", "_state", "_taken", "_trailers", "done")

    def __init__(self, length: int | None, limit: int | None = MAX_BODY) -> None:
        self._limit = limit
        self._taken = 0
        self._extensions = 0
        self._trailers = 0
        self._left = length or 0
        self._state = "fixed" if length is not None else "size"
        self.done = length == 0

    def read(self, buffer: bytearray) -> bytes:
        """The payload in `buffer`, which is taken off it; raises BadMessageError."""
        if self._state == "fixed":
            piece = bytes(buffer[: self._left])
            del buffer[: len(piece)]
            self._left -= len(piece)
            self.done = self._left == 0
            return piece
        pieces: list[bytes] = []
        position = self._chunks(buffer, pieces)
        del buffer[:position]
        return b"".join(pieces)

    def _chunks(self, buffer: bytearray, pieces: list[bytes]) -> int:
        position = 0
        while not self.done:
            if self._state == "size" and (past := self._whole_chunk(buffer, position, pieces)):
                position = past
            elif self._state == "data":
                piece = bytes(buffer[position : position + self._left])
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._state = "data end"
            elif self._state == "data end":
                end = bytes(buffer[position : position + 2])
                if not b"\r\n".startswith(end):
                    raise BadMessageError(
                        "malformed_request", "A chunk does not end where it says."
                    )
                if len(end) < 2:
                    break
                position += 2
                self._state = "size"
            else:
                line = self._line(buffer, position)
                if line is None:
                    break
                position += len(line) + 2
                self._size(line) if self._state == "size" else self._trailer(line)
        return position

    def _whole_chunk(self, buffer: bytearray, position: int, pieces: list[bytes]) -> int:
        """The shortest way for the usual chunk, which has come whole and has no extension:
        where it ends, or 0 to read it step by step.
        """
        match = _PLAIN_SIZE.match(buffer, position)
        size = 0 if match is None else int(match[1], 16)
        over = self._limit is not None and self._taken + size > self._limit
        if match is None or not size or over:
            return 0
        start = match.end()
        end = start + size
        if buffer[end : end + 2] != b"\r\n":
            return 0
        self._taken += size
        pieces.append(bytes(buffer[start:end]))
        return end + 2

    def _line(self, buffer: bytearray, position: int) -> bytes | None:
        """One line without its end; None while it is incomplete."""
        budget = MAX_CHUNK_EXTENSIONS - self._extensions + 16
        code = "malformed_request"
        if self._state == "trailers":
            budget, code = MAX_TRAILERS - self._trailers, "headers_too_large"
        end = buffer.find(b"\r\n", position, position + budget + 2)
        if end < 0:
            bad = _ILLEGAL.search(buffer, position, position + budget + 1)
            if bad is not None:
                raise BadMessageError("malformed_request", "A chunk line holds an illegal byte.")
            if len(buffer) - position > budget + 1:
                raise BadMessageError(code, "A chunk's extensions or trailers are too long.")
            return None
        if _ILLEGAL.search(buffer, position, end) is not None:
            raise BadMessageError("malformed_request", "A chunk line holds an illegal byte.")
        return bytes(buffer[position:end])

    def _size(self, line: bytes) -> None:
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise BadMessageError("malformed_request", "A chunk's size can't be read.")
        self._extensions += len(line) - len(match[1])
        self._left = int(match[1], 16)
        self._taken += self._left
        if self._limit is not None and self._taken > self._limit:
            raise BadMessageError("payload_too_large", "The body is too large.")
        self._state = "data" if self._left else "trailers"

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailers += len(line) + 2
        name, colon, _ = line.partition(b":")
        if not colon or _TOKEN.fullmatch(name) is None or name.lower() in _FRAMING:
            raise BadMessageError("malformed_request", "A trailer can't be accepted.")


class CloseReader:
    """Takes everything until the peer closes, which alone ends it."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def read(self, buffer: bytearray) -> bytes:
        """All there is."""
        piece = bytes(buffer)
        buffer.clear()
        return piece


def read_response(buffer: bytearray, method: bytes) -> ResponseHead | None:
    """The head of an answer to `method`, taken off the buffer; None when more bytes are needed.

    Interim answers (1xx) are given too, with `status` below 200. Raises BadMessageError for
    what a strict reader can't trust; the caller answers 502.
    """
    line_end = buffer.find(b"\r\n")
    if _ILLEGAL.search(buffer, 0, line_end if line_end >= 0 else len(buffer)) is not None:
        raise BadMessageError("upstream_unreachable", "illegal byte in the status line")
    if line_end < 0:
        if len(buffer) > MAX_REQUEST_LINE:
            raise BadMessageError("upstream_unreachable", "status line too long")
        return None
    match = _STATUS_LINE.fullmatch(buffer, 0, line_end)
    if match is None:
        raise BadMessageError("upstream_unreachable", "not a status line")
    end = _block_end(buffer, line_end, line_end)
    if end < 0:
        return None
    minor, status, reason = int(match[1]), int(match[2]), bytes(match[3] or b"")
    fields = _fields(bytes(buffer[line_end + 2 : end - 2]))
    del buffer[:end]
    return _response_head(minor, status, reason, fields, method)


def split_host(text: bytes) -> tuple[bytes, int | None]:
    """Name in lower case and port of a Host value; raises BadMessageError when it is none."""
    match = _HOST.fullmatch(text.lower())
    if match is None or (match[2] is not None and int(match[2]) > 65535):
        raise BadMessageError("malformed_request", "The Host can't be read.")
    return match[1].rstrip(b"."), None if match[2] is None else int(match[2])


def tokens(values: list[bytes]) -> frozenset[bytes]:
    """The comma-separated tokens of a field's lines, in lower case."""
    return frozenset(
        token.strip(b" \t").lower() for value in values for token in value.split(b",")
    ) - {b""}


def _line_end(buffer: bytearray) -> int:
    end = buffer.find(b"\r\n", 0, MAX_REQUEST_LINE + 2)
    checked = end if end >= 0 else min(len(buffer), MAX_REQUEST_LINE)
    if _ILLEGAL.search(buffer, 0, checked) is not None:
        raise BadMessageError("malformed_request", "The request line holds an illegal byte.")
    if end < 0 and len(buffer) > MAX_REQUEST_LINE + 1:
        raise BadMessageError("uri_too_long", "The request line is over 8 KiB.")
    return end


def _block_end(buffer: bytearray, line_end: int, scanned: int) -> int:
    """Where the empty line after the fields ends, -1 while it has not come.

    The verdict is of the earliest offence: an illegal byte, or the byte that passes a limit.
    """
    found = buffer.find(b"\r\n\r\n", max(line_end, scanned - 3))
    end = len(buffer) if found < 0 else found + 4
    illegal = _ILLEGAL.search(buffer, line_end, end)
    over = _limit_passed(buffer, line_end + 2, end)
    if illegal is not None and (over < 0 or illegal.start() < over):
        raise BadMessageError("malformed_request", "The header holds an illegal byte.")
    if over >= 0:
        raise BadMessageError("headers_too_large", "The header is over 32 KiB or 100 lines.")
    return -1 if found < 0 else end


def _limit_passed(buffer: bytearray, start: int, end: int) -> int:
    """The first position that is over the limits of a header block, or -1."""
    over = start + MAX_HEADER_BLOCK + 2 if end - start > MAX_HEADER_BLOCK + 2 else -1
    if buffer.count(b"\r\n", start, end) <= MAX_HEADER_LINES:
        return over
    position = start
    for _ in range(MAX_HEADER_LINES):
        position = buffer.find(b"\r\n", position, end) + 2
    if buffer[position : position + 2] == b"\r\n":
        return over
    position = buffer.find(b"\r\n", position, end)
    return position if over < 0 else min(position, over)


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadMessageError("malformed_request", "The request line can't be read.")
    if match[3] != b"1" or match[4] not in {b"0", b"1"}:
        raise BadMessageError("version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are spoken.")
    if match[1] not in METHODS:
        raise BadMessageError("not_implemented", "This method is not implemented.")
    return match[1], match[2], int(match[4])


def _request_head(line: tuple[bytes, bytes, int], block: bytes, size: int) -> RequestHead:
    method, target, minor = line
    fields = _fields(block)
    hosts = [value for lower, _, value in fields if lower == b"host"]
    if len(hosts) != 1:
        raise BadMessageError("malformed_request", "A request names its Host exactly once.")
    host, port = split_host(hosts[0])
    path, query = _target(target, hosts[0])
    length = _framing(fields)
    if length is None and minor == 0:
        raise BadMessageError("malformed_request", "HTTP/1.0 knows no chunks.")
    if length is not None and length > MAX_BODY:
        raise BadMessageError("payload_too_large", "The body is over 10 MiB.")
    connection = tokens([value for lower, _, value in fields if lower == b"connection"])
    expectations = [value for lower, _, value in fields if lower == b"expect"]
    if expectations and [value.lower() for value in expectations] != [b"100-continue"]:
        raise BadMessageError("expectation_failed", "Only 100-continue can be expected.")
    return RequestHead(
        method=method,
        path=path,
        query=query,
        minor=minor,
        host=host,
        port=port,
        fields=fields,
        connection=connection,
        length=length,
        expects_continue=bool(expectations) and minor == 1 and length != 0,
        keep_alive=minor == 1 and b"close" not in connection,
        size=size,
    )


def _response_head(
    minor: int, status: int, reason: bytes, fields: tuple[Field, ...], method: bytes
) -> ResponseHead:
    connection = tokens([value for lower, _, value in fields if lower == b"connection"])
    coded = any(lower == b"transfer-encoding" for lower, _, _ in fields)
    sized = any(lower == b"content-length" for lower, _, _ in fields)
    length = _framing(fields)
    if coded and minor == 0:
        raise BadMessageError("upstream_unreachable", "chunks in HTTP/1.0")
    if method == b"HEAD" or status < 200 or status in {204, 304}:
        length, coded = 0, False
    elif not coded and not sized:
        length = None
    return ResponseHead(
        status=status,
        reason=reason,
        fields=fields,
        connection=connection,
        length=length,
        chunked=coded,
        keep_alive=minor == 1 and b"close" not in connection and (coded or length is not None),
    )


def _fields(block: bytes) -> tuple[Field, ...]:
    found: list[Field] = []
    for line in block.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        if not colon or _TOKEN.fullmatch(name) is None:
            raise BadMessageError("malformed_request", "A header line can't be read.")
        found.append((name.lower(), name, value.strip(b" \t")))
    return tuple(found)


def _framing(fields: tuple[Field, ...]) -> int | None:
    """The declared length, 0 without any, None for chunks; raises BadMessageError."""
    lengths = [value for lower, _, value in fields if lower == b"content-length"]
    codings = [value for lower, _, value in fields if lower == b"transfer-encoding"]
    if codings:
        if lengths or len(codings) > 1:
            raise BadMessageError("malformed_request", "A message has one framing.")
        if codings[0].lower() != b"chunked":
            raise BadMessageError("not_implemented", "The only transfer coding is chunked.")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or not lengths[0].isascii():
        raise BadMessageError("malformed_request", "The Content-Length can't be read.")
    if _LENGTH.fullmatch(lengths[0]) is None:
        raise BadMessageError("payload_too_large", "The body is too large.")
    return int(lengths[0])


def _target(target: bytes, host: bytes) -> tuple[bytes, bytes | None]:
    """Path and query of an origin-form or absolute-form target, checked and made plain."""
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None or match[1].lower() != host.lower():
            raise BadMessageError("malformed_request", "The target can't be read.")
        target = match[2] or b"/"
        if target.startswith(b"?"):
            target = b"/" + target
    path, mark, query = target.partition(b"?")
    if _PATH.fullmatch(path) is None or _QUERY.fullmatch(query) is None:
        raise BadMessageError("malformed_request", "The target holds an illegal byte.")
    path = _plain(path)
    return path, query if mark else None


def _plain(path: bytes) -> bytes:
    """The path with its unreserved escapes decoded; refuses what upstreams read differently."""
    if b"%" in path:
        path = _PERCENT.sub(_decode, path)
    if b"//" in path:
        raise BadMessageError("malformed_request", "The path has an empty segment.")
    if b"/." in path:
        for segment in path.split(b"/"):
            if segment.partition(b";")[0] in {b".", b".."}:
                raise BadMessageError("malformed_request", "The path has a dot segment.")
    return path


def _decode(match: re.Match[bytes]) -> bytes:
    byte = int(match[0][1:], 16)
    if byte in _HIDDEN:
        raise BadMessageError("malformed_request", "The path hides a separator or control byte.")
    return bytes((byte,)) if byte in _UNRESERVED else match[0]
