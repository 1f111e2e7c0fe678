# SPDX-License-Identifier: Apache-2.0
"""The table of API keys. `api_key_hashes` and the feed are written by triggers (migration 0006)."""

from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from uuid import UUID

from sqlalchemy import BigInteger, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from nimbus.access.secrets import Environment
from nimbus.base import clock
from nimbus.base.db import Base
from nimbus.base.ids import new_id
from nimbus.rules.abuse import Kind as SignKind
from nimbus.rules.lifecycles import KeyState

Instant = TIMESTAMP(timezone=True)
Network = IPv4Network | IPv6Network


class ApiKey(Base):
    """A key of an organization; never deleted, and a revoked one never works again."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    organization_id: Mapped[UUID]
    name: Mapped[str] = mapped_column(Text)
    environment: Mapped[Environment] = mapped_column(Text)
    prefix: Mapped[str] = mapped_column(Text)
    last8: Mapped[str] = mapped_column(Text)
    key_hash: Mapped[bytes] = mapped_column(LargeBinary)
    pepper_version: Mapped[int]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    rate_per_minute: Mapped[int | None]
    monthly_spend_limit_minor: Mapped[int | None] = mapped_column(BigInteger)
    monthly_quota: Mapped[int | None] = mapped_column(BigInteger)
    ip_allow: Mapped[list[Network]] = mapped_column(ARRAY(CIDR))
    product_id: Mapped[UUID | None]
    product_organization_id: Mapped[UUID | None]
    subscription_id: Mapped[UUID | None]
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    status: Mapped[KeyState] = mapped_column(Text, default="Active")
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_by: Mapped[UUID | None]
    revoke_reason: Mapped[str | None] = mapped_column(Text)
    retired_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    retires_at: Mapped[datetime | None] = mapped_column(Instant)
    created_by: Mapped[UUID | None]
    last_used_at: Mapped[datetime | None] = mapped_column(Instant)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)
    updated_at: Mapped[datetime] = mapped_column(Instant, default=clock.now, onupdate=clock.now)

    def facts(self) -> dict[str, object]:
        """What the trail and the outbox say of a key; neither secret nor hash."""
        return {
            "name": self.name,
            "environment": self.environment,
            "last8": self.last8,
            "scopes": list(self.scopes),
            "rate_per_minute": self.rate_per_minute,
            "monthly_spend_limit_minor": self.monthly_spend_limit_minor,
            "monthly_quota": self.monthly_quota,
            "ip_allow": [str(network) for network in self.ip_allow],
            "expires_at": None if self.expires_at is None else clock.to_wire(self.expires_at),
            "status": self.status,
            "subscription_id": self.subscription_id,
        }


class AbuseAlert(Base):
    """What a gateway found suspicious: of an address (or its /64), or of a key. The operator's."""

    __tablename__ = "abuse_alerts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[SignKind] = mapped_column(Text)
    network: Mapped[Network | None] = mapped_column(CIDR)
    key_id: Mapped[UUID | None]
    gateway_id: Mapped[UUID]
    count: Mapped[int]
    raised_at: Mapped[datetime] = mapped_column(Instant)
    announced_at: Mapped[datetime | None] = mapped_column(Instant)


class Block(Base):
    """An address range or a key that every gateway refuses until `ends_at`. The operator's."""

    __tablename__ = "blocks"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    network: Mapped[Network | None] = mapped_column(CIDR)
    key_id: Mapped[UUID | None]
    reason: Mapped[str] = mapped_column(Text)
    ends_at: Mapped[datetime] = mapped_column(Instant)
    lifted_at: Mapped[datetime | None] = mapped_column(Instant)
    created_by: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(Instant, default=clock.now)

    def facts(self) -> dict[str, object]:
        """What the trail says of a block."""
        return {
            "network": None if self.network is None else str(self.network),
            "key_id": self.key_id,
            "ends_at": clock.to_wire(self.ends_at),
        }
