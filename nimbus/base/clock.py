# SPDX-License-Identifier: Apache-2.0
"""The only module that asks the operating system what time it is.

Business time (trials, periods, quotas, invoices, key expiry, event times, audit) is `now()`; it
stands still under a test clock until it is advanced. Machine time (tokens, throttles, timeouts,
leases, idempotency windows, mail attempts) is `machine_now()` and `monotonic()`. All UTC.
"""

import time
from datetime import UTC, datetime, timedelta

_instant: datetime | None = None
_instant_us: int | None = None
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now() -> datetime:
    """The business instant, timezone-aware in UTC."""
    return _instant or machine_now()


def now_us() -> int:
    """The business instant in whole microseconds since 1970, where objects would be too slow."""
    return time.time_ns() // 1000 if _instant_us is None else _instant_us


def to_us(instant: datetime) -> int:
    """An aware instant in whole microseconds since 1970."""
    return (instant - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """The instant, in UTC, of so many microseconds since 1970."""
    return _EPOCH + microseconds * _MICROSECOND


def machine_now() -> datetime:
    """The machine's instant, timezone-aware in UTC, whatever the test clock says."""
    return datetime.now(UTC)


monotonic = time.monotonic
"""Seconds that only go forward, for timeouts and rate windows."""

machine_ns = time.time_ns
"""Nanoseconds since 1970 by the machine, for what needs no object."""

monotonic_ns = time.monotonic_ns
"""`monotonic` in nanoseconds, where even a call in between would be felt."""


def monotonic_us() -> int:
    """The same in whole microseconds."""
    return time.monotonic_ns() // 1000


def set_instant(instant: datetime | None) -> None:
    """Let business time stand at `instant` (aware, UTC); None follows the machine again."""
    global _instant, _instant_us  # noqa: PLW0603 - one clock a process is the point
    assert instant is None or instant.tzinfo is not None, "business time is aware"
    _instant = instant
    _instant_us = None if instant is None else to_us(instant)


def to_wire(instant: datetime) -> str:
    """RFC 3339 in UTC with `Z`: 2026-05-01T00:00:00Z; microseconds only when there are any."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def from_wire(text: str) -> datetime:
    """Parse RFC 3339; raises ValueError when it is not, names no zone, or is no instant in UTC."""
    return in_utc(datetime.fromisoformat(text))


def in_utc(instant: datetime) -> datetime:
    """The instant in UTC; raises ValueError when it names no zone or UTC can't hold it."""
    if instant.tzinfo is None:
        raise ValueError("an instant names its zone")
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("an instant lies in the years 1 to 9999") from None
