# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of usage. Quantities are decimal strings."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from nimbus.base.web import Money

STATUS = r"^[1-9](?:[0-9]{2}|xx)$"
Reason = Literal[
    "billed", "included", "no_charge", "trial", "no_contract", "refused", "test", "not_billable"
]
IdText = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
"""An id that calls are searched for by: it names no object, and need not be one."""
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


class ThresholdShape(BaseModel):
    """A part of a limit at which people are told, in units, and whether it is reached."""

    percent: int
    units: str
    reached: bool


class LimitedShape(BaseModel):
    """A counter as it stands: `allowed` says whether the next unit is served, `behavior` what
    happens over the limit; `limit` and `remaining` are null where there is none. Counted anew at
    `resets_at`.
    """

    period: str
    starts_at: Moment
    ends_at: Moment
    resets_at: Moment
    allowed: bool
    used: str
    limit: str | None
    remaining: str | None
    behavior: str
    thresholds: list[ThresholdShape]


class QuotaShape(LimitedShape):
    """A quota as it stands. Of its limit, `rolled_over` units are what earlier periods left, and
    `increase` was given until `increase_ends_at`; `used_before` was used in this period before the
    plan changed, and lowers what a plan that ends allows. `overage_cap`: how many units over the
    limit are served, null for any number.
    """

    subscription_id: UUID
    product: NamedShape
    meter: str
    overage_cap: str | None
    rolled_over: str
    increase: str
    increase_ends_at: Moment | None
    used_before: str


class KeyQuotaShape(LimitedShape):
    """How many units the calls of one key may come to in a month."""

    key_id: UUID


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
    """All quotas of all live subscriptions, and those of single keys."""

    data: list[QuotaShape]
    keys: list[KeyQuotaShape]


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


class PercentilesShape(BaseModel):
    """Answer times in milliseconds that half, 95 and 99 of a hundred calls did not exceed; at most
    5 % off.
    """

    p50: float
    p95: float
    p99: float


class CountsShape(BaseModel):
    """Calls added up: `errors` are those answered with a status of 400 or above. Percentiles are
    null where they were not asked for, or nothing was measured.
    """

    calls: int
    units: str
    errors: int
    bytes_in: int
    bytes_out: int
    duration_ms_mean: float | None
    duration_ms: PercentilesShape | None


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
    """The calls of a range of days, whole hours. `refused` are those that never reached an
    upstream, by code, of the newest hundred thousand: they are in no other number here.
    """

    environment: str
    period: PeriodShape
    total: CountsShape
    by_status: dict[str, int]
    days: list[DayShape]
    refused: dict[str, int]


class EndpointList(BaseModel):
    """The calls of a range by operation, the most called first."""

    environment: str
    period: PeriodShape
    data: list[EndpointShape]


class DetailedRow(CountsShape):
    """One group of calls: null is what it is not grouped by. `at` is a day (YYYY-MM-DD) in the
    organization's time zone, or the start of an hour; `status` is 2xx, 4xx and so on.
    """

    at: str | None
    product_id: UUID | None
    route_id: UUID | None
    method: str | None
    path: str | None
    key_id: UUID | None
    status: str | None
    environment: str | None


class DetailedList(BaseModel):
    """Groups of calls, in the order of time where there is one, the most called first."""

    period: PeriodShape
    interval: str
    by: list[str]
    total: CountsShape
    data: list[DetailedRow]


class MeterCostShape(BaseModel):
    """What a meter's use comes to, in whole currency units as exact decimal strings. `over` is
    what is charged of the quantity; `next_unit_price` is what one unit more would cost now. Null
    where the plan does not charge the meter.
    """

    meter: str
    unit: str
    quantity: str
    included: str | None
    over: str
    next_unit_price: str | None
    amount: str


class DayCostShape(BaseModel):
    """What a day added to the costs, and what they were by its end."""

    day: str
    amount: str
    total: str


class EndpointCostShape(BaseModel):
    """An operation's share of the costs, by the units it used."""

    route_id: UUID
    method: str | None
    path: str | None
    amount: str


class PeriodCostShape(BaseModel):
    """A billing period's use and what it comes to so far: before base fee and VAT. `amount` is
    exact; `billed` is what an invoice would say today, each meter rounded as a line.
    """

    subscription_id: UUID
    product: NamedShape
    plan: NamedShape
    period: PeriodShape
    currency: str
    amount: str
    billed: Money
    meters: list[MeterCostShape]
    days: list[DayCostShape]
    endpoints: list[EndpointCostShape]


class CostList(BaseModel):
    """Each live subscription's costs."""

    data: list[PeriodCostShape]


class MeterPriceShape(BaseModel):
    """What a call added to a meter and what that cost: its place in the period's sum decides."""

    meter: str
    quantity: str
    unit_price: str | None
    amount: str


class CallPriceShape(BaseModel):
    """What a call cost, in whole currency units, and why: `billed`; `included` in the plan; its
    meters have `no_charge`; made in a `trial`; `no_contract` that could be seen; `refused`; with a
    `test` key; answered with a status that is `not_billable`. Usage that costs by time or by
    different values, and not by event, shows no amount here.
    """

    reason: Reason
    currency: str | None
    amount: str
    meters: list[MeterPriceShape]


class LoggedCallShape(BaseModel):
    """One call. A refused one has a `code` and was not served; only a billable one counts. What is
    `continued` is a further part of a long stream and counts as no call. With a `source` it is no
    call but usage that the provider reported.
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
    source: str | None
    duration_ms: float
    upstream_ms: float | None
    bytes_in: int
    bytes_out: int
    ip: str
    request_id: str


class CallShape(LoggedCallShape):
    """One call with what it cost."""

    price: CallPriceShape


class ExportBody(BaseModel):
    """Which calls to write into a file: the filters of the log. `from` and `to` are instants,
    half-open, at most 400 days apart.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["csv", "jsonl", "parquet"]
    since: AwareDatetime = Field(alias="from")
    until: AwareDatetime = Field(alias="to")
    environment: Literal["Live", "Test"] | None = None
    product: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9-]+$")] | None = None
    key_id: IdText | None = None
    route_id: IdText | None = None
    method: Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")] | None = None
    status: Annotated[str, Field(pattern=STATUS)] | None = None
    request_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    billable: bool | None = None
    refused: bool | None = None


class ExportShape(BaseModel):
    """A file of logged calls. While it is written `progress` goes from 0 to 1; from `Ready` to
    `expires_at` it can be fetched. A failed one says why.
    """

    id: UUID
    format: str
    period: PeriodShape
    filters: dict[str, Any]
    status: str
    progress: float
    rows: int
    bytes: int
    reason: str | None
    created_at: Moment
    expires_at: Moment


class NewUsage(BaseModel):
    """Usage that happened outside the gateway. `meter` is a meter of the product. `mode` may be
    left out where the meter has one meaning: `delta` adds to it, `gauge` is a level. `value` may
    be left out where events are counted or told apart; `at` for now. `properties` are texts,
    numbers, true or false: what filters and `unique` meters look at.

    To correct an event, `corrects` names it, by its `id` or as the log names a call; `value` is
    what it should have said, and `reason` why. For meters that add up, up to 35 days back.
    """

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    subscription_id: UUID
    meter: str
    value: str | None = None
    mode: Literal["delta", "gauge"] | None = None
    at: str | None = None
    properties: dict[str, Any] | None = None
    source: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    corrects: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    reason: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None


class RejectedUsage(BaseModel):
    """An event that was not taken: its place in what was sent, and what is wrong."""

    index: int
    field: str
    code: str
    message: str


class ReportShape(BaseModel):
    """How many events were counted now, how many had been before, and which were not taken."""

    accepted: int
    duplicates: int
    rejected: list[RejectedUsage]
