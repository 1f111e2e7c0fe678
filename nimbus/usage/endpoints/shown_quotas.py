# SPDX-License-Identifier: Apache-2.0
"""How quotas are written."""

from decimal import Decimal
from typing import Any

from nimbus.base import clock
from nimbus.rules.quotas import THRESHOLDS
from nimbus.usage import schemas
from nimbus.usage.endpoints.shown import plain
from nimbus.usage.models import QuotaState


def quota_shape(product: schemas.NamedShape, state: QuotaState) -> schemas.QuotaShape:
    """The quota of a subscription to a product."""
    assert state.subscription_id is not None, "a key's quota has a shape of its own"
    ends_at = state.increase_ends_at
    return schemas.QuotaShape(
        subscription_id=state.subscription_id,
        product=product,
        meter=state.meter_key,
        overage_cap=None if state.overage_cap is None else str(state.overage_cap),
        rolled_over=str(state.rolled_over),
        increase=str(state.increase),
        increase_ends_at=None if ends_at is None else clock.to_wire(ends_at),
        used_before=plain(state.used_before),
        **_limited(state),
    )


def key_quota_shape(state: QuotaState) -> schemas.KeyQuotaShape:
    """The quota of a key."""
    assert state.key_id is not None, "it is one of a key"
    return schemas.KeyQuotaShape(key_id=state.key_id, **_limited(state))


def _limited(state: QuotaState) -> dict[str, Any]:
    ends_at = clock.to_wire(state.window.ends_at)
    return {
        "period": state.period,
        "starts_at": clock.to_wire(state.window.starts_at),
        "ends_at": ends_at,
        "resets_at": ends_at,
        "allowed": state.allowed,
        "used": plain(state.used),
        "limit": None if state.limit is None else str(state.limit),
        "remaining": None if state.remaining is None else plain(state.remaining),
        "behavior": state.behavior,
        "thresholds": [] if state.limit is None else _thresholds(state.used, state.limit),
    }


def _thresholds(used: Decimal, limit: int) -> list[schemas.ThresholdShape]:
    return [
        schemas.ThresholdShape(
            percent=percent,
            units=plain(Decimal(limit * percent) / 100),
            reached=used > 0 and limit * percent <= used * 100,
        )
        for percent in THRESHOLDS
    ]
