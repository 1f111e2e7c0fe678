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
from uuid import UUID

from nimbus.rules.contracts import (
    Contract,
    ContractPeriod,
    Fee,
    Metered,
    commitment,
    contract_periods,
    fees,
    metered,
)
from nimbus.rules.money import EXACT, Money, major, round_minor
from nimbus.rules.periods import Period
from nimbus.rules.pricing import Charge, amount, billable
from nimbus.rules.tax import TaxTreatment, vat_on

LineKind = Literal["Subscription", "ApiUsage", "Asset", "Storage", "Report", "Other"]
LineText = Literal[
    "base_fee", "usage", "minimum", "maximum", "minimum_commitment", "item", "coupon"
]
Implausible = Literal["too_many_lines", "negative_total", "far_above_usual", "too_large"]

RULES_VERSION = 2
"""Stored on each invoice: which order and rounding of calculation made it (spec 04)."""

LINES_MAX = 1_000
USUAL_FACTOR = 10
FLAT = frozenset({"base_fee", "minimum", "maximum", "minimum_commitment"})
"""Texts of lines that are one amount, not a quantity at a price."""
LARGEST_MINOR = 10**15
"""Ten trillion euro: what a bill's amounts stay below; it leaves room in a bigint and in JSON."""

_KINDS: dict[str, LineKind] = {
    "api_calls": "ApiUsage",
    "assets": "Asset",
    "storage": "Storage",
    "reports": "Report",
}


@dataclass(frozen=True, slots=True)
class MeterUsage:
    """A meter's aggregate over one span; `events` only where the model goes by event."""

    quantity: Decimal
    events: tuple[Decimal, ...] = ()


Usage = Mapping[tuple[str, Period], MeterUsage]
"""(meter key, span) → usage of that span, for each span of `contracts.metered`."""

NO_USAGE = MeterUsage(Decimal(0))


@dataclass(frozen=True, slots=True)
class LineDraft:
    """One line before it has a number: what, how much, for which period, rounded.

    `text` is the key of the printed description; "minimum" and "maximum" are what a charge's bounds
    add and take off. `unit_price` (whole currency units) is None where no single price made the
    amount. `source` is what was bought: a plan, an add-on, an item. A line is the same line again
    by kind, text, source, meter and period start. `concerns`: the days of a correction, where they
    are not the whole period.
    """

    kind: LineKind
    meter_key: str | None
    text: LineText
    quantity: Decimal
    unit_price: Decimal | None
    amount_minor: int
    period: Period
    source: UUID | None = None
    concerns: Period | None = None


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
        if self.taxes and sum(tax.base_minor for tax in self.taxes) != self.subtotal_minor:
            raise ValueError("the taxed bases are not the subtotal")


def propose(contract: Contract, usage: Usage, as_of: datetime) -> tuple[LineDraft, ...]:
    """Every line owed up to and including the instant `as_of`, from the contract's first period."""
    return tuple(
        line for of in contract_periods(contract, as_of) for line in owed(of, usage, as_of)
    )


def owed(of: ContractPeriod, usage: Usage, as_of: datetime) -> tuple[LineDraft, ...]:
    """What one period owes at `as_of`.

    A fee in advance is owed when what it pays for begins; all else when the period, or the service
    in it, has ended. Starter May 2026 at 1 June 00:00 with 22,500 calls (10,000 included, 0.002),
    25 assets (10, 1.50), 8 reports (0, 2.50) → 49.00, 25.00, 22.50, 20.00. With a minimum
    commitment of 200.00 → a fifth line of 83.50.
    """
    closed = of.closes_at <= as_of
    lines = [
        _fee_line(fee)
        for fee in fees(of)
        if fee.amount_minor
        and (closed or (fee.terms.timing == "advance" and fee.served.starts_at <= as_of))
    ]
    if closed:
        for one in metered(of):
            lines += usage_lines(one, usage.get((one.charge.meter_key, one.span), NO_USAGE))
        least = commitment(of)
        missing = least - sum(line.amount_minor for line in lines)
        if least and missing > 0:
            lines.append(_commitment_line(of, missing))
    return tuple(lines)


def _fee_line(fee: Fee) -> LineDraft:
    terms = fee.terms
    price: Decimal | None = major(Money(terms.base_fee_minor, terms.currency))
    if fee.amount_minor != terms.base_fee_minor * terms.quantity:
        price = major(Money(fee.amount_minor, terms.currency)) if terms.quantity == 1 else None
    return LineDraft(
        "Subscription",
        None,
        "base_fee",
        Decimal(terms.quantity),
        price,
        fee.amount_minor,
        fee.served,
        terms.source,
    )


def usage_lines(of: Metered, used: MeterUsage) -> tuple[LineDraft, ...]:
    """What the usage of one span costs: its line, and one for what a bound adds or takes off.

    The quantity printed is the one over the included amount: 22,500 calls, 10,000 included at
    0.002 → 12,500 × 0.002 = 25.00. 8.00 with a minimum of 10.00 for 25 of 28 days → 8.00 and 0.93
    (8.93 less 8.00). 150.00 with a maximum of 125.00 → 150.00 and -25.00. What comes to nothing
    for nothing has no line.
    """
    charge, currency = of.charge, of.terms.currency
    exact = amount(charge, used.quantity, used.events)
    quantity = billable(charge, used.quantity)
    amount_minor = round_minor(exact, currency).amount_minor
    line = LineDraft(
        kind_of(charge.meter_key),
        charge.meter_key,
        "usage",
        quantity,
        _single_price(charge, quantity, exact),
        amount_minor,
        of.span,
        of.terms.source,
    )
    lines = [line] if exact or quantity else []
    least = amount_minor
    if of.minimum:
        least = max(least, round_minor(of.minimum, currency).amount_minor)
    if least > amount_minor:
        lines.append(_flat(replace(line, text="minimum"), least - amount_minor, currency))
    if of.maximum is not None:
        over = least - round_minor(of.maximum, currency).amount_minor
        if over > 0:
            lines.append(_flat(replace(line, text="maximum"), -over, currency))
    return tuple(lines)


def _flat(line: LineDraft, amount_minor: int, currency: str) -> LineDraft:
    """The line as one piece at this amount; what takes off is a piece less, never a price below
    zero (EN 16931, BR-27).
    """
    quantity = Decimal((amount_minor > 0) - (amount_minor < 0))
    price = major(Money(abs(amount_minor), currency)) if amount_minor else None
    return replace(line, quantity=quantity, unit_price=price, amount_minor=amount_minor)


def _commitment_line(of: ContractPeriod, amount_minor: int) -> LineDraft:
    terms = of.parts[0].terms[0]
    price = major(Money(amount_minor, terms.currency))
    return LineDraft(
        "Subscription",
        None,
        "minimum_commitment",
        Decimal(1),
        price,
        amount_minor,
        of.served,
        terms.source,
    )


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
    proposed: Iterable[LineDraft],
    billed: Iterable[LineDraft],
    currency: str,
    credited: Iterable[LineDraft] = (),
) -> tuple[LineDraft, ...]:
    """What is still to be billed: proposed minus billed, line by line; empty when all was billed.

    25.00 proposed, 25.00 billed → nothing. 100 late calls at 0.002 after 25.00 was billed → a line
    of 100 for 0.20. Billed 45.00 of which only 40.00 is owed → a line of -5.00.

    `credited` holds what credit notes gave back of billed lines, as positive amounts. That is a
    gift: it is not billed again, and a later correction takes back no more than what is left of the
    line. 249.95 billed in advance for May, 10.00 credited, one day served: 8.06 is owed, but not
    -241.89 comes back, only -239.95. All amounts are in `currency`.
    """
    before = _by_key(billed)
    given = _by_key(credited)
    with localcontext(EXACT):
        lines = [
            _less(line, before.pop(_key(line), []), given.get(_key(line), []), currency)
            for line in proposed
        ]
        for key, gone in before.items():
            nothing = replace(gone[0], quantity=Decimal(0), amount_minor=0)
            lines.append(_less(nothing, gone, given.get(key, []), currency))
    return tuple(line for line in lines if line.amount_minor or line.quantity)


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

    More than 1,000 lines; an amount of 10^15 minor units or more, which is not to be stored; a
    total below zero; a total more than ten times `usual_minor` (the median of the account's
    earlier invoices, None without any). Spec 09, I-14 and M-13.
    """
    amounts = [total_minor, *(line.amount_minor for line in lines)]
    if max(map(abs, amounts)) >= LARGEST_MINOR:
        return "too_large"
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


def _key(line: LineDraft) -> tuple[object, ...]:
    return line.kind, line.text, line.source, line.meter_key, line.period.starts_at


def _by_key(lines: Iterable[LineDraft]) -> dict[tuple[object, ...], list[LineDraft]]:
    found: dict[tuple[object, ...], list[LineDraft]] = {}
    for line in lines:
        found.setdefault(_key(line), []).append(line)
    return found


def _less(
    line: LineDraft, billed: Sequence[LineDraft], given: Sequence[LineDraft], currency: str
) -> LineDraft:
    if not billed:
        return line
    was = sum(one.amount_minor for one in billed)
    amount_minor = line.amount_minor - was
    if given and amount_minor < 0 < was:
        left = was - sum(one.amount_minor for one in given)
        amount_minor = min(0, max(amount_minor, -left))
    concerns = None
    if line.text in FLAT:
        until = max(one.period.ends_at for one in billed)
        if line.period.ends_at < until:
            concerns = Period(line.period.ends_at, until)
        line = _flat(line, amount_minor, currency)
        quantity, price = line.quantity, line.unit_price
    else:
        quantity = line.quantity - sum(one.quantity for one in billed)
        price = line.unit_price
        # The difference of two rounded amounts can be a minor unit off: then no price explains it.
        if price is not None and round_minor(quantity * price, currency).amount_minor != (
            amount_minor
        ):
            price = None
    return replace(
        line, quantity=quantity, unit_price=price, amount_minor=amount_minor, concerns=concerns
    )
