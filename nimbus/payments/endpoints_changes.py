# SPDX-License-Identifier: Apache-2.0
"""HTTP of changes to a subscription: what one would cost, and doing it.

Each works on a subscription by its id, and where the sources do so on the current one.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.events import Event
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import Money, Router, Session, mutates, unit_of
from nimbus.billing.events import InvoiceDrafted, InvoiceFinalized, ItemAdded
from nimbus.errors import Refusal, field_error
from nimbus.identity import Permission, allowed
from nimbus.payments import schemas
from nimbus.payments.models import ChangePreview
from nimbus.payments.service import changes
from nimbus.payments.service.changes import Change, Kind
from nimbus.subscriptions.events import (
    SubscriptionCancelled,
    SubscriptionChanged,
    SubscriptionExpired,
    SubscriptionPaused,
    SubscriptionReactivated,
    SubscriptionResumed,
)
from nimbus.usage.events import UsageThresholdReached

MANAGE = Permission.MANAGE_SUBSCRIPTIONS
CURRENT = "/api/billing/subscription"
ONE = "/api/billing/subscriptions/{subscription_id}"
OPERATIONS_A_MINUTE = 50
NEEDED = {
    "upgrade": "plan",
    "downgrade": "plan",
    "cancel": "reason",
    "take_add_on": "add_on",
    "leave_add_on": "add_on_id",
}
REFUSALS = documented(401, 403, 404, 409, 415, 422, 429)

router = Router(tags=["subscriptions"])
Owner = Annotated[Actor, allowed(MANAGE)]
Version = Annotated[
    int | None, Query(description="The version that was read; left out, it is not held to it.")
]


def _changing(*events: type[Event], kept: str = "version") -> dict[str, Any]:
    """What a change declares: it first writes down what dates decided, and may bill at once."""
    billed = [ItemAdded, InvoiceDrafted, InvoiceFinalized, UsageThresholdReached]
    facts = [SubscriptionChanged, SubscriptionExpired, *billed, *events]
    return mutates(permission=MANAGE, events=facts, idempotency=kept)  # type: ignore[arg-type]


@router.post(
    f"{ONE}/preview",
    operation_id="preview_subscription_change",
    responses=REFUSALS,
    **mutates(permission=MANAGE, events=[], idempotency="version"),
)
async def preview(
    subscription_id: UUID, body: schemas.PreviewBody, request: Request, actor: Owner
) -> schemas.PreviewView:
    """What a change would cost now, what the next invoice would say, and what would end when."""
    await throttle(f"billing/{actor.organization_id}", OPERATIONS_A_MINUTE, 60)
    needed = NEEDED.get(body.change)
    if needed is not None and getattr(body, needed) is None:
        raise field_error(needed, "missing", f"To {body.change} takes a {needed}.")
    session = await _system(request)
    kept = await changes.preview(
        session, actor, subscription_id, _asked(body), version=body.version, as_of=clock.now()
    )
    return _preview(kept)


@router.post(
    f"{ONE}/upgrade",
    operation_id="upgrade_subscription",
    responses=REFUSALS,
    **_changing(),
)
async def upgrade(
    subscription_id: UUID, body: schemas.UpgradeBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """Move to a higher plan, at once."""
    change = Change(kind="upgrade", plan=body.plan)
    return await _carry_out(request, actor, subscription_id, change, **_known(body))


@router.post(
    f"{ONE}/downgrade",
    operation_id="downgrade_subscription",
    responses=REFUSALS,
    **_changing(),
)
async def downgrade(
    subscription_id: UUID, body: schemas.DowngradeBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """Move to a lower plan, at the period's end or at once."""
    change = Change(kind="downgrade", plan=body.plan, at_once=body.at_once)
    return await _carry_out(request, actor, subscription_id, change, **_known(body))


@router.post(
    f"{ONE}/cancel",
    operation_id="cancel_subscription",
    responses=REFUSALS,
    **_changing(SubscriptionCancelled),
)
async def cancel(
    subscription_id: UUID, body: schemas.CancelBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """End it, at the period's end or at once, with a reason; `ends_at` says when."""
    change = Change(kind="cancel", reason=body.reason, at_once=body.at_once)
    return await _carry_out(request, actor, subscription_id, change, **_known(body))


@router.post(
    f"{ONE}/reactivate",
    operation_id="reactivate_subscription",
    responses=REFUSALS,
    **_changing(SubscriptionReactivated),
)
async def reactivate(
    subscription_id: UUID, body: schemas.VersionBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """Take a cancellation back before its end."""
    return await _carry_out(
        request, actor, subscription_id, Change(kind="reactivate"), **_known(body)
    )


@router.post(
    f"{ONE}/pause",
    operation_id="pause_subscription",
    responses=REFUSALS,
    **_changing(SubscriptionPaused),
)
async def pause(
    subscription_id: UUID, body: schemas.VersionBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """No access and no fee from now on, until it is resumed."""
    return await _carry_out(request, actor, subscription_id, Change(kind="pause"), **_known(body))


@router.post(
    f"{ONE}/resume",
    operation_id="resume_subscription",
    responses=REFUSALS,
    **_changing(SubscriptionResumed),
)
async def resume(
    subscription_id: UUID, body: schemas.VersionBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """Access and fee again from now on."""
    return await _carry_out(request, actor, subscription_id, Change(kind="resume"), **_known(body))


@router.post(
    f"{ONE}/add-ons",
    operation_id="take_add_on",
    responses=REFUSALS,
    **_changing(),
)
async def take_add_on(
    subscription_id: UUID, body: schemas.AddOnBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """Have an add-on so many times: more at once, fewer from the period's end on."""
    change = Change(kind="take_add_on", add_on=body.add_on, quantity=body.quantity)
    return await _carry_out(request, actor, subscription_id, change, **_known(body))


@router.delete(
    f"{ONE}/add-ons/{{add_on_id}}",
    operation_id="leave_add_on",
    responses=REFUSALS,
    **_changing(),
)
async def leave_add_on(
    subscription_id: UUID,
    add_on_id: UUID,
    request: Request,
    actor: Owner,
    version: Version = None,
) -> subscriptions.SubscriptionShape:
    """Have an add-on no more from the period's end on."""
    change = Change(kind="leave_add_on", add_on_id=add_on_id)
    return await _carry_out(
        request, actor, subscription_id, change, version=version, preview_id=None
    )


@router.delete(
    f"{ONE}/scheduled-change",
    operation_id="take_back_scheduled_change",
    responses=REFUSALS,
    **mutates(
        permission=MANAGE,
        events=[SubscriptionChanged, SubscriptionExpired],
        idempotency="version",
    ),
)
async def take_back(
    subscription_id: UUID, actor: Owner, session: Session, version: Version = None
) -> subscriptions.SubscriptionShape:
    """Let what waits for the period's end not happen."""
    moment = clock.now()
    changed = await subscriptions.take_back(
        session, actor, subscription_id, version=version, as_of=moment
    )
    return (await subscriptions.shapes(session, actor, [changed], moment))[0]


@router.put(
    f"{ONE}/renewal",
    operation_id="set_renewal",
    responses=REFUSALS,
    **mutates(
        permission=MANAGE,
        events=[SubscriptionChanged, SubscriptionExpired],
        idempotency="version",
    ),
)
async def set_renewal(
    subscription_id: UUID, body: schemas.RenewalBody, actor: Owner, session: Session
) -> subscriptions.SubscriptionShape:
    """Renew by itself, or end with the period unless it is renewed by hand."""
    moment = clock.now()
    changed = await subscriptions.set_renewal(
        session,
        actor,
        subscription_id,
        automatic=body.automatic,
        version=body.version,
        as_of=moment,
    )
    return (await subscriptions.shapes(session, actor, [changed], moment))[0]


@router.post(
    f"{ONE}/renew",
    operation_id="renew_subscription",
    responses=REFUSALS,
    **mutates(
        permission=MANAGE,
        events=[SubscriptionChanged, SubscriptionExpired],
        idempotency="version",
    ),
)
async def renew(
    subscription_id: UUID, body: schemas.RenewBody, actor: Owner, session: Session
) -> subscriptions.SubscriptionShape:
    """Renew it by hand for one period more."""
    moment = clock.now()
    changed = await subscriptions.renew(
        session, actor, subscription_id, version=body.version, as_of=moment
    )
    return (await subscriptions.shapes(session, actor, [changed], moment))[0]


@router.post(
    f"{CURRENT}/upgrade",
    operation_id="upgrade_current_subscription",
    responses=REFUSALS,
    **_changing(),
)
async def upgrade_current(
    body: schemas.UpgradeBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """Move the current subscription to a higher plan, at once."""
    change = Change(kind="upgrade", plan=body.plan)
    return await _carry_out(request, actor, None, change, **_known(body))


@router.post(
    f"{CURRENT}/downgrade",
    operation_id="downgrade_current_subscription",
    responses=REFUSALS,
    **_changing(),
)
async def downgrade_current(
    body: schemas.DowngradeBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """Move the current subscription to a lower plan."""
    change = Change(kind="downgrade", plan=body.plan, at_once=body.at_once)
    return await _carry_out(request, actor, None, change, **_known(body))


@router.post(
    f"{CURRENT}/cancel",
    operation_id="cancel_current_subscription",
    responses=REFUSALS,
    **_changing(SubscriptionCancelled),
)
async def cancel_current(
    body: schemas.CancelBody, request: Request, actor: Owner
) -> subscriptions.SubscriptionShape:
    """End the current subscription."""
    change = Change(kind="cancel", reason=body.reason, at_once=body.at_once)
    return await _carry_out(request, actor, None, change, **_known(body))


def _known(body: schemas.VersionBody) -> dict[str, Any]:
    """What a change is held to."""
    return {"version": body.version, "preview_id": body.preview_id}


async def _carry_out(
    request: Request,
    actor: Actor,
    subscription_id: UUID | None,
    change: Change,
    *,
    version: int | None,
    preview_id: UUID | None,
) -> subscriptions.SubscriptionShape:
    """Do it in one transaction with what it bills; without an id, to the current subscription."""
    await throttle(f"billing/{actor.organization_id}", OPERATIONS_A_MINUTE, 60)
    session, moment = await _system(request), clock.now()
    if subscription_id is None:
        product = await catalog.product_or_operators(session, None)
        found = await subscriptions.latest(session, actor.organization_id, product.id)
        if found is None:
            raise Refusal("not_found", "There is no subscription to this product.")
        subscription_id = found.id
    changed = await changes.carry_out(
        session,
        actor,
        subscription_id,
        change,
        version=version,
        preview_id=preview_id,
        as_of=moment,
    )
    return (await subscriptions.shapes(session, actor, [changed], moment))[0]


async def _system(request: Request) -> AsyncSession:
    """The request's transaction, which bills too."""
    unit = unit_of(request)
    await unit.close()
    return await unit.open_system("contract changes")


def _asked(body: schemas.PreviewBody) -> Change:
    """What a preview is of: exactly what doing it will say."""
    kind: Kind = body.change
    return Change(
        kind=kind,
        plan=body.plan if kind in {"upgrade", "downgrade"} else None,
        add_on=body.add_on if kind == "take_add_on" else None,
        add_on_id=body.add_on_id if kind == "leave_add_on" else None,
        quantity=body.quantity if kind == "take_add_on" else None,
        at_once=body.at_once if kind in {"downgrade", "cancel"} else None,
        reason=body.reason if kind == "cancel" else None,
    )


def _preview(kept: ChangePreview) -> schemas.PreviewView:
    costs = kept.costs
    return schemas.PreviewView(
        id=kept.id,
        change=kept.change["kind"],
        subscription_id=kept.subscription_id,
        now=_cost(costs["now"]),
        next=_cost(costs["next"]),
        next_at=costs["next_at"],
        status=costs["status"],
        ends_at=costs["ends_at"],
        scheduled_at=costs["scheduled_at"],
        effective_at=clock.to_wire(kept.effective_at),
        expires_at=clock.to_wire(kept.expires_at),
    )


def _cost(said: dict[str, Any] | None) -> schemas.CostView | None:
    if said is None:
        return None
    currency = said["currency"]
    return schemas.CostView(
        lines=[
            schemas.CostLine(
                **{name: value for name, value in line.items() if name != "amount_minor"},
                amount=Money(amount_minor=line["amount_minor"], currency=currency),
            )
            for line in said["lines"]
        ],
        **{
            name: Money(amount_minor=said[f"{name}_minor"], currency=currency)
            for name in ("subtotal", "tax", "total")
        },
    )
