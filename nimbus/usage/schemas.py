# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of usage. Quantities are decimal strings."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class NamedShape(BaseModel):
    """A product or a plan."""

    slug: str
    name: str


class PeriodShape(BaseModel):
    """From `starts_at` up to, not including, `ends_at`."""

    starts_at: Moment
    ends_at: Moment


class MeterShape(BaseModel):
    """What was used of a meter in the period."""

    meter: str
    unit: str
    quantity: str


class QuotaShape(BaseModel):
    """A quota as it stands: `allowed` says whether the next unit is served, `behavior` what happens
    over the limit; `limit` and `remaining` are null where there is none. Counted anew at `ends_at`.
    """

    subscription_id: UUID
    product: NamedShape
    meter: str
    period: str
    starts_at: Moment
    ends_at: Moment
    allowed: bool
    used: str
    limit: str | None
    remaining: str | None
    behavior: str


class CurrentShape(BaseModel):
    """What a subscription used in the billing period that runs now."""

    subscription_id: UUID
    product: NamedShape
    plan: NamedShape
    period: PeriodShape
    meters: list[MeterShape]


class UsageShape(CurrentShape):
    """The same, and what is left of its quotas."""

    quotas: list[QuotaShape]


class CurrentList(BaseModel):
    """Each live subscription's use."""

    data: list[CurrentShape]


class UsageList(BaseModel):
    """Each live subscription's use, and what is left."""

    data: list[UsageShape]


class QuotaList(BaseModel):
    """All quotas of all live subscriptions."""

    data: list[QuotaShape]


class SpentShape(BaseModel):
    """What calls came to, in whole currency units as exact decimal strings. `held`: what calls
    under way can still cost at most. `limit` and `remaining` are null where there is no limit.
    """

    limit: str | None
    used: str
    held: str
    remaining: str | None


class MonthShape(SpentShape):
    """A calendar month in the organization's time zone; `resets_at` is where it ends."""

    starts_at: Moment
    resets_at: Moment


class KeySpendShape(MonthShape):
    """What the calls of one key came to."""

    key_id: UUID


class SpendShape(BaseModel):
    """The spend of this month, before base fees and VAT; `balance` of an organization that is
    prepaid. Null and empty where nothing was called yet.
    """

    currency: str
    month: MonthShape | None
    balance: SpentShape | None
    keys: list[KeySpendShape]


class CountsShape(BaseModel):
    """Calls added up: `errors` are those answered with a status of 400 or above."""

    calls: int
    units: str
    errors: int
    bytes_in: int
    bytes_out: int
    duration_ms_mean: float | None


class DayShape(CountsShape):
    """One day in the organization's time zone."""

    day: str


class EndpointShape(CountsShape):
    """One operation; its path is null when it is not published any more."""

    product_id: UUID
    route_id: UUID
    method: str | None
    path: str | None
    title: str | None


class SummaryShape(BaseModel):
    """The calls of a range of days, whole hours."""

    environment: str
    period: PeriodShape
    total: CountsShape
    by_status: dict[str, int]
    days: list[DayShape]


class EndpointList(BaseModel):
    """The calls of a range by operation, the most called first."""

    environment: str
    period: PeriodShape
    data: list[EndpointShape]


class LoggedCallShape(BaseModel):
    """One call. A refused one has a `code` and was not served; only a billable one counts. What is
    `continued` is a further part of a long stream and counts as no call.
    """

    id: UUID
    at: Moment
    subscription_id: UUID | None
    product_id: UUID | None
    key_id: UUID | None
    route_id: UUID | None
    environment: str
    method: str
    path: str | None
    status: int
    code: str | None
    billable: bool
    continued: bool
    units: int
    meters: dict[str, str]
    duration_ms: float
    upstream_ms: float | None
    bytes_in: int
    bytes_out: int
    ip: str
    request_id: str
