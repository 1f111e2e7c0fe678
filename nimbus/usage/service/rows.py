# SPDX-License-Identifier: Apache-2.0
"""Rows of events and refused calls as PostgreSQL's binary COPY takes them, built from arrays.

Every row is laid out at its greatest width in one array, and what a row does not need of it is left
out when the bytes are taken: no Python runs for a row, but for what upstreams reported.
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from nimbus.rules import latency
from nimbus.rules.blocks import IDS, METERS, METHOD, REFUSAL, REQUEST, TEXTS_AT, Calls, known_meters
from nimbus.rules.metering import (
    BILLABLE,
    CONTINUED,
    IPV6,
    LIVE,
    MAX_CODE,
    MAX_METHOD,
    MAX_REQUEST_ID,
    NIL,
)
from nimbus.rules.money import EXACT
from nimbus.rules.tallies import Tally

Array = NDArray[Any]
Fixed = Mapping[str, tuple[str, Array]]
"""Column → its type in the row, and its values."""
Varying = Mapping[str, tuple[Array, Array]]
"""Column → bytes, a row each at their greatest width, and lengths (-1: NULL)."""

_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_PG_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000
_INET, _INET6 = 2, 3  # address families of its inet
_SIZE_OF = "size of "
_NO_METERS = b"\x01{}"  # a jsonb has its version before its text
_CELL_IDS = ("organization_id", "provider_organization_id", "subscription_id", "product_id",
             "key_id", "route_id")  # fmt: skip
CELL_COLUMNS = (
    *_CELL_IDS, "status_class", "environment", "hour", "events", "duration_us", "bytes_in",
    "bytes_out", "last_at", "last_event_id", "meter_key", "quantity_sum", "quantity_max",
    "quantity_last", "latency",
)  # fmt: skip
_HEAD = struct.Struct(">h" + "i16s" * len(_CELL_IDS) + "ihi4siq")
_TAIL = struct.Struct(">" + "iq" * 5 + "i16s")
_SIZE = struct.Struct(">i")
_BIGINT = 20  # the type's number in every PostgreSQL
_PG_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NULLABLE = ("subscription_id", "product_id", "key_id", "route_id")


def served_rows(calls: Calls) -> tuple[list[str], bytes]:
    """The columns and rows of `usage_events` for served calls."""
    slots = calls.slots
    counted = slots["flags"] & (LIVE | BILLABLE) == (LIVE | BILLABLE)
    fixed = _fixed(calls, IDS) | {
        "upstream_us": (">i8", slots["upstream_us"]),
        "billable": ("u1", counted),
        "units": (">i8", np.where(counted, slots["units"], 0)),
        "leased": (">i8", slots["leased"]),
        "continued": ("u1", slots["flags"] & CONTINUED != 0),
    }
    return _rows(fixed, _varying(calls) | {"meters": _meters(calls)})


def refused_rows(calls: Calls) -> tuple[list[str], bytes]:
    """The columns and rows of `refused_calls` for refused calls; an unknown id is NULL."""
    ids = np.ascontiguousarray(calls.slots["ids"]).view(np.uint8).reshape(len(calls), len(IDS), 16)
    unknown = (ids == np.frombuffer(NIL.bytes, np.uint8)).all(axis=2)
    varying = dict(_varying(calls))
    for name in _NULLABLE:
        place = IDS.index(name)
        varying[name] = ids[:, place], np.where(unknown[:, place], -1, 16)
    varying["code"] = _text(calls, REFUSAL, MAX_CODE)
    return _rows(_fixed(calls, [name for name in IDS if name not in _NULLABLE]), varying)


def cell_rows(tallies: Iterable[Tally]) -> tuple[list[str], bytes]:
    """The columns and rows of `usage_deltas`: what tallies add to the roll-up, a row a meter."""
    rows = []
    for one in tallies:
        kind = one.kind
        head = _HEAD.pack(
            len(CELL_COLUMNS),
            *(part for name in _CELL_IDS for part in (16, getattr(kind, name).bytes)),
            *(2, kind.status_class, 4, kind.environment.encode(), 8, _instant(kind.hour)),
        )
        for meter_key, cell in one.cells.items():
            amounts = map(_numeric, (cell.total, cell.peak, cell.last))
            texts = (meter_key.encode(), *amounts, _array(latency.pack(cell.latency)))
            tail = _TAIL.pack(
                *(8, cell.events, 8, cell.duration_us, 8, cell.bytes_in, 8, cell.bytes_out),
                *(8, _instant(cell.last_at), 16, cell.last_event_id.bytes),
            )
            rows += [
                head,
                tail,
                *(part for text in texts for part in (_SIZE.pack(len(text)), text)),
            ]
    return list(CELL_COLUMNS), b"".join([_BEGIN, *rows, _END])


@lru_cache(maxsize=65_536)
def _numeric(value: Decimal) -> bytes:
    """A quantity as a numeric has it: groups of four digits, three of them after the point."""
    groups: list[int] = []
    rest = int(EXACT.scaleb(abs(value), 12))
    while rest:
        rest, group = divmod(rest, 10_000)
        groups.append(group)
    size = len(groups)
    sign = 0x4000 if value < 0 else 0
    return struct.pack(f">hhHh{size}h", size, size - 4, sign, 12, *reversed(groups))


def _array(values: Sequence[int]) -> bytes:
    """Numbers as a bigint[] has them."""
    if not values:
        return struct.pack(">iiI", 0, 0, _BIGINT)
    parts = (part for value in values for part in (8, value))
    return struct.pack(f">iiIii{len(values) * 'iq'}", 1, 0, _BIGINT, len(values), 1, *parts)


def _instant(at: datetime) -> int:
    return (at - _PG_EPOCH) // _MICROSECOND


def _fixed(calls: Calls, ids: Sequence[str]) -> dict[str, tuple[str, Array]]:
    slots, count = calls.slots, len(calls)
    names = np.array([b"Test", b"Live"])
    return {
        "event_id": ("V16", calls.event_ids.view("V16").ravel()),
        "occurred_at": (">i8", slots["occurred_us"] - _PG_EPOCH_US),
        **{name: ("V16", slots["ids"][:, IDS.index(name)]) for name in ids},
        "environment": ("S4", names[(slots["flags"] & LIVE != 0).astype(int)]),
        "status": (">i2", slots["status"]),
        "duration_us": (">i8", slots["duration_us"]),
        "bytes_in": (">i8", slots["bytes_in"]),
        "bytes_out": (">i8", slots["bytes_out"]),
        "producer": ("V16", _repeated(calls.producer, count)),
        "sequence": (">i8", slots["sequence"]),
    }


def _varying(calls: Calls) -> dict[str, tuple[Array, Array]]:
    return {
        "method": _text(calls, METHOD, MAX_METHOD),
        "ip": _addresses(calls),
        "request_id": _text(calls, REQUEST, MAX_REQUEST_ID),
    }


def _repeated(value: UUID, count: int) -> Array:
    return np.broadcast_to(np.frombuffer(value.bytes, "V16"), count)


def _text(calls: Calls, which: int, most: int) -> tuple[Array, Array]:
    lengths = calls.lengths
    starts = TEXTS_AT + lengths[:, :which].sum(axis=1)
    if len(starts) and (starts == starts[0]).all():
        return calls.octets[:, starts[0] : starts[0] + most], lengths[:, which]
    places = starts[:, None] + np.arange(most)
    return np.take_along_axis(calls.octets, places, axis=1), lengths[:, which]


def _addresses(calls: Calls) -> tuple[Array, Array]:
    """Addresses as an inet has them: family, bits, no network, length, bytes."""
    is_six = calls.slots["flags"] & IPV6 != 0
    octets = np.empty((len(calls), 20), np.uint8)
    octets[:, 0] = np.where(is_six, _INET6, _INET)
    octets[:, 1] = np.where(is_six, 128, 32)
    octets[:, 2] = 0
    octets[:, 3] = np.where(is_six, 16, 4)
    octets[:, 4:] = np.ascontiguousarray(calls.slots["ip"]).view(np.uint8).reshape(-1, 16)
    return octets, np.where(is_six, 20, 8)


def _meters(calls: Calls) -> tuple[Array, Array]:
    told = np.flatnonzero(calls.lengths[:, METERS] > 0)
    texts = [_json(calls.text(place, METERS)) for place in told.tolist()]
    most = max(map(len, texts), default=len(_NO_METERS))
    octets = np.empty((len(calls), max(most, len(_NO_METERS))), np.uint8)
    octets[:, : len(_NO_METERS)] = np.frombuffer(_NO_METERS, np.uint8)
    lengths = np.full(len(calls), len(_NO_METERS))
    for place, text in zip(told.tolist(), texts, strict=True):
        octets[place, : len(text)] = np.frombuffer(text, np.uint8)
        lengths[place] = len(text)
    return octets, lengths


@lru_cache(maxsize=16_384)
def _json(text: bytes) -> bytes:
    meters = {key: format(value, "f") for key, value in known_meters(text)}
    return b"\x01" + json.dumps(meters).encode()


def _rows(fixed: Fixed, varying: Varying) -> tuple[list[str], bytes]:
    columns = [*fixed, *varying]
    layout = [("columns", ">i2")]
    for name, (kind, _) in fixed.items():
        layout += [(_SIZE_OF + name, ">i4"), (name, kind)]
    even = {name: _even(lengths) for name, (_, lengths) in varying.items()}
    for name, size in even.items():
        if size is not None:
            layout += [(_SIZE_OF + name, ">i4"), (name, f"V{size}")]
    row = np.dtype(layout)
    uneven = {name: one for name, one in varying.items() if even[name] is None}
    columns.sort(key=lambda name: name in uneven)
    count = len(next(iter(fixed.values()))[1])
    width = row.itemsize + sum(4 + octets.shape[1] for octets, _ in uneven.values())
    whole = np.empty((count, width), np.uint8)
    whole[:, : row.itemsize] = _first(row, len(columns)).view(np.uint8)
    cells = np.ndarray((count,), row, whole.data, 0, (width,))
    for name, (_, values) in fixed.items():
        cells[name] = values
    for name, size in even.items():
        if size:
            cells[name] = np.ascontiguousarray(varying[name][0][:, :size]).view(row[name]).ravel()
    if not uneven:
        return columns, _BEGIN + whole.tobytes() + _END
    kept = np.ones((count, width), np.bool_)
    at = row.itemsize
    for octets, lengths in uneven.values():
        most = octets.shape[1]
        whole[:, at : at + 4] = lengths.astype(">i4").view(np.uint8).reshape(-1, 4)
        whole[:, at + 4 : at + 4 + most] = octets
        kept[:, at + 4 : at + 4 + most] = np.arange(most) < lengths[:, None]
        at += 4 + most
    return columns, _BEGIN + whole[kept].tobytes() + _END


def _even(lengths: Array) -> int | None:
    """How long all texts of a column are; None where they differ, or are NULL."""
    size = int(lengths[0]) if len(lengths) else 0
    return size if size >= 0 and (lengths == size).all() else None


def _first(row: np.dtype[Any], columns: int) -> Array:
    """What all rows have in common: how many columns, and how long those are that don't vary."""
    first = np.zeros(1, row)
    first["columns"] = columns
    for name in row.names or ():
        if name.startswith(_SIZE_OF):
            first[name] = row[name.removeprefix(_SIZE_OF)].itemsize
    return first
