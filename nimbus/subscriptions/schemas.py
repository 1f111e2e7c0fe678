# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of subscriptions."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from nimbus.base.web import Money

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Status = Literal["Trial", "Active", "PastDue", "Suspended", "Cancelled", "Paused", "Expired"]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed")
    return text


Slug = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")]
Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500),
    AfterValidator(_printable),
]


class ProductShape(BaseModel):
    """What is subscribed to."""

    slug: str
    name: str


class PlanShape(BaseModel):
    """The plan in the version that was signed."""

    slug: str
    name: str
    rank: int
    plan_version: int


class PeriodShape(BaseModel):
    """The running period: up to, not including, its end."""

    number: int
    starts_at: Moment
    ends_at: Moment


class AddOnShape(BaseModel):
    """What is had beside the plan, so many times; the fee is that of one."""

    id: UUID
    slug: str
    name: str
    quantity: int
    fee: Money


class ScheduledAddOn(BaseModel):
    """An add-on that will be had so many times; none: it is left."""

    slug: str
    name: str
    quantity: int


class ScheduledChange(BaseModel):
    """What waits to change: the plan (null: it stays), add-ons, or both.

    With a `reason` it was announced by the provider.
    """

    plan: str | None
    at: Moment
    add_ons: list[ScheduledAddOn]
    reason: str | None


class ChargeShape(BaseModel):
    """What usage costs; see GET /api/billing/plans for the fields of each model."""

    model_config = ConfigDict(extra="allow")

    meter: str
    model: str
    included: str
    unit_price: str


class PriceShape(BaseModel):
    """What a period costs. Prices per unit are decimal strings in whole currency units."""

    base_fee: Money
    interval: str
    interval_count: int
    charges: list[ChargeShape]


class SubscriptionShape(BaseModel):
    """A subscription; `price` is null for who may not see it. `contract`: its prices were agreed
    with this organization.
    """

    id: UUID
    product: ProductShape
    plan: PlanShape
    contract: bool
    add_ons: list[AddOnShape]
    status: Status
    currency: str
    started_at: Moment
    ends_at: Moment | None
    trial_ends_at: Moment | None
    period: PeriodShape
    next_billing_at: Moment | None
    auto_renew: bool
    payment: str | None
    cancelled_at: Moment | None
    cancel_reason: str | None
    scheduled_change: ScheduledChange | None
    price: PriceShape | None
    version: int
    created_at: Moment
    updated_at: Moment
