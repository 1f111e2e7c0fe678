# SPDX-License-Identifier: Apache-2.0
"""Rows of events from outside as PostgreSQL's binary COPY takes them: what is the same for all
events of a subscription is laid out once.
"""

import struct
from collections.abc import Sequence
from typing import Final

from nimbus.rules.metering import NIL
from nimbus.rules.reports import Reported, Target

COLUMNS: Final = (
    "event_id", "occurred_at", "organization_id", "provider_organization_id", "subscription_id",
    "product_id", "key_id", "route_id", "producer", "environment", "method", "status",
    "duration_us", "bytes_in", "bytes_out", "ip", "request_id", "sequence", "upstream_us",
    "billable", "units", "leased", "continued", "meters", "source", "external_id", "reported_by",
    "properties", "member",
)  # fmt: skip
_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_HEAD = struct.Struct(">hi16siq")
_SIZE = struct.Struct(">i")
_NULL = _SIZE.pack(-1)
_NO_METERS = b"\x01{}"  # a jsonb has its version before its text
_ZERO, _SMALL = _SIZE.pack(8) + bytes(8), _SIZE.pack(2) + bytes(2)  # a bigint, a smallint
_NOWHERE = _SIZE.pack(20) + bytes((3, 128, 0, 16)) + bytes(16)  # the inet address ::
_PG_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000


def reported_rows(events: Sequence[Reported]) -> tuple[Sequence[str], bytes]:
    """The columns and rows of `usage_events` for events from outside."""
    same: dict[Target, tuple[bytes, bytes, bytes]] = {}
    head, size = _HEAD.pack, _SIZE.pack
    count = len(COLUMNS)
    parts = [_BEGIN]
    for event in events:
        target, event_id, occurred_us, _, amount, counts, source, external_id, said, member = event
        known = same.get(target)
        if known is None:
            known = same[target] = _same(target)
        middle, meter, reporter = known
        meters = b'\x01{"%b":"%b"}' % (meter, amount.encode()) if counts else _NO_METERS
        whence, own = source.encode(), external_id.encode()
        parts += (
            head(count, 16, event_id, 8, occurred_us - _PG_EPOCH_US),
            middle,
            size(len(meters)),
            meters,
            size(len(whence)),
            whence,
            size(len(own)),
            own,
            reporter,
            _field(b"\x01" + said.encode()) if said else _NULL,
            _field(member.bytes) if member else _NULL,
        )
    parts.append(_END)
    return COLUMNS, b"".join(parts)


def _same(target: Target) -> tuple[bytes, bytes, bytes]:
    """What all events of a target share: the columns from `organization_id` to `continued`, the
    meter's name, and the column of who reports.
    """
    ids = (
        target.organization_id,
        target.provider_organization_id,
        target.subscription_id,
        target.product_id,
        NIL,
        NIL,
        NIL,
    )
    columns = (
        *(_field(one.bytes) for one in ids),
        _field(b"Live" if target.live else b"Test"),
        _field(b""),
        _SMALL,
        _ZERO * 3,
        _NOWHERE,
        _field(target.request_id.encode()),
        _ZERO * 2,
        _field(bytes((target.live,))),
        _ZERO * 2,
        _field(bytes((target.correction,))),
    )
    return b"".join(columns), target.meter_key.encode(), _field(target.reported_by.bytes)


def _field(data: bytes) -> bytes:
    return _SIZE.pack(len(data)) + data
