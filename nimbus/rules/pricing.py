# SPDX-License-Identifier: Apache-2.0
"""What a meter's usage costs: the charge models of spec 02, exact and unrounded.

Prices, fees and amounts are decimals in whole currency units, rates are percent (21 means 21 %).
The line is rounded later, once, in `invoicing` (spec 09, M-07).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

from nimbus.errors import Refusal, field_error
from nimbus.rules.money import EXACT, UNIT_PRICE_PLACES, check_price, round_half_up

Model = Literal[
    "unit",
    "graduated",
    "graduated_percentage",
    "volume",
    "package",
    "percentage",
    "stair_step",
    "capacity",
    "cost_plus",
]

MODELS: tuple[Model, ...] = Model.__args__  # type: ignore[attr-defined]
TIERED = frozenset({"graduated", "graduated_percentage", "volume", "stair_step", "capacity"})
TIERS_MAX = 100
RATE_LIMIT = Decimal(10_000)
"""Ten thousand percent: a higher rate is a typing error."""

ZERO = Decimal(0)
FINEST = Decimal("1e-12")
"""The smallest difference between two quantities: they have at most 12 decimal places."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Usage up to and including `up_to` units (None: without end).

    `unit_price` per unit, `flat_fee` once the tier is reached, `rate` in percent
    (graduated_percentage).
    """

    up_to: Decimal | None
    unit_price: Decimal = ZERO
    flat_fee: Decimal = ZERO
    rate: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Charge:
    """How one meter is priced; a field that the model does not use keeps its default.

    `included`: units that cost nothing, taken off first. `free_events` and `free_amount`: the
    allowance of `percentage`; whichever is used up first ends it. `minimum` and `maximum` bound
    the amount of the period.
    """

    meter_key: str
    model: Model
    unit_price: Decimal = ZERO
    tiers: tuple[Tier, ...] = ()
    package_size: Decimal = ZERO
    package_price: Decimal = ZERO
    rate: Decimal = ZERO
    fixed_per_event: Decimal = ZERO
    free_events: int | None = None
    free_amount: Decimal | None = None
    included: Decimal = ZERO
    minimum: Decimal | None = None
    maximum: Decimal | None = None


TERM_NUMBERS = (
    "package_size", "package_price", "rate", "fixed_per_event", "free_amount", "minimum", "maximum",
)  # fmt: skip
"""What of a charge lies in its terms as decimal text, where it is not the default."""


def read_charge(
    meter_key: str,
    model: Model,
    included: Decimal,
    unit_price: Decimal,
    terms: Mapping[str, Any],
) -> Charge:
    """A charge as it is stored: `terms` has TERM_NUMBERS, `free_events` and `tiers`, their decimals
    as text: {"package_size": "100", "package_price": "5"}.
    """
    return Charge(
        meter_key=meter_key,
        model=model,
        included=included,
        unit_price=unit_price,
        **{name: Decimal(terms[name]) for name in TERM_NUMBERS if name in terms},
        free_events=terms.get("free_events"),
        tiers=tuple(
            Tier(
                up_to=None if tier["up_to"] is None else Decimal(tier["up_to"]),
                unit_price=Decimal(tier["unit_price"]),
                flat_fee=Decimal(tier["flat_fee"]),
                rate=Decimal(tier["rate"]),
            )
            for tier in terms.get("tiers", ())
        ),
    )


def billable(charge: Charge, quantity: Decimal) -> Decimal:
    """The units over the included amount: 22,500 calls of which 10,000 included → 12,500."""
    with localcontext(EXACT):
        return max(quantity - charge.included, ZERO)


def amount(charge: Charge, quantity: Decimal, events: "Sequence[Decimal] | Passed" = ()) -> Decimal:
    """What `quantity` of the charge's meter costs in one period, in whole currency units, exact.

    `quantity` is the aggregate of the period: the sum for most models, the peak for `capacity`,
    the reported cost for `cost_plus`. `events` are the single values in order, which only
    `percentage` looks at (fees and free allowances go by event), or how far they have come; without
    them the quantity counts as one event.

    With 10,000 included at 0.002: 22,500 → 12,500 × 0.002 = 25. Graduated to 5 at 10 + 100 flat,
    then 5 + 50 flat: 8 → 100 + 50 + 50 + 15 = 215; 0 → 100, because the first tier counts as
    reached. Usage within an included amount reaches no tier: 0. Volume to 10 at 5 + 100, then
    2 + 50: 15 → 80. Packages of 100 at 5: 101 → 10. Tier bounds are inclusive.

    Raises a 422 on `quantity` when it is negative or lies above a last tier that has an end.
    Source: spec 02 "Charges"; the cases of tests/cases/billing_examples.json.
    """
    singles = () if isinstance(events, Passed) else events
    if quantity < 0 or any(value < 0 for value in singles):
        raise field_error("quantity", "negative", "Usage is never negative.")
    with localcontext(EXACT):
        if isinstance(events, Passed):
            price = events.price
        elif charge.model == "percentage":
            price = _percentage(charge, singles or ((quantity,) if quantity else ()))
        elif charge.included and quantity <= charge.included:
            price = ZERO
        else:
            price = _PRICES[charge.model](charge, billable(charge, quantity))
        if charge.minimum is not None:
            price = max(price, charge.minimum)
        if charge.maximum is not None:
            price = min(price, charge.maximum)
        return price


class Passed(NamedTuple):
    """How far the single events of a `percentage` charge have come: how many there were, what is
    left of the included units and the free amount, and the price so far.
    """

    events: int
    included: Decimal
    free: Decimal | None
    price: Decimal


def before_any(charge: Charge) -> Passed:
    """Where a `percentage` charge begins."""
    return Passed(0, charge.included, charge.free_amount, ZERO)


def passed(charge: Charge, at: Passed, value: Decimal) -> Passed:
    """One more event of a `percentage` charge: its rate and fixed fee, after the included units and
    the free allowance.

    1.2 % + 0.10, the first 3 events or 500.00 free: a fourth event of 50 → 0.60 + 0.10 = 0.70.
    The event that crosses the free amount pays the fixed fee and the rate on the part above it.
    """
    free, price = at.free, at.price
    covered = min(value, at.included)
    included, rest = EXACT.subtract(at.included, covered), EXACT.subtract(value, covered)
    if covered and not rest:
        return Passed(at.events + 1, included, free, price)
    limited = charge.free_events is not None or free is not None
    in_count = charge.free_events is None or at.events < charge.free_events
    allowed = limited and in_count and (free is None or free > 0)
    if allowed:
        taken = rest if free is None else min(rest, free)
        free = None if free is None else EXACT.subtract(free, taken)
        rest = EXACT.subtract(rest, taken)
    if rest or not allowed:
        by_rate = EXACT.multiply(rest, charge.rate.scaleb(-2, EXACT))
        price = EXACT.add(price, EXACT.add(by_rate, charge.fixed_per_event))
    return Passed(at.events + 1, included, free, price)


def most(charge: Charge, units: Decimal) -> Decimal:
    """The most that one event of up to `units` can add to the amount, whatever was used before:
    what must be kept free so that a limit is not passed. In whole currency units, exact.

    3 units at 0.002 → 0.006, with or without units included. Tiers to 10 at 5, then 2 (graduated):
    1 → 5. To 10 at 5, then 5 and a flat fee of 100: 1 → 105, the unit that opens it. Volume to 10
    at 1, then 2: 1 → 12, because the eleventh unit makes 10 into 22. Packages of 100 at 5: 1 → 5,
    101 → 10. 1.2 % + 0.10: an event of 50 → 0.70. Minimum and maximum can only lower it.
    """
    if not units:
        return ZERO
    with localcontext(EXACT):
        if charge.model == "percentage":
            return units * charge.rate.scaleb(-2) + charge.fixed_per_event
        if charge.model == "package":
            return _package(charge, units)
        if charge.model in TIERED:
            return _steepest(replace(charge, minimum=None, maximum=None), units)
        return _PRICES[charge.model](charge, units)


def scaled(charge: Charge, share: Fraction) -> Charge:
    """The charge with `share` of what it gives in a period: included units, free events and amount,
    bounds and flat fees of tiers, minimum and maximum. What one unit costs stays.

    Half of 10,000 units included at 0.002 → 5,000 included at 0.002. Counts are rounded half up to
    the places they are written in (a third of 10,000 → 3,333), the rest to twelve places.
    """
    if share == 1:
        return charge
    return replace(
        charge,
        included=_part(charge.included, share, _places(charge.included)),
        free_events=None
        if charge.free_events is None
        else round_half_up(charge.free_events * share),
        free_amount=_part_or_none(charge.free_amount, share),
        minimum=_part_or_none(charge.minimum, share),
        maximum=_part_or_none(charge.maximum, share),
        tiers=tuple(
            replace(
                tier,
                up_to=_part_or_none(tier.up_to, share),
                flat_fee=_part(tier.flat_fee, share),
            )
            for tier in charge.tiers
        ),
    )


def _part(value: Decimal, share: Fraction, places: int = UNIT_PRICE_PLACES) -> Decimal:
    return Decimal(round_half_up(Fraction(value) * share * 10**places)).scaleb(-places, EXACT)


def _part_or_none(value: Decimal | None, share: Fraction) -> Decimal | None:
    return None if value is None else _part(value, share)


def _places(value: Decimal) -> int:
    """How many decimal places a number needs: 10,000.00 → 0, 0.50 → 1."""
    exponent = value.normalize(EXACT).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _steepest(charge: Charge, units: Decimal) -> Decimal:
    """The largest rise of a piecewise linear amount over at most `units`: it begins and ends where
    a tier does, or `units` away from there.
    """
    ends = [charge.included]
    ends += [charge.included + tier.up_to for tier in charge.tiers if tier.up_to is not None]
    edges = {ZERO} | {at + step for at in ends for step in (ZERO, FINEST)}
    at = edges | {edge + units for edge in edges} | {edge - units for edge in edges}
    points = sorted(point for point in at if point >= 0)
    prices = [amount(charge, point) for point in points]
    rises = (
        price - min(prices[bisect_left(points, point - units) : number + 1])
        for number, (point, price) in enumerate(zip(points, prices, strict=True))
    )
    return max(rises)


def _unit(charge: Charge, quantity: Decimal) -> Decimal:
    return quantity * charge.unit_price


def _package(charge: Charge, quantity: Decimal) -> Decimal:
    full, started = divmod(quantity, charge.package_size)
    return (full + bool(started)) * charge.package_price


def _cost_plus(charge: Charge, quantity: Decimal) -> Decimal:
    return quantity + quantity * charge.rate.scaleb(-2)


def _graduated(charge: Charge, quantity: Decimal) -> Decimal:
    price, below = ZERO, ZERO
    for tier in charge.tiers:
        top = quantity if tier.up_to is None else min(quantity, tier.up_to)
        part = top - below
        price += part * (tier.unit_price + tier.rate.scaleb(-2)) + tier.flat_fee
        if top == quantity:
            return price
        below = top
    raise _above_last_tier()


def _volume(charge: Charge, quantity: Decimal) -> Decimal:
    tier = _reached(charge, quantity)
    return quantity * tier.unit_price + tier.flat_fee


def _stair_step(charge: Charge, quantity: Decimal) -> Decimal:
    return _reached(charge, quantity).flat_fee


def _reached(charge: Charge, quantity: Decimal) -> Tier:
    for tier in charge.tiers:
        if tier.up_to is None or quantity <= tier.up_to:
            return tier
    raise _above_last_tier()


def _above_last_tier() -> Refusal:
    return field_error("quantity", "above_last_tier", "No tier goes that far.")


def _percentage(charge: Charge, events: Iterable[Decimal]) -> Decimal:
    return reduce(partial(passed, charge), events, before_any(charge)).price


_PRICES: dict[Model, Callable[[Charge, Decimal], Decimal]] = {
    "unit": _unit,
    "graduated": _graduated,
    "graduated_percentage": _graduated,
    "volume": _volume,
    "package": _package,
    "stair_step": _stair_step,
    "capacity": _stair_step,
    "cost_plus": _cost_plus,
}


def validate(charge: Charge, path: str = "charge") -> None:
    """Refuse a charge that cannot be billed, with a 422 on the field (`charge.tiers.1.up_to`).

    Unknown model; negative or too fine prices; tiers that are missing, do not rise, or do not end
    with one without bound; a package without size; a minimum above the maximum. Tiers
    (10, 10, None) → `tiers.1.up_to`: `not_rising`.
    """
    if charge.model not in MODELS:
        raise field_error(f"{path}.model", "unknown_model", "No such charge model.")
    for name in ("unit_price", "package_price", "fixed_per_event", "included"):
        check_price(getattr(charge, name), f"{path}.{name}")
    for name in ("free_amount", "minimum", "maximum"):
        if getattr(charge, name) is not None:
            check_price(getattr(charge, name), f"{path}.{name}")
    _check_rate(charge.rate, f"{path}.rate")
    if charge.free_events is not None and charge.free_events < 0:
        raise field_error(f"{path}.free_events", "negative", "A number of events is not negative.")
    if (
        charge.minimum is not None
        and charge.maximum is not None
        and charge.minimum > charge.maximum
    ):
        raise field_error(f"{path}.minimum", "above_maximum", "The minimum exceeds the maximum.")
    if charge.model == "package":
        check_price(charge.package_size, f"{path}.package_size")
        if charge.package_size == 0:
            raise field_error(f"{path}.package_size", "too_small", "A package holds something.")
    if charge.model in TIERED:
        _validate_tiers(charge.tiers, path)
    elif charge.tiers:
        raise field_error(f"{path}.tiers", "not_allowed", "This model has no tiers.")


def _validate_tiers(tiers: tuple[Tier, ...], path: str) -> None:
    if not 1 <= len(tiers) <= TIERS_MAX:
        raise field_error(f"{path}.tiers", "wrong_number", "Between 1 and 100 tiers are needed.")
    below = ZERO
    for number, tier in enumerate(tiers):
        at = f"{path}.tiers.{number}"
        check_price(tier.unit_price, f"{at}.unit_price")
        check_price(tier.flat_fee, f"{at}.flat_fee")
        _check_rate(tier.rate, f"{at}.rate")
        last = number == len(tiers) - 1
        if last != (tier.up_to is None):
            text = "The last tier, and only that one, has no upper bound."
            raise field_error(f"{at}.up_to", "last_tier_open", text)
        if tier.up_to is not None:
            check_price(tier.up_to, f"{at}.up_to")
            if tier.up_to <= below:
                raise field_error(f"{at}.up_to", "not_rising", "Each tier ends above the last.")
            below = tier.up_to


def _check_rate(rate: Decimal, field: str) -> None:
    check_price(rate, field)
    if rate > RATE_LIMIT:
        raise field_error(field, "too_large", "A rate stays below 10,000 percent.")
