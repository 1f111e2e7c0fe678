# SPDX-License-Identifier: Apache-2.0
"""Figures from the roll-up: calls added up by day, operation, key and so on, for either side.

Whole days come from `usage_days`, everything else from `usage_hours`. An hour is of the day, of the
asked time zone, that it begins in: hours that are of another day in UTC are moved from one to the
other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.rules.latency import COUNT_BITS, COUNT_MASK
from nimbus.rules.metering import NIL, Cell
from nimbus.rules.periods import Period, zone

Interval = Literal["hour", "day"]
Dimension = Literal["endpoint", "product", "key", "status", "environment", "consumer"]

COLUMNS: dict[Dimension, tuple[str, ...]] = {
    "endpoint": ("product_id", "route_id"),
    "product": ("product_id",),
    "key": ("key_id",),
    "status": ("status_class",),
    "environment": ("environment",),
    "consumer": ("organization_id",),
}
FILTERS = (
    "organization_id", "provider_organization_id", "environment", "product_id", "key_id",
    "route_id", "status_class",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which calls: of one consumer, of one provider's products, or all; None leaves a filter out.

    `period` is in whole hours of UTC, half-open.
    """

    period: Period
    organization_id: UUID | None = None
    provider_organization_id: UUID | None = None
    environment: str | None = None
    product_id: UUID | None = None
    key_id: UUID | None = None
    route_id: UUID | None = None
    status_class: int | None = None

    def values(self) -> dict[str, Any]:
        """What the statement is given: the filters that are set."""
        found = {name: getattr(self, name) for name in FILTERS}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """By what calls are added up; `time_zone` (IANA) says whose days, where `interval` is a day."""

    by: Sequence[Dimension] = ()
    interval: Interval | None = None
    time_zone: str = "UTC"
    columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        at = ("at",) if self.interval else ()
        named = [column for one in self.by for column in COLUMNS[one]]
        object.__setattr__(self, "columns", (*at, *dict.fromkeys(named)))


class CallCounts(NamedTuple):
    """Calls added up; `errors` are answers of 400 and above. The rest says of what: `at` is a date
    or the start of an hour in UTC.
    """

    calls: int
    units: Decimal
    errors: int
    bytes_in: int
    bytes_out: int
    duration_us: int
    at: date | datetime | None = None
    organization_id: UUID | None = None
    product_id: UUID | None = None
    route_id: UUID | None = None
    key_id: UUID | None = None
    status_class: int | None = None
    environment: str | None = None


_GROUPS = CallCounts._fields[6:]


async def counted(
    session: AsyncSession, scope: Scope, grouping: Grouping, limit: int | None = None
) -> list[CallCounts]:
    """Calls added up: in the order of time where there is one, the most called first otherwise.

    At most `limit` groups. An uncounted call (a test, a failure) is a call and has no units; what
    was reported from outside for the meter of calls has units and no status, and is no call.
    """
    source, values = _source(scope, grouping)
    groups = [name if name in grouping.columns else "NULL" for name in _GROUPS]
    order = [name for name in ("at",) if grouping.interval] + ["calls DESC"]
    order += [name for name in grouping.columns if name != "at"]
    statement = (
        "SELECT coalesce(sum(events) FILTER (WHERE status_class > 0), 0)::bigint AS calls,"  # noqa: S608 - our own names
        " coalesce(sum(quantity_sum), 0) AS units,"
        " coalesce(sum(events) FILTER (WHERE status_class >= 4), 0)::bigint AS errors,"
        " coalesce(sum(bytes_in), 0)::bigint AS bytes_in,"
        " coalesce(sum(bytes_out), 0)::bigint AS bytes_out,"
        " coalesce(sum(duration_us), 0)::bigint AS duration_us,"
        f" {', '.join(groups)} FROM ({source}) AS cells"
    )
    if grouping.columns:
        statement += f" GROUP BY {', '.join(grouping.columns)} HAVING {_ANYTHING}"
    statement += f" ORDER BY {', '.join(order)}"
    if limit is not None:
        statement += " LIMIT :limit"
        values["limit"] = limit
    return [CallCounts._make(row) for row in await session.execute(text(statement), values)]


async def histograms(
    session: AsyncSession, scope: Scope, grouping: Grouping
) -> dict[tuple[Any, ...], dict[int, int]]:
    """Answers by bucket of `rules.latency`, for each group: its values in the order of
    `grouping.columns`. A group without a measured call has no entry.
    """
    source, values = _source(scope, grouping)
    columns = "".join(f"{name}, " for name in grouping.columns)
    statement = (
        f"SELECT {columns} packed >> {COUNT_BITS} AS bucket,"  # noqa: S608 - our own names
        f" sum(sign * (packed & {COUNT_MASK}))::bigint AS calls"
        f" FROM ({source}) AS cells, unnest(latency) AS packed GROUP BY {columns} bucket"
    )
    found: dict[tuple[Any, ...], dict[int, int]] = {}
    for *group, bucket, calls in await session.execute(text(statement), values):
        if calls:
            found.setdefault(tuple(group), {})[bucket] = calls
    return found


async def consumers(session: AsyncSession, scope: Scope) -> int:
    """How many organizations called."""
    source, values = _source(scope, Grouping(by=("consumer",)))
    statement = f"SELECT count(DISTINCT organization_id) FROM ({source}) AS cells"  # noqa: S608
    statement += " WHERE status_class > 0"
    return int(await session.scalar(text(statement), values) or 0)


def _source(scope: Scope, grouping: Grouping) -> tuple[str, dict[str, Any]]:
    """The cells of the scope as a statement, with its parameters."""
    values = scope.values()
    filters = "".join(f" AND {name} = :{name}" for name in values)
    period = scope.period
    first, end = _whole_days(period)
    moment = {
        None: "",
        "hour": "hour AS at, ",
        "day": "(hour AT TIME ZONE :time_zone)::date AS at, ",
    }[grouping.interval]
    spans: list[tuple[str, str, str, Any, Any]] = [
        ("usage_hours", moment, "hour", period.starts_at, period.ends_at)
    ]
    moved: list[datetime] = []
    if grouping.interval != "hour" and first < end:
        days = "day AS at, " if grouping.interval else ""
        spans = [
            ("usage_hours", moment, "hour", period.starts_at, _midnight(first)),
            ("usage_days", days, "day", first, end),
            ("usage_hours", moment, "hour", _midnight(end), period.ends_at),
        ]
        moved = _moved(first, end, grouping.time_zone) if grouping.interval else []
    parts = []
    for number, (view, at, column, begins, ends) in enumerate(spans):
        if begins < ends:
            parts.append(
                f"SELECT {at}{_CELLS} FROM {view} WHERE meter_key = 'api_calls'"  # noqa: S608
                f" AND {column} >= :from_{number} AND {column} < :to_{number}{filters}"
            )
            values |= {f"from_{number}": begins, f"to_{number}": ends}
    if moved:
        parts.append(
            f"SELECT {_MOVED} FROM usage_hours CROSS JOIN (VALUES (1), (-1)) AS sides (sign)"  # noqa: S608
            f" WHERE meter_key = 'api_calls' AND hour = ANY (:moved){filters}"
        )
        values["moved"] = moved
    source = " UNION ALL ".join(parts)
    if ":time_zone" in source:
        values["time_zone"] = grouping.time_zone
    return source, values


_GROUPED = "organization_id, product_id, key_id, route_id, status_class, environment"
_CELLS = f"""{_GROUPED}, events, quantity_sum, bytes_in, bytes_out, duration_us, latency,
    1 AS sign"""
_MOVED = f"""CASE sign WHEN 1 THEN hour AT TIME ZONE :time_zone ELSE hour AT TIME ZONE 'UTC'
    END::date AS at, {_GROUPED}, sign * events, sign * quantity_sum, sign * bytes_in,
    sign * bytes_out, sign * duration_us, latency, sign"""
_ANYTHING = """sum(events) <> 0 OR sum(quantity_sum) <> 0 OR sum(duration_us) <> 0
    OR sum(bytes_in) <> 0 OR sum(bytes_out) <> 0"""


def _moved(first: date, end: date, time_zone: str) -> list[datetime]:
    """The hours of these days of UTC that begin on another day in the time zone."""
    if time_zone == "UTC":
        return []
    found, there = [], zone(time_zone)
    for number in range((end - first).days):
        day = first + timedelta(days=number)
        for hours in (range(24), range(23, -1, -1)):  # they lie at either end of the day
            for hour in hours:
                at = datetime.combine(day, time(hour), UTC)
                if at.astimezone(there).date() == day:
                    break
                found.append(at)
    return found


def _whole_days(period: Period) -> tuple[date, date]:
    """The first of the days of UTC that lie wholly within, and the one after the last."""
    first = period.starts_at.date()
    if _midnight(first) < period.starts_at:
        first += timedelta(days=1)
    return first, period.ends_at.date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


_OF_HOURS = """
    SELECT (hour AT TIME ZONE :time_zone)::date AS day, route_id, meter_key, events, quantity_sum,
           quantity_max, quantity_last, last_at, last_event_id
    FROM usage_hours WHERE subscription_id = :subscription_id AND environment = 'Live'
      AND meter_key = ANY (:meters)"""
_OF_EDGES = """
    SELECT (date_bin('1 hour', occurred_at, 'epoch') AT TIME ZONE :time_zone)::date, route_id,
           meter_key, calls, quantity, quantity, quantity, occurred_at, event_id
    FROM usage_measured WHERE subscription_id = :subscription_id AND environment = 'Live'
      AND meter_key = ANY (:meters)"""
_PLACED = f"""
    WITH placed AS (
        {_OF_HOURS} AND hour >= :hours_from AND hour < :hours_to
        UNION ALL {_OF_EDGES} AND occurred_at >= :starts_at AND occurred_at < :first_to
        UNION ALL {_OF_EDGES} AND occurred_at >= :last_from AND occurred_at < :ends_at)
"""
_BY_DAY_AND_ROUTE = "GROUP BY GROUPING SETS ((day, meter_key), (route_id, meter_key))"
_SUMMED = f"""{_PLACED}
    SELECT day, route_id, meter_key, sum(events)::bigint AS events, sum(quantity_sum) AS total,
           max(quantity_max) AS peak, max(last_at) AS last_at
    FROM placed {_BY_DAY_AND_ROUTE}
"""  # noqa: S608 - our own text
_LATEST = f"""{_PLACED}
    SELECT DISTINCT ON (day, meter_key) day, meter_key, quantity_last, last_event_id
    FROM placed ORDER BY day, meter_key, last_at DESC, last_event_id DESC
"""  # noqa: S608 - our own text
# What adds up comes from whole days; hours that are of another day in UTC are moved.
_ADDED = f"""
    WITH placed AS (
        SELECT day, route_id, meter_key, events, quantity_sum FROM usage_days
        WHERE subscription_id = :subscription_id AND environment = 'Live'
          AND meter_key = ANY (:meters) AND day >= :first AND day < :end
        UNION ALL
        SELECT CASE sign WHEN 1 THEN day ELSE (hour AT TIME ZONE 'UTC')::date END, route_id,
               meter_key, sign * events, sign * quantity_sum
        FROM (SELECT h.*, (hour AT TIME ZONE :time_zone)::date AS day FROM usage_hours h) moved
            CROSS JOIN (VALUES (1), (-1)) AS sides (sign)
        WHERE subscription_id = :subscription_id AND environment = 'Live'
          AND meter_key = ANY (:meters) AND hour = ANY (:moved)
        UNION ALL
        SELECT day, route_id, meter_key, events, quantity_sum FROM (
            {_OF_HOURS} AND hour >= :hours_from AND hour < :first_day
            UNION ALL {_OF_HOURS} AND hour >= :end_day AND hour < :hours_to
            UNION ALL {_OF_EDGES} AND occurred_at >= :starts_at AND occurred_at < :first_to
            UNION ALL {_OF_EDGES} AND occurred_at >= :last_from AND occurred_at < :ends_at) rest)
    SELECT day, route_id, meter_key, sum(events)::bigint AS events, sum(quantity_sum) AS total
    FROM placed {_BY_DAY_AND_ROUTE}
    HAVING sum(events) <> 0 OR sum(quantity_sum) <> 0
"""  # noqa: S608 - our own text


@dataclass(frozen=True, slots=True)
class Parts:
    """What `usage_period` says of a period, in parts: the cells of its days, and of its routes."""

    days: dict[date, dict[str, Cell]]
    routes: dict[UUID, dict[str, Cell]]

    def put(self, row: Any, cell: Cell) -> None:
        """A row of a day, or of a route."""
        if row.day is None:
            self.routes.setdefault(row.route_id, {})[row.meter_key] = cell
        else:
            self.days.setdefault(row.day, {})[row.meter_key] = cell


async def measured_in_parts(
    session: AsyncSession,
    subscription_id: UUID,
    period: Period,
    time_zone: str,
    kinds: Mapping[str, str],
) -> Parts:
    """What the live calls of a subscription add up to by day of a time zone, and by route.

    `kinds` are the aggregations of the meters that are asked for. Merged, the days are what
    `usage_period` answers of these. Each event is of the day its hour begins in. Meters that add up
    have sums alone; what a meter stood at last is told by day, of those that go by it.
    """
    added = [key for key, kind in kinds.items() if kind in {"sum", "count"}]
    others = [key for key in kinds if key not in added]
    latest = [key for key, kind in kinds.items() if kind == "last"]
    values = _edges(period) | {"subscription_id": subscription_id, "time_zone": time_zone}
    parts = Parts({}, {})
    if added:
        days = _days_within(values, time_zone) | {"meters": added}
        for row in await session.execute(text(_ADDED), values | days):
            nothing = Decimal(0)
            cell = Cell(row.events, row.total, nothing, nothing, period.starts_at, NIL)
            parts.put(row, cell)
    if others:
        for row in await session.execute(text(_SUMMED), values | {"meters": others}):
            parts.put(row, Cell(row.events, row.total, row.peak, Decimal(0), row.last_at, NIL))
    if latest:
        for row in await session.execute(text(_LATEST), values | {"meters": latest}):
            cells = parts.days[row.day]
            cells[row.meter_key] = replace(
                cells[row.meter_key], last=row.quantity_last, last_event_id=row.last_event_id
            )
    return parts


def _edges(period: Period) -> dict[str, Any]:
    """The whole hours of a period, and what is left before and after them."""
    starts_at, ends_at = period.starts_at, period.ends_at
    hours_from = _hour(starts_at + timedelta(hours=1) - timedelta(microseconds=1))
    hours_to = max(_hour(ends_at), hours_from)
    return {
        "starts_at": starts_at,
        "first_to": min(hours_from, ends_at),
        "hours_from": hours_from,
        "hours_to": hours_to,
        "last_from": max(starts_at, hours_to),
        "ends_at": ends_at,
    }


def _days_within(edges: Mapping[str, Any], time_zone: str) -> dict[str, Any]:
    """The whole days of UTC within whole hours, and the hours that they are not the days of."""
    hours_from, hours_to = edges["hours_from"], edges["hours_to"]
    first, end = hours_to.date(), hours_to.date()
    if hours_from < hours_to:
        first, end = _whole_days(Period(hours_from, hours_to))
    some = first < end
    return {
        "first": first,
        "end": end,
        "moved": _moved(first, end, time_zone),
        "first_day": _midnight(first) if some else hours_to,
        "end_day": _midnight(end) if some else hours_to,
    }


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
