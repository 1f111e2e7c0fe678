# SPDX-License-Identifier: Apache-2.0
"""May this tenant do this? What a live subscription entitles to, and taking units of it.

A check reads the counters that gateways lend from, and the spend limits and balance that stop
calls. To consume is to record a usage event, and to undo it when a counter ends before it: so what
was consumed is counted, shown and billed as what was called.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Final, Literal
from uuid import UUID, uuid5

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base.actors import Actor
from nimbus.base.events import FACTS, announced
from nimbus.catalog import EntitlementFacts
from nimbus.errors import Refusal, field_error
from nimbus.rules import quotas as law
from nimbus.rules.metering import CALLS
from nimbus.rules.periods import Period
from nimbus.rules.reports import Reported, Target
from nimbus.rules.spending import hold
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage import queries
from nimbus.usage.models import QuotaStanding, QuotaState, SpendStanding
from nimbus.usage.service.batches import record
from nimbus.usage.service.quotas import has_ended, quota_states
from nimbus.usage.service.spending import spend_states

Stop = Literal[
    "not_entitled",
    "subscription_required",
    "quota_exceeded",
    "spend_limit_reached",
    "balance_exhausted",
]
SERVED: Final = frozenset(("Active", "Trial", "PastDue", "Cancelled"))
"""The states of a subscription that entitle to anything: those that the gateway serves."""
SOURCE: Final = "entitlements"
CONSUMED_BY: Final = frozenset(("sum", "count"))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked for: so many units of an entitlement, of which subscription."""

    key: str
    quantity: Decimal
    product: str | None = None
    subscription_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether it is allowed, and why not; of a limit, the quota with the least left, if any."""

    key: str
    type: Literal["boolean", "limit", "value"] | None = None
    stop: Stop | None = None
    quota: QuotaState | None = None
    value: str | None = None
    consumed: bool = False


@dataclass(frozen=True, slots=True)
class Entitled:
    """A live subscription and what it entitles to, by key; a meter with a quota by its own key."""

    contract: SubscriptionFacts
    entitlements: dict[str, EntitlementFacts]
    quotas: tuple[QuotaState, ...]


async def entitled(session: AsyncSession, actor: Actor, as_of: datetime) -> list[Entitled]:
    """What the live subscriptions of the actor's organization entitle to."""
    live = await subscriptions.live_subscriptions(session, actor.organization_id, as_of)
    return [await _entitled(session, contract, as_of) for contract in live]


async def check(session: AsyncSession, actor: Actor, asked: Asked, as_of: datetime) -> Answer:
    """Whether the tenant may use this now; changes nothing.

    The tenant is the actor's organization, or the subscriber of a product of it. Raises 404 for a
    subscription that is neither, or a product that is not there.
    """
    contract = await _contract(session, actor, asked, as_of)
    if contract is None:
        return Answer(key=asked.key, stop="subscription_required")
    found = await _entitled(session, contract, as_of)
    answer = judge(found, asked.key, asked.quantity)
    if answer.stop is None and answer.type == "limit":
        meter_key = found.entitlements[asked.key].meter_key or asked.key
        return replace(answer, stop=await _money(session, contract, meter_key, asked, as_of))
    return answer


async def consume(
    session: AsyncSession, actor: Actor, asked: Asked, event_key: str, as_of: datetime
) -> Answer:
    """Check, and use up the units in the same step: all of them, or none where that is not allowed.

    `event_key` names it: the same one again takes nothing more. Needs a system session. Raises as
    `check`; 403 for who may not report usage, 422 for what can't be used up.
    """
    contract = await _contract(session, actor, asked, as_of)
    if contract is None:
        return Answer(key=asked.key, stop="subscription_required")
    found = await _entitled(session, contract, as_of)
    answer = judge(found, asked.key, asked.quantity)
    if answer.type != "limit":
        if answer.type is None:
            return answer
        raise field_error("consume", "no_limit", "Only a limit can be used up.")
    meter_key = found.entitlements[asked.key].meter_key or asked.key
    await _check_meter(session, contract, meter_key, asked)
    event_id = uuid5(contract.organization_id, f"{SOURCE} {event_key}")
    facts, savepoint = len(announced(session)), await session.begin_nested()
    if not await _claim(session, contract, event_id, f"{meter_key} {asked.quantity.normalize()}"):
        return replace(answer, stop=None, consumed=True)
    await record(session, [_event(actor, contract, meter_key, asked, event_id, event_key, as_of)])
    stop = await _passed(session, contract, meter_key, asked, as_of)
    if stop is not None:
        await savepoint.rollback()
        del session.info.setdefault(FACTS, [])[facts:]
        return replace(answer, stop=stop)
    await savepoint.commit()
    session.expire_all()
    after = judge(await _entitled(session, contract, as_of), asked.key, Decimal(0))
    return replace(after, stop=None, consumed=True)


def judge(found: Entitled, key: str, quantity: Decimal) -> Answer:
    """What a subscription says of an entitlement; of a limit, by the quota that has least left."""
    one = found.entitlements.get(key)
    if one is None:
        return Answer(key=key, stop="not_entitled")
    if one.type == "boolean":
        return Answer(key=key, type="boolean", stop=None if one.enabled else "not_entitled")
    if one.type == "value":
        return Answer(key=key, type="value", value=one.value)
    mine = [state for state in found.quotas if state.meter_key == one.meter_key]
    if not mine:
        return Answer(key=key, type="limit")
    scarcest = min(mine, key=_left)
    fits = all(state.allows(quantity) for state in mine)
    return Answer(key=key, type="limit", stop=None if fits else "quota_exceeded", quota=scarcest)


def _left(state: QuotaState) -> Decimal:
    return Decimal("Infinity") if state.remaining is None else state.remaining


async def _contract(
    session: AsyncSession, actor: Actor, asked: Asked, as_of: datetime
) -> SubscriptionFacts | None:
    """The subscription that is meant, if it entitles to anything now."""
    if asked.subscription_id is not None:
        facts = await subscriptions.facts_of(session, [asked.subscription_id])
        found = [
            one
            for one in facts.values()
            if actor.organization_id in {one.organization_id, one.provider_organization_id}
        ]
        if not found:
            raise Refusal("not_found")
    else:
        found = await subscriptions.live_subscriptions(session, actor.organization_id, as_of)
        if asked.product is not None or len(found) > 1:
            product = await catalog.product_or_operators(session, asked.product)
            found = [one for one in found if one.product_id == product.id]
    served = [one for one in found if one.status in SERVED and not has_ended(one, as_of)]
    return served[0] if served else None


async def _entitled(
    session: AsyncSession, contract: SubscriptionFacts, as_of: datetime
) -> Entitled:
    now = Period(as_of, as_of + timedelta(microseconds=1))
    terms = await subscriptions.terms_between(session, contract.id, now)
    add_ons = [one.plan_version_id for one in terms[-1].add_ons] if terms else []
    versions = [contract.plan_version_id, *add_ons]
    said = await catalog.plan_entitlements(session, versions)
    quotas = await quota_states(session, [contract.id], as_of)
    entitlements = {
        state.meter_key: EntitlementFacts(
            key=state.meter_key, type="limit", enabled=None, meter_key=state.meter_key, value=None
        )
        for state in quotas
    }
    for version in versions:  # an add-on adds to the plan, and takes nothing away
        for one in said[version]:
            known = entitlements.get(one.key)
            if not (known is not None and known.enabled and one.type == "boolean"):
                entitlements[one.key] = one
    return Entitled(contract, entitlements, tuple(quotas))


async def _money(
    session: AsyncSession,
    contract: SubscriptionFacts,
    meter_key: str,
    asked: Asked,
    as_of: datetime,
) -> Stop | None:
    """Which limit in money the units would pass, at the most that they can cost."""
    states = await spend_states(session, contract.organization_id, as_of)
    limited = [one for one in states if one.limit is not None and one.key_id is None]
    cost = await _cost(session, contract, meter_key, asked) if limited else 0
    for one in limited if cost else ():
        if one.remaining is not None and one.remaining < cost:
            return "balance_exhausted" if one.kind == "balance" else "spend_limit_reached"
    return None


async def _cost(
    session: AsyncSession, contract: SubscriptionFacts, meter_key: str, asked: Asked
) -> int:
    prices = await catalog.plan_terms(session, contract.plan_version_id, contract.currency)
    return hold(prices.charges, {meter_key: law.whole(asked.quantity)}, contract.currency)


async def _check_meter(
    session: AsyncSession, contract: SubscriptionFacts, meter_key: str, asked: Asked
) -> None:
    meters = await catalog.meter_facts(session, contract.product_id)
    aggregation = meters[meter_key].aggregation
    if meter_key != CALLS and aggregation not in CONSUMED_BY:
        text_ = f"A {aggregation} meter shows how much there is: nothing of it is used up."
        raise field_error("consume", "no_counter", text_)
    whole = aggregation == "count" or meter_key == CALLS
    if whole and (asked.quantity % 1 or (meter_key != CALLS and asked.quantity != 1)):
        raise field_error("quantity", "not_whole", "Events are counted one by one, calls as whole.")


async def _claim(
    session: AsyncSession, contract: SubscriptionFacts, event_id: UUID, content: str
) -> bool:
    """Take the id for this event, for ever; False when it was taken, 422 by another content."""
    values = {
        "organization_id": contract.provider_organization_id,
        "id": event_id,
        "content": UUID(bytes=blake2b(content.encode(), digest_size=16).digest()),
    }
    taken = await session.scalar(
        text(
            "INSERT INTO usage_dedupe (organization_id, event_id, content)"
            " VALUES (:organization_id, :id, :content) ON CONFLICT DO NOTHING RETURNING event_id"
        ),
        values,
    )
    if taken is not None:
        return True
    same = await session.scalar(
        text(
            "SELECT content = :content FROM usage_dedupe"
            " WHERE organization_id = :organization_id AND event_id = :id"
        ),
        values,
    )
    if not same:
        raise Refusal("idempotency_conflict", "This key was used for other units.")
    return False


def _event(  # noqa: PLR0917 - what `consume` has found out
    actor: Actor,
    contract: SubscriptionFacts,
    meter_key: str,
    asked: Asked,
    event_id: UUID,
    event_key: str,
    as_of: datetime,
) -> Reported:
    target = Target(
        organization_id=contract.organization_id,
        provider_organization_id=contract.provider_organization_id,
        subscription_id=contract.id,
        product_id=contract.product_id,
        meter_key=meter_key,
        live=not actor.test,
        reported_by=actor.key_id or actor.user_id,
        request_id=actor.request_id or "",
    )
    return Reported(
        target=target,
        event_id=event_id.bytes,
        occurred_us=(as_of - _EPOCH) // _MICROSECOND,
        quantity=asked.quantity,
        amount=f"{asked.quantity:f}",
        counts=True,
        source=SOURCE,
        external_id=event_key,
        properties="",
        member=None,
    )


async def _passed(
    session: AsyncSession,
    contract: SubscriptionFacts,
    meter_key: str,
    asked: Asked,
    as_of: datetime,
) -> Stop | None:
    """Which counter, with what is lent, is beyond its end now that the units are counted. Whoever
    counted holds these rows until the transaction ends.
    """
    rows: Sequence[QuotaStanding] = (
        await session.scalars(
            queries.standings([contract.id], as_of)
            .where(QuotaStanding.meter_key == meter_key, QuotaStanding.period_starts_at <= as_of)
            .execution_options(populate_existing=True)
        )
    ).all()
    for row in rows:
        end = law.ceiling(row.limit_units, row.policy, row.overage_cap)
        if end is not None and row.used + row.leased > end:
            return "quota_exceeded"
    limits = await session.scalars(
        select(SpendStanding)
        .where(
            SpendStanding.organization_id == contract.organization_id,
            SpendStanding.key_id.is_(None),
            SpendStanding.limit_micro.is_not(None),
            SpendStanding.period_starts_at <= as_of,
            SpendStanding.period_ends_at > as_of,
        )
        .execution_options(populate_existing=True)
    )
    over = [row for row in limits if row.used + row.leased > (row.limit_micro or 0)]
    if over and await _cost(session, contract, meter_key, asked):
        return "balance_exhausted" if over[0].kind == "balance" else "spend_limit_reached"
    return None
