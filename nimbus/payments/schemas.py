# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of payments and of the checkout."""

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from nimbus.base.web import Money
from nimbus.subscriptions import Reason

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Day = Annotated[str, Field(json_schema_extra={"format": "date"})]


class Input(BaseModel):
    """What comes in: a field that is not ours is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


class MarkPaidBody(Input):
    """How the money came in; `received_on` is today where it is left out."""

    reference: (
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
        | None
    ) = None
    received_on: date | None = None


class PaymentView(BaseModel):
    """A payment that settled an invoice."""

    id: UUID
    organization_id: UUID
    invoice_id: UUID
    status: Literal["Succeeded"] = "Succeeded"
    method: Literal["manual"]
    amount: Money
    reference: str | None
    received_on: Day
    created_at: Moment


Slug = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")]


class StartBody(Input):
    """Which plan of which product; of the operator's own where none is named.

    `payment` is how it will be paid; it may be left out for a trial that ends by itself.
    """

    product: Slug | None = None
    plan: Slug
    payment: Literal["invoice", "method"] | None = None


class ProductName(BaseModel):
    """What is subscribed to."""

    slug: str
    name: str


class PlanName(BaseModel):
    """The plan in the version that is signed."""

    slug: str
    name: str
    rank: int
    plan_version: int


class RunningPeriod(BaseModel):
    """The running period: up to, not including, its end."""

    number: int
    starts_at: Moment
    ends_at: Moment


class StartedSubscription(BaseModel):
    """A subscription as it began or is; GET /api/billing/subscriptions/{id} tells more."""

    id: UUID
    product: ProductName
    plan: PlanName
    status: Literal["Trial", "Active", "PastDue", "Suspended", "Cancelled", "Paused", "Expired"]
    currency: str
    started_at: Moment
    trial_ends_at: Moment | None
    period: RunningPeriod
    next_billing_at: Moment | None
    payment: Literal["invoice", "method"] | None
    version: int


class FirstKey(BaseModel):
    """The key that came with the subscription; `secret` is shown this once."""

    id: UUID
    name: str
    environment: Literal["Live"]
    prefix: str
    last8: str
    scopes: list[str]
    secret: str


class ChoiceView(BaseModel):
    """A plan that starts when the terms are accepted."""

    product: str
    plan: str
    payment: Literal["invoice"] | None


class CheckoutView(BaseModel):
    """A subscription, with its first key if it is new; or a choice that waits for the terms."""

    subscription: StartedSubscription | None
    api_key: FirstKey | None
    choice: ChoiceView | None


class AcceptBody(Input):
    """The version of the terms that is accepted."""

    version: Annotated[str, StringConstraints(min_length=1, max_length=40)]


class AcceptedOrganization(BaseModel):
    """The organization, Active now."""

    id: UUID
    name: str
    status: Literal["Pending", "Active", "Suspended", "Cancelled"]


class AcceptedView(BaseModel):
    """The organization, and what it chose before, started."""

    organization: AcceptedOrganization
    subscription: StartedSubscription | None
    api_key: FirstKey | None


class VersionBody(Input):
    """The version of the subscription that was read, and the preview that it is to be done by:
    for exactly what that says, or not at all.
    """

    version: int
    preview_id: UUID | None = None


class UpgradeBody(VersionBody):
    """Which plan."""

    plan: Slug


class DowngradeBody(UpgradeBody):
    """A step down waits for the period's end, unless asked for at once."""

    at_once: bool = False


class CancelBody(VersionBody):
    """Why, and whether now or at the period's end."""

    reason: Reason
    at_once: bool = False


class AddOnBody(VersionBody):
    """Which add-on, and how often from now on; fewer than before waits for the period's end."""

    add_on: Slug
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class RenewalBody(Input):
    """Whether it renews by itself."""

    automatic: bool
    version: int


class RenewBody(Input):
    """The version of the subscription that was read."""

    version: int


class PreviewBody(Input):
    """The change to look at, with what that change takes."""

    change: Literal[
        "upgrade",
        "downgrade",
        "cancel",
        "reactivate",
        "pause",
        "resume",
        "take_add_on",
        "leave_add_on",
    ]
    version: int
    plan: Slug | None = None
    add_on: Slug | None = None
    add_on_id: UUID | None = None
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    at_once: bool = False
    reason: Reason | None = None


class CostLine(BaseModel):
    """A line as the invoice will have it; below zero: what is given back."""

    description: str
    quantity: str
    unit_price: str | None
    amount: Money
    starts_at: Moment
    ends_at: Moment


class CostView(BaseModel):
    """What is billed: lines, VAT, and what they add up to."""

    lines: list[CostLine]
    subtotal: Money
    tax: Money
    total: Money


class PreviewView(BaseModel):
    """What a change would do. `now` is billed when it is made, null: nothing is; `next` is what the
    next invoice would say with the usage so far. Doing it by this id before `expires_at` costs
    exactly that, or is refused with 409.
    """

    id: UUID
    change: str
    subscription_id: UUID
    now: CostView | None
    next: CostView | None
    next_at: Moment | None
    status: str
    ends_at: Moment | None
    scheduled_at: Moment | None
    effective_at: Moment
    expires_at: Moment
