# SPDX-License-Identifier: Apache-2.0
"""Tables of the catalogue: products, hosts, upstreams, meters, routes, plans and their versions.

At the end: the facts that other rooms get of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column, relationship

from nimbus.base import clock
from nimbus.base.db import Base
from nimbus.base.ids import new_id
from nimbus.rules.periods import Anchor, Interval, QuotaPeriod
from nimbus.rules.pricing import Charge, read_charge
from nimbus.rules.quotas import OnChange, Quota

Network = IPv4Network | IPv6Network
Instant = TIMESTAMP(timezone=True)
EntitlementType = Literal["boolean", "limit", "value"]


class _Row:
    """What every row has: an id, its provider's organization, the business instant of making."""

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)


class _Edited(_Row):
    """A row that people edit: a stale `version` is refused."""

    version: Mapped[int] = mapped_column(default=1)
    updated_at: Mapped[datetime] = mapped_column(Instant, default=clock.now, onupdate=clock.now)


class Product(_Edited, Base):
    """An API for sale."""

    __tablename__ = "products"

    slug: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    category: Mapped[str] = mapped_column(Text)
    short_description: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    version_label: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, default="draft")
    visibility: Mapped[str] = mapped_column(Text)
    key_in_query: Mapped[bool]
    ip_allow: Mapped[list[Network]] = mapped_column(ARRAY(CIDR), default=list)
    ip_deny: Mapped[list[Network]] = mapped_column(ARRAY(CIDR), default=list)
    parameter_check: Mapped[bool] = mapped_column(default=False)
    billable_statuses: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    websockets: Mapped[bool] = mapped_column(default=False)
    published_at: Mapped[datetime | None] = mapped_column(Instant)


class ProductHost(_Row, Base):
    """A host name at which a product is served: lower case, ASCII, no port."""

    __tablename__ = "product_hosts"

    product_id: Mapped[UUID]
    name: Mapped[str] = mapped_column(Text)


class Upstream(_Row, Base):
    """Where a product's calls go in one environment, and what they are signed with there."""

    __tablename__ = "upstreams"

    product_id: Mapped[UUID]
    environment: Mapped[str] = mapped_column(Text)
    base_url: Mapped[str] = mapped_column(Text)
    auth_header: Mapped[str | None] = mapped_column(Text)
    auth_secret_sealed: Mapped[bytes | None]
    connect_timeout_ms: Mapped[int]
    answer_timeout_ms: Mapped[int]
    max_concurrent: Mapped[int] = mapped_column(default=256)
    updated_at: Mapped[datetime] = mapped_column(Instant, default=clock.now, onupdate=clock.now)


class Meter(_Edited, Base):
    """A thing that is counted for a product, of events whose properties its filters let through.

    `property` is what a `unique` meter tells apart; `source_path` where in an upstream's answer
    the units of a call stand.
    """

    __tablename__ = "meters"

    product_id: Mapped[UUID]
    key: Mapped[str] = mapped_column(Text)
    unit: Mapped[str] = mapped_column(Text)
    aggregation: Mapped[str] = mapped_column(Text)
    property: Mapped[str | None] = mapped_column(Text)
    filters: Mapped[dict[str, list[str]]] = mapped_column(JSONB, default=dict)
    source_path: Mapped[str | None] = mapped_column(Text)


class Route(_Edited, Base):
    """One operation of a product, as callers see it and as the upstream does."""

    __tablename__ = "routes"

    product_id: Mapped[UUID]
    method: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    upstream_path: Mapped[str] = mapped_column(Text)
    title: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    minimum_plan_id: Mapped[UUID | None]
    scope: Mapped[str | None] = mapped_column(Text)
    weight: Mapped[int]
    rate_amount: Mapped[int | None]
    rate_period: Mapped[str | None] = mapped_column(Text)
    rate_burst: Mapped[int | None]
    ip_allow: Mapped[list[Network]] = mapped_column(ARRAY(CIDR), default=list)
    ip_deny: Mapped[list[Network]] = mapped_column(ARRAY(CIDR), default=list)
    parameters: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    strict_journal: Mapped[bool] = mapped_column(default=False)
    holds: Mapped[dict[str, int]] = mapped_column(JSONB, default=dict)
    public: Mapped[bool]


class Plan(_Edited, Base):
    """A price and its limits, of one product; what it says now is its current version.

    An add-on is one of the kind `add_on`: taken beside a plan, so many times, without a rank.
    """

    __tablename__ = "plans"

    product_id: Mapped[UUID]
    kind: Mapped[str] = mapped_column(Text, default="plan")
    slug: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    rank: Mapped[int]
    status: Mapped[str] = mapped_column(Text)
    visibility: Mapped[str] = mapped_column(Text)
    current_version_id: Mapped[UUID]


class PlanAudience(_Row, Base):
    """An organization that a private plan is for."""

    __tablename__ = "plan_audiences"

    plan_id: Mapped[UUID] = mapped_column(ForeignKey("plans.id"))
    consumer_organization_id: Mapped[UUID]


class PlanVersion(_Row, Base):
    """What a subscriber signs: it never changes once `published_at` is set.

    Contract prices are a version made for `consumer_organization_id` alone, never the current one.
    """

    __tablename__ = "plan_versions"

    product_id: Mapped[UUID]
    plan_id: Mapped[UUID]
    number: Mapped[int]
    interval: Mapped[str] = mapped_column(Text)
    interval_count: Mapped[int]
    base_fee_timing: Mapped[str] = mapped_column(Text)
    proration: Mapped[str] = mapped_column(Text)
    anchor: Mapped[str] = mapped_column(Text)
    grace_hours: Mapped[int]
    trial_days: Mapped[int]
    trial_converts: Mapped[bool] = mapped_column(default=True)
    consumer_organization_id: Mapped[UUID | None]
    rate_amount: Mapped[int | None]
    rate_period: Mapped[str | None] = mapped_column(Text)
    rate_burst: Mapped[int | None]
    over_quota_policy: Mapped[str] = mapped_column(Text)
    payment_on_invoice: Mapped[bool]
    payment_term_days: Mapped[int]
    published_at: Mapped[datetime | None] = mapped_column(Instant)

    prices: Mapped[list["PlanPrice"]] = relationship(
        lazy="selectin", order_by="PlanPrice.currency", viewonly=True
    )
    charges: Mapped[list["PlanCharge"]] = relationship(
        lazy="selectin", order_by="PlanCharge.currency, PlanCharge.position", viewonly=True
    )
    quotas: Mapped[list["PlanQuota"]] = relationship(
        lazy="selectin", order_by="PlanQuota.meter_key, PlanQuota.period", viewonly=True
    )
    entitlements: Mapped[list["PlanEntitlement"]] = relationship(
        lazy="selectin", order_by="PlanEntitlement.key", viewonly=True
    )


class PlanPrice(_Row, Base):
    """The base fee of a plan version in one currency, in minor units."""

    __tablename__ = "plan_prices"

    product_id: Mapped[UUID]
    plan_version_id: Mapped[UUID] = mapped_column(ForeignKey("plan_versions.id"))
    currency: Mapped[str] = mapped_column(Text)
    base_fee_minor: Mapped[int] = mapped_column(BigInteger)


class PlanCharge(_Row, Base):
    """How a plan version prices one meter in one currency; `terms` holds what the model needs."""

    __tablename__ = "plan_charges"

    product_id: Mapped[UUID]
    plan_version_id: Mapped[UUID] = mapped_column(ForeignKey("plan_versions.id"))
    currency: Mapped[str] = mapped_column(Text)
    position: Mapped[int]
    meter_key: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    included: Mapped[Decimal] = mapped_column(Numeric(38, 12))
    unit_price: Mapped[Decimal] = mapped_column(Numeric(30, 12))
    terms: Mapped[dict[str, Any]] = mapped_column(JSONB)
    description: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))

    def charge(self) -> Charge:
        """The value that the law prices with; whole currency units."""
        return read_charge(
            self.meter_key,
            self.model,  # type: ignore[arg-type]  # validated when it was written
            self.included,
            self.unit_price,
            self.terms,
        )


class PlanQuota(_Row, Base):
    """How much of a meter a quota period of a plan version allows; None is unlimited. What the
    other columns mean: `rules.quotas.Quota`.
    """

    __tablename__ = "plan_quotas"

    product_id: Mapped[UUID]
    plan_version_id: Mapped[UUID] = mapped_column(ForeignKey("plan_versions.id"))
    meter_key: Mapped[str] = mapped_column(Text)
    amount: Mapped[int | None] = mapped_column(BigInteger)
    period: Mapped[str] = mapped_column(Text)
    overage_cap: Mapped[int | None] = mapped_column(BigInteger)
    roll_over: Mapped[int] = mapped_column(BigInteger, default=0)
    roll_over_windows: Mapped[int] = mapped_column(SmallInteger, default=1)
    on_plan_change: Mapped[OnChange] = mapped_column(Text, default="carry")


class PlanEntitlement(_Row, Base):
    """What a plan version entitles to: something or not (`enabled`), as much as the quotas of a
    meter allow (`meter_key`), or a `value`.
    """

    __tablename__ = "plan_entitlements"

    product_id: Mapped[UUID]
    plan_version_id: Mapped[UUID] = mapped_column(ForeignKey("plan_versions.id"))
    key: Mapped[str] = mapped_column(Text)
    type: Mapped[EntitlementType] = mapped_column(Text)
    enabled: Mapped[bool | None]
    meter_key: Mapped[str | None] = mapped_column(Text)
    value: Mapped[str | None] = mapped_column(Text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductFacts:
    """What other rooms may know of a product."""

    id: UUID
    provider_organization_id: UUID
    slug: str
    name: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaFacts:
    """The quota of a meter in a period, as the law takes it."""

    meter_key: str
    period: QuotaPeriod
    quota: Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitlementFacts:
    """What a plan entitles to, see `PlanEntitlement`."""

    key: str
    type: EntitlementType
    enabled: bool | None
    meter_key: str | None
    value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """A plan in one of its versions, as a subscriber signs it.

    `currencies` are those it has a price in. `grace_hours`: how long after a period's end its
    invoice waits for late usage. `trial_converts`: a trial goes on as paid by itself. `contract`:
    agreed with one organization. `fee_once`: the fee of an add-on is owed when it is taken, not
    for each period.
    """

    product: ProductFacts
    kind: Literal["plan", "add_on"]
    plan_id: UUID
    plan_version_id: UUID
    number: int
    slug: str
    name: str
    rank: int
    status: str
    interval: Interval
    interval_count: int
    calendar_anchor: bool
    grace_hours: int
    trial_days: int
    trial_converts: bool
    contract: bool
    fee_once: bool
    over_quota_policy: Literal["deny", "warn", "allow", "overage"]
    payment_on_invoice: bool
    payment_term_days: int
    currencies: tuple[str, ...]
    quotas: tuple[QuotaFacts, ...]
    entitlements: tuple[EntitlementFacts, ...]

    def anchor(self, at: datetime, time_zone: str) -> Anchor:
        """What fixes the periods of a subscription to this version that began `at`."""
        return Anchor(at, time_zone, self.interval, self.interval_count, self.calendar_anchor)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterFacts:
    """A meter of a product; `aggregation` over a period: count, sum, max, last, unique, …

    A `unique` one tells the values of `property` apart. It counts what `filters` let through.
    """

    key: str
    unit: str
    aggregation: str
    property: str | None = None
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFacts:
    """An operation as a log shows it."""

    id: UUID
    method: str
    path: str
    title: str
