# SPDX-License-Identifier: Apache-2.0
"""Credit notes: what giving back all or part of an invoice comes to.

Every part is the difference of two rounded sums: what had been given back before, and what has been
after it. So notes in any number and order add up to the invoice, line by line and per VAT rate, and
crediting all leaves exactly zero (spec 09, I-07). A note's net, VAT and total stay consistent:
71.43 + 14.29 = 85.72 at 20 %, although the exact total is 85.714.
Source: tests/cases/billing_examples.json, credit_note.* and termination.same_day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from nimbus.errors import field_error
from nimbus.rules.invoicing import TaxLine, Totals
from nimbus.rules.money import round_half_up
from nimbus.rules.tax import TaxTreatment, vat_on


@dataclass(frozen=True, slots=True)
class Creditable:
    """A line of a sent invoice: its amount, the same less its coupons, and how much of the amount
    earlier notes gave back. In minor units; `treatment` None: no VAT.
    """

    amount_minor: int
    net_minor: int
    treatment: TaxTreatment | None = None
    credited_minor: int = 0

    @property
    def left_minor(self) -> int:
        """What can still be given back of the amount."""
        return self.amount_minor - self.credited_minor

    @property
    def net_credited_minor(self) -> int:
        """What earlier notes gave back of the net amount."""
        if not self.amount_minor:
            return 0
        share = Fraction(self.credited_minor, self.amount_minor)
        return round_half_up(self.net_minor * share)


@dataclass(frozen=True, slots=True)
class CreditLine:
    """`amount_minor` of the invoice's line at place `line`: less its share of the coupons, net."""

    line: int
    amount_minor: int
    coupon_minor: int
    net_minor: int


@dataclass(frozen=True, slots=True)
class CreditNote:
    """What is given back, in positive amounts."""

    lines: tuple[CreditLine, ...]
    totals: Totals


def credit(lines: Sequence[Creditable], asked: Mapping[int, int] | None = None) -> CreditNote:
    """The note that gives back `asked` (place of the line → amount before coupons), or all that is
    left.

    399.00 less a coupon of 250.00, of which 262.60 → coupon 164.54, net 98.06, VAT at 20 % 19.61,
    total 117.67. All of the reference invoice → 116.50 + 24.47 = 140.97.

    Raises a 422 on `lines.N.amount` for more than is left of the line or not more than nothing, on
    `lines` when the notes together would exceed the invoice, or there is nothing left of it.
    """
    wanted = _all(lines) if asked is None else dict(asked)
    after = list(lines)
    found = []
    for place, amount_minor in sorted(wanted.items()):
        if asked is not None:
            _check(lines, place, amount_minor)
        line = lines[place]
        after[place] = replace(line, credited_minor=line.credited_minor + amount_minor)
        net = after[place].net_credited_minor - line.net_credited_minor
        found.append(CreditLine(place, amount_minor, amount_minor - net, net))
    if not found:
        raise field_error("lines", "nothing_left", "Nothing is left to give back.")
    taxes = _taxes(lines, after)
    subtotal = sum(one.net_minor for one in found)
    tax = sum(one.tax_minor for one in taxes)
    return CreditNote(tuple(found), Totals(subtotal, taxes, tax, subtotal + tax))


def settle(note_minor: int, open_minor: int) -> tuple[int, int]:
    """(what lowers the invoice's open amount, what becomes the customer's) of a credit note.

    10.00 on an invoice of 100.00 that is unpaid → (10.00, 0); paid → (0, 10.00).
    """
    lowers = min(note_minor, open_minor)
    return lowers, note_minor - lowers


def _all(lines: Sequence[Creditable]) -> dict[int, int]:
    return {place: line.left_minor for place, line in enumerate(lines) if line.left_minor}


def _check(lines: Sequence[Creditable], place: int, amount_minor: int) -> None:
    field = f"lines.{place}.amount"
    if not 0 <= place < len(lines):
        raise field_error(field, "unknown_line", "The invoice has no such line.")
    if amount_minor <= 0:
        raise field_error(field, "too_small", "A credit is more than nothing.")
    if amount_minor > lines[place].left_minor:
        raise field_error(field, "above_line", "No more than is left of the line.")


def _taxes(before: Sequence[Creditable], after: Sequence[Creditable]) -> tuple[TaxLine, ...]:
    """The VAT of the note per treatment; 422 where the notes would exceed the invoice."""
    whole, had, has = _bases(before), _credited(before), _credited(after)
    taxes = []
    for treatment, base in has.items():
        if base > max(0, whole[treatment]):
            text = "Credit notes never exceed the invoice."
            raise field_error("lines", "above_invoice", text)
        part = base - had[treatment]
        if treatment is not None and part:
            tax = vat_on(base, treatment.rate) - vat_on(had[treatment], treatment.rate)
            taxes.append(TaxLine(treatment, part, tax))
    return tuple(taxes)


def _bases(lines: Sequence[Creditable]) -> dict[TaxTreatment | None, int]:
    found: dict[TaxTreatment | None, int] = {}
    for line in lines:
        found[line.treatment] = found.get(line.treatment, 0) + line.net_minor
    return found


def _credited(lines: Sequence[Creditable]) -> dict[TaxTreatment | None, int]:
    return _bases([replace(line, net_minor=line.net_credited_minor) for line in lines])
