# SPDX-License-Identifier: Apache-2.0
"""What the running period used, what is left, what was spent."""

from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.web import Router, Session
from nimbus.identity import Permission, allowed, organization_facts
from nimbus.rules.spending import from_micro
from nimbus.usage import schemas
from nimbus.usage.endpoints import shown
from nimbus.usage.endpoints.asked import ProductSlug, Reader, product_id_of
from nimbus.usage.endpoints.shown import plain
from nimbus.usage.endpoints.shown_quotas import key_quota_shape, quota_shape
from nimbus.usage.models import SpendState
from nimbus.usage.service.quotas import key_quota_states
from nimbus.usage.service.readings import CurrentUse, current_use
from nimbus.usage.service.spending import spend_states

router = Router(tags=["usage"])
Payer = Annotated[Actor, allowed(Permission.SEE_INVOICES, scope="billing.read")]


@router.get(
    "/api/developer/usage", operation_id="read_usage", responses=documented(401, 403, 404, 422)
)
async def read_usage(
    actor: Reader, session: Session, product: ProductSlug = None
) -> schemas.UsageList:
    """What each subscription used in its running period, and what is left of its quotas."""
    found = await _current(session, actor, product)
    return schemas.UsageList(
        data=[schemas.UsageShape(**_use(use), quotas=_quotas(use)) for use in found]
    )


@router.get(
    "/api/billing/usage/current",
    operation_id="read_current_usage",
    responses=documented(401, 403, 404, 422),
)
async def read_current_usage(
    actor: Reader, session: Session, product: ProductSlug = None
) -> schemas.CurrentList:
    """What each subscription used in its running billing period: what its invoice will count."""
    found = await _current(session, actor, product)
    return schemas.CurrentList(data=[schemas.CurrentShape(**_use(use)) for use in found])


@router.get(
    "/api/billing/quota", operation_id="read_quota", responses=documented(401, 403, 404, 422)
)
async def read_quota(
    actor: Reader, session: Session, product: ProductSlug = None
) -> schemas.QuotaList:
    """Every quota: used, limit, what remains, what happens over it, and what made the limit."""
    found = await _current(session, actor, product)
    keys = await key_quota_states(session, actor.organization_id, clock.now())
    return schemas.QuotaList(
        data=[quota_shape(_product(use), state) for use in found for state in use.quotas],
        keys=[key_quota_shape(state) for state in keys],
    )


@router.get("/api/billing/spend", operation_id="read_spend", responses=documented(401, 403))
async def read_spend(actor: Payer, session: Session) -> schemas.SpendShape:
    """What this month's calls cost so far, by organization and key, and what limits and balance
    leave: the counters that stop calls.
    """
    currency = (await organization_facts(session, actor.organization_id)).currency
    found = await spend_states(session, actor.organization_id, clock.now())
    months = {state.key_id: _month(state, currency) for state in found if state.kind != "balance"}
    balances = [_spent(state, currency) for state in found if state.kind == "balance"]
    return schemas.SpendShape(
        currency=currency,
        month=months.get(None) and schemas.MonthShape(**months[None]),
        balance=schemas.SpentShape(**balances[0]) if balances else None,
        keys=[
            schemas.KeySpendShape(key_id=key_id, **month)
            for key_id, month in months.items()
            if key_id
        ],
    )


async def _current(session: AsyncSession, actor: Actor, product: str | None) -> list[CurrentUse]:
    product_id = await product_id_of(session, product)
    return await current_use(session, actor.organization_id, clock.now(), product_id)


def _use(use: CurrentUse) -> dict[str, object]:
    return {
        "subscription_id": use.subscription.id,
        "product": _product(use),
        "plan": schemas.NamedShape(slug=use.plan.slug, name=use.plan.name),
        "period": shown.period(use.period),
        "meters": [
            schemas.MeterShape(meter=meter.key, unit=meter.unit, quantity=plain(quantity))
            for meter, quantity in use.meters
        ],
    }


def _quotas(use: CurrentUse) -> list[schemas.QuotaShape]:
    return [quota_shape(_product(use), state) for state in use.quotas]


def _month(state: SpendState, currency: str) -> dict[str, Any]:
    return {
        "starts_at": clock.to_wire(state.window.starts_at),
        "resets_at": clock.to_wire(state.window.ends_at),
        **_spent(state, currency),
    }


def _spent(state: SpendState, currency: str) -> dict[str, Any]:
    def whole(amount: Decimal | int) -> str:
        return plain(from_micro(Decimal(amount), currency))

    return {
        "limit": None if state.limit is None else whole(state.limit),
        "used": whole(state.used),
        "held": whole(state.leased),
        "remaining": None if state.remaining is None else whole(state.remaining),
    }


def _product(use: CurrentUse) -> schemas.NamedShape:
    return schemas.NamedShape(slug=use.plan.product.slug, name=use.plan.product.name)
