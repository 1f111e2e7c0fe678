# SPDX-License-Identifier: Apache-2.0
"""Invoices by difference: propose all that is owed, subtract what was billed, post the rest.

A second run adds nothing, a preview is the same call without saving, and late or corrected usage
bills itself on the next invoice (spec 04). Every line is rounded once; VAT is taken per category
and rate on the sum of the rounded lines (spec 09, M-07).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Literal

from nimbus.rules.money import EXACT, Money, major, round_half_up, round_minor
from nimbus.rules.periods import Anchor, Period, nominal_period, period
from nimbus.rules.pricing import Charge, amount, billable
from nimbus.rules.proration import Basis, fraction
from nimbus.rules.tax import TaxTreatment, vat_on

LineKind = Literal["Subscription", "ApiUsage", "Asset", "Storage", "Report", "Other"]
Timing = Literal["advance", "arrears"]
LineText = Literal["base_fee", "usage"]
Implausible = Literal["too_many_lines", "negative_total", "far_above_usual"]

RULES_VERSION = 1
"""Stored on each invoice: which order and rounding of calculation made it (spec 04)."""

LINES_MAX = 1_000
USUAL_FACTOR = 10

_KINDS: dict[str, LineKind] = {
    "api_calls": "ApiUsage",
    "assets": "Asset",
    "storage": "Storage",
    "reports": "Report",
}


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What a plan version asks in one currency: the fee of a period and the charges on usage."""

    currency: str
    base_fee_minor: int
    timing: Timing
    proration: Basis
    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """One subscription as far as billing looks: its terms, its periods, its end.

    `first_period`: periods before it are closed for good and not proposed again, so that the work
    does not grow with age. `ends_at`: when service ended or will end, if that is known.
    """

    terms: PlanTerms
    anchor: Anchor
    first_period: int
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class MeterUsage:
    """A meter's aggregate over one period; `events` only where the model goes by event."""

    quantity: Decimal
    events: tuple[Decimal, ...] = ()


@dataclass(frozen=True, slots=True)
class LineDraft:
    """One line before it has a number: what, how much, for which period, rounded.

    `text` is the key of the printed description. `unit_price` (whole currency units) is None where
    no single price made the amount. A line is the same line again by kind, meter and period start.
    """

    kind: LineKind
    meter_key: str | None
    text: LineText
    quantity: Decimal
    unit_price: Decimal | None
    amount_minor: int
    period: Period


@dataclass(frozen=True, slots=True)
class TaxLine:
    """VAT of one category and rate: `tax_minor` on the summed `base_minor`."""

    treatment: TaxTreatment
    base_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What an invoice adds up to, in minor units: subtotal + tax = total, always."""

    subtotal_minor: int
    taxes: tuple[TaxLine, ...]
    tax_minor: int
    total_minor: int

    def __post_init__(self) -> None:
        if self.subtotal_minor + self.tax_minor != self.total_minor:
            raise ValueError("subtotal and tax are not the total")
        if sum(tax.tax_minor for tax in self.taxes) != self.tax_minor:
            raise ValueError("the taxes are not the tax")
        if sum(tax.base_minor for tax in self.taxes) != self.subtotal_minor:
            raise ValueError("the taxed bases are not the subtotal")


Usage = Mapping[tuple[str, int], MeterUsage]
"""(meter key, period number) → usage of that period."""


def propose(contract: Contract, usage: Usage, as_of: datetime) -> tuple[LineDraft, ...]:
    """Every line owed up to and including the instant `as_of`, from the contract's first period.

    A fee in advance is owed when its period begins, in arrears when it has ended; usage when its
    period has ended. A period cut short by the end of service, or begun late by a calendar anchor,
    pays the plan's share of the fee. Starter May 2026 at 1 June 00:00 with 22,500 calls (10,000
    included, 0.002), 25 assets (10, 1.50), 8 reports (0, 2.50) → 49.00, 25.00, 22.50, 20.00.
    """
    lines: list[LineDraft] = []
    number = contract.first_period
    while (span := period(contract.anchor, number)).starts_at <= as_of:
        ends_at = span.ends_at if contract.ends_at is None else min(span.ends_at, contract.ends_at)
        served = Period(span.starts_at, ends_at)
        if contract.ends_at is not None and contract.ends_at <= span.starts_at:
            break
        closed = ends_at <= as_of
        if served.starts_at < served.ends_at:
            if closed or contract.terms.timing == "advance":
                lines += base_fee(contract, number, served)
            if closed:
                lines += usage_lines(contract.terms, number, served, usage)
        number += 1
    return tuple(lines)


def base_fee(contract: Contract, number: int, served: Period) -> tuple[LineDraft, ...]:
    """The fee line of period `number`, of which `served` was or will be served; none if it is free.

    49.00 for the whole of May; 50.00 from 10 to 31 August by the day: 22/31 → 35.48.
    """
    terms = contract.terms
    whole = nominal_period(contract.anchor, number)
    share = fraction(whole, served, terms.proration, contract.anchor.time_zone)
    fee = Money(round_half_up(share * terms.base_fee_minor), terms.currency)
    if not fee.amount_minor:
        return ()
    line = LineDraft(
        "Subscription", None, "base_fee", Decimal(1), major(fee), fee.amount_minor, served
    )
    return (line,)


def usage_lines(
    terms: PlanTerms, number: int, served: Period, usage: Usage
) -> tuple[LineDraft, ...]:
    """The usage lines of period `number`, in the order of the plan's charges.

    The quantity printed is the one over the included amount: 22,500 calls, 10,000 included at
    0.002 → 12,500 × 0.002 = 25.00. A charge that comes to nothing for nothing has no line.
    """
    lines = []
    for charge in terms.charges:
        used = usage.get((charge.meter_key, number), MeterUsage(Decimal(0)))
        exact = amount(charge, used.quantity, used.events)
        quantity = billable(charge, used.quantity)
        if not exact and not quantity:
            continue
        lines.append(
            LineDraft(
                kind_of(charge.meter_key),
                charge.meter_key,
                "usage",
                quantity,
                _single_price(charge, quantity, exact),
                round_minor(exact, terms.currency).amount_minor,
                served,
            )
        )
    return tuple(lines)


def usage_cost(charges: Iterable[Charge], usage: Mapping[str, MeterUsage]) -> Decimal:
    """What the usage of one period, by meter, adds to the amount that is owed without any; in
    whole currency units, exact.

    22,500 calls, 10,000 included, at 0.002 → 25. A charge with a minimum of 10, on nothing → 0, on
    usage worth 12 → 2: the invoice asks for the first 10 anyway.
    """
    with localcontext(EXACT):
        total = Decimal(0)
        for charge in charges:
            used = usage.get(charge.meter_key, MeterUsage(Decimal(0)))
            total += amount(charge, used.quantity, used.events) - amount(charge, Decimal(0))
        return total


def kind_of(meter_key: str) -> LineKind:
    """The source type printed for a meter: "api_calls" → "ApiUsage", "tokens" → "Other"."""
    return _KINDS.get(meter_key, "Other")


def difference(
    proposed: Iterable[LineDraft], billed: Iterable[LineDraft], currency: str
) -> tuple[LineDraft, ...]:
    """What is still to be billed: proposed minus billed, line by line; empty when all was billed.

    Lines are matched by kind, meter and start of the period. 25.00 proposed, 25.00 billed →
    nothing. 100 late calls at 0.002 after 25.00 was billed → a line of 100 for 0.20. Billed 45.00
    of which only 40.00 is owed → a line of -5.00. `billed` holds all lines, and the negative ones
    of credit notes, of the same subscription and periods; all amounts are in `currency`.
    """
    before: dict[object, list[LineDraft]] = {}
    for line in billed:
        before.setdefault(_key(line), []).append(line)
    with localcontext(EXACT):
        rest = [_less(line, before.pop(_key(line), []), currency) for line in proposed]
        for gone in before.values():
            nothing = replace(gone[0], quantity=Decimal(0), amount_minor=0)
            rest.append(_less(nothing, gone, currency))
    return tuple(line for line in rest if line.amount_minor or line.quantity)


def totals(lines: Sequence[LineDraft], treatment: TaxTreatment) -> Totals:
    """Add up lines that share one VAT treatment.

    49.00 + 25.00 + 22.50 + 20.00 = 116.50; 21 % = 24.465 → 24.47; total 140.97.
    """
    return totals_by_treatment([(line.amount_minor, treatment) for line in lines])


def totals_by_treatment(taxed: Sequence[tuple[int, TaxTreatment]]) -> Totals:
    """Add up rounded amounts in minor units, with VAT once per category, rate and country.

    10.03 at 21 % and 10.03 at 9 % → 2.11 + 0.90 = 3.01. Five lines of 0.03 at 21 % → 0.03, not
    five times 0.01 (EN 16931 rounds the tax of a category, not of a line).
    """
    bases: dict[TaxTreatment, int] = {}
    for amount_minor, treatment in taxed:
        bases[treatment] = bases.get(treatment, 0) + amount_minor
    taxes = tuple(
        TaxLine(treatment, base, vat_on(base, treatment.rate)) for treatment, base in bases.items()
    )
    subtotal = sum(bases.values())
    tax = sum(line.tax_minor for line in taxes)
    return Totals(subtotal, taxes, tax, subtotal + tax)


def implausible(
    lines: Sequence[LineDraft], total_minor: int, usual_minor: int | None
) -> Implausible | None:
    """Why a person should look before this invoice goes out, or None.

    More than 1,000 lines; a total below zero; a total more than ten times `usual_minor` (the
    median of the account's earlier invoices, None without any). Spec 09, I-14.
    """
    if len(lines) > LINES_MAX:
        return "too_many_lines"
    if total_minor < 0:
        return "negative_total"
    if usual_minor and total_minor > USUAL_FACTOR * usual_minor:
        return "far_above_usual"
    return None


def _single_price(charge: Charge, quantity: Decimal, exact: Decimal) -> Decimal | None:
    """The price to print: only where quantity × price is the amount, to the last place."""
    if charge.model == "unit" and EXACT.multiply(quantity, charge.unit_price) == exact:
        return charge.unit_price
    return None


def _key(line: LineDraft) -> tuple[LineKind, str | None, datetime]:
    return line.kind, line.meter_key, line.period.starts_at


def _less(line: LineDraft, billed: Sequence[LineDraft], currency: str) -> LineDraft:
    if not billed:
        return line
    quantity = line.quantity - sum(one.quantity for one in billed)
    amount_minor = line.amount_minor - sum(one.amount_minor for one in billed)
    price = line.unit_price
    if price is not None:
        # The difference of two rounded amounts can be a minor unit off: then no price explains it.
        product = round_minor(quantity * price, currency)
        price = price if product.amount_minor == amount_minor else None
    return replace(line, quantity=quantity, unit_price=price, amount_minor=amount_minor)
