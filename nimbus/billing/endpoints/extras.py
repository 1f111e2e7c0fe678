# SPDX-License-Identifier: Apache-2.0
"""HTTP of coupons, one-off items, thresholds, and of subscriptions that are parked."""

from typing import Annotated
from uuid import UUID

from fastapi import Request
from sqlalchemy import select

from nimbus import subscriptions
from nimbus.base import clock, web
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import Cursor, Limit, Money, Page, Router, mutates, unit_of
from nimbus.billing import schemas
from nimbus.billing.events import (
    BillingReleased,
    CouponMade,
    CouponRedeemed,
    ItemAdded,
    ThresholdChanged,
)
from nimbus.billing.models import CouponRedemption, CouponRow, OneOffItem
from nimbus.billing.service import extras, runs
from nimbus.billing.texts import plain
from nimbus.errors import field_error
from nimbus.identity import Permission, allowed, platform_admin, platform_reader
from nimbus.rules import money as rules

router = Router(tags=["billing"])
Subscriber = Annotated[Actor, allowed(Permission.MANAGE_SUBSCRIPTIONS)]
Reader = Annotated[Actor, allowed(Permission.SEE_INVOICES, scope="billing.read")]
OPERATIONS_A_MINUTE = 50


@router.post(
    "/api/billing/coupons",
    operation_id="redeem_coupon",
    status_code=201,
    responses=documented(401, 403, 404, 415, 422, 429),
    **mutates(
        permission=Permission.MANAGE_SUBSCRIPTIONS, events=[CouponRedeemed], idempotency="natural"
    ),
)
async def redeem_coupon(
    body: schemas.RedeemBody, request: Request, actor: Subscriber
) -> schemas.RedemptionView:
    """Redeem a coupon: it counts from the next invoice on; again answers the same."""
    await throttle(f"billing/{actor.organization_id}", OPERATIONS_A_MINUTE, 60)
    unit = unit_of(request)
    await unit.close()
    session = await unit.open_system("bill run")
    subscription_id = body.subscription_id
    if subscription_id is None:
        live = await subscriptions.live_subscriptions(session, actor.organization_id)
        if len(live) != 1:
            text = "Say which subscription it is for."
            raise field_error("subscription_id", "missing", text)
        subscription_id = live[0].id
    row, coupon = await extras.redeem(session, actor, body.code, subscription_id)
    return _redemption(row, coupon)


@router.get("/api/billing/coupons", operation_id="list_coupons", responses=documented(401, 403))
async def list_coupons(request: Request, actor: Reader) -> schemas.Redemptions:
    """The coupons that count for the organization's subscriptions."""
    unit = unit_of(request)
    await unit.close()
    session = await unit.open_system("bill run")
    rows = await session.execute(
        select(CouponRedemption, CouponRow)
        .join(CouponRow, CouponRow.id == CouponRedemption.coupon_id)
        .where(CouponRedemption.organization_id == actor.organization_id)
        .order_by(CouponRedemption.id)
    )
    return schemas.Redemptions(data=[_redemption(row, coupon) for row, coupon in rows])


@router.get(
    "/api/admin/billing/coupons",
    operation_id="admin_list_coupons",
    responses=documented(401, 403, 422),
)
async def admin_list_coupons(
    request: Request,
    _: Annotated[Actor, platform_reader()],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[schemas.CouponView]:
    """The operator's coupons, newest first."""
    session = await unit_of(request).open_system("platform pages")
    rows, following = await web.paginate(session, select(CouponRow), CouponRow.id, limit, cursor)
    return Page(data=[_coupon(row) for row in rows], next_cursor=following)


@router.post(
    "/api/admin/billing/coupons",
    operation_id="admin_create_coupon",
    status_code=201,
    responses=documented(401, 403, 409, 415, 422),
    **mutates(permission="platform_admin", events=[CouponMade], idempotency="key"),
)
async def admin_create_coupon(
    body: schemas.CouponBody, request: Request, actor: Annotated[Actor, platform_admin()]
) -> schemas.CouponView:
    """Make a coupon that customers can redeem by its code."""
    session = await unit_of(request).open_system("platform pages")
    terms = extras.CouponTerms(
        code=body.code,
        name=body.name,
        percent=body.percent,
        amount=_amount(body.amount),
        times=body.times,
        plan_id=body.plan_id,
        meter_key=body.meter,
        redeem_by=body.redeem_by,
        redemptions_max=body.redemptions_max,
    )
    return _coupon(await extras.make_coupon(session, actor, terms))


@router.post(
    "/api/admin/subscriptions/{subscription_id}/items",
    operation_id="admin_add_item",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission="platform_admin", events=[ItemAdded], idempotency="key"),
)
async def admin_add_item(
    subscription_id: UUID,
    body: schemas.ItemBody,
    request: Request,
    actor: Annotated[Actor, platform_admin()],
) -> schemas.ItemView:
    """Put something sold once on the next invoice of a subscription."""
    session = await unit_of(request).open_system("platform pages")
    amount = rules.Money(body.amount.amount_minor, body.amount.currency)
    item = await extras.add_item(
        session, actor, subscription_id, body.description, amount, as_of=clock.now()
    )
    return _item(item)


@router.put(
    "/api/admin/subscriptions/{subscription_id}/billing-threshold",
    operation_id="admin_set_threshold",
    responses=documented(401, 403, 404, 415, 422),
    **mutates(permission="platform_admin", events=[ThresholdChanged], idempotency="natural"),
)
async def admin_set_threshold(
    subscription_id: UUID,
    body: schemas.ThresholdBody,
    request: Request,
    actor: Annotated[Actor, platform_admin()],
) -> schemas.BillingStateView:
    """Bill the usage of a subscription in between, when it has come to so much."""
    session = await unit_of(request).open_system("platform pages")
    await extras.set_threshold(session, actor, subscription_id, _amount(body.amount))
    shown = body.amount and Money(**body.amount.model_dump())
    return schemas.BillingStateView(subscription_id=subscription_id, threshold=shown)


@router.post(
    "/api/admin/subscriptions/{subscription_id}/release-billing",
    operation_id="admin_release_billing",
    responses=documented(401, 403, 404, 422),
    **mutates(permission="platform_admin", events=[BillingReleased], idempotency="natural"),
)
async def admin_release_billing(
    subscription_id: UUID, request: Request, actor: Annotated[Actor, platform_admin()]
) -> schemas.BillingStateView:
    """Let a subscription be billed again that was parked because no bill could be made of it."""
    session = await unit_of(request).open_system("platform pages")
    await runs.release(session, actor, subscription_id)
    return schemas.BillingStateView(subscription_id=subscription_id)


def _amount(given: schemas.PositiveAmount | None) -> rules.Money | None:
    return None if given is None else rules.Money(given.amount_minor, given.currency)


def _coupon(row: CouponRow) -> schemas.CouponView:
    amount = None
    if row.amount_minor is not None and row.currency is not None:
        amount = Money(amount_minor=row.amount_minor, currency=row.currency)
    return schemas.CouponView(
        id=row.id,
        code=row.code,
        name=row.name,
        percent=None if row.percent is None else plain(row.percent),
        amount=amount,
        times=row.times,
        plan_id=row.plan_id,
        meter=row.meter_key,
        redeem_by=row.redeem_by and clock.to_wire(row.redeem_by),
        redemptions_max=row.redemptions_max,
    )


def _redemption(row: CouponRedemption, coupon: CouponRow) -> schemas.RedemptionView:
    return schemas.RedemptionView(
        id=row.id,
        subscription_id=row.subscription_id,
        coupon=_coupon(coupon),
        created_at=clock.to_wire(row.created_at),
    )


def _item(row: OneOffItem) -> schemas.ItemView:
    return schemas.ItemView(
        id=row.id,
        subscription_id=row.subscription_id,
        description=row.description,
        amount=Money(amount_minor=row.amount_minor, currency=row.currency),
        created_at=clock.to_wire(row.created_at),
    )
