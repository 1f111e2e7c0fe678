# SPDX-License-Identifier: Apache-2.0
"""What a plan allows beside its price: quotas and entitlements, between the wire and the table."""

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from nimbus.catalog.models import PlanEntitlement, PlanQuota, PlanVersion
from nimbus.catalog.schemas import EntitlementShape, QuotaShape
from nimbus.errors import field_error

SAYS = {"boolean": "enabled", "limit": "meter", "value": "value"}
"""The one field that each type of entitlement has."""


def checked_quotas(
    quotas: Iterable[QuotaShape], meters: Collection[str], policy: str
) -> list[QuotaShape]:
    """Quotas in their order; 422 on a field: an unknown meter, something said twice, a cap of
    overage under another `policy`.
    """
    given = list(quotas)
    for number, quota in enumerate(given):
        _known(quota.meter, meters, f"quotas.{number}.meter")
        if quota.overage_cap is not None and policy != "overage":
            text = "Only the policy `overage` serves units over the amount, up to a cap."
            raise field_error(f"quotas.{number}.overage_cap", "no_overage", text)
    _once([f"{quota.meter} {quota.period}" for quota in given], "quotas.{}.period")
    return sorted(given, key=lambda quota: (quota.meter, quota.period))


def checked_entitlements(
    entitlements: Iterable[EntitlementShape], meters: Collection[str]
) -> list[EntitlementShape]:
    """Entitlements in their order; 422 on a field: one that its type does not have or lacks, an
    unknown meter, a key said twice.
    """
    given = list(entitlements)
    for number, one in enumerate(given):
        for kind, name in SAYS.items():
            if (getattr(one, name) is not None) != (kind == one.type):
                text = f"An entitlement of the type {one.type} says `{SAYS[one.type]}` alone."
                raise field_error(f"entitlements.{number}.{name}", "wrong_type", text)
        if one.meter is not None:
            _known(one.meter, meters, f"entitlements.{number}.meter")
    _once([one.key for one in given], "entitlements.{}.key")
    return sorted(given, key=lambda one: one.key)


def allowance_rows(
    quotas: Iterable[QuotaShape], entitlements: Iterable[EntitlementShape], whose: dict[str, UUID]
) -> list[PlanQuota | PlanEntitlement]:
    """The rows of a plan version's quotas and entitlements; `whose` are the ids they belong to."""
    of_quotas = [
        PlanQuota(
            meter_key=quota.meter,
            amount=quota.amount,
            period=quota.period,
            overage_cap=quota.overage_cap,
            roll_over=quota.roll_over,
            roll_over_windows=quota.roll_over_periods,
            on_plan_change=quota.on_plan_change,
            **whose,
        )
        for quota in quotas
    ]
    return of_quotas + [
        PlanEntitlement(
            key=one.key,
            type=one.type,
            enabled=one.enabled,
            meter_key=one.meter,
            value=one.value,
            **whose,
        )
        for one in entitlements
    ]


def allowance_shapes(version: PlanVersion) -> dict[str, list[Any]]:
    """The quotas and entitlements of a plan version as the wire has them."""
    return {
        "quotas": [
            QuotaShape.model_validate(
                {
                    "meter": quota.meter_key,
                    "amount": quota.amount,
                    "period": quota.period,
                    "overage_cap": quota.overage_cap,
                    "roll_over": quota.roll_over,
                    "roll_over_periods": quota.roll_over_windows,
                    "on_plan_change": quota.on_plan_change,
                }
            )
            for quota in version.quotas
        ],
        "entitlements": [
            EntitlementShape(
                key=one.key,
                type=one.type,
                enabled=one.enabled,
                meter=one.meter_key,
                value=one.value,
            )
            for one in version.entitlements
        ],
    }


def _known(meter: str, meters: Collection[str], field: str) -> None:
    if meter not in meters:
        raise field_error(field, "unknown_meter", "The product has no such meter.")


def _once(values: list[str], field: str) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise field_error(field.format(number), "duplicate", "This is said twice.")
