# SPDX-License-Identifier: Apache-2.0
"""Rows of events and refused calls as PostgreSQL's binary COPY takes them, built from arrays.

Every row is laid out at its greatest width in one array, and what a row does not need of it is left
out when the bytes are taken: no Python runs for a row, but for what upstreams reported.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

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

Array = NDArray[Any]
Fixed = Mapping[str, tuple[str, Array]]
"""Column → its type in the row, and its values."""
Varying = Mapping[str, tuple[Array, Array]]
"""Column → bytes, a row each at their greatest width, and lengths (-1: NULL)."""

_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_PG_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000
_INET, _INET6 = 2, 3  # address families of its inet
_NO_METERS = b"\x01{}"  # a jsonb has its version before its text
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
        layout += [(f"size of {name}", ">i4"), (name, kind)]
    row = np.dtype(layout)
    count = len(next(iter(fixed.values()))[1])
    width = row.itemsize + sum(4 + octets.shape[1] for octets, _ in varying.values())
    whole = np.empty((count, width), np.uint8)
    kept = np.ones((count, width), np.bool_)
    whole[:, : row.itemsize] = _first(row, fixed, len(columns)).view(np.uint8)
    cells = np.ndarray((count,), row, whole.data, 0, (width,))
    for name, (_, values) in fixed.items():
        cells[name] = values
    at = row.itemsize
    for octets, lengths in varying.values():
        most = octets.shape[1]
        whole[:, at : at + 4] = lengths.astype(">i4").view(np.uint8).reshape(-1, 4)
        whole[:, at + 4 : at + 4 + most] = octets
        kept[:, at + 4 : at + 4 + most] = np.arange(most) < lengths[:, None]
        at += 4 + most
    return columns, _BEGIN + whole[kept].tobytes() + _END


def _first(row: np.dtype[Any], fixed: Fixed, columns: int) -> Array:
    """What all rows have in common: how many columns, and how long each fixed one is."""
    first = np.zeros(1, row)
    first["columns"] = columns
    for name in fixed:
        first[f"size of {name}"] = row[name].itemsize
    return first
