# SPDX-License-Identifier: Apache-2.0
"""Money: integers in minor units with a currency, exact unit prices, one rounding law.

Amounts on documents are `Money`; what one unit costs is a `UnitPrice`, a decimal with up to
twelve places, because a call may cost a fifth of a cent. They are different types on purpose
(spec 09, M-01). Rounding is half away from zero and happens at a line, at VAT per rate and at a
payout, nowhere else (M-07).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation, Overflow
from fractions import Fraction
from typing import NewType

from nimbus.errors import field_error

UnitPrice = NewType("UnitPrice", Decimal)

UNIT_PRICE_PLACES = 12
UNIT_PRICE_LIMIT = Decimal(10) ** 18
"""What `numeric(30, 12)` can hold."""

EXACT = Context(prec=120, traps=[InvalidOperation, Overflow])
"""Decimal arithmetic wide enough for 10^15 units with 12 places at 10^6 with 12 places (M-13)."""

# ISO 4217, active codes of states and currency unions; two minor digits unless listed below.
_CODES = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN
    BZD CAD CDF CHF CLF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP
    GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR
    KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK
    MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR
    SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS
    UAH UGX USD UYU UYW UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG
"""
_WITHOUT_MINOR = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DIGITS = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DIGITS = "CLF UYW"

_MINOR_DIGITS = (
    dict.fromkeys(_CODES.split(), 2)
    | dict.fromkeys(_WITHOUT_MINOR.split(), 0)
    | dict.fromkeys(_THREE_DIGITS.split(), 3)
    | dict.fromkeys(_FOUR_DIGITS.split(), 4)
)

_DECIMAL = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)


def minor_digits(currency: str) -> int:
    """How many decimal places the minor unit of `currency` has, by ISO 4217.

    EUR → 2, JPY → 0, KWD → 3, CLF → 4. Raises a 422 on `currency` for a code that is no currency.
    """
    if currency not in _MINOR_DIGITS:
        raise field_error("currency", "unknown_currency", "Not a currency of ISO 4217.")
    return _MINOR_DIGITS[currency]


@dataclass(frozen=True, slots=True)
class Money:
    """`amount_minor` whole minor units of `currency`: `Money(14097, "EUR")` is 140.97 euro.

    Adds, subtracts and compares only with the same currency; anything else is a ValueError, which
    is a fault of ours and never an answer (M-08).
    """

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.amount_minor) is not int:
            raise TypeError("an amount is a whole number of minor units")
        minor_digits(self.currency)

    def __add__(self, other: "Money") -> "Money":
        return Money(self.amount_minor + self._same(other), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.amount_minor - self._same(other), self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.amount_minor, self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.amount_minor < self._same(other)

    def __le__(self, other: "Money") -> bool:
        return self.amount_minor <= self._same(other)

    def _same(self, other: "Money") -> int:
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} do not mix")
        return other.amount_minor


def round_half_up(amount: Decimal | Fraction) -> int:
    """The nearest whole number; a half goes away from zero.

    2446.5 → 2447 and -2446.5 → -2447 (banker's rounding would say 2446). Exact for any size.
    """
    numerator, denominator = amount.as_integer_ratio()
    whole, rest = divmod(abs(numerator), denominator)
    nearest = whole + (2 * rest >= denominator)
    return nearest if numerator >= 0 else -nearest


def round_minor(amount: Decimal | Fraction, currency: str) -> Money:
    """An exact amount in whole currency units as money: the rounding of a line.

    `round_minor(Decimal("24.465"), "EUR")` → 24.47 euro; 12,500 × 0.002 = 25 → 25.00 euro;
    `Decimal("0.5")` yen → 1 yen. Spec 09, M-07.
    """
    digits = minor_digits(currency)
    if isinstance(amount, Decimal):
        return Money(round_half_up(amount.scaleb(digits, EXACT)), currency)
    return Money(round_half_up(amount * 10**digits), currency)


def major(money: Money) -> Decimal:
    """The amount in whole currency units, exact: 14,097 cents → `Decimal("140.97")`."""
    return Decimal(money.amount_minor).scaleb(-minor_digits(money.currency), EXACT)


def decimal_from(text: str, field: str) -> Decimal:
    """A decimal as JSON carries it: digits, an optional sign and point, no exponent, no blanks.

    "0.002" → Decimal("0.002"). Anything else is a 422 on `field`.
    """
    if not _DECIMAL.fullmatch(text):
        raise field_error(field, "invalid_decimal", "A decimal number such as 12.50 is expected.")
    return Decimal(text)


def unit_price(text: str, field: str = "unit_price") -> UnitPrice:
    """The price of one unit, in whole currency units: "0.002" is a fifth of a cent.

    At most 12 decimal places, not negative, below 10^18; otherwise a 422 on `field`.
    """
    price = decimal_from(text, field)
    check_price(price, field)
    return UnitPrice(price)


def check_price(price: Decimal, field: str) -> None:
    """Refuse, with a 422 on `field`, a price that is negative, too fine or too large.

    -0.01 is `negative`; 0.0000000000001 (13 places) is `too_many_places`; 10^18 is `too_large`.
    """
    if not price.is_finite():
        raise field_error(field, "invalid_decimal", "A price is a finite number.")
    if price < 0:
        raise field_error(field, "negative", "A price is never negative.")
    if price >= UNIT_PRICE_LIMIT:
        raise field_error(field, "too_large", "A price stays below 10^18.")
    if Fraction(price) * 10**UNIT_PRICE_PLACES % 1:
        raise field_error(field, "too_many_places", "A price has at most 12 decimal places.")


def parse(text: str, currency: str, field: str = "amount") -> Money:
    """Money from a decimal string: "140.97" EUR → 14,097 cents; "1.5" KWD → 1,500 fils.

    More places than the currency has is a 422 on `field`, never a silent rounding.
    """
    minor = decimal_from(text, field).scaleb(minor_digits(currency), EXACT)
    if minor != minor.to_integral_value():
        raise field_error(field, "too_many_places", "More decimals than the currency has.")
    return Money(int(minor), currency)


def format_money(money: Money) -> str:
    """The decimal string that `parse` reads back: 14,097 EUR → "140.97"; -5 EUR → "-0.05"."""
    return f"{major(money):f}"


def split(money: Money, weights: Sequence[int | Decimal | Fraction]) -> tuple[Money, ...]:
    """Divide money by weights; the parts add up to the whole (M-06).

    Largest remainder: each part gets its share rounded down, the left-over units go to the
    largest remainders, then the larger weight, then the earlier one. 1.00 by (1, 1, 1) → 0.34,
    0.33, 0.33; -1.00 gives the same with minus signs. Weights are not negative and not all zero.
    """
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact, Fraction(0))
    if total <= 0 or min(exact) < 0:
        raise ValueError("weights are not negative and not all zero")
    size = abs(money.amount_minor)
    shares = [size * weight / total for weight in exact]
    parts = [int(share) for share in shares]
    order = sorted(range(len(exact)), key=lambda i: (parts[i] - shares[i], -exact[i], i))
    for i in order[: size - sum(parts)]:
        parts[i] += 1
    sign = -1 if money.amount_minor < 0 else 1
    return tuple(Money(sign * part, money.currency) for part in parts)
