# SPDX-License-Identifier: Apache-2.0
"""What questions about usage have in common: who may ask, which calls, which range of time."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Query
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.errors import field_error
from nimbus.identity import Permission, allowed
from nimbus.rules.periods import Period

RANGE_DAYS_DEFAULT = 30
RANGE_DAYS_MAX = 400
FIRST_YEAR, LAST_YEAR = 2000, 9000

Reader = Annotated[Actor, allowed(Permission.SEE_USAGE, scope="billing.read")]
LogReader = Annotated[Actor, allowed(Permission.READ_LOGS)]
ProductSlug = Annotated[str | None, Query(max_length=63, pattern=r"^[a-z0-9-]+$")]
Environment = Annotated[Literal["Live", "Test"], Query()]
Since = Annotated[datetime | None, Query(alias="from", description="Default: `days` before `to`.")]
Days = Annotated[
    int, Query(ge=1, le=RANGE_DAYS_MAX, description="How far back, where `from` is not said.")
]
Until = Annotated[datetime | None, Query(alias="to", description="Default: now.")]


def instant(value: datetime, field: str) -> datetime:
    """An instant that was asked for, in UTC; a 422 on `field` without a zone, or far away."""
    if value.tzinfo is None:
        raise field_error(field, "no_time_zone", "Say the zone, such as 2026-05-01T00:00:00Z.")
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise field_error(field, "out_of_range", f"From {FIRST_YEAR} to {LAST_YEAR}.")
    return value.astimezone(UTC)


def span(since: datetime | None, until: datetime | None, days: int = RANGE_DAYS_DEFAULT) -> Period:
    """The range asked for; a 422 on `from` for one that is empty or too long."""
    ends_at = clock.now() if until is None else instant(until, "to")
    starts_at = ends_at - timedelta(days=days) if since is None else instant(since, "from")
    if not starts_at < ends_at <= starts_at + timedelta(days=RANGE_DAYS_MAX):
        raise field_error("from", "invalid_range", f"Before `to`, at most {RANGE_DAYS_MAX} days.")
    return Period(starts_at, ends_at)


def whole_hours(
    since: Since = None, until: Until = None, days: Days = RANGE_DAYS_DEFAULT
) -> Period:
    """The same, widened to the whole hours that the roll-up has; `until` None: to the end of the
    running one.
    """
    asked = span(since, until, days)
    hour = timedelta(hours=1)
    starts_at = asked.starts_at.replace(minute=0, second=0, microsecond=0)
    ends_at = asked.ends_at.replace(minute=0, second=0, microsecond=0)
    if until is None or ends_at != asked.ends_at:
        ends_at += hour
    return Period(starts_at, ends_at)


WholeHours = Annotated[Period, Depends(whole_hours)]


async def product_id_of(session: AsyncSession, slug: str | None) -> UUID | None:
    """The product that is asked about; None for all, 404 for one that nobody may see."""
    return None if slug is None else (await catalog.product_or_operators(session, slug)).id
