# SPDX-License-Identifier: Apache-2.0
"""The strict parser of heads: of requests and of answers, from bytes and nothing else.

    HeadReader      bytes as they come → RequestHead, the same verdict however they are split
    read_response   the same for an upstream's answers
    known_request   a head whose lines were all read before, in one look; known_answer: likewise

What two parsers could read differently is refused: bare CR or LF, folded lines, white space
around names, two Hosts, two framings, anything but `chunked`, paths that an upstream may
normalise. `BadMessageError` carries the code of spec 08; the connection closes after it.
Limits are on raw bytes. A verdict falls at the earliest byte that justifies it, so that the
same bytes in other pieces get the same answer.
"""

import re
from dataclasses import dataclass, field
from typing import Final, TypeVar

from nimbus.gateway.route import split_data_path

MAX_REQUEST_LINE: Final = 8_192
MAX_HEADER_BLOCK: Final = 32_768
MAX_HEADER_LINES: Final = 100
MAX_BODY: Final = 10_485_760
MAX_EMPTY_LINES: Final = 1  # before a request: some old clients end a body with one too many

# How much is remembered of what was read: entries, and bytes of each.
MAX_LINES, MAX_BLOCKS, MAX_ANSWERS = 2_048, 512, 512
MAX_REMEMBERED_LINE, MAX_REMEMBERED = 256, 1_024

METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))

ILLEGAL = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]+)([/?].*)?", re.DOTALL)
_HOST = re.compile(
    rb"((?:[a-z0-9_](?:[a-z0-9_\-.]*[a-z0-9_])?\.?)|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?"
)
_PATH = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(rb"(?:[!\"$&-~]|%[0-9A-Fa-f]{2})*")
_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LENGTH = re.compile(rb"[0-9]{1,19}")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Bytes that no path may hold even when encoded: an upstream that decodes once would see
# another path than the one that was checked.
_HIDDEN = frozenset(range(0x20)) | frozenset(b"/\\\x7f")
_LEGAL = bytes(byte for byte in range(0x100) if byte == 9 or (byte >= 0x20 and byte != 0x7F))
_CREDENTIALS = (
    b"\r\nAuthorization: Bearer ",
    b"\r\nX-API-Key: ",
    b"\r\nauthorization: Bearer ",
    b"\r\nx-api-key: ",
)
_CREDENTIAL_NAMES = frozenset((b"authorization", b"x-api-key"))
# Lines that are not remembered: they may hold a secret, or are never the same twice.
_SECRETS = _CREDENTIAL_NAMES | {b"cookie", b"proxy-authorization", b"set-cookie"}
_FORGOTTEN = _SECRETS | {
    b"idempotency-key",
    b"traceparent",
    b"tracestate",
    b"x-correlation-id",
    b"x-request-id",
}

_Read = TypeVar("_Read")
Field = tuple[bytes, bytes, bytes]  # name in lower case, name as sent, value


class BadMessageError(Exception):
    """The peer's bytes can't be accepted; `code` says why, in the words of spec 08."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A request's first line. `path` has its unreserved escapes decoded and holds no dot
    segment, empty segment or hidden separator; `query` is None without a `?`. `authority` is the
    host that an absolute target names, `place` product slug and path below it on the data path.
    """

    method: bytes
    path: bytes
    query: bytes | None
    minor: int
    authority: bytes | None
    place: tuple[bytes, bytes] | None


@dataclass(frozen=True, slots=True)
class Block:
    """A request's header lines, without the credential that was taken out of them.

    `length` is the body's, None when it comes in chunks; `stays`: the caller wants to go on with
    the connection; `trace` is its traceparent line, when that can be read; `credentials` says
    that further ones are among the fields. A block is shared by all requests with the same
    lines, so nothing of a single request may be kept in it; `made` is room for what follows
    from it.
    """

    fields: tuple[Field, ...]
    host: bytes
    port: int | None
    authority: bytes
    connection: frozenset[bytes]
    length: int | None
    expects_continue: bool
    stays: bool
    websocket: bool
    credentials: bool
    trace: bytes
    made: dict[bytes, bytes] = field(default_factory=dict, compare=False, repr=False)

    def values(self, name: bytes) -> list[bytes]:
        """The values of all lines of this (lower-case) name."""
        return [value for lower, _, value in self.fields if lower == name]


@dataclass(slots=True)
class RequestHead:
    """A request that may be answered. A plain credential stands apart from the block: `secret`,
    and what stood before it on its line; any other is among the fields.
    """

    line: RequestLine
    block: Block
    prefix: bytes
    secret: bytes | None
    size: int

    @property
    def method(self) -> bytes:
        """One of METHODS."""
        return self.line.method

    @property
    def has_body(self) -> bool:
        """Whether body bytes follow the head."""
        return self.block.length != 0

    @property
    def expects_continue(self) -> bool:
        """Whether the caller waits for a word before it sends the body."""
        return self.block.expects_continue and self.line.minor == 1

    @property
    def keep_alive(self) -> bool:
        """Whether the caller wants the connection to stay."""
        return self.line.minor == 1 and self.block.stays


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """An upstream's final answer. `length` None: chunked when `chunked`, else until it closes;
    `size` is the head's own, `whole` that of head and payload when the connection stays open after
    them, else -1.
    Shared by all answers with the same head; `made` is room for what follows from it.
    """

    status: int
    reason: bytes
    fields: tuple[Field, ...]
    connection: frozenset[bytes]
    length: int | None
    chunked: bool
    keep_alive: bool
    size: int
    whole: int
    made: dict[bytes, bytes] = field(default_factory=dict, compare=False, repr=False)


# What was read before. Lines and blocks come again and again; each is read once and remembered,
# which changes no verdict, because what they mean depends on nothing but their bytes. Nothing
# that may hold a secret or a query is remembered; a full table is emptied.
_lines: dict[bytes, RequestLine] = {}
_blocks: dict[bytes, Block] = {}
_fields_read: dict[bytes, Field] = {}
_answers: dict[bytes, ResponseHead] = {}


def known_request(data: bytes) -> RequestHead | None:
    """The head at the start of `data` when its line and block were read before, and so need no
    further look; None sends the caller to a HeadReader, which comes to the same result.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4 or end > MAX_REQUEST_LINE:
        return None
    start = data.find(b"\r\n")
    first = data[:start]
    line = _lines.get(first) or _known_line(first)
    if line is None:
        return None
    prefix, secret, rest = _take_credential(data, start, end)
    block = _blocks.get(rest)
    if block is None or (block.length is None and line.minor == 0):
        return None
    return RequestHead(line, block, prefix, secret, end)


def known_answer(data: bytes) -> ResponseHead | None:
    """The answer's head at the start of `data`, when the same was read before in answer to
    another method than HEAD; None sends the caller to `read_response`.
    """
    return _answers.get(data[: data.find(b"\r\n\r\n") + 4])


class HeadReader:
    """Gathers one request's head; what comes after it stays in `buffer`."""

    __slots__ = ("_empty_lines", "_line", "_line_end", "_scanned", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._line: RequestLine | None = None
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
        head = _request_head(self._line, bytes(buffer[self._line_end : end]), end)
        del buffer[:end]
        self._line, self._line_end, self._scanned, self._empty_lines = None, 0, 0, 0
        return head


def read_response(buffer: bytearray, method: bytes) -> ResponseHead | None:
    """The head of an answer to `method`, taken off the buffer; None when more bytes are needed.

    Interim answers (1xx) are given too, with `status` below 200. Raises BadMessageError for
    what a strict reader can't trust; the caller answers 502.
    """
    line_end = buffer.find(b"\r\n")
    if ILLEGAL.search(buffer, 0, line_end if line_end >= 0 else len(buffer)) is not None:
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
    raw = bytes(buffer[:end])
    head = _response_head(match, _fields(raw[line_end:]), method, end)
    status = head.status
    del buffer[:end]
    if status >= 200 and method != b"HEAD" and _may_be_remembered(head, raw):
        _remember(_answers, raw, head, MAX_ANSWERS)
    return head


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
    if ILLEGAL.search(buffer, 0, checked) is not None:
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
    illegal = None if _clean(buffer, line_end, end) else ILLEGAL.search(buffer, line_end, end)
    over = _limit_passed(buffer, line_end + 2, end)
    if illegal is not None and (over < 0 or illegal.start() < over):
        raise BadMessageError("malformed_request", "The header holds an illegal byte.")
    if over >= 0:
        raise BadMessageError("headers_too_large", "The header is over 32 KiB or 100 lines.")
    return -1 if found < 0 else end


def _clean(buffer: bytearray, start: int, end: int) -> bool:
    """Whether this stretch certainly holds no illegal byte: the quick look before the exact one."""
    pairs = buffer.count(b"\r\n", start, end)
    return buffer[start:end].translate(None, _LEGAL) == b"\r\n" * pairs


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


def _request_line(raw: bytes) -> RequestLine:
    known = _lines.get(raw)
    if known is not None:
        return known
    match = _REQUEST_LINE.fullmatch(raw)
    if match is None:
        raise BadMessageError("malformed_request", "The request line can't be read.")
    if match[3] != b"1" or match[4] not in {b"0", b"1"}:
        raise BadMessageError("version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are spoken.")
    if match[1] not in METHODS:
        raise BadMessageError("not_implemented", "This method is not implemented.")
    authority, path, query = _target(match[2])
    line = RequestLine(match[1], path, query, int(match[4]), authority, split_data_path(path))
    if query is None and authority is None and len(raw) <= MAX_REMEMBERED_LINE:
        _remember(_lines, raw, line, MAX_LINES)
    return line


def _known_line(raw: bytes) -> RequestLine | None:
    """The line, when it is one that was read before but for its query."""
    bare, _, rest = raw.partition(b"?")
    query, version = rest[:-9], rest[-9:]
    line = _lines.get(bare + version)
    if line is None or version != b" HTTP/1.1" or _QUERY.fullmatch(query) is None:
        return None
    return RequestLine(line.method, line.path, query, line.minor, None, line.place)


def _take_credential(data: bytes, start: int, end: int) -> tuple[bytes, bytes | None, bytes]:
    """The head's first plain credential, with what stands before it on its line, and the lines
    from `start` to `end` without that line. Not plain is what is not one word of letters, digits
    and underscores: it stays where it is, as does a second one.
    """
    for prefix in _CREDENTIALS:
        at = data.find(prefix, start, end)
        if at >= 0:
            after = at + len(prefix)
            past = data.find(b"\r\n", after)
            secret = data[after:past]
            if secret.replace(b"_", b"").isalnum():
                return prefix, secret, data[start:at] + data[past:end]
    return b"", None, data[start:end]


def _request_head(line: RequestLine, raw: bytes, size: int) -> RequestHead:
    prefix, secret, rest = _take_credential(raw, 0, len(raw))
    block = _blocks.get(rest)
    if block is None:
        block = _block(rest)
        if _may_be_remembered(block, rest):
            _remember(_blocks, rest, block, MAX_BLOCKS)
    if line.authority is not None and line.authority.lower() != block.authority.lower():
        raise BadMessageError("malformed_request", "The target can't be read.")
    if block.length is None and line.minor == 0:
        raise BadMessageError("malformed_request", "HTTP/1.0 knows no chunks.")
    return RequestHead(line, block, prefix, secret, size)


def _block(raw: bytes) -> Block:
    fields = _fields(raw)
    hosts = [value for lower, _, value in fields if lower == b"host"]
    if len(hosts) != 1:
        raise BadMessageError("malformed_request", "A request names its Host exactly once.")
    host, port = split_host(hosts[0])
    length = _framing(fields)
    if length is not None and length > MAX_BODY:
        raise BadMessageError("payload_too_large", "The body is over 10 MiB.")
    expectations = [value for lower, _, value in fields if lower == b"expect"]
    if expectations and [value.lower() for value in expectations] != [b"100-continue"]:
        raise BadMessageError("expectation_failed", "Only 100-continue can be expected.")
    connection = tokens([value for lower, _, value in fields if lower == b"connection"])
    traces = [value for lower, _, value in fields if lower == b"traceparent"]
    if len(traces) == 1 and _TRACEPARENT.fullmatch(traces[0]) is None:
        traces = []
    return Block(
        fields=fields,
        host=host,
        port=port,
        authority=hosts[0],
        connection=connection,
        length=length,
        expects_continue=bool(expectations) and length != 0,
        websocket=any(
            name == b"upgrade" and value.lower() == b"websocket" for name, _, value in fields
        ),
        stays=b"close" not in connection,
        trace=b"traceparent: %s\r\n" % traces[0] if len(traces) == 1 else b"",
        credentials=any(name in _CREDENTIAL_NAMES for name, _, _ in fields),
    )


def _response_head(
    line: re.Match[bytes], fields: tuple[Field, ...], method: bytes, size: int
) -> ResponseHead:
    minor, status, reason = int(line[1]), int(line[2]), bytes(line[3] or b"")
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
    keep_alive = minor == 1 and b"close" not in connection and (coded or length is not None)
    return ResponseHead(
        status=status,
        reason=reason,
        fields=fields,
        connection=connection,
        length=length,
        chunked=coded,
        keep_alive=keep_alive,
        size=size,
        whole=-1 if length is None or not keep_alive else size + length,
    )


def _fields(raw: bytes) -> tuple[Field, ...]:
    """The lines of a header block, from the CRLF before it to the empty line after it."""
    found: list[Field] = []
    for line in raw.split(b"\r\n")[1:-2]:
        one = _fields_read.get(line)
        if one is None:
            name, colon, value = line.partition(b":")
            if not colon or TOKEN.fullmatch(name) is None:
                raise BadMessageError("malformed_request", "A header line can't be read.")
            one = (name.lower(), name, value.strip(b" \t"))
            if len(line) <= MAX_REMEMBERED_LINE and one[0] not in _FORGOTTEN:
                _remember(_fields_read, line, one, MAX_LINES)
        found.append(one)
    return tuple(found)


def _may_be_remembered(head: Block | ResponseHead, raw: bytes) -> bool:
    """Short, without secrets, and within the limits with one line (of a credential) more."""
    if len(raw) > MAX_REMEMBERED or len(head.fields) >= MAX_HEADER_LINES:
        return False
    return not any(lower in _FORGOTTEN for lower, _, _ in head.fields)


def _remember(table: dict[bytes, _Read], raw: bytes, read: _Read, bound: int) -> None:
    if len(table) >= bound:
        table.clear()
    table[raw] = read


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


def _target(target: bytes) -> tuple[bytes | None, bytes, bytes | None]:
    """Authority, path and query of an absolute-form or (without the first) origin-form target."""
    authority = None
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise BadMessageError("malformed_request", "The target can't be read.")
        authority, target = match[1], match[2] or b"/"
        if target.startswith(b"?"):
            target = b"/" + target
    path, mark, query = target.partition(b"?")
    if _PATH.fullmatch(path) is None or _QUERY.fullmatch(query) is None:
        raise BadMessageError("malformed_request", "The target holds an illegal byte.")
    return authority, _plain(path), query if mark else None


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
