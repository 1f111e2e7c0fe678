# SPDX-License-Identifier: Apache-2.0
"""Terms of a plan between the wire, the law and the table; rows as their wire shapes."""

from collections.abc import Mapping
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from nimbus.base import clock
from nimbus.base.web import Money
from nimbus.catalog.models import (
    Meter,
    Plan,
    PlanVersion,
    Product,
    ProductHost,
    Route,
    Upstream,
)
from nimbus.catalog.schemas import (
    AddOnShape,
    AddOnTermsShape,
    ChargeShape,
    HostShape,
    ListedProduct,
    MeterShape,
    OfferedAddOn,
    OfferedMeter,
    OfferedPlan,
    OfferedRoute,
    PlanShape,
    PriceShape,
    ProductShape,
    RateLimit,
    RouteShape,
    TierShape,
    UpstreamShape,
    VersionShape,
)
from nimbus.catalog.service.allowances import allowance_shapes
from nimbus.errors import Refusal, field_error
from nimbus.rules.money import decimal_from, minor_digits
from nimbus.rules.pricing import TERM_NUMBERS, Charge, Tier, validate

TIER_NUMBERS = ("unit_price", "flat_fee", "rate")
OPTIONAL = ("free_amount", "minimum", "maximum")
VERSION_COLUMNS = (
    "interval", "interval_count", "base_fee_timing", "proration", "anchor", "grace_hours",
    "trial_days", "trial_converts", "over_quota_policy", "payment_on_invoice", "payment_term_days",
)  # fmt: skip
MAX_FEE_MINOR = 10**15


def charge_of(given: ChargeShape, path: str) -> Charge:
    """A priced meter as the law's value; 422 on the field (`prices.0.charges.1.tiers.0.up_to`)."""
    numbers = {
        name: _decimal(getattr(given, name), f"{path}.{name}")
        for name in ("included", "unit_price", *TERM_NUMBERS)
    }
    charge = Charge(
        meter_key=given.meter,
        model=given.model,  # type: ignore[arg-type]  # the line below refuses another
        free_events=given.free_events,
        tiers=tuple(
            _tier_of(tier, f"{path}.tiers.{number}") for number, tier in enumerate(given.tiers)
        ),
        **numbers,  # type: ignore[arg-type]  # None only where the value may be None
    )
    validate(charge, path)
    return charge


def charge_shape(charge: Charge, description: dict[Any, str] | None) -> ChargeShape:
    """A charge for the wire; numbers in their shortest form, so that equal ones look equal."""
    return ChargeShape(
        meter=charge.meter_key,
        model=charge.model,
        free_events=charge.free_events,
        tiers=[
            TierShape(
                up_to=_text(tier.up_to),
                **{name: _plain(getattr(tier, name)) for name in TIER_NUMBERS},
            )
            for tier in charge.tiers
        ],
        description=description,
        **{
            name: _text(getattr(charge, name)) for name in ("included", "unit_price", *TERM_NUMBERS)
        },
    )


def charge_terms(charge: Charge) -> dict[str, Any]:
    """What of a charge goes into the column `terms`."""
    terms: dict[str, Any] = {
        name: _plain(value)
        for name in TERM_NUMBERS
        if (value := getattr(charge, name)) is not None and (value or name in OPTIONAL)
    }
    if charge.free_events is not None:
        terms["free_events"] = charge.free_events
    if charge.tiers:
        terms["tiers"] = [
            {"up_to": _text(tier.up_to)}
            | {name: _plain(getattr(tier, name)) for name in TIER_NUMBERS}
            for tier in charge.tiers
        ]
    return terms


def check_fee(fee: Money, path: str) -> None:
    """Refuse a base fee that is negative, implausible or in no currency: 422 on the field."""
    if not 0 <= fee.amount_minor <= MAX_FEE_MINOR:
        raise field_error(f"{path}.amount_minor", "out_of_range", "Between 0 and 10^15.")
    try:
        minor_digits(fee.currency)
    except Refusal as unknown:
        raise field_error(f"{path}.currency", "unknown_currency", unknown.detail) from None


def terms_shape(version: PlanVersion) -> VersionShape:
    """What a plan version says."""
    return VersionShape(
        rate_limit=rate_limit(version),
        prices=[
            PriceShape(
                base_fee=Money(amount_minor=price.base_fee_minor, currency=price.currency),
                charges=[
                    charge_shape(charge.charge(), charge.description)
                    for charge in version.charges
                    if charge.currency == price.currency
                ],
            )
            for price in version.prices
        ],
        **allowance_shapes(version),
        **{name: getattr(version, name) for name in VERSION_COLUMNS},
    )


def offered_plan(product: Product, plan: Plan, version: PlanVersion) -> OfferedPlan:
    """A plan for anyone."""
    return OfferedPlan(
        product=product.slug,
        slug=plan.slug,
        name=plan.name,
        rank=plan.rank,
        **_values(terms_shape(version)),
    )


def offered_add_on(plan: Plan, version: PlanVersion) -> OfferedAddOn:
    """An add-on for anyone."""
    terms = terms_shape(version)
    return OfferedAddOn(
        slug=plan.slug,
        name=plan.name,
        **{name: getattr(terms, name) for name in AddOnTermsShape.model_fields},
    )


def add_on_shape(plan: Plan, version: PlanVersion) -> AddOnShape:
    """An add-on for its provider."""
    return AddOnShape(
        id=plan.id,
        visibility=plan.visibility,
        status=plan.status,
        add_on_version=version.number,
        version=plan.version,
        created_at=clock.to_wire(plan.created_at),
        updated_at=clock.to_wire(plan.updated_at),
        **_values(offered_add_on(plan, version)),
    )


def plan_shape(
    product: Product, plan: Plan, version: PlanVersion, audience: list[UUID]
) -> PlanShape:
    """A plan for its provider; `audience` are the organizations that a private one is for."""
    return PlanShape(
        audience=audience,
        id=plan.id,
        visibility=plan.visibility,
        status=plan.status,
        plan_version=version.number,
        version=plan.version,
        created_at=clock.to_wire(plan.created_at),
        updated_at=clock.to_wire(plan.updated_at),
        **_values(offered_plan(product, plan, version)),
    )


def product_shape(product: Product, upstreams: list[Upstream]) -> ProductShape:
    """A product for its provider; credentials of upstreams stay here."""
    own = {
        upstream.environment: UpstreamShape.model_validate(upstream, from_attributes=True)
        for upstream in upstreams
        if upstream.product_id == product.id
    }
    columns = _columns(product, ProductShape.model_fields.keys() - {"upstreams"})
    return ProductShape.model_validate({**columns, "upstreams": own})


def listed_product(product: Product) -> ListedProduct:
    """A product for anyone, in a list."""
    return ListedProduct.model_validate(_columns(product, ListedProduct.model_fields))


def route_shape(route: Route, plans: Mapping[UUID, str]) -> RouteShape:
    """A route for its provider; `plans` gives the slugs of the product's plans."""
    own = _columns(route, RouteShape.model_fields.keys() - {"minimum_plan", "rate_limit"})
    return RouteShape.model_validate({**own, **_route_limits(route, plans)})


def offered_route(route: Route, plans: Mapping[UUID, str]) -> OfferedRoute:
    """A route for anyone: nothing of where it is served from."""
    own = _columns(route, OfferedRoute.model_fields.keys() - {"minimum_plan", "rate_limit"})
    return OfferedRoute.model_validate({**own, **_route_limits(route, plans)})


def meter_shape(meter: Meter) -> MeterShape:
    """A meter for its provider."""
    return MeterShape.model_validate(meter, from_attributes=True)


def offered_meter(meter: Meter) -> OfferedMeter:
    """A meter for anyone."""
    return OfferedMeter.model_validate(meter, from_attributes=True)


def host_shape(host: ProductHost) -> HostShape:
    """A host name for its provider."""
    return HostShape.model_validate(_columns(host, HostShape.model_fields))


def plain(value: Any) -> Any:
    """A column's value as a fact says it: networks as text."""
    if isinstance(value, list):
        return [
            str(item) if isinstance(item, IPv4Network | IPv6Network) else item for item in value
        ]
    return value


def rate_limit(row: PlanVersion | Route) -> RateLimit | None:
    """The rate limit of a plan version or a route."""
    if row.rate_amount is None:
        return None
    return RateLimit.model_validate(
        {"amount": row.rate_amount, "period": row.rate_period, "burst": row.rate_burst}
    )


def rate_columns(given: RateLimit | None) -> dict[str, Any]:
    """The three columns of a rate limit."""
    return {
        "rate_amount": given and given.amount,
        "rate_period": given and given.period,
        "rate_burst": given and given.burst,
    }


def _route_limits(route: Route, plans: Mapping[UUID, str]) -> dict[str, Any]:
    minimum = route.minimum_plan_id
    return {"minimum_plan": minimum and plans.get(minimum), "rate_limit": rate_limit(route)}


def _columns(row: Any, names: Any) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in names}
    return {
        name: clock.to_wire(value) if value is not None and name.endswith("_at") else value
        for name, value in values.items()
    }


def _values(shape: BaseModel) -> dict[str, Any]:
    return {name: getattr(shape, name) for name in type(shape).model_fields}


def _tier_of(given: TierShape, path: str) -> Tier:
    numbers = {name: decimal_from(getattr(given, name), f"{path}.{name}") for name in TIER_NUMBERS}
    return Tier(up_to=_decimal(given.up_to, f"{path}.up_to"), **numbers)


def _decimal(text: str | None, field: str) -> Decimal | None:
    return None if text is None else decimal_from(text, field)


def _text(number: Decimal | None) -> str | None:
    return None if number is None else _plain(number)


def _plain(number: Decimal) -> str:
    return format(number.normalize(), "f")
