# SPDX-License-Identifier: Apache-2.0
"""Which VAT an invoice carries, and how much.

Electronic services of a seller in an EU state; place of supply by articles 44, 45, 58 and 196 of
Directive 2006/112/EC. Category codes are those of EN 16931 (UNCL 5305): S standard rate, AE
reverse charge, O outside the scope. Whether a VAT number is valid is identity's to say.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from nimbus.errors import field_error
from nimbus.rules.money import round_half_up
from nimbus.rules.vat_rates import STANDARD_RATES

Category = Literal["S", "AE", "O"]
LegalText = Literal["reverse_charge", "outside_scope"]
Supply = Literal["domestic", "one_stop_shop", "reverse_charge", "outside_scope"]

SOURCES: dict[Supply, str] = {
    "domestic": "articles 44, 45 and 58 of Directive 2006/112/EC",
    "one_stop_shop": "articles 58 and 369a to 369k of Directive 2006/112/EC",
    "reverse_charge": "articles 44 and 196 of Directive 2006/112/EC",
    "outside_scope": "articles 44 and 59 of Directive 2006/112/EC",
}
"""What each decision stands on."""


@dataclass(frozen=True, slots=True)
class Party:
    """A side of the invoice: its country (ISO 3166) and whether it has a checked VAT number."""

    country: str
    has_vat_number: bool


@dataclass(frozen=True, slots=True)
class TaxTreatment:
    """How lines are taxed: `rate` in percent; `country` whose VAT it is (None: nobody's).

    `legal_text_key` names the sentence that the invoice must print, if any.
    """

    category: Category
    rate: Decimal
    country: str | None
    legal_text_key: LegalText | None


def standard_rate(country: str, as_of: date) -> Decimal:
    """The standard rate of an EU state on a day, in percent.

    DE on 31 December 2020 → 16, on 1 January 2021 → 19. A 422 on `country` for a state outside the
    EU; a ValueError before 2015, for which there is no table.
    """
    if country not in STANDARD_RATES:
        raise field_error("country", "not_in_eu", "Not a state of the European Union.")
    for first_day, rate in reversed(STANDARD_RATES[country]):
        if first_day <= as_of:
            return rate
    raise ValueError(f"no VAT rate is known for {as_of}")


def decide(seller: Party, buyer: Party, as_of: date) -> TaxTreatment:
    """The VAT treatment of a supply on the day `as_of`, by who sells to whom.

    Seller NL: buyer NL → S 21 % NL. Buyer in Italy without a valid number → S 22 % IT (declared
    through the one-stop shop); with one → AE 0 %, reverse charge. Buyer in the US → O. A 422 on
    `seller.country` if the seller is not in the EU.
    """
    kind = supply(seller, buyer)
    if kind == "outside_scope":
        return TaxTreatment("O", Decimal(0), None, "outside_scope")
    if kind == "reverse_charge":
        return TaxTreatment("AE", Decimal(0), buyer.country, "reverse_charge")
    return TaxTreatment("S", standard_rate(buyer.country, as_of), buyer.country, None)


def supply(seller: Party, buyer: Party) -> Supply:
    """Which kind of supply it is, and so whose VAT; `SOURCES` says by which articles.

    Seller NL, buyer NL (with a VAT number or without) → domestic; in Italy without a valid number
    → one-stop shop, with one → reverse charge; in the US → outside the scope. A 422 on
    `seller.country` if the seller is not in the EU.
    """
    if seller.country not in STANDARD_RATES:
        raise field_error("seller.country", "not_in_eu", "The seller is not in an EU state.")
    if buyer.country not in STANDARD_RATES:
        return "outside_scope"
    if buyer.country == seller.country:
        return "domestic"
    return "reverse_charge" if buyer.has_vat_number else "one_stop_shop"


def vat_on(base_minor: int, rate: Decimal) -> int:
    """VAT in minor units on a base in minor units, half up away from zero: the second named
    rounding place.

    11,650 cents at 21 % = 2,446.5 → 2,447; -11,650 → -2,447. Spec 09, M-07.
    """
    return round_half_up(base_minor * Fraction(rate) / 100)
