# SPDX-License-Identifier: Apache-2.0
"""The log: single calls, served and refused, found by what a person knows of them.

A search looks at so many calls at most, however few of them match; then it answers with what it
has, and where it stopped. So a page takes a bounded time, and a page may be short or empty while
there is more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Subquery,
    Text,
    and_,
    false,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.rules.periods import Period
from nimbus.usage.models import RefusedCall, ServedCall

SCANNED = 100_000
"""How many calls of each kind one search looks at."""

REFUSALS_COUNTED = 100_000

Place = tuple[datetime, UUID]
"""Where a call stands in the order of the log."""

_Call = type[ServedCall | RefusedCall]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which calls of an organization; None leaves a filter out. Instants in UTC, half-open.

    `status_class` is the status's first digit. `billable`: those that count into the bill.
    `refused`: those that never reached an upstream.
    """

    organization_id: UUID
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    environment: str | None = None
    product_id: UUID | None = None
    key_id: UUID | None = None
    route_id: UUID | None = None
    method: str | None = None
    status: int | None = None
    status_class: int | None = None
    request_id: str | None = None
    billable: bool | None = None
    refused: bool | None = None

    @property
    def tables(self) -> "tuple[_Call, ...]":
        """Where such calls can lie at all."""
        served = (ServedCall,) if not self.refused else ()
        refused = (RefusedCall,) if self.refused is not False and not self.billable else ()
        return (*served, *refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCall:
    """A call as the log shows it; `code` is the refusal of one that was not served. What is
    `continued` is a further part of a long stream; what has a `source` was reported from outside.
    """

    event_id: UUID
    occurred_at: datetime
    subscription_id: UUID | None
    product_id: UUID | None
    key_id: UUID | None
    route_id: UUID | None
    environment: str
    method: str
    status: int
    code: str | None
    duration_us: int
    upstream_us: int | None
    bytes_in: int
    bytes_out: int
    units: int
    billable: bool
    continued: bool
    meters: dict[str, str]
    source: str | None
    ip: IPv4Address | IPv6Address
    request_id: str


async def logged_calls(
    session: AsyncSession, asked: LogFilter, limit: int, before: Place | None = None
) -> tuple[list[LoggedCall], Place | None]:
    """At most `limit` matching calls, the newest first, of those before a place; and the place
    after which the search goes on, None when there is nothing more to look at.
    """
    parts = []
    if not asked.tables:
        return [], None
    for call in asked.tables:
        looked_at = _newest(select(*_columns(call)), call, asked, before).limit(SCANNED).subquery()
        found = select(looked_at).where(_matches(call, looked_at, asked))
        newest = found.order_by(looked_at.c.occurred_at.desc(), looked_at.c.event_id.desc())
        parts.append(select(newest.limit(limit + 1).subquery()))
    both = union_all(*parts).subquery()
    newest = select(both).order_by(both.c.occurred_at.desc(), both.c.event_id.desc())
    rows = await session.execute(newest.limit(limit + 1))
    calls = [LoggedCall(**row) for row in rows.mappings()]
    if len(calls) > limit:
        return calls[:limit], _place(calls[limit - 1])
    stops = [
        tuple(stop)
        for call in asked.tables
        if (stop := await _stop(session, call, asked, before)) is not None
    ]
    if not stops:
        return calls, None
    stop = max(stops)  # both kinds were looked through as far as here
    return [call for call in calls if _place(call) >= stop], stop


async def logged_call(
    session: AsyncSession, organization_id: UUID, event_id: UUID, at: datetime | None
) -> LoggedCall | None:
    """One call of an organization. With its instant it is found at once; without, its whole log is
    looked through.
    """
    parts = []
    for call in (ServedCall, RefusedCall):
        statement = select(*_columns(call)).where(
            call.organization_id == organization_id, call.event_id == event_id
        )
        parts.append(statement if at is None else statement.where(call.occurred_at == at))
    row = (await session.execute(union_all(*parts))).mappings().one_or_none()
    return None if row is None else LoggedCall(**row)


async def counted_at(
    session: AsyncSession, subscription_id: UUID, instant: datetime
) -> list[LoggedCall]:
    """What a subscription's bill counts of one instant, by id."""
    statement = select(*_columns(ServedCall)).where(
        ServedCall.subscription_id == subscription_id,
        ServedCall.occurred_at == instant,
        ServedCall.billable,
    )
    rows = (await session.execute(statement.order_by(ServedCall.event_id))).mappings()
    return [LoggedCall(**row) for row in rows]


async def stream(
    session: AsyncSession, asked: LogFilter, limit: int, after: Place | None
) -> list[tuple[LoggedCall, bool]]:
    """At most `limit` calls after a place, the oldest first: those that match, and those that do
    not but count into the bill, for a price depends on what came before. Each with whether it
    matches.
    """
    parts = []
    for call in (ServedCall, RefusedCall):
        wanted = _matches(call, call, asked)
        statement = select(*_columns(call), wanted.label("wanted")).where(_within(call, asked))
        if after is not None:
            statement = statement.where(tuple_(call.occurred_at, call.event_id) > tuple_(*after))
        needed = or_(wanted, ServedCall.billable) if call is ServedCall else wanted
        oldest = statement.where(needed).order_by(call.occurred_at, call.event_id).limit(limit)
        parts.append(select(oldest.subquery()))
    both = union_all(*parts).subquery()
    oldest = select(both).order_by(both.c.occurred_at, both.c.event_id).limit(limit)
    rows = [dict(row) for row in (await session.execute(oldest)).mappings()]
    return [(LoggedCall(**row), wanted) for row in rows for wanted in [row.pop("wanted")]]


async def size(session: AsyncSession, asked: LogFilter) -> int:
    """How many calls match."""
    counts = [
        select(func.count().label("calls")).where(_within(call, asked), _matches(call, call, asked))
        for call in asked.tables
    ]
    if not counts:
        return 0
    parts = union_all(*counts).subquery()
    return int(await session.scalar(select(func.sum(parts.c.calls))) or 0)


async def refusals(
    session: AsyncSession, organization_id: UUID, environment: str, period: Period
) -> dict[str, int]:
    """How many calls were refused, by code, of the newest hundred thousand in a period."""
    newest = (
        select(RefusedCall.code)
        .where(
            RefusedCall.organization_id == organization_id,
            RefusedCall.environment == environment,
            RefusedCall.occurred_at >= period.starts_at,
            RefusedCall.occurred_at < period.ends_at,
        )
        .order_by(RefusedCall.occurred_at.desc())
        .limit(REFUSALS_COUNTED)
        .subquery()
    )
    counts = select(newest.c.code, func.count()).group_by(newest.c.code).order_by(newest.c.code)
    rows = await session.execute(counts)
    return {row[0]: row[1] for row in rows}


_LOGGED = (
    "event_id", "occurred_at", "subscription_id", "product_id", "key_id", "route_id",
    "environment", "method", "status", "duration_us", "bytes_in", "bytes_out", "ip", "request_id",
)  # fmt: skip
_OWN: dict[_Call, dict[str, Any]] = {
    ServedCall: {
        "code": null().cast(Text),
        "upstream_us": ServedCall.upstream_us,
        "units": ServedCall.units,
        "billable": ServedCall.billable,
        "continued": ServedCall.continued,
        "meters": ServedCall.meters,
        "source": ServedCall.source,
    },
    RefusedCall: {
        "code": RefusedCall.code,
        "upstream_us": null().cast(BigInteger),
        "units": literal(0).cast(BigInteger),
        "billable": false(),
        "continued": false(),
        "meters": literal({}, JSONB),
        "source": null().cast(Text),
    },
}


def _columns(call: _Call) -> list[Any]:
    common = [getattr(call, name) for name in _LOGGED]
    return common + [expression.label(name) for name, expression in _OWN[call].items()]


def _within(call: _Call, asked: LogFilter) -> ColumnElement[bool]:
    """What the table's key finds: the organization and the range of time."""
    conditions: list[ColumnElement[bool]] = [call.organization_id == asked.organization_id]
    if asked.starts_at is not None:
        conditions.append(call.occurred_at >= asked.starts_at)
    if asked.ends_at is not None:
        conditions.append(call.occurred_at < asked.ends_at)
    return and_(*conditions)


def _matches(call: _Call, row: _Call | Subquery, asked: LogFilter) -> ColumnElement[bool]:
    """What each row is asked for; `row` is the table, or a selection from it."""
    column = row.c.__getitem__ if isinstance(row, Subquery) else row.__table__.c.__getitem__
    conditions: list[ColumnElement[bool]] = [literal(call in asked.tables)]
    equal = ("environment", "product_id", "key_id", "route_id", "method", "status", "request_id")
    given = ((name, getattr(asked, name)) for name in equal)
    conditions += [column(name) == value for name, value in given if value is not None]
    if asked.status_class is not None:
        lowest = asked.status_class * 100
        conditions.append(column("status").between(lowest, lowest + 99))
    if asked.billable is not None and call is ServedCall:
        conditions.append(column("billable") == asked.billable)
    return and_(*conditions)


def _newest(
    statement: Select[*tuple[Any, ...]], call: _Call, asked: LogFilter, before: Place | None
) -> Select[*tuple[Any, ...]]:
    statement = statement.where(_within(call, asked))
    if before is not None:
        statement = statement.where(tuple_(call.occurred_at, call.event_id) < tuple_(*before))
    return statement.order_by(call.occurred_at.desc(), call.event_id.desc())


async def _stop(
    session: AsyncSession, call: _Call, asked: LogFilter, before: Place | None
) -> Sequence[Any] | None:
    """The last call that the search looked at, where there are more."""
    looked_at = _newest(select(call.occurred_at, call.event_id), call, asked, before)
    ends = (await session.execute(looked_at.offset(SCANNED - 1).limit(2))).all()
    return ends[0] if len(ends) == 2 else None


def _place(call: LoggedCall) -> Place:
    return call.occurred_at, call.event_id
