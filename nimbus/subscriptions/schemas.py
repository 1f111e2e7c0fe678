# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of subscriptions."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from nimbus.base.web import Money
from nimbus.catalog import ContractShape

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
    at: Moment


class ScheduledChange(BaseModel):
    """What waits to change: the plan (null: it stays), add-ons, or both; `at` is the next time.

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


class ConsumerShape(BaseModel):
    """A subscription as its provider sees it; nothing of how it is paid. `id` is the
    subscription's.
    """

    id: UUID
    organization_id: UUID
    name: str
    country: str
    product: ProductShape
    plan: PlanShape
    contract: bool
    base_fee: Money
    add_ons: list[AddOnShape]
    status: Status
    started_at: Moment
    trial_ends_at: Moment | None
    period_ends_at: Moment
    ends_at: Moment | None
    cancel_reason: str | None
    scheduled_change: ScheduledChange | None
    banned: bool
    version: int


class Input(BaseModel):
    """What comes in: a field that is not ours is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


class PlanBody(Input):
    """Which plan, and whether now or at the period's end."""

    plan: Slug
    version: int
    at_once: bool = True


class ContractBody(Input):
    """What is agreed, in place of what the plan says."""

    terms: ContractShape
    version: int


class RevokeBody(Input):
    """Why it ends."""

    reason: Reason
    version: int


class BanBody(Input):
    """Why nothing is sold to them any more."""

    reason: Reason


class AdminCancelBody(RevokeBody):
    """Why, and whether now or at the period's end."""

    at_once: bool = False


class MoveBody(Input):
    """Where the subscribers go, why, and from when on: at once at their periods' ends if unsaid."""

    to_plan: Slug
    reason: Reason
    not_before: AwareDatetime | None = None


class MovedVersion(BaseModel):
    """Subscribers who signed one version of a plan: how many, how many of them a move leaves out,
    and the fee before and after it; null where there is none in their currency.
    """

    plan_version: int
    contract: bool
    subscribers: int
    left_out: int
    fee: Money | None
    fee_then: Money | None


class MovePreview(BaseModel):
    """What a move of subscribers would do: to which version, and to how many of which."""

    to_plan: str
    to_plan_version: int
    total: int
    left_out: int
    versions: list[MovedVersion]


class PlanMoveShape(BaseModel):
    """How far a move of subscribers is: `moved` of `total` are told; those with a contract or a
    change of their own are left out.
    """

    id: UUID
    to_plan: str
    to_plan_version: int
    not_before: Moment
    reason: str
    status: str
    total: int
    moved: int
    left_out: int
    created_at: Moment
    finished_at: Moment | None
