# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of API keys."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from nimbus.base import clock
from nimbus.base.web import Amount, Money, Network

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._-]{1,100}$")]
Scope = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){1,3}$", max_length=60)
]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Environment = Literal["Test", "Live"]
GRACE_HOURS = 24
GRACE_HOURS_MAX = 7 * 24


class Input(BaseModel):
    """What comes in: a field that is not ours is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


class KeyFields(Input):
    """What a key may do. `ip_allow`: CIDR networks, none is everywhere. `monthly_spend_limit`: what
    its calls may cost in a calendar month, in the organization's currency; `monthly_quota`: how
    many units its live calls may come to in one.
    """

    name: Name
    scopes: Annotated[list[Scope], Field(max_length=100)] = []
    rate_per_minute: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    monthly_spend_limit: Amount | None = None
    monthly_quota: Annotated[int | None, Field(ge=0, le=10**15, strict=True)] = None
    ip_allow: Annotated[list[Network], Field(max_length=100)] = []
    expires_at: Annotated[AwareDatetime, AfterValidator(clock.in_utc)] | None = None


class NewKey(KeyFields):
    """A key to make: for one subscription, one product (its slug), or all live subscriptions."""

    environment: Environment
    product: Annotated[str | None, StringConstraints(max_length=63)] = None
    subscription_id: UUID | None = None


class ChangedKey(KeyFields):
    """All that a key may do from now on; `version` as it was read."""

    version: int


class RotateBody(Input):
    """How many hours the old secret still works."""

    grace_hours: Annotated[int, Field(ge=0, le=GRACE_HOURS_MAX)] = GRACE_HOURS


class KeyShape(BaseModel):
    """A key; `status` is as of now."""

    id: UUID
    name: str
    environment: Environment
    prefix: str
    last8: str
    scopes: list[str]
    rate_per_minute: int | None
    monthly_spend_limit: Money | None
    monthly_quota: int | None
    ip_allow: list[str]
    product_id: UUID | None
    subscription_id: UUID | None
    expires_at: Instant | None
    status: Literal["Active", "Revoked", "Expired"]
    revoked_at: Instant | None
    revoke_reason: str | None
    retires_at: Instant | None
    last_used_at: Instant | None
    version: int
    created_at: Instant
    updated_at: Instant


class IssuedKey(KeyShape):
    """A key with its secret, which is shown this once; null when the answer is a repetition."""

    secret: str | None = None


class AlertShape(BaseModel):
    """Signs of abuse: `count` different keys, paths or addresses within ten minutes."""

    id: UUID
    kind: Literal["refused_keys", "path_scan", "many_addresses"]
    network: str | None
    key_id: UUID | None
    count: int
    raised_at: Instant


class NewBlock(Input):
    """Whom to refuse: an address range or a key, for at most thirty days."""

    network: Network | None = None
    key_id: UUID | None = None
    minutes: Annotated[int, Field(ge=1, le=30 * 24 * 60)]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]

    @model_validator(mode="after")
    def _one(self) -> "NewBlock":
        if (self.network is None) == (self.key_id is None):
            raise ValueError("Name a network or a key, and not both.")
        return self


class BlockShape(BaseModel):
    """Who is refused, until when, and why."""

    id: UUID
    network: str | None
    key_id: UUID | None
    reason: str
    ends_at: Instant
    lifted_at: Instant | None
    created_at: Instant
