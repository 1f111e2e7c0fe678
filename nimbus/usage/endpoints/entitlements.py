# SPDX-License-Identifier: Apache-2.0
"""What a tenant may do, asked for by programs."""

from decimal import Decimal
from typing import Annotated

from fastapi import Header, Request

from nimbus import catalog
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.ids import new_id
from nimbus.base.problems import documented
from nimbus.base.web import Router, Session, mutates, unit_of
from nimbus.errors import Refusal, field_error
from nimbus.identity import Permission, has
from nimbus.rules.meters import read_quantity
from nimbus.usage import schemas
from nimbus.usage.endpoints.asked import Reader
from nimbus.usage.endpoints.shown import plain
from nimbus.usage.events import QuotaExceeded, UsageThresholdReached
from nimbus.usage.quota_schemas import CheckBody, CheckShape, EntitledList, EntitledShape
from nimbus.usage.service.entitlements import Answer, Asked, check, consume, entitled, judge

SCOPE = "usage.write"
REASON = "usage from outside"

router = Router(tags=["entitlements"])
Key = Annotated[str | None, Header(alias="Idempotency-Key", include_in_schema=False)]


@router.get("/api/entitlements", operation_id="list_entitlements", responses=documented(401, 403))
async def list_entitlements(actor: Reader, session: Session) -> EntitledList:
    """What each live subscription entitles to, and what is left of it."""
    data = []
    for one in await entitled(session, actor, clock.now()):
        plan = await catalog.plan_facts(session, one.contract.plan_version_id)
        data.append(
            EntitledShape(
                subscription_id=one.contract.id,
                product=schemas.NamedShape(slug=plan.product.slug, name=plan.product.name),
                plan=schemas.NamedShape(slug=plan.slug, name=plan.name),
                entitlements=[
                    _shape(judge(one, key, Decimal(1))) for key in sorted(one.entitlements)
                ],
            )
        )
    return EntitledList(data=data)


@router.post(
    "/api/entitlements/check",
    operation_id="check_entitlement",
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(
        permission=Permission.SEE_USAGE,
        events=[UsageThresholdReached, QuotaExceeded],
        idempotency="key",
    ),
)
async def check_entitlement(
    body: CheckBody, request: Request, actor: Reader, session: Session, key: Key = None
) -> CheckShape:
    """Whether something is allowed now: one call, cheap enough for every request of your own.

    With `consume` the units are used up in the same step, as a usage event that is counted and
    billed; all of them or none. It needs who may make keys (a provider: who manages products), or a
    key with the scope `usage.write`. The same `Idempotency-Key` uses nothing up again, for ever.
    """
    quantity = read_quantity(body.quantity)
    if quantity is None:
        text = 'A decimal number such as "0.5": at most 15 digits and 12 decimals.'
        raise field_error("quantity", "invalid", text)
    asked = Asked(
        key=body.entitlement,
        quantity=quantity,
        product=body.product,
        subscription_id=body.subscription_id,
    )
    if not body.consume:
        return _shape(await check(session, actor, asked, clock.now()))
    _may_consume(actor)
    unit = unit_of(request)
    await unit.close()
    over_all = await unit.open_system(REASON)
    event_key = f"{actor.key_id or actor.user_id} {key or new_id()}"
    return _shape(await consume(over_all, actor, asked, event_key, clock.now()))


def _may_consume(actor: Actor) -> None:
    if actor.kind == "key":
        if SCOPE not in actor.scopes:
            raise Refusal("insufficient_scope", f"The key needs the scope {SCOPE}.")
    elif not has(actor.role, Permission.MANAGE_API_KEYS):
        raise Refusal("forbidden", "Your role may not use units up.")


def _shape(answer: Answer) -> CheckShape:
    quota = answer.quota
    limited = {}
    if quota is not None:
        limited = {
            "used": plain(quota.used),
            "limit": None if quota.limit is None else str(quota.limit),
            "remaining": None if quota.remaining is None else plain(quota.remaining),
            "behavior": quota.behavior,
            "resets_at": clock.to_wire(quota.window.ends_at),
        }
    return CheckShape.model_validate(
        {
            "entitlement": answer.key,
            "type": answer.type,
            "allowed": answer.stop is None,
            "value": answer.value,
            "consumed": answer.consumed,
            "reason": answer.stop,
            **limited,
        }
    )
