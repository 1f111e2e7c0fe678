# SPDX-License-Identifier: Apache-2.0
"""Units that an upstream's answer tells: in a header, in its JSON, in the last event of a stream.

A payload is read as it passes, never held up or changed. A document is kept up to DOCUMENT_MAX
bytes; of a stream one event at a time, up to EVENT_MAX bytes, and of each meter the quantity in the
last event that has one. What is longer, compressed, or no JSON gives nothing, and the log says so.
"""

import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final, Protocol

from nimbus.base.log import get_logger
from nimbus.gateway.call import Call, Meters
from nimbus.gateway.head import ResponseHead
from nimbus.rules.grants import Taps
from nimbus.rules.metering import MAX_USAGE_TEXT, meters_text, parse_meters
from nimbus.rules.meters import quantity_at

log = get_logger("gateway.tap")

DOCUMENT_MAX: Final = 262_144
EVENT_MAX: Final = 65_536

_JSON = re.compile(rb"application/(?:json|[!#$&^_.+a-z0-9-]+\+json)")
_STREAM = b"text/event-stream"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Tap(Protocol):
    """What reads an answer as it passes; `trouble` says why not all of it could be read."""

    trouble: str

    def take(self, piece: bytes | memoryview) -> None:
        """A piece of the answer's payload."""

    def found(self) -> Meters:
        """What the upstream used, once the payload is over."""


def open_tap(taps: Taps, head: ResponseHead) -> Tap | None:
    """What reads this answer; None for one that is neither JSON nor a stream of events."""
    named = {lower: value for lower, _, value in head.fields}
    kind = named.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != _STREAM and not _JSON.fullmatch(kind):
        return None
    if named.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        return _Unread("compressed")
    return _Stream(taps) if kind == _STREAM else _Document(taps)


def reported(usage: bytes, call: Call) -> Meters:
    """What the upstream reports as used in a header; nothing, and a warning, when it can't be
    read.
    """
    meters = parse_meters(usage)
    if meters is None:
        _warn("unreadable_usage", call)
        return ()
    return meters


def join(call: Call, tap: Tap) -> Meters:
    """What the answer's header reports, and what stands in its payload of other meters, as far as
    a journal slot has room.
    """
    known = {key for key, _ in call.meters}
    found = call.meters + tuple(pair for pair in tap.found() if pair[0] not in known)
    trouble = tap.trouble
    while len(meters_text(found)) > MAX_USAGE_TEXT:
        found, trouble = found[:-1], "too_many"
    if trouble:
        _warn("unread_usage", call, why=trouble)
    return found


def _warn(event: str, call: Call, **more: str) -> None:
    log.warning(
        event, product=call.product.slug.decode(), request_id=call.request_id.decode(), **more
    )


class _Unread:
    """An answer that can't be read."""

    __slots__ = ("trouble",)

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    def take(self, piece: bytes | memoryview) -> None:
        """Let it pass."""

    def found(self) -> Meters:
        """Nothing."""
        return ()


class _Document:
    """One JSON document, kept until it is whole."""

    __slots__ = ("_kept", "_taps", "trouble")

    def __init__(self, taps: Taps) -> None:
        self._taps = taps
        self._kept = bytearray()
        self.trouble = ""

    def take(self, piece: bytes | memoryview) -> None:
        """Keep it, unless the document is too long by now."""
        if self.trouble:
            return
        if len(self._kept) + len(piece) > DOCUMENT_MAX:
            self.trouble = "too_long"
            self._kept.clear()
        else:
            self._kept += piece

    def found(self) -> Meters:
        """What stands at the paths."""
        if self.trouble or not self._kept:
            return ()
        try:
            return _quantities(self._taps, bytes(self._kept))
        except (ValueError, RecursionError):
            self.trouble = "no_json"
            return ()


class _Stream:
    """Events of which only those are parsed that name what is looked for."""

    __slots__ = ("_data", "_found", "_needles", "_rest", "_size", "_skips", "_taps", "trouble")

    def __init__(self, taps: Taps) -> None:
        self._taps = taps
        self._needles = tuple(_needle(path) for _, path in taps)
        self._rest = b""  # of a line that is not complete
        self._data: list[bytes] = []  # of an event that is not complete
        self._size = 0
        self._skips = False  # the event is too long: up to its end nothing is kept
        self._found: dict[str, Decimal] = {}
        self.trouble = ""

    def take(self, piece: bytes | memoryview) -> None:
        """Read the lines that are complete."""
        text = self._rest + bytes(piece)
        held = b"\r" if text.endswith(b"\r") else b""  # the other half of a line's end may follow
        *lines, rest = _LINE_END.split(text.removesuffix(held))
        for line in lines:
            self._line(line)
        self._rest = rest + held
        if len(self._rest) > EVENT_MAX:
            self._skip()
            self._rest = self._rest[:6]  # what kind of line it is

    def found(self) -> Meters:
        """The last of each meter; an event that was not ended counts too."""
        self._line(self._rest.removesuffix(b"\r"))
        self._line(b"")
        return tuple(self._found.items())

    def _line(self, line: bytes) -> None:
        if not line:
            self._event()
        elif line.startswith(b"data:") and not self._skips:
            data = line[5:].removeprefix(b" ")
            self._size += len(data)
            if self._size > EVENT_MAX:
                self._skip()
            else:
                self._data.append(data)

    def _skip(self) -> None:
        self._data, self._skips = [], True
        self.trouble = "too_long"

    def _event(self) -> None:
        data = b"\n".join(self._data)
        self._data, self._size, self._skips = [], 0, False
        if any(needle in data for needle in self._needles):
            try:
                self._found.update(_quantities(self._taps, data))
            except (ValueError, RecursionError):
                self.trouble = self.trouble or "no_json"


def _needle(path: Iterable[str | int]) -> bytes:
    """What a document has in it that has something at this path."""
    return b'"%b"' % [step for step in path if isinstance(step, str)][-1].encode()


def _quantities(taps: Taps, text: bytes) -> Meters:
    """What stands at the paths of a document; raises ValueError or RecursionError for no JSON."""
    document = json.loads(text, parse_float=Decimal)
    found = ((key, quantity_at(document, path)) for key, path in taps)
    return tuple((key, quantity) for key, quantity in found if quantity is not None)
