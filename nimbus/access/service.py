# SPDX-License-Identifier: Apache-2.0
"""Use cases of API keys: made, changed, rotated, revoked; and who a key is."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.access import queries
from nimbus.access.events import (
    AbuseSuspected,
    ApiKeyChanged,
    ApiKeyCreated,
    ApiKeyRevoked,
    ApiKeyRotated,
    BlockLifted,
    BlockSet,
)
from nimbus.access.models import AbuseAlert, ApiKey, Block, Network
from nimbus.access.secrets import PEPPER_VERSION, Environment, keyed_hash, new_secret, prefix
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM, Actor
from nimbus.base.events import announce
from nimbus.base.ids import NIL
from nimbus.errors import FieldError, Refusal, field_error
from nimbus.identity import organization_facts
from nimbus.rules import lifecycles
from nimbus.rules.grants import well_formed
from nimbus.rules.money import Money

DEFAULT_SCOPES = frozenset(
    {
        "assets.read",
        "assets.write",
        "measurements.read",
        "measurements.write",
        "alerts.read",
        "alerts.write",
        "reports.read",
        "reports.create",
        "billing.read",
        "webhooks.manage",
        "usage.write",
    }
)

LAST_USED_FINENESS = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """What a key may do; `rate_per_minute` None leaves the plan's limit alone, and the
    `monthly_spend_limit` is one beside the organization's, in its currency. `monthly_quota`: units
    of calls in a calendar month, within what the subscription has.
    """

    name: str
    scopes: tuple[str, ...]
    rate_per_minute: int | None = None
    monthly_spend_limit: Money | None = None
    monthly_quota: int | None = None
    ip_allow: tuple[Network, ...] = ()
    expires_at: datetime | None = None


async def create_key(
    session: AsyncSession,
    actor: Actor,
    terms: KeyTerms,
    *,
    environment: Environment,
    product_slug: str | None = None,
    subscription_id: UUID | None = None,
) -> tuple[ApiKey, str]:
    """Make a key for the actor's organization; answers it with its secret, which is not kept.

    It speaks for one subscription, for those to one product, or for all live ones. Raises 422
    naming `scopes`, `expires_at`, `monthly_spend_limit`, `product` or `subscription_id`.
    """
    product = await _product(session, product_slug)
    if subscription_id is not None:
        await _own_subscription(session, actor.organization_id, subscription_id)
    await _check(session, actor.organization_id, terms)
    secret = new_secret(environment)
    key = ApiKey(
        organization_id=actor.organization_id,
        name=terms.name,
        environment=environment,
        prefix=prefix(environment),
        last8=secret[-8:],
        key_hash=keyed_hash(secret),
        pepper_version=PEPPER_VERSION,
        scopes=sorted(terms.scopes),
        rate_per_minute=terms.rate_per_minute,
        monthly_spend_limit_minor=_minor(terms.monthly_spend_limit),
        monthly_quota=terms.monthly_quota,
        ip_allow=list(terms.ip_allow),
        expires_at=terms.expires_at,
        product_id=product and product.id,
        product_organization_id=product and product.provider_organization_id,
        subscription_id=subscription_id,
        created_by=actor.user_id,
    )
    session.add(key)
    await session.flush()
    event = ApiKeyCreated(organization_id=key.organization_id, entity_id=key.id, after=key.facts())
    announce(session, actor, event)
    return key, secret


async def change_key(
    session: AsyncSession, actor: Actor, key_id: UUID, terms: KeyTerms, version: int
) -> ApiKey:
    """Change what a key may do; 404, 409 for a stale version, 422 for a revoked key or a field."""
    key = await queries.lock_key(session, actor.organization_id, key_id)
    if key.version != version:
        raise Refusal("stale_version", "Read it again, then change it.")
    key.status = lifecycles.key(key.status, "edit")
    await _check(session, actor.organization_id, terms)
    before = key.facts()
    key.name = terms.name
    key.scopes = sorted(terms.scopes)
    key.rate_per_minute = terms.rate_per_minute
    key.monthly_spend_limit_minor = _minor(terms.monthly_spend_limit)
    key.monthly_quota = terms.monthly_quota
    key.ip_allow = list(terms.ip_allow)
    key.expires_at = terms.expires_at
    key.version += 1
    after = key.facts()
    changed = {name: after[name] for name in after if after[name] != before[name]}
    event = ApiKeyChanged(
        organization_id=key.organization_id,
        entity_id=key.id,
        before={name: before[name] for name in changed},
        after=changed,
    )
    announce(session, actor, event)
    return key


async def rotate_key(
    session: AsyncSession, actor: Actor, key_id: UUID, grace: timedelta
) -> tuple[ApiKey, str]:
    """A new secret under the same key; the old one works for `grace` (0 to 7 days) longer."""
    key = await queries.lock_key(session, actor.organization_id, key_id)
    key.status = lifecycles.key(key.status, "rotate")
    secret = new_secret(key.environment)
    key.retired_hash, key.retires_at = key.key_hash, clock.now() + grace
    key.key_hash = keyed_hash(secret)
    before = {"last8": key.last8}
    key.last8 = secret[-8:]
    key.version += 1
    event = ApiKeyRotated(
        organization_id=key.organization_id,
        entity_id=key.id,
        before=before,
        after={"last8": key.last8, "retires_at": clock.to_wire(key.retires_at)},
    )
    announce(session, actor, event)
    return key, secret


async def revoke_key(
    session: AsyncSession, actor: Actor, key_id: UUID, reason: str | None
) -> ApiKey:
    """Refuse a key from now on, at every gateway within a second; again changes nothing."""
    key = await queries.lock_key(session, actor.organization_id, key_id)
    if key.status != "Revoked":
        _revoke(session, actor, key, reason)
    return key


async def revoke_by_operator(session: AsyncSession, key_id: UUID, reason: str) -> None:
    """Revoke any key by the operator's hand; a system session; 404 for an unknown one."""
    key = await session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise Refusal("not_found", "There is no such key.")
    if key.status != "Revoked":
        _revoke(session, SYSTEM, key, reason)


async def note_used(session: AsyncSession, used: Mapping[UUID, datetime]) -> None:
    """Note when keys were last used, to the minute; a system session.

    Waits for nobody: a key that someone changes now is noted with its next call.
    """
    await session.execute(
        text(
            "WITH stale AS (SELECT k.id, u.at FROM api_keys k"
            " JOIN unnest(CAST(:ids AS uuid[]), CAST(:instants AS timestamptz[])) AS u (id, at)"
            " USING (id) WHERE k.last_used_at IS NULL OR k.last_used_at <= u.at - :fine"
            " FOR UPDATE OF k SKIP LOCKED)"
            " UPDATE api_keys k SET last_used_at = stale.at FROM stale WHERE k.id = stale.id"
        ),
        {"ids": list(used), "instants": list(used.values()), "fine": LAST_USED_FINENESS},
    )


async def resolve_key(session: AsyncSession, secret: str, visitor: Actor) -> Actor:
    """Who calls the management API with this key; refused as the gateway refuses it.

    Raises 401 for a key that is unknown, revoked, expired or rotated out; 403 from an address that
    is not on its list, and for an organization that is suspended or cancelled.
    """
    key_hash = keyed_hash(secret)
    key = await queries.key_by_hash(session, key_hash) if well_formed(secret.encode()) else None
    if key is None:
        raise Refusal("invalid_api_key")
    if key.status == "Revoked":
        raise Refusal("api_key_revoked")
    ends = [key.expires_at]
    if not hmac.compare_digest(key.key_hash, key_hash):
        ends.append(key.retires_at)
    if any(end is not None and end <= clock.now() for end in ends):
        raise Refusal("api_key_expired")
    if key.ip_allow and not _is_listed(visitor.ip, key.ip_allow):
        raise Refusal("ip_not_allowed", "This key may not be used from this address.")
    await db.act_for(session, key.organization_id)
    organization = await organization_facts(session, key.organization_id)
    if organization.status in {"Suspended", "Cancelled"}:
        raise Refusal("organization_suspended")
    return Actor(
        kind="key",
        organization_id=key.organization_id,
        key_id=key.id,
        scopes=frozenset(key.scopes),
        test=key.environment == "Test",
        ip=visitor.ip,
        request_id=visitor.request_id,
    )


def _is_listed(address: str | None, networks: Sequence[Network]) -> bool:
    try:
        caller = ip_address(address or "")
    except ValueError:
        return False
    return any(caller in network for network in networks)


def _revoke(session: AsyncSession, actor: Actor, key: ApiKey, reason: str | None) -> None:
    key.status = lifecycles.key(key.status, "revoke")
    key.revoked_at = clock.now()
    key.revoked_by = actor.user_id
    key.revoke_reason = reason
    key.version += 1
    event = ApiKeyRevoked(
        organization_id=key.organization_id,
        entity_id=key.id,
        before={"status": "Active"},
        after={"status": "Revoked", "last8": key.last8},
        reason=reason,
    )
    announce(session, actor, event)


def _minor(amount: Money | None) -> int | None:
    return None if amount is None else amount.amount_minor


async def _check(session: AsyncSession, organization_id: UUID, terms: KeyTerms) -> None:
    limit = terms.monthly_spend_limit
    if limit is not None:
        currency = (await organization_facts(session, organization_id)).currency
        if limit.currency != currency:
            message = f"The organization's currency is {currency}."
            raise field_error("monthly_spend_limit.currency", "other_currency", message)
    if terms.expires_at is not None and terms.expires_at <= clock.now():
        raise field_error("expires_at", "in_the_past", "A key expires in the future.")
    unknown = set(terms.scopes) - DEFAULT_SCOPES
    if unknown:
        unknown -= await _offered_scopes(session, organization_id)
    if unknown:
        fields = tuple(
            FieldError(f"scopes.{index}", "unknown_scope", "No product asks for this scope.")
            for index, scope in enumerate(terms.scopes)
            if scope in unknown
        )
        raise Refusal("validation_failed", "A scope is unknown.", fields=fields)


async def _offered_scopes(session: AsyncSession, organization_id: UUID) -> set[str]:
    facts = await subscriptions.live_subscriptions(session, organization_id)
    return await catalog.route_scopes(session, [fact.product_id for fact in facts])


async def _product(session: AsyncSession, slug: str | None) -> catalog.ProductFacts | None:
    if slug is None:
        return None
    try:
        return await catalog.product_or_operators(session, slug)
    except Refusal:
        raise field_error("product", "unknown_product", "There is no such product.") from None


async def _own_subscription(
    session: AsyncSession, organization_id: UUID, subscription_id: UUID
) -> None:
    facts = await subscriptions.live_subscriptions(session, organization_id)
    if all(fact.id != subscription_id for fact in facts):
        message = "There is no such subscription."
        raise field_error("subscription_id", "unknown_subscription", message)


async def set_block(
    session: AsyncSession,
    actor: Actor,
    *,
    network: Network | None,
    key_id: UUID | None,
    until: timedelta,
    reason: str,
) -> Block:
    """Refuse an address range or a key for a time, at every gateway within a second.

    A system session. 404 for an unknown key; just one of `network` and `key_id` is given.
    """
    key = None if key_id is None else await session.get(ApiKey, key_id)
    if key_id is not None and key is None:
        raise Refusal("not_found", "There is no such key.")
    block = Block(
        network=network,
        key_id=key_id,
        reason=reason,
        ends_at=clock.now() + until,
        created_by=actor.user_id,
    )
    session.add(block)
    await session.flush()
    announce(
        session,
        actor,
        BlockSet(
            organization_id=key.organization_id if key else NIL,
            entity_id=block.id,
            after=block.facts(),
            reason=reason,
        ),
    )
    return block


async def lift_block(session: AsyncSession, actor: Actor, block_id: UUID) -> Block:
    """Let an address or a key in again; again changes nothing. A system session; 404."""
    block = await session.get(Block, block_id, with_for_update=True)
    if block is None:
        raise Refusal("not_found", "There is no such block.")
    if block.lifted_at is None:
        block.lifted_at = clock.now()
        key = None if block.key_id is None else await session.get(ApiKey, block.key_id)
        announce(
            session,
            actor,
            BlockLifted(
                organization_id=key.organization_id if key else NIL,
                entity_id=block.id,
                before=block.facts(),
            ),
        )
    return block


async def announce_alert(session: AsyncSession, alert_id: UUID) -> None:
    """Tell the platform, and the organization of the key, what a gateway saw; once. A system
    session.
    """
    alert = await session.get(AbuseAlert, alert_id, with_for_update=True)
    if alert is None or alert.announced_at is not None:
        return
    alert.announced_at = clock.now()
    key = None if alert.key_id is None else await session.get(ApiKey, alert.key_id)
    event = AbuseSuspected(
        organization_id=key.organization_id if key else NIL,
        entity_id=alert.id,
        after={
            "kind": alert.kind,
            "network": None if alert.network is None else str(alert.network),
            "key_id": alert.key_id,
            "count": alert.count,
        },
    )
    announce(session, SYSTEM, event)
