# SPDX-License-Identifier: Apache-2.0
"""What calls cost, for spend limits and prepaid balances: the amounts of the bill, before rounding.

Counters of money are kept in millionths of a minor unit, because a call may cost a fifth of a
cent or less. A call holds what it can cost at most before it is forwarded; what it did cost
is known when it is stored: the difference that it makes to its period's `invoicing.usage_cost`.
Source: spec 03 "Limits", spec 09 Q-01.
"""

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal, localcontext

from nimbus.rules.money import EXACT, minor_digits
from nimbus.rules.pricing import ZERO, Charge, most

MICRO = 1_000_000
"""Counters of money count millionths of a minor unit."""


def micro(exact: Decimal, currency: str) -> Decimal:
    """An amount in whole currency units as millionths of a minor unit, exact: 0.002 EUR → 200,000;
    0.002 JPY → 2,000.
    """
    return exact.scaleb(minor_digits(currency), EXACT) * MICRO


def from_micro(amount: Decimal, currency: str) -> Decimal:
    """Millionths of a minor unit as whole currency units, exact: 200,000 EUR → 0.002."""
    return amount.scaleb(-minor_digits(currency) - 6, EXACT)


def hold(charges: Iterable[Charge], units: Mapping[str, int], currency: str) -> int:
    """The most that one call can cost which adds up to `units` to these meters, in millionths of a
    minor unit, rounded up. 1 call at 0.002 and up to 3 reports at 2.50 EUR → 750,200,000.
    """
    with localcontext(EXACT):
        price = sum((most(one, Decimal(units.get(one.meter_key, 0))) for one in charges), ZERO)
        return int(micro(price, currency).to_integral_value(ROUND_CEILING))
