# SPDX-License-Identifier: Apache-2.0
"""Rows of events from outside as PostgreSQL's binary COPY takes them: what is the same for all
events of a subscription is laid out once.
"""

import json
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from nimbus.rules.metering import NIL, UsageEvent, is_counted
from nimbus.rules.meters import Outside

COLUMNS: Final = (
    "event_id", "occurred_at", "organization_id", "provider_organization_id", "subscription_id",
    "product_id", "key_id", "route_id", "producer", "environment", "method", "status",
    "duration_us", "bytes_in", "bytes_out", "ip", "request_id", "sequence", "upstream_us",
    "billable", "units", "leased", "meters", "source", "external_id", "reported_by", "properties",
    "member",
)  # fmt: skip
_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_HEAD = struct.Struct(">hi16siq")
_SIZE = struct.Struct(">i")
_NULL = _SIZE.pack(-1)
_ZERO, _SMALL = _SIZE.pack(8) + bytes(8), _SIZE.pack(2) + bytes(2)  # a bigint, a smallint
_NOWHERE = _SIZE.pack(20) + bytes((3, 128, 0, 16)) + bytes(16)  # the inet address ::
_TEXT = json.JSONEncoder().encode
_PG_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def reported_rows(events: Sequence[UsageEvent]) -> tuple[Sequence[str], bytes]:
    """The columns and rows of `usage_events` for events from outside."""
    same: dict[tuple[int, str], bytes] = {}
    parts = [_BEGIN]
    for event in events:
        outside = event.outside
        assert outside is not None, "it comes from outside"
        known = event.subscription_id.int, event.environment
        middle = same.get(known)
        if middle is None:
            middle = same[known] = _same(event)
        at = (event.occurred_at - _PG_EPOCH) // _MICROSECOND
        parts += (_HEAD.pack(len(COLUMNS), 16, event.event_id.bytes, 8, at), middle)
        parts.append(_own(event, outside))
    parts.append(_END)
    return COLUMNS, b"".join(parts)


def _same(event: UsageEvent) -> bytes:
    """From `organization_id` to `leased`: what all events of a request and subscription share."""
    ids = (
        event.organization_id,
        event.provider_organization_id,
        event.subscription_id,
        event.product_id,
        NIL,
        NIL,
        NIL,
    )
    return b"".join(
        (
            *(_field(one.bytes) for one in ids),
            _field(event.environment.encode()),
            _field(b""),
            _SMALL,
            _ZERO * 3,
            _NOWHERE,
            _field(event.request_id.encode()),
            _ZERO * 2,
            _field(bytes((is_counted(event),))),
            _ZERO * 2,
        )
    )


def _own(event: UsageEvent, outside: Outside) -> bytes:
    """From `meters` on. A jsonb has its version before its text."""
    meters = ",".join(f'"{key}":"{value:f}"' for key, value in event.meters)
    properties, member = outside.properties, outside.member
    return b"".join(
        (
            _field(b"\x01{%b}" % meters.encode()),
            _field(outside.source.encode()),
            _field(outside.external_id.encode()),
            _field(outside.reported_by.bytes),
            _NULL if properties is None else _field(b"\x01" + _TEXT(properties).encode()),
            _NULL if member is None else _field(member.bytes),
        )
    )


def _field(data: bytes) -> bytes:
    return _SIZE.pack(len(data)) + data
