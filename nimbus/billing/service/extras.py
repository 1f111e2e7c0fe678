# SPDX-License-Identifier: Apache-2.0
"""What makes a bill more or less than its contract: coupons, one-off items, thresholds."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.billing import queries
from nimbus.billing.events import CouponMade, CouponRedeemed, ItemAdded, ThresholdChanged
from nimbus.billing.models import CouponRedemption, CouponRow, OneOffItem, Threshold
from nimbus.errors import Refusal, field_error
from nimbus.rules.money import Money
from nimbus.subscriptions import SubscriptionFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class CouponTerms:
    """What a coupon takes off: `percent`, or `amount`; `times` invoices, or all (None).

    `plan` (the id of a plan or add-on) and `meter`: only their lines. `redeem_by` and
    `redemptions_max`: until when, and for how many subscriptions, it can be redeemed.
    """

    code: str
    name: str
    percent: Decimal | None
    amount: Money | None
    times: int | None
    plan_id: UUID | None
    meter_key: str | None
    redeem_by: datetime | None
    redemptions_max: int | None


async def make_coupon(session: AsyncSession, actor: Actor, terms: CouponTerms) -> CouponRow:
    """Make a coupon of the operator; a system session.

    Raises 422 on `percent` unless exactly one of percentage and amount is given, on `code` for one
    that is taken, on `operator` without a seller.
    """
    if (terms.percent is None) == (terms.amount is None):
        raise field_error("percent", "one_of", "A coupon has a percentage or an amount.")
    seller = await queries.current_seller(session)
    if seller is None:
        raise field_error("operator", "no_seller", "Say who sells first.")
    if await _by_code(session, seller.organization_id, terms.code) is not None:
        raise field_error("code", "taken", "There is a coupon with this code.")
    row = CouponRow(
        id=new_id(),
        organization_id=seller.organization_id,
        code=terms.code.upper(),
        name=terms.name,
        percent=terms.percent,
        amount_minor=terms.amount and terms.amount.amount_minor,
        currency=terms.amount and terms.amount.currency,
        times=terms.times,
        plan_id=terms.plan_id,
        meter_key=terms.meter_key,
        redeem_by=terms.redeem_by,
        redemptions_max=terms.redemptions_max,
        created_at=clock.now(),
    )
    session.add(row)
    await session.flush()
    after = {"code": row.code, "percent": row.percent, "amount_minor": row.amount_minor}
    event = CouponMade(organization_id=row.organization_id, entity_id=row.id, after=after)
    announce(session, actor, event)
    return row


async def redeem(
    session: AsyncSession, actor: Actor, code: str, subscription_id: UUID
) -> tuple[CouponRedemption, CouponRow]:
    """Let a coupon count for a subscription of the actor's organization, from its next invoice on;
    again answers the same. A system session.

    Raises 404 for another's subscription, 422 on `code` for one that is unknown, over, used up, or
    in another currency.
    """
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    if subscription.organization_id != actor.organization_id:
        raise Refusal("not_found")
    seller = await queries.current_seller(session)
    coupon = None
    if seller is not None:
        coupon = await _by_code(session, seller.organization_id, code, lock=True)
    if coupon is None:
        raise field_error("code", "unknown_coupon", "There is no such coupon.")
    known = await session.scalar(
        select(CouponRedemption).where(
            CouponRedemption.organization_id == subscription.organization_id,
            CouponRedemption.coupon_id == coupon.id,
            CouponRedemption.subscription_id == subscription_id,
        )
    )
    if known is not None:
        return known, coupon
    await _refuse_unfit(session, coupon, subscription)
    row = CouponRedemption(
        id=new_id(),
        organization_id=subscription.organization_id,
        coupon_organization_id=coupon.organization_id,
        coupon_id=coupon.id,
        subscription_id=subscription_id,
        created_at=clock.now(),
    )
    session.add(row)
    await session.flush()
    after = {"code": coupon.code, "subscription_id": str(subscription_id)}
    event = CouponRedeemed(
        organization_id=row.organization_id,
        provider_organization_id=subscription.provider_organization_id,
        entity_id=row.id,
        after=after,
    )
    announce(session, actor, event)
    return row, coupon


async def add_item(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    description: str,
    amount: Money,
    *,
    as_of: datetime,
) -> OneOffItem:
    """Put something on the next invoice of a subscription, as of an instant; a system session.

    Raises 404 for an unknown subscription, 422 for another currency or one that is over.
    """
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    if amount.currency != subscription.currency:
        text_ = f"The subscription's currency is {subscription.currency}."
        raise field_error("amount.currency", "other_currency", text_)
    if subscription.next_billing_at is None and subscription.status != "Trial":
        raise field_error("subscription_id", "no_more_bills", "No more is billed on it.")
    row = OneOffItem(
        id=new_id(),
        organization_id=subscription.organization_id,
        provider_organization_id=subscription.provider_organization_id,
        subscription_id=subscription_id,
        description=description,
        amount_minor=amount.amount_minor,
        currency=amount.currency,
        made_by=actor.user_id,
        created_at=as_of,
    )
    session.add(row)
    await session.flush()
    after = {"description": description, "amount_minor": amount.amount_minor}
    event = ItemAdded(
        organization_id=row.organization_id,
        provider_organization_id=row.provider_organization_id,
        entity_id=row.id,
        after=after,
    )
    announce(session, actor, event)
    return row


async def set_threshold(
    session: AsyncSession, actor: Actor, subscription_id: UUID, amount: Money | None
) -> SubscriptionFacts:
    """Bill the usage of a subscription in between, each time that it comes to so much more; None:
    no more. A system session. Raises 404, and 422 for another currency.
    """
    subscription = await subscriptions.lock_subscription(session, subscription_id)
    if amount is not None and amount.currency != subscription.currency:
        text_ = f"The subscription's currency is {subscription.currency}."
        raise field_error("amount.currency", "other_currency", text_)
    known = await session.get(Threshold, (subscription.organization_id, subscription_id))
    before = {"amount_minor": known.amount_minor if known else None}
    moment = clock.now()
    if amount is None and known is not None:
        await session.delete(known)
    elif amount is not None and known is not None:
        known.amount_minor, known.updated_at = amount.amount_minor, moment
    elif amount is not None:
        session.add(
            Threshold(
                organization_id=subscription.organization_id,
                subscription_id=subscription_id,
                provider_organization_id=subscription.provider_organization_id,
                amount_minor=amount.amount_minor,
                created_at=moment,
                updated_at=moment,
            )
        )
    await session.flush()
    event = ThresholdChanged(
        organization_id=subscription.organization_id,
        provider_organization_id=subscription.provider_organization_id,
        entity_id=subscription_id,
        before=before,
        after={"amount_minor": amount.amount_minor if amount else None},
    )
    announce(session, actor, event)
    return subscription


async def over_threshold(
    session: AsyncSession, as_of: datetime, limit: int
) -> list[tuple[UUID, datetime]]:
    """Subscriptions whose usage of the running period, as rated when it was stored, is a threshold
    above what was billed of it; due now.
    """
    rows = await session.execute(_OVER, {"limit": limit})
    return [(row.subscription_id, as_of) for row in rows]


async def next_over_threshold(session: AsyncSession) -> datetime | None:
    """Now, if a subscription is over its threshold."""
    now = clock.now()
    return now if await over_threshold(session, now, 1) else None


_OVER = text(
    """
    SELECT t.subscription_id FROM billing_thresholds t
    JOIN subscriptions s ON s.organization_id = t.organization_id AND s.id = t.subscription_id
    JOIN rated_periods r ON r.organization_id = t.organization_id
        AND r.subscription_id = t.subscription_id AND r.period_starts_at = s.period_starts_at
    WHERE s.status IN ('Active', 'PastDue') AND s.parked_reason IS NULL
      AND r.cost * currency_minor(s.currency) >= t.amount_minor + coalesce((
        SELECT sum(l.amount_minor) FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
        WHERE l.organization_id = t.organization_id AND l.subscription_id = t.subscription_id
          AND l.starts_at >= s.period_starts_at AND i.kind = 'progress'
          AND i.status <> 'Cancelled' AND l.text = 'usage'), 0)
    ORDER BY t.subscription_id LIMIT :limit
    """
)


async def _by_code(
    session: AsyncSession, organization_id: UUID, code: str, *, lock: bool = False
) -> CouponRow | None:
    asked = select(CouponRow).where(
        CouponRow.organization_id == organization_id, CouponRow.code == code.upper()
    )
    return await session.scalar(asked.with_for_update() if lock else asked)


async def _refuse_unfit(
    session: AsyncSession, coupon: CouponRow, subscription: SubscriptionFacts
) -> None:
    if coupon.redeem_by is not None and coupon.redeem_by <= clock.now():
        raise field_error("code", "over", "This coupon's time is over.")
    if coupon.currency not in {None, subscription.currency}:
        raise field_error("code", "other_currency", f"This coupon is for {coupon.currency}.")
    if coupon.plan_id is not None:
        plan = await catalog.plan_facts(session, subscription.plan_version_id)
        if plan.plan_id != coupon.plan_id:
            raise field_error("code", "other_plan", "This coupon is for another plan.")
    if coupon.redemptions_max is not None:
        asked = select(func.count()).where(CouponRedemption.coupon_id == coupon.id)
        if (await session.scalar(asked) or 0) >= coupon.redemptions_max:
            raise field_error("code", "used_up", "This coupon was redeemed as often as it can be.")
