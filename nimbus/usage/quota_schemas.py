# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of what is done to quotas, and of entitlements; quantities are decimal texts."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

from nimbus.base import clock
from nimbus.usage.schemas import Moment, NamedShape

Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
Slug = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9-]+$")]
QuotaPeriod = Literal["day", "week", "month", "year", "cycle"]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
Behavior = Literal["deny", "warn", "allow", "overage"]
Stop = Literal[
    "not_entitled",
    "subscription_required",
    "quota_exceeded",
    "spend_limit_reached",
    "balance_exhausted",
]


class _Input(BaseModel):
    """What comes in: a field that is not ours is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


class ResetBody(_Input):
    """Which quotas to count anew: all that run, those of a meter, or the one of its period."""

    reason: Reason
    meter: Key | None = None
    period: QuotaPeriod | None = None


class IncreaseBody(_Input):
    """Units beyond a quota in each of its periods, from now until `ends_at`."""

    reason: Reason
    meter: Key
    period: QuotaPeriod
    units: Annotated[int, Field(ge=1, le=10**12, strict=True)]
    ends_at: Annotated[AwareDatetime, AfterValidator(clock.in_utc)]


class AdjustedShape(BaseModel):
    """A quota after it was adjusted."""

    meter: str
    period: str
    used: str
    limit: str | None
    remaining: str | None
    behavior: Behavior
    resets_at: Moment


class AdjustedList(BaseModel):
    """The quotas of a subscription that run now."""

    subscription_id: UUID
    quotas: list[AdjustedShape]


class CheckBody(_Input):
    """What is asked: an entitlement by its key, or a meter by its own; of which subscription, if
    there are several, by its `product` or its id. With `consume` the `quantity` is used up in the
    same step, if it is allowed.
    """

    entitlement: Key
    product: Slug | None = None
    subscription_id: UUID | None = None
    quantity: Annotated[str, StringConstraints(max_length=30)] = "1"
    consume: bool = False


class CheckShape(BaseModel):
    """The answer. `allowed` for the quantity asked; a limit has `used`, `limit` (null: none),
    `remaining`, `behavior` and `resets_at`, of the period with the least left; a value has `value`.
    `reason` says why not.
    """

    entitlement: str
    type: Literal["boolean", "limit", "value"] | None
    allowed: bool
    used: str | None = None
    limit: str | None = None
    remaining: str | None = None
    behavior: Behavior | None = None
    resets_at: Moment | None = None
    value: str | None = None
    consumed: bool = False
    reason: Stop | None = None


class EntitledShape(BaseModel):
    """What a subscription entitles to, each as the check answers it for one unit."""

    subscription_id: UUID
    product: NamedShape
    plan: NamedShape
    entitlements: list[CheckShape]


class EntitledList(BaseModel):
    """What all live subscriptions entitle to."""

    data: list[EntitledShape]
