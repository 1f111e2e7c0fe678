# SPDX-License-Identifier: Apache-2.0
"""The tables of subscriptions and of their terms over time, and the facts that other rooms get."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from nimbus.base import clock
from nimbus.base.db import Base
from nimbus.base.ids import new_id
from nimbus.rules import lifecycles
from nimbus.rules.lifecycles import SubscriptionState
from nimbus.rules.periods import Period

Instant = TIMESTAMP(timezone=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionFacts:
    """A subscription as it is stored. Instants are business time in UTC; see README.md.

    `period_number` counts from 0 by `anchor_at`; `next_billing_at` is when the running period is
    to be billed, None when nothing more is. `payment` None: a trial that ends by itself.
    """

    id: UUID
    organization_id: UUID
    provider_organization_id: UUID
    product_id: UUID
    plan_id: UUID
    plan_version_id: UUID
    status: SubscriptionState
    currency: str
    started_at: datetime
    ends_at: datetime | None
    trial_ends_at: datetime | None
    anchor_at: datetime
    time_zone: str
    period_number: int
    period_starts_at: datetime
    period_ends_at: datetime
    next_billing_at: datetime | None
    auto_renew: bool
    payment: Literal["invoice", "method"] | None
    scheduled_change: Mapping[str, Any] | None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOnTerms:
    """An add-on under contract: a catalogue item's version, so many times."""

    plan_id: UUID
    plan_version_id: UUID
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a subscription was under in `period`: half-open, UTC.

    `plan_version_id` says everything that was agreed, contract prices too: those are a version of
    the plan made for one organization. `served` False: paused, without access and without fee.
    """

    period: Period
    plan_id: UUID
    plan_version_id: UUID
    add_ons: tuple[AddOnTerms, ...]
    served: bool
    reason: str


class Subscription(Base):
    """A consumer's agreement to one plan of one product; seen by both, written by the consumer."""

    __tablename__ = "subscriptions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    product_id: Mapped[UUID]
    plan_id: Mapped[UUID]
    plan_version_id: Mapped[UUID]
    status: Mapped[str] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(Instant)
    ends_at: Mapped[datetime | None] = mapped_column(Instant)
    trial_ends_at: Mapped[datetime | None] = mapped_column(Instant)
    trial_notice_at: Mapped[datetime | None] = mapped_column(Instant)
    anchor_at: Mapped[datetime] = mapped_column(Instant)
    time_zone: Mapped[str] = mapped_column(Text)
    period_number: Mapped[int] = mapped_column(default=0)
    period_starts_at: Mapped[datetime] = mapped_column(Instant)
    period_ends_at: Mapped[datetime] = mapped_column(Instant)
    next_billing_at: Mapped[datetime | None] = mapped_column(Instant)
    auto_renew: Mapped[bool] = mapped_column(default=True)
    payment: Mapped[str | None] = mapped_column(Text)
    cancelled_at: Mapped[datetime | None] = mapped_column(Instant)
    cancel_reason: Mapped[str | None] = mapped_column(Text)
    parked_reason: Mapped[str | None] = mapped_column(Text)
    scheduled_change: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)
    updated_at: Mapped[datetime] = mapped_column(Instant, default=clock.now, onupdate=clock.now)

    def facts(self) -> SubscriptionFacts:
        """What it says, as a value."""
        names = SubscriptionFacts.__dataclass_fields__
        return SubscriptionFacts(**{name: getattr(self, name) for name in names})

    def status_at(self, as_of: datetime) -> SubscriptionState:
        """What it is at `as_of`: a trial with a payment goes on by itself, else see the law."""
        stored: SubscriptionState = self.status  # type: ignore[assignment]  # check constraint
        trial_ends_at = self.trial_ends_at
        if self.payment is not None and trial_ends_at is not None:
            if stored == "Trial" and trial_ends_at <= as_of:
                return "Active"
            trial_ends_at = None
        return lifecycles.subscription_status(stored, trial_ends_at, self.ends_at, as_of)

    def period(self) -> Period:
        """The running period."""
        return Period(self.period_starts_at, self.period_ends_at)


class ContractTerms(Base):
    """From `effective_at` on, until the next row, this holds; rows are only added."""

    __tablename__ = "contract_terms"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    subscription_id: Mapped[UUID]
    number: Mapped[int]
    effective_at: Mapped[datetime] = mapped_column(Instant)
    plan_id: Mapped[UUID]
    plan_version_id: Mapped[UUID]
    served: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)


class ContractAddOn(Base):
    """An add-on that belongs to one row of terms."""

    __tablename__ = "contract_add_ons"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    provider_organization_id: Mapped[UUID]
    terms_id: Mapped[UUID]
    plan_id: Mapped[UUID]
    plan_version_id: Mapped[UUID]
    quantity: Mapped[int]

    def terms(self) -> AddOnTerms:
        """What it says, as a value."""
        return AddOnTerms(
            plan_id=self.plan_id, plan_version_id=self.plan_version_id, quantity=self.quantity
        )


class ConsumerBan(Base):
    """A provider sells nothing to this organization."""

    __tablename__ = "consumer_bans"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    consumer_organization_id: Mapped[UUID]
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)


class PlanMove(Base):
    """Subscribers of a plan on their way to a version of it or of another, and how far that is.

    Each moves at the first end of its period from `not_before` on.
    """

    __tablename__ = "plan_moves"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    product_id: Mapped[UUID]
    plan_id: Mapped[UUID]
    to_plan_id: Mapped[UUID]
    to_plan_version_id: Mapped[UUID]
    not_before: Mapped[datetime] = mapped_column(Instant)
    reason: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, default="Running")
    last_subscription_id: Mapped[UUID | None]
    total: Mapped[int]
    moved: Mapped[int] = mapped_column(default=0)
    left_out: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)
