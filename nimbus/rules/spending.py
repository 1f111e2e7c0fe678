# SPDX-License-Identifier: Apache-2.0
"""What calls cost, for spend limits and prepaid balances: the amounts of the bill, before rounding.

Counters of money are kept in millionths of a minor unit, because a call may cost a fifth of a
cent or less. A call holds what it can cost at most before it is forwarded; what it did cost
is known when it is stored: the difference that it makes to the rated sum of its billing period.

The cost of usage is what it adds to the amount that is owed without any: fees that no call causes
(the base fee, a minimum, a first tier's flat fee) are on the invoice, but use up no spend limit.
Source: spec 03 "Limits", spec 09 Q-01.
"""

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal, localcontext

from nimbus.rules.invoicing import MeterUsage
from nimbus.rules.money import EXACT, minor_digits
from nimbus.rules.pricing import ZERO, Charge, amount, most

MICRO = 1_000_000
"""Counters of money count millionths of a minor unit."""

UNUSED = MeterUsage(ZERO)


def micro(exact: Decimal, currency: str) -> Decimal:
    """An amount in whole currency units as millionths of a minor unit, exact: 0.002 EUR → 200,000;
    0.002 JPY → 2,000.
    """
    return exact.scaleb(minor_digits(currency), EXACT) * MICRO


def hold(charges: Iterable[Charge], units: Mapping[str, int], currency: str) -> int:
    """The most that one call can cost which adds up to `units` to these meters, in millionths of a
    minor unit, rounded up. 1 call at 0.002 and up to 3 reports at 2.50 EUR → 750,200,000.
    """
    with localcontext(EXACT):
        price = sum((most(one, Decimal(units.get(one.meter_key, 0))) for one in charges), ZERO)
        return int(micro(price, currency).to_integral_value(ROUND_CEILING))


def cost(charges: Iterable[Charge], usage: Mapping[str, MeterUsage]) -> Decimal:
    """What the usage of one billing period costs, in whole currency units, exact.

    22,500 calls, 10,000 included, at 0.002 → 25; a charge with a minimum of 10 on nothing → 0,
    on usage worth 12 → 2: the invoice asks for the first 10 anyway.
    """
    with localcontext(EXACT):
        total = ZERO
        for one in charges:
            used = usage.get(one.meter_key, UNUSED)
            total += amount(one, used.quantity, used.events) - amount(one, ZERO)
        return total
