# SPDX-License-Identifier: Apache-2.0
"""How counts, quantities and times of usage are written."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal

from nimbus.base import clock
from nimbus.rules.latency import quantile
from nimbus.rules.money import EXACT
from nimbus.rules.periods import Period
from nimbus.usage import schemas
from nimbus.usage.queries_rollup import CallCounts


def plain(quantity: Decimal) -> str:
    """A decimal string without trailing zeros: 22500, 0.5."""
    return format(quantity.normalize(EXACT), "f") if quantity else "0"


def milliseconds(microseconds: float) -> float:
    """1,500 → 1.5"""
    return round(microseconds / 1000, 3)


def moment(at: date | datetime | None) -> str:
    """A day as YYYY-MM-DD, an instant as RFC 3339."""
    return clock.to_wire(at) if isinstance(at, datetime) else str(at)


def period(span: Period) -> schemas.PeriodShape:
    """A half-open range."""
    return schemas.PeriodShape(
        starts_at=clock.to_wire(span.starts_at), ends_at=clock.to_wire(span.ends_at)
    )


def by_status(found: Iterable[CallCounts]) -> dict[str, int]:
    """Calls by class of status, those that there are: {"2xx": 90, "4xx": 10}."""
    ordered = sorted(found, key=lambda one: one.status_class or 0)
    return {f"{one.status_class}xx": one.calls for one in ordered if one.calls}


def counts(found: CallCounts, histogram: Mapping[int, int] | None) -> schemas.CountsShape:
    """Calls added up, with percentiles of their answer times if any was measured."""
    mean = milliseconds(found.duration_us / found.calls) if found.calls else None
    return schemas.CountsShape(
        calls=found.calls,
        units=plain(found.units),
        errors=found.errors,
        bytes_in=found.bytes_in,
        bytes_out=found.bytes_out,
        duration_ms_mean=mean,
        duration_ms=percentiles(histogram or {}),
    )


def percentiles(histogram: Mapping[int, int]) -> schemas.PercentilesShape | None:
    """p50, p95 and p99 of answers by bucket of `rules.latency`; None of nothing."""
    found = [quantile(histogram, q) for q in (0.5, 0.95, 0.99)]
    p50, p95, p99 = (None if us is None else milliseconds(us) for us in found)
    if p50 is None or p95 is None or p99 is None:
        return None
    return schemas.PercentilesShape(p50=p50, p95=p95, p99=p99)


def added(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Several histograms as one."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for bucket, calls in histogram.items():
            total[bucket] = total.get(bucket, 0) + calls
    return total


def total(parts: Iterable[CallCounts]) -> CallCounts:
    """Several groups of calls as one."""
    calls = errors = bytes_in = bytes_out = duration_us = 0
    units = Decimal(0)
    for part in parts:
        calls += part.calls
        units = EXACT.add(units, part.units)
        errors += part.errors
        bytes_in += part.bytes_in
        bytes_out += part.bytes_out
        duration_us += part.duration_us
    return CallCounts(
        calls=calls,
        units=units,
        errors=errors,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        duration_us=duration_us,
    )
