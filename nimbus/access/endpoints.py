# SPDX-License-Identifier: Apache-2.0
"""HTTP of API keys: parse, call one use case, present."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query

from nimbus.access import events, queries, service
from nimbus.access.models import ApiKey
from nimbus.access.schemas import ChangedKey, IssuedKey, KeyFields, KeyShape, NewKey, RotateBody
from nimbus.access.service import KeyTerms
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import Cursor, Limit, Page, Router, Session, mutates, paginate
from nimbus.identity import Permission, allowed

KEYS = "/api/developer/api-keys"
KEY = f"{KEYS}/{{key_id}}"
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
    return Page(data=[KeyShape(**_shape(row)) for row in rows], next_cursor=next_cursor)


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
    return IssuedKey(secret=secret, **_shape(key))


@router.get(KEY, operation_id="read_api_key", responses=documented(401, 403, 404, 422))
async def read_api_key(key_id: UUID, actor: Keeper, session: Session) -> KeyShape:
    """One of the organization's keys."""
    return KeyShape(**_shape(await queries.read_key(session, actor.organization_id, key_id)))


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
    return KeyShape(**_shape(key))


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
    return IssuedKey(secret=secret, **_shape(key))


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
    return KeyShape(**_shape(await service.revoke_key(session, actor, key_id, reason)))


async def _limit(actor: Actor) -> None:
    await throttle(f"api-keys/{actor.user_id}", CHANGES_A_MINUTE, 60)


def _terms(body: KeyFields) -> KeyTerms:
    return KeyTerms(
        name=body.name,
        scopes=tuple(body.scopes),
        rate_per_minute=body.rate_per_minute,
        ip_allow=tuple(body.ip_allow),
        expires_at=body.expires_at,
    )


def _shape(key: ApiKey) -> dict[str, Any]:
    values = {name: getattr(key, name) for name in KeyShape.model_fields}
    for name in ("expires_at", "revoked_at", "retires_at", "last_used_at", "created_at"):
        values[name] = values[name] and clock.to_wire(values[name])
    values["updated_at"] = clock.to_wire(key.updated_at)
    values["ip_allow"] = [str(network) for network in key.ip_allow]
    expired = key.expires_at is not None and key.expires_at <= clock.now()
    values["status"] = "Expired" if expired and key.status == "Active" else key.status
    return values
