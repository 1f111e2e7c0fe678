# SPDX-License-Identifier: Apache-2.0
"""What an invoice says, in the buyer's language: lines, legal texts, the payment reference."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from babel.dates import format_date
from babel.numbers import format_decimal
from stdnum.iso7064 import mod_97_10

from nimbus.rules.invoicing import LineDraft
from nimbus.rules.money import EXACT
from nimbus.rules.periods import Period, zone
from nimbus.rules.pricing import Charge

Language = Literal["en", "nl"]

_OVER = {"en": "{meter} over the {included} included, {days}",
         "nl": "{meter} boven de {included} inbegrepen, {days}"}  # fmt: skip
_BOUNDS = {
    "minimum": {"en": "{meter}: up to the minimum, {days}",
                "nl": "{meter}: aanvulling tot het minimum, {days}"},
    "maximum": {"en": "{meter}: above the maximum, {days}",
                "nl": "{meter}: boven het maximum, {days}"},
    "minimum_commitment": {"en": "{plan}: up to the minimum commitment, {days}",
                           "nl": "{plan}: aanvulling tot de minimale afname, {days}"},
}  # fmt: skip
_UNUSED = {"en": "{plan}: unused time, {days}", "nl": "{plan}: ongebruikte tijd, {days}"}
_TEXTS = {
    "base_fee": {"en": "{name}, {days}", "nl": "{name}, {days}"},
    "correction": {"en": "Correction: {name}, {days}", "nl": "Correctie: {name}, {days}"},
    "minimum": {"en": "Up to the minimum for {meter}, {days}",
                "nl": "Aanvulling tot het minimum voor {meter}, {days}"},
    "maximum": {"en": "{meter} above the maximum, {days}",
                "nl": "{meter} boven het maximum, {days}"},
    "minimum_commitment": {"en": "Up to the minimum commitment, {days}",
                           "nl": "Aanvulling tot de afgesproken minimumafname, {days}"},
    "coupon": {"en": "Coupon: {name}", "nl": "Kortingscode: {name}"},
}  # fmt: skip
_METERS = {
    "api_calls": {"en": "API calls", "nl": "API-aanroepen"},
    "assets": {"en": "Assets", "nl": "Assets"},
    "storage": {"en": "Storage", "nl": "Opslag"},
    "reports": {"en": "Reports", "nl": "Rapporten"},
}
_LEGAL = {
    "reverse_charge": {
        "en": "Reverse charge: VAT is to be accounted for by the customer"
        " (article 196 of Directive 2006/112/EC).",
        "nl": "Btw verlegd naar de afnemer (artikel 196 van Richtlijn 2006/112/EG).",
    },
    "outside_scope": {
        "en": "Not subject to EU VAT (articles 44 and 59 of Directive 2006/112/EC).",
        "nl": "Niet onderworpen aan btw in de EU (artikelen 44 en 59 van Richtlijn 2006/112/EG).",
    },
}
LOCALES: dict[Language, str] = {"en": "en_GB", "nl": "nl_NL"}


@dataclass(frozen=True, slots=True)
class LineName:
    """What a line is called after: the plan, add-on, item or coupon, and for usage the charge with
    `own`, the plan's text for it.
    """

    name: str
    charge: Charge | None = None
    own: str | None = None


def line_text(line: LineDraft, language: Language, named: LineName, time_zone: str) -> str:
    """The description of a line, with the days of its period in `time_zone`.

    "Starter, 1–31 May 2026"; "API calls over the 10,000 included, 1–31 May 2026"; "Correction:
    Starter, 16–31 May 2026" for days that were paid and are not owed.
    """
    if line.text == "item":
        return named.name
    if line.text == "coupon":
        return _TEXTS["coupon"][language].format(name=named.name)
    days = _days_text(line.concerns or line.period, time_zone, language)
    if line.text == "base_fee":
        text = "correction" if line.concerns is not None else "base_fee"
        return _TEXTS[text][language].format(name=named.name, days=days)
    if line.text == "minimum_commitment":
        return _TEXTS["minimum_commitment"][language].format(days=days)
    meter = named.own or meter_text(line.meter_key or "", language)
    if line.text in {"minimum", "maximum"}:
        return _TEXTS[line.text][language].format(meter=meter, days=days)
    if named.charge is None or not named.charge.included:
        return f"{meter}, {days}"
    included = _number(named.charge.included, language)
    return _OVER[language].format(meter=meter, included=included, days=days)


@lru_cache(maxsize=4096)
def _days_text(period: Period, time_zone: str, language: Language) -> str:
    return span_text(*days_of(period, time_zone), language)


@lru_cache(maxsize=4096)
def _number(number: Decimal, language: Language) -> str:
    return str(format_decimal(number, format="#,##0.############", locale=LOCALES[language]))


def meter_text(key: str, language: Language) -> str:
    """A meter's name for people: "api_calls" → "API calls", "tokens" → "Tokens"."""
    known = _METERS.get(key)
    return known[language] if known else key.replace("_", " ").capitalize()


def legal_text(key: str | None, language: Language) -> str | None:
    """The sentence that a VAT treatment obliges to print; None for a treatment without one."""
    return None if key is None else _LEGAL[key][language]


def days_of(period: Period, time_zone: str) -> tuple[date, date]:
    """The first and the last day of a period in a time zone, the last included.

    1 May 00:00 to 1 June 00:00 → 1 May and 31 May; the same for 02:00 to 02:00: a day belongs to
    the period that it begins a new round in, so that the days of periods tile.
    """
    first = day_of(period.starts_at, time_zone)
    return first, max(first, day_of(period.ends_at, time_zone) - timedelta(days=1))


def day_of(instant: datetime, time_zone: str) -> date:
    """The day of an instant in a time zone."""
    return instant.astimezone(zone(time_zone)).date()


def span_text(first: date, last: date, language: Language) -> str:
    """`1–31 May 2026`, with no more of the first day than differs from the last."""
    written = format_date(last, "d MMMM y", locale=LOCALES[language])
    if first == last:
        return written
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}–{written}"
    pattern = "d MMMM" if first.year == last.year else "d MMMM y"
    return f"{format_date(first, pattern, locale=LOCALES[language])} – {written}"


def payment_reference(number: str) -> str:
    """The structured creditor reference (ISO 11649) of an invoice number.

    "INV-2026-000001" → "RF94INV2026000001": RF, two check digits, the number without its dashes.
    """
    compact = number.replace("-", "")
    return f"RF{mod_97_10.calc_check_digits(f'{compact}RF')}{compact}"


def plain(value: Decimal) -> str:
    """A decimal as JSON carries it: no exponent, no zeros that say nothing ("12500", "0.002")."""
    return f"{value.normalize(EXACT):f}"
