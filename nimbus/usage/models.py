# SPDX-License-Identifier: Apache-2.0
"""Tables of usage: events, refused calls, roll-ups, producers, quota standings and their leases.

At the end: the facts that other rooms get of them.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import BigInteger, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from nimbus.base import clock
from nimbus.base.db import Base
from nimbus.base.ids import new_id
from nimbus.rules.periods import Period
from nimbus.rules.quotas import ceiling

Instant = TIMESTAMP(timezone=True)
Quantity = Numeric(38, 12)
SpendKind = Literal["organization_spend", "key_spend", "balance", "key_quota"]


class _Call:
    """What a served and a refused call have in common."""

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    occurred_at: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    provider_organization_id: Mapped[UUID]
    environment: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(Text)
    status: Mapped[int] = mapped_column(SmallInteger)
    duration_us: Mapped[int] = mapped_column(BigInteger)
    bytes_in: Mapped[int] = mapped_column(BigInteger)
    bytes_out: Mapped[int] = mapped_column(BigInteger)
    ip: Mapped[IPv4Address | IPv6Address] = mapped_column(INET)
    request_id: Mapped[str] = mapped_column(Text)
    producer: Mapped[UUID]
    sequence: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Instant)


class ServedCall(_Call, Base):
    """A usage event: a call that an upstream was asked for, or, where there is a `source`, what a
    provider reported from outside under an id of its own. Only ever added.
    """

    __tablename__ = "usage_events"

    subscription_id: Mapped[UUID]
    product_id: Mapped[UUID]
    key_id: Mapped[UUID]
    route_id: Mapped[UUID]
    upstream_us: Mapped[int] = mapped_column(BigInteger)
    billable: Mapped[bool]
    units: Mapped[int] = mapped_column(BigInteger)
    leased: Mapped[int] = mapped_column(BigInteger)
    continued: Mapped[bool]
    meters: Mapped[dict[str, Any]] = mapped_column(JSONB)
    source: Mapped[str | None] = mapped_column(Text)
    external_id: Mapped[str | None] = mapped_column(Text)
    reported_by: Mapped[UUID | None]
    properties: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    member: Mapped[UUID | None]


class RefusedCall(_Call, Base):
    """A call that was refused before its upstream: for the log only, never counted."""

    __tablename__ = "refused_calls"

    subscription_id: Mapped[UUID | None]
    product_id: Mapped[UUID | None]
    key_id: Mapped[UUID | None]
    route_id: Mapped[UUID | None]
    code: Mapped[str] = mapped_column(Text)


class HourlyCell(Base):
    """One cell of the folded roll-up, see `rules.metering.Cell`; read `usage_hours`."""

    __tablename__ = "usage_hourly"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    subscription_id: Mapped[UUID] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    meter_key: Mapped[str] = mapped_column(Text, primary_key=True)
    key_id: Mapped[UUID] = mapped_column(primary_key=True)
    route_id: Mapped[UUID] = mapped_column(primary_key=True)
    status_class: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    environment: Mapped[str] = mapped_column(Text, primary_key=True)
    provider_organization_id: Mapped[UUID]
    product_id: Mapped[UUID]
    events: Mapped[int] = mapped_column(BigInteger)
    quantity_sum: Mapped[Decimal] = mapped_column(Quantity)
    quantity_max: Mapped[Decimal] = mapped_column(Quantity)
    quantity_last: Mapped[Decimal] = mapped_column(Quantity)
    last_at: Mapped[datetime] = mapped_column(Instant)
    last_event_id: Mapped[UUID]
    duration_us: Mapped[int] = mapped_column(BigInteger)
    bytes_in: Mapped[int] = mapped_column(BigInteger)
    bytes_out: Mapped[int] = mapped_column(BigInteger)
    latency: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))


class Producer(Base):
    """How far the journal of one gateway process is stored.

    Everything up to `watermark` is stored or closed, but for the sequences in `waiting`, which a
    living gateway still serves. The counts say what became of each; they add up to the watermark.
    """

    __tablename__ = "usage_producers"

    producer: Mapped[UUID] = mapped_column(primary_key=True)
    watermark: Mapped[int] = mapped_column(BigInteger, default=0)
    waiting: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), default=list)
    served: Mapped[int] = mapped_column(BigInteger, default=0)
    refused: Mapped[int] = mapped_column(BigInteger, default=0)
    closed: Mapped[int] = mapped_column(BigInteger, default=0)
    corrupt: Mapped[int] = mapped_column(BigInteger, default=0)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)

    def mark(self) -> "Mark":
        """Where reading goes on."""
        return Mark(self.watermark, frozenset(self.waiting), self.ended_at is not None)


class QuotaStanding(Base):
    """The counter of one meter and quota period of a subscription, see `rules.quotas`.

    `limit_units` is what it allows in all: `own_units` by the plan (version `plan_version_id`),
    what `rolled` over (the newest units first), `increase_units` for a time. `best_units` is the
    most that any plan of this window allows, `used_before` what was used under earlier counts.
    `told` is the highest threshold that was announced. Once the window is over, at `rolls_over_at`,
    what is left rolls over. A row that is `closed_at` an instant counts no more: another goes on.
    """

    __tablename__ = "quota_standings"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    meter_key: Mapped[str] = mapped_column(Text)
    aggregation: Mapped[str] = mapped_column(Text)
    period: Mapped[str] = mapped_column(Text)
    period_starts_at: Mapped[datetime] = mapped_column(Instant)
    period_ends_at: Mapped[datetime] = mapped_column(Instant)
    limit_units: Mapped[int | None] = mapped_column(BigInteger)
    policy: Mapped[str] = mapped_column(Text)
    used: Mapped[Decimal] = mapped_column(Quantity)
    leased: Mapped[int] = mapped_column(BigInteger, default=0)
    plan_version_id: Mapped[UUID | None]
    own_units: Mapped[int | None] = mapped_column(BigInteger)
    best_units: Mapped[int | None] = mapped_column(BigInteger)
    used_before: Mapped[Decimal] = mapped_column(Quantity, default=Decimal(0))
    rolled: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), default=list)
    increase_units: Mapped[int] = mapped_column(BigInteger, default=0)
    overage_cap: Mapped[int | None] = mapped_column(BigInteger)
    told: Mapped[int] = mapped_column(SmallInteger, default=0)
    rolls_over_at: Mapped[datetime | None] = mapped_column(Instant)
    closed_at: Mapped[datetime | None] = mapped_column(Instant)
    closed_because: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)
    updated_at: Mapped[datetime] = mapped_column(Instant, default=clock.now, onupdate=clock.now)

    def window(self) -> Period:
        """The half-open period whose events this row counts."""
        return Period(self.period_starts_at, self.period_ends_at)


class QuotaLease(Base):
    """Units of a standing that a gateway has borrowed and not yet accounted for."""

    __tablename__ = "quota_leases"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    standing_id: Mapped[UUID] = mapped_column(primary_key=True)
    producer: Mapped[UUID] = mapped_column(primary_key=True)
    provider_organization_id: Mapped[UUID]
    units: Mapped[int] = mapped_column(BigInteger)


class QuotaSchedule(Base):
    """When the next quota window of a subscription has to be opened."""

    __tablename__ = "quota_schedules"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    subscription_id: Mapped[UUID] = mapped_column(primary_key=True)
    provider_organization_id: Mapped[UUID]
    due_at: Mapped[datetime] = mapped_column(Instant)


class QuotaIncrease(Base):
    """Units that someone gave a subscription beyond a quota, until `ends_at`. Only ever added."""

    __tablename__ = "quota_increases"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    meter_key: Mapped[str] = mapped_column(Text)
    period: Mapped[str] = mapped_column(Text)
    units: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text)
    starts_at: Mapped[datetime] = mapped_column(Instant)
    ends_at: Mapped[datetime] = mapped_column(Instant)
    created_by: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)


class SpendStanding(Base):
    """What calls cost, in millionths of a minor unit of the organization's currency.

    Of an organization and of each of its keys by calendar month; `keyless` is what of the former is
    no key's. Of a prepaid balance, for good: it counts what its organization spent beyond
    `spent_before`, its `limit_micro` is `used` and what is left, and `told_of` is what was left
    when money last came in. A `key_quota` counts the units of a key's calls in that month, and its
    limit is in units. `told` is the highest threshold that was announced. Opened by `spend_open`
    (migrations 0012 and 0017).
    """

    __tablename__ = "spend_standings"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    kind: Mapped[SpendKind] = mapped_column(Text)
    key_id: Mapped[UUID | None]
    period_starts_at: Mapped[datetime] = mapped_column(Instant)
    period_ends_at: Mapped[datetime] = mapped_column(Instant)
    limit_micro: Mapped[int | None] = mapped_column(BigInteger)
    used: Mapped[Decimal] = mapped_column(Numeric, default=Decimal(0))
    keyless: Mapped[Decimal] = mapped_column(Numeric, default=Decimal(0))
    spent_before: Mapped[Decimal] = mapped_column(Numeric, default=Decimal(0))
    leased: Mapped[int] = mapped_column(BigInteger, default=0)
    followed: Mapped[bool] = mapped_column(default=False)
    told: Mapped[int] = mapped_column(SmallInteger, default=0)
    told_of: Mapped[Decimal | None] = mapped_column(Numeric)
    updated_at: Mapped[datetime] = mapped_column(Instant, default=clock.now, onupdate=clock.now)

    def window(self) -> Period:
        """The half-open period whose calls this row counts."""
        return Period(self.period_starts_at, self.period_ends_at)


class SpendLease(Base):
    """Money of a standing that a gateway has borrowed and not yet accounted for."""

    __tablename__ = "spend_leases"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    standing_id: Mapped[UUID] = mapped_column(primary_key=True)
    producer: Mapped[UUID] = mapped_column(primary_key=True)
    units: Mapped[int] = mapped_column(BigInteger)


class RatedPeriod(Base):
    """How far a billing period of a subscription is rated: what it used of each meter (see
    `service.rating`), and what that costs, in whole currency units.
    """

    __tablename__ = "rated_periods"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    subscription_id: Mapped[UUID] = mapped_column(primary_key=True)
    period_starts_at: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    period_ends_at: Mapped[datetime] = mapped_column(Instant)
    provider_organization_id: Mapped[UUID]
    plan_version_id: Mapped[UUID]
    cells: Mapped[dict[str, Any]] = mapped_column(JSONB)
    cost: Mapped[Decimal] = mapped_column(Numeric)


class Export(Base):
    """A file of logged calls that a member asked for; it lies under the data folder until
    `expires_at`. `reason` says why a failed one did.
    """

    __tablename__ = "usage_exports"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    user_id: Mapped[UUID]
    format: Mapped[str] = mapped_column(Text)
    filters: Mapped[dict[str, Any]] = mapped_column(JSONB)
    starts_at: Mapped[datetime] = mapped_column(Instant)
    ends_at: Mapped[datetime] = mapped_column(Instant)
    status: Mapped[str] = mapped_column(Text, default="Waiting")
    rows_done: Mapped[int] = mapped_column(BigInteger, default=0)
    rows_total: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    reason: Mapped[str | None] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)
    updated_at: Mapped[datetime] = mapped_column(Instant, default=clock.now, onupdate=clock.now)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a producer's journal is stored; `ended` once it is dead and wholly stored."""

    watermark: int
    waiting: frozenset[int]
    ended: bool

    def has(self, sequence: int) -> bool:
        """Whether what became of this sequence is already stored."""
        return sequence <= self.watermark and sequence not in self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaState:
    """A quota as it stands, in the words of an entitlement check.

    `limit` and `remaining` are None where there is no limit; `behavior` is the plan's over-quota
    policy, `overage_cap` how many units over the limit are served under `overage`. Of the limit,
    `rolled_over` came from windows before and `increase` was given for a time; `used_before` was
    used in this window under an earlier count. The quota of a key has a `key_id`, and is of no
    subscription.
    """

    subscription_id: UUID | None
    meter_key: str
    period: str
    window: Period
    used: Decimal
    limit: int | None
    behavior: str
    overage_cap: int | None = None
    rolled_over: int = 0
    increase: int = 0
    increase_ends_at: datetime | None = None
    used_before: Decimal = Decimal(0)
    key_id: UUID | None = None

    @property
    def remaining(self) -> Decimal | None:
        """What is left, never below zero."""
        return None if self.limit is None else max(Decimal(0), self.limit - self.used)

    def allows(self, units: Decimal) -> bool:
        """Whether so many more units are served."""
        end = ceiling(self.limit, self.behavior, self.overage_cap)
        return end is None or self.used + units <= end

    @property
    def allowed(self) -> bool:
        """Whether the next unit is served."""
        return self.allows(Decimal(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendState:
    """What was spent in a window, in millionths of a minor unit. `leased` is held by calls under
    way or kept ready by gateways; `limit` and `remaining` are None where there is no limit.
    """

    kind: SpendKind
    key_id: UUID | None
    window: Period
    used: Decimal
    leased: int
    limit: int | None

    @property
    def remaining(self) -> Decimal | None:
        """What is left, neither used nor held, never below zero."""
        return None if self.limit is None else max(Decimal(0), self.limit - self.used - self.leased)
