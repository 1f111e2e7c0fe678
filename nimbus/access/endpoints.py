# SPDX-License-Identifier: Apache-2.0
"""HTTP of API keys: parse, call one use case, present."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.access import events, queries, service
from nimbus.access.models import AbuseAlert, ApiKey, Block
from nimbus.access.schemas import (
    AlertShape,
    BlockShape,
    ChangedKey,
    IssuedKey,
    KeyFields,
    KeyShape,
    NewBlock,
    NewKey,
    RotateBody,
)
from nimbus.access.service import KeyTerms
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import Cursor, Limit, Money, Page, Router, Session, mutates, paginate, unit_of
from nimbus.identity import Permission, allowed, organization_facts, platform_admin, platform_reader
from nimbus.rules import money as rules

KEYS = "/api/developer/api-keys"
KEY = f"{KEYS}/{{key_id}}"
BLOCKS = "/api/admin/blocks"
CHANGES_A_MINUTE = 10
"""Changes of keys by one user in a minute (spec 08 "Limits on the management API")."""

router = Router(tags=["api keys"])
MANAGE = Permission.MANAGE_API_KEYS
Keeper = Annotated[Actor, allowed(MANAGE)]


@router.get(KEYS, operation_id="list_api_keys", responses=documented(401, 403, 422))
async def list_api_keys(
    actor: Keeper, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[KeyShape]:
    """The organization's keys, newest first, revoked ones too."""
    statement = queries.keys_of(actor.organization_id)
    rows, next_cursor = await paginate(session, statement, ApiKey.id, limit, cursor)
    facts = await organization_facts(session, actor.organization_id)
    data = [KeyShape(**_shape(row, facts.currency)) for row in rows]
    return Page(data=data, next_cursor=next_cursor)


@router.post(
    KEYS,
    operation_id="create_api_key",
    status_code=201,
    responses=documented(401, 403, 409, 415, 422, 429),
    **mutates(permission=MANAGE, events=[events.ApiKeyCreated], idempotency="key"),
)
async def create_api_key(body: NewKey, actor: Keeper, session: Session) -> IssuedKey:
    """Make a key. `secret` is in this answer only."""
    await _limit(actor)
    key, secret = await service.create_key(
        session,
        actor,
        _terms(body),
        environment=body.environment,
        product_slug=body.product,
        subscription_id=body.subscription_id,
    )
    return IssuedKey(secret=secret, **await _shown(session, key))


@router.get(KEY, operation_id="read_api_key", responses=documented(401, 403, 404, 422))
async def read_api_key(key_id: UUID, actor: Keeper, session: Session) -> KeyShape:
    """One of the organization's keys."""
    key = await queries.read_key(session, actor.organization_id, key_id)
    return KeyShape(**await _shown(session, key))


@router.put(
    KEY,
    operation_id="change_api_key",
    responses=documented(401, 403, 404, 409, 415, 422, 429),
    **mutates(permission=MANAGE, events=[events.ApiKeyChanged], idempotency="version"),
)
async def change_api_key(
    key_id: UUID, body: ChangedKey, actor: Keeper, session: Session
) -> KeyShape:
    """Change what a key may do; in force at every gateway within a second."""
    await _limit(actor)
    key = await service.change_key(session, actor, key_id, _terms(body), body.version)
    return KeyShape(**await _shown(session, key))


@router.post(
    f"{KEY}/rotate",
    operation_id="rotate_api_key",
    responses=documented(401, 403, 404, 409, 415, 422, 429),
    **mutates(permission=MANAGE, events=[events.ApiKeyRotated], idempotency="key"),
)
async def rotate_api_key(
    key_id: UUID, body: RotateBody, actor: Keeper, session: Session
) -> IssuedKey:
    """A new secret under the same key. `secret` is in this answer only."""
    await _limit(actor)
    grace = timedelta(hours=body.grace_hours)
    key, secret = await service.rotate_key(session, actor, key_id, grace)
    return IssuedKey(secret=secret, **await _shown(session, key))


@router.delete(
    KEY,
    operation_id="revoke_api_key",
    responses=documented(401, 403, 404, 422, 429),
    **mutates(permission=MANAGE, events=[events.ApiKeyRevoked], idempotency="natural"),
)
async def revoke_api_key(
    key_id: UUID,
    actor: Keeper,
    session: Session,
    reason: Annotated[str | None, Query(max_length=500)] = None,
) -> KeyShape:
    """Refuse a key for ever; in force at every gateway within a second."""
    await _limit(actor)
    key = await service.revoke_key(session, actor, key_id, reason)
    return KeyShape(**await _shown(session, key))


@router.get(
    "/api/admin/alerts",
    operation_id="list_alerts",
    responses=documented(401, 403, 422),
    dependencies=[platform_reader()],
)
async def list_alerts(
    request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Page[AlertShape]:
    """What gateways found suspicious, newest first."""
    session = await unit_of(request).open_system("platform pages")
    rows, next_cursor = await paginate(session, queries.alerts(), AbuseAlert.id, limit, cursor)
    return Page(data=[_alert(row) for row in rows], next_cursor=next_cursor)


@router.get(
    BLOCKS,
    operation_id="list_blocks",
    responses=documented(401, 403, 422),
    dependencies=[platform_reader()],
)
async def list_blocks(
    request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Page[BlockShape]:
    """Who is or was refused for a time, newest first."""
    session = await unit_of(request).open_system("platform pages")
    rows, next_cursor = await paginate(session, queries.blocks(), Block.id, limit, cursor)
    return Page(data=[_block(row) for row in rows], next_cursor=next_cursor)


@router.post(
    BLOCKS,
    operation_id="set_block",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission="platform_admin", events=[events.BlockSet], idempotency="key"),
)
async def set_block(
    body: NewBlock, request: Request, actor: Annotated[Actor, platform_admin()]
) -> BlockShape:
    """Refuse an address range or a key for a time; in force at every gateway within a second."""
    session = await unit_of(request).open_system("platform pages")
    block = await service.set_block(
        session,
        actor,
        network=body.network,
        key_id=body.key_id,
        until=timedelta(minutes=body.minutes),
        reason=body.reason,
    )
    return _block(block)


@router.delete(
    f"{BLOCKS}/{{block_id}}",
    operation_id="lift_block",
    responses=documented(401, 403, 404, 422),
    **mutates(permission="platform_admin", events=[events.BlockLifted], idempotency="natural"),
)
async def lift_block(
    block_id: UUID, request: Request, actor: Annotated[Actor, platform_admin()]
) -> BlockShape:
    """Let an address or a key in again before its time."""
    session = await unit_of(request).open_system("platform pages")
    return _block(await service.lift_block(session, actor, block_id))


async def _limit(actor: Actor) -> None:
    await throttle(f"api-keys/{actor.user_id}", CHANGES_A_MINUTE, 60)


def _terms(body: KeyFields) -> KeyTerms:
    limit = body.monthly_spend_limit
    return KeyTerms(
        name=body.name,
        scopes=tuple(body.scopes),
        rate_per_minute=body.rate_per_minute,
        monthly_spend_limit=None
        if limit is None
        else rules.Money(limit.amount_minor, limit.currency),
        monthly_quota=body.monthly_quota,
        ip_allow=tuple(body.ip_allow),
        expires_at=body.expires_at,
    )


async def _shown(session: AsyncSession, key: ApiKey) -> dict[str, Any]:
    return _shape(key, (await organization_facts(session, key.organization_id)).currency)


def _shape(key: ApiKey, currency: str) -> dict[str, Any]:
    names = KeyShape.model_fields.keys() - {"monthly_spend_limit"}
    values = {name: getattr(key, name) for name in names}
    minor = key.monthly_spend_limit_minor
    values["monthly_spend_limit"] = (
        None if minor is None else Money(amount_minor=minor, currency=currency)
    )
    for name in ("expires_at", "revoked_at", "retires_at", "last_used_at", "created_at"):
        values[name] = values[name] and clock.to_wire(values[name])
    values["updated_at"] = clock.to_wire(key.updated_at)
    values["ip_allow"] = [str(network) for network in key.ip_allow]
    expired = key.expires_at is not None and key.expires_at <= clock.now()
    values["status"] = "Expired" if expired and key.status == "Active" else key.status
    return values


def _alert(alert: AbuseAlert) -> AlertShape:
    return AlertShape(
        id=alert.id,
        kind=alert.kind,
        network=None if alert.network is None else str(alert.network),
        key_id=alert.key_id,
        count=alert.count,
        raised_at=clock.to_wire(alert.raised_at),
    )


def _block(block: Block) -> BlockShape:
    return BlockShape(
        id=block.id,
        network=None if block.network is None else str(block.network),
        key_id=block.key_id,
        reason=block.reason,
        ends_at=clock.to_wire(block.ends_at),
        lifted_at=block.lifted_at and clock.to_wire(block.lifted_at),
        created_at=clock.to_wire(block.created_at),
    )
