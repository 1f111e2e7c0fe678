# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of the catalogue."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
)

from nimbus.base.web import Money, Network
from nimbus.rules.billable import read_statuses
from nimbus.rules.meters import MAX_PATH


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed")
    return text


def _prose(text: str) -> str:
    if not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        raise ValueError("control characters are not allowed")
    return text


def _statuses(text: str) -> str:
    read_statuses([text])
    return text


def _line(minimum: int, maximum: int) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=minimum, max_length=maximum)


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Name = Annotated[str, _line(1, 100), AfterValidator(_printable)]
Label = Annotated[str, _line(0, 50), AfterValidator(_printable)]
Prose = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_prose)]
MeterKey = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
Scope = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){1,3}$", max_length=60)
]
Environment = Literal["Live", "Test"]
DecimalText = Annotated[str, StringConstraints(max_length=62)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Visibility = Literal["public", "unlisted"]
PlanVisibility = Literal["public", "unlisted", "private"]
Networks = Annotated[list[Network], Field(max_length=100)]
BillableStatuses = Annotated[
    list[Annotated[str, StringConstraints(max_length=7), AfterValidator(_statuses)]],
    Field(min_length=1, max_length=100),
]
PropertyName = Annotated[str, _line(1, 64), AfterValidator(_printable)]
PropertyValues = Annotated[
    list[
        Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)]
    ],
    Field(min_length=1, max_length=50),
]
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Input(BaseModel):
    """What comes in: a field that is not ours is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


class RateLimit(Input):
    """`amount` calls per `period`; `burst` at once, null: any `amount` within a sliding window."""

    amount: Count
    period: Literal["second", "minute", "hour"]
    burst: Count | None = None


class UpstreamInput(Input):
    """Where calls go. `auth_secret` is written only; left out, the one that is there stays.
    `max_concurrent` calls at a time from each gateway.
    """

    base_url: Annotated[str, StringConstraints(max_length=2000)]
    auth_header: Annotated[str, StringConstraints(max_length=100)] | None = None
    auth_secret: Annotated[SecretStr, Field(min_length=1, max_length=4000)] | None = None
    connect_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 5_000
    answer_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 30_000
    max_concurrent: Annotated[int, Field(ge=1, le=100_000)] = 256


class UpstreamShape(BaseModel):
    """An upstream as its provider sees it: its credential never comes back."""

    base_url: str
    auth_header: str | None
    connect_timeout_ms: int
    answer_timeout_ms: int
    max_concurrent: int


class AccessFields(Input):
    """From where calls may come: `ip_allow` empty is everywhere, and `ip_deny` wins."""

    ip_allow: Networks = []
    ip_deny: Networks = []


class ProductFields(AccessFields):
    """What can be said about a product. `parameter_check`: calls without a required query
    parameter are refused. `billable_statuses`: classes (`2xx`), statuses, ranges (`200-299`) below
    500; null is all of these.
    """

    name: Name
    category: Label = ""
    short_description: Annotated[str, _line(0, 300), AfterValidator(_printable)] = ""
    description: Prose = ""
    version_label: Annotated[str, _line(0, 40), AfterValidator(_printable)] = ""
    visibility: Visibility = "public"
    key_in_query: bool = False
    parameter_check: bool = False
    billable_statuses: BillableStatuses | None = None
    websockets: bool = False
    upstreams: dict[Environment, UpstreamInput] = {}


class NewProduct(ProductFields):
    """A product that begins as a draft; its slug is for ever."""

    slug: Slug


class ChangedProduct(ProductFields):
    """All that a product says from now on; `version` is the one that was read."""

    version: int


class ProductShape(BaseModel):
    """A product as its provider sees it."""

    id: UUID
    slug: str
    name: str
    category: str
    short_description: str
    description: str
    version_label: str
    status: Literal["draft", "published", "retired"]
    visibility: Visibility
    key_in_query: bool
    ip_allow: list[IPv4Network | IPv6Network]
    ip_deny: list[IPv4Network | IPv6Network]
    parameter_check: bool
    billable_statuses: list[str] | None
    websockets: bool
    upstreams: dict[Environment, UpstreamShape]
    published_at: Moment | None
    version: int
    created_at: Moment
    updated_at: Moment


class NewHost(Input):
    """A host name of its own, at which the product is served; without scheme, port or path."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=300)]


class HostShape(BaseModel):
    """A host name of a product: lower case, in the form that DNS knows it by."""

    id: UUID
    name: str
    created_at: Moment


class AdminHostShape(HostShape):
    """A host name as the operator sees it, and whose it is."""

    product: str
    organization_id: UUID


class MeterFields(Input):
    """What a meter counts. `filters`: of events from outside only those are counted whose
    properties have one of these values. `source_path`: where in a JSON answer of the upstream the
    units of a call stand, such as `usage.total_tokens`; also in the last event of a stream.
    """

    unit: Annotated[str, _line(1, 40), AfterValidator(_printable)]
    filters: Annotated[dict[PropertyName, PropertyValues], Field(max_length=10)] = {}
    source_path: Annotated[str, StringConstraints(max_length=MAX_PATH)] | None = None


class NewMeter(MeterFields):
    """A thing that is counted for the product. A `unique` meter counts the different values of
    its `property`.
    """

    key: MeterKey
    aggregation: Literal["count", "sum", "max", "last", "unique", "time_weighted"]
    property: PropertyName | None = None


class ChangedMeter(MeterFields):
    """All that can be said anew of a meter, for what is counted from now on; `version` is the one
    that was read.
    """

    version: int


class OfferedMeter(BaseModel):
    """A meter for anyone."""

    key: str
    unit: str
    aggregation: str


class MeterShape(OfferedMeter):
    """A meter as its provider sees it."""

    property: str | None
    filters: dict[str, list[str]]
    source_path: str | None
    version: int


class ParameterShape(Input):
    """What a caller sends in the path or in the query; one in the path is always required."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~$\[\]-]{1,100}$")]
    place: Literal["path", "query"]
    type: Literal["string", "integer", "number", "boolean", "array"] = "string"
    required: bool = False
    description: Annotated[Prose, StringConstraints(max_length=1000)] = ""
    example: Annotated[str, StringConstraints(max_length=500), AfterValidator(_prose)] | None = None


class RouteFields(AccessFields):
    """One operation. `upstream_path` is `path` unless said; `minimum_plan` is a plan's slug.
    `strict_journal`: a call is on the disk before it is answered. `holds`: the most units of a
    meter that the answer to a call reports, by meter; kept free for it until the call is counted.
    """

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    path: Annotated[str, StringConstraints(max_length=500)]
    upstream_path: Annotated[str, StringConstraints(max_length=500)] | None = None
    title: Annotated[str, _line(0, 100), AfterValidator(_printable)] = ""
    description: Annotated[Prose, StringConstraints(max_length=5000)] = ""
    minimum_plan: Slug | None = None
    scope: Scope | None = None
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    rate_limit: RateLimit | None = None
    parameters: Annotated[list[ParameterShape], Field(max_length=100)] = []
    strict_journal: bool = False
    holds: Annotated[
        dict[MeterKey, Annotated[int, Field(ge=1, le=10**12, strict=True)]], Field(max_length=10)
    ] = {}
    public: bool = True


class ChangedRoute(RouteFields):
    """All that a route says from now on; `version` is the one that was read."""

    version: int


class RouteShape(BaseModel):
    """A route as its provider sees it."""

    id: UUID
    method: str
    path: str
    upstream_path: str
    title: str
    description: str
    minimum_plan: str | None
    scope: str | None
    weight: int
    rate_limit: RateLimit | None
    ip_allow: list[IPv4Network | IPv6Network]
    ip_deny: list[IPv4Network | IPv6Network]
    parameters: list[ParameterShape]
    strict_journal: bool
    holds: dict[str, int]
    public: bool
    version: int
    created_at: Moment
    updated_at: Moment


class TierShape(Input):
    """Usage up to and including `up_to`; null in the last tier. Decimal strings; `rate` percent."""

    up_to: DecimalText | None = None
    unit_price: DecimalText = "0"
    flat_fee: DecimalText = "0"
    rate: DecimalText = "0"


class ChargeShape(Input):
    """How a meter is priced (spec 02 "Charges"). Prices are decimal strings in whole units."""

    meter: MeterKey
    model: Annotated[str, StringConstraints(max_length=40)] = "unit"
    included: DecimalText = "0"
    unit_price: DecimalText = "0"
    tiers: Annotated[list[TierShape], Field(max_length=100)] = []
    package_size: DecimalText = "0"
    package_price: DecimalText = "0"
    rate: DecimalText = "0"
    fixed_per_event: DecimalText = "0"
    free_events: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    free_amount: DecimalText | None = None
    minimum: DecimalText | None = None
    maximum: DecimalText | None = None
    description: dict[Literal["en", "nl"], Name] | None = None


class PriceShape(Input):
    """What a period costs in one currency."""

    base_fee: Money
    charges: Annotated[list[ChargeShape], Field(max_length=100)] = []


Units = Annotated[int, Field(ge=0, le=10**15)]


class QuotaShape(Input):
    """How much of a meter a period allows; `amount` null is unlimited. `overage_cap`: under the
    policy `overage`, the most units over the amount; null is any. `roll_over`: the most unused
    units that go over into the next period, where each is good for `roll_over_periods`.
    `on_plan_change`: a change to this plan carries on the count of the running period, or counts
    anew; together it is never more than the best plan of that period.
    """

    meter: MeterKey
    amount: Units | None
    period: Literal["day", "week", "month", "year", "cycle"] = "cycle"
    overage_cap: Units | None = None
    roll_over: Units = 0
    roll_over_periods: Annotated[int, Field(ge=1, le=12)] = 1
    on_plan_change: Literal["carry", "reset"] = "carry"


class EntitlementShape(Input):
    """What a plan entitles to, by a key that programs ask for: something or not (`boolean`, with
    `enabled`), as much as the quotas of a `meter` allow (`limit`), or a `value`.
    """

    key: MeterKey
    type: Literal["boolean", "limit", "value"]
    enabled: bool | None = None
    meter: MeterKey | None = None
    value: Annotated[str, _line(0, 500), AfterValidator(_printable)] | None = None


Entitlements = Annotated[list[EntitlementShape], Field(max_length=100)]


Audience = Annotated[
    list[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]],
    Field(max_length=100),
]
"""Ids of the organizations that a private plan is for."""


class VersionShape(Input):
    """What a subscriber signs; another value of any of these is a new version."""

    interval: Literal["day", "week", "month", "quarter", "year"] = "month"
    interval_count: Annotated[int, Field(ge=1, le=100)] = 1
    base_fee_timing: Literal["advance", "arrears", "once"] = "arrears"
    proration: Literal["second", "day", "none"] = "second"
    anchor: Literal["start", "calendar"] = "start"
    grace_hours: Annotated[int, Field(ge=0, le=720)] = 0
    trial_days: Annotated[int, Field(ge=0, le=365)] = 0
    trial_converts: bool = True
    rate_limit: RateLimit | None = None
    over_quota_policy: Literal["deny", "warn", "allow", "overage"] = "deny"
    payment_on_invoice: bool = False
    payment_term_days: Annotated[int, Field(ge=0, le=365)] = 14
    prices: Annotated[list[PriceShape], Field(min_length=1, max_length=50)]
    quotas: Annotated[list[QuotaShape], Field(max_length=100)] = []
    entitlements: Entitlements = []


class PlanTermsShape(VersionShape):
    """What the subscriber of a plan signs."""

    base_fee_timing: Literal["advance", "arrears"] = "arrears"


class ContractShape(Input):
    """What one organization gets otherwise than its plan says: a fee, prices by meter, quotas by
    meter and period, a rate limit. What is not said stays as the plan has it.
    """

    base_fee: Money | None = None
    charges: Annotated[list[ChargeShape], Field(max_length=100)] = []
    quotas: Annotated[list[QuotaShape], Field(max_length=100)] = []
    rate_limit: RateLimit | None = None


class AddOnTermsShape(Input):
    """What is signed with an add-on. Its fee is owed each period of the plan, in advance or in
    arrears, or `once`, when it is taken; fee and included amounts count as often as it is taken.
    """

    base_fee_timing: Literal["advance", "arrears", "once"] = "arrears"
    prices: Annotated[list[PriceShape], Field(min_length=1, max_length=50)]
    quotas: Annotated[list[QuotaShape], Field(max_length=100)] = []
    entitlements: Entitlements = []


class NewAddOn(AddOnTermsShape):
    """An add-on with its first version."""

    slug: Slug
    name: Name
    visibility: Visibility = "public"
    status: Literal["draft", "active"] = "active"


class ChangedAddOn(AddOnTermsShape):
    """All that an add-on says from now on; who took it keeps the version they signed."""

    name: Name
    visibility: Visibility = "public"
    status: Literal["draft", "active", "archived"] = "active"
    version: int


class OfferedAddOn(AddOnTermsShape):
    """An add-on as anyone may read it."""

    slug: str
    name: str


class AddOnShape(OfferedAddOn):
    """An add-on as its provider sees it."""

    id: UUID
    visibility: Visibility
    status: Literal["draft", "active", "archived"]
    add_on_version: int
    version: int
    created_at: Moment
    updated_at: Moment


class NewPlan(PlanTermsShape):
    """A plan with its first version. A `private` one is for the organizations of `audience`."""

    slug: Slug
    name: Name
    rank: Annotated[int, Field(ge=0, le=1_000_000)]
    visibility: PlanVisibility = "public"
    audience: Audience = []
    status: Literal["draft", "active"] = "active"


class ChangedPlan(PlanTermsShape):
    """All that a plan says from now on; subscribers keep the version they signed."""

    name: Name
    rank: Annotated[int, Field(ge=0, le=1_000_000)]
    visibility: PlanVisibility = "public"
    audience: Audience = []
    status: Literal["draft", "active", "archived"] = "active"
    version: int


class OfferedPlan(PlanTermsShape):
    """A plan as anyone may read it."""

    product: str
    slug: str
    name: str
    rank: int


class PlanShape(OfferedPlan):
    """A plan as its provider sees it. `plan_version` counts what subscribers can have signed."""

    id: UUID
    visibility: PlanVisibility
    audience: list[UUID]
    status: Literal["draft", "active", "archived"]
    plan_version: int
    version: int
    created_at: Moment
    updated_at: Moment


class OfferedRoute(BaseModel):
    """A documented operation, without where it is served from."""

    method: str
    path: str
    title: str
    description: str
    minimum_plan: str | None
    scope: str | None
    weight: int
    rate_limit: RateLimit | None
    parameters: list[ParameterShape]


class ListedProduct(BaseModel):
    """A product on the market."""

    slug: str
    name: str
    category: str
    short_description: str
    version_label: str
    published_at: Moment


class OfferedProduct(ListedProduct):
    """A product with what can be bought and called."""

    description: str
    key_in_query: bool
    hosts: list[str]
    parameter_check: bool
    billable_statuses: list[str] | None
    websockets: bool
    plans: list[OfferedPlan]
    add_ons: list[OfferedAddOn]
    routes: list[OfferedRoute]
    meters: list[OfferedMeter]
