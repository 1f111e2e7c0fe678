# SPDX-License-Identifier: Apache-2.0
"""Access' reads."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.access.models import AbuseAlert, ApiKey, Block
from nimbus.errors import Refusal


def keys_of(organization_id: UUID) -> Select[ApiKey]:
    """An organization's keys, revoked ones too."""
    return select(ApiKey).where(ApiKey.organization_id == organization_id)


async def read_key(session: AsyncSession, organization_id: UUID, key_id: UUID) -> ApiKey:
    """One of the organization's keys; 404 for another's."""
    key = await session.scalar(keys_of(organization_id).where(ApiKey.id == key_id))
    if key is None:
        raise Refusal("not_found")
    return key


async def lock_key(session: AsyncSession, organization_id: UUID, key_id: UUID) -> ApiKey:
    """The same, locked until the transaction ends."""
    statement = keys_of(organization_id).where(ApiKey.id == key_id).with_for_update()
    key = await session.scalar(statement.execution_options(populate_existing=True))
    if key is None:
        raise Refusal("not_found")
    return key


async def key_by_hash(session: AsyncSession, key_hash: bytes) -> ApiKey | None:
    """The key of a hash (its present or its retired one), before its organization is known."""
    known = text("SELECT * FROM access_key_by_hash(:hash)").bindparams(hash=key_hash)
    return (await session.scalars(select(ApiKey).from_statement(known))).one_or_none()


def alerts() -> Select[AbuseAlert]:
    """What gateways found suspicious."""
    return select(AbuseAlert)


def blocks() -> Select[Block]:
    """All blocks, ended ones too."""
    return select(Block)


async def next_alert(session: AsyncSession) -> datetime | None:
    """When the earliest alert was raised that nobody was told of."""
    statement = select(AbuseAlert.raised_at).where(AbuseAlert.announced_at.is_(None))
    return await session.scalar(statement.order_by(AbuseAlert.raised_at).limit(1))


async def alerts_to_announce(
    session: AsyncSession, as_of: datetime, limit: int
) -> list[tuple[UUID, datetime]]:
    """The alerts raised by `as_of` that nobody was told of, the earliest first."""
    rows = await session.execute(
        select(AbuseAlert.id, AbuseAlert.raised_at)
        .where(AbuseAlert.announced_at.is_(None), AbuseAlert.raised_at <= as_of)
        .order_by(AbuseAlert.raised_at)
        .limit(limit)
    )
    return [(row.id, row.raised_at) for row in rows]
