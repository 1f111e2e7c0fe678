# SPDX-License-Identifier: Apache-2.0
"""The strict reader of payloads: from bytes as they come to the bytes that were meant.

Content-Length or chunks; chunk extensions and trailers are checked, bounded and dropped.
`BadMessageError` carries the code of spec 08. A verdict falls at the earliest byte that
justifies it.
"""

import re
from typing import Final

from nimbus.gateway.head import ILLEGAL, MAX_BODY, TOKEN, BadMessageError

MAX_CHUNK_EXTENSIONS: Final = 16_384
MAX_TRAILERS: Final = 8_192

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"host", b"trailer"))


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
            bad = ILLEGAL.search(buffer, position, position + budget + 1)
            if bad is not None:
                raise BadMessageError("malformed_request", "A chunk line holds an illegal byte.")
            if len(buffer) - position > budget + 1:
                raise BadMessageError(code, "A chunk's extensions or trailers are too long.")
            return None
        # One byte further: a bare CR just before the line's own end is seen for what it is.
        if ILLEGAL.search(buffer, position, end + 1) is not None:
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
        if not colon or TOKEN.fullmatch(name) is None or name.lower() in _FRAMING:
            raise BadMessageError("malformed_request", "A trailer can't be accepted.")
