# SPDX-License-Identifier: Apache-2.0
"""The bill: the one function that bill run, preview, forecast, estimate and proof all call.

Order of calculation (spec 04): lines → coupons of lines → coupons of the invoice → VAT per category
and rate → credit from credit notes → prepaid wallet → what is left to pay. Rounding happens at a
line (a fee, usage, a coupon) and at VAT per rate, nowhere else (spec 09, M-07). `RULES_VERSION` is
stored on the invoice, so that an old one is never computed by new rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nimbus.rules.contracts import ContractPeriod
from nimbus.rules.coupons import Coupon, Discount, discounts
from nimbus.rules.invoicing import (
    LineDraft,
    Totals,
    Usage,
    difference,
    owed,
    totals_by_treatment,
)
from nimbus.rules.tax import TaxTreatment


@dataclass(frozen=True, slots=True, kw_only=True)
class BillFacts:
    """All that a bill follows from; every amount is in `currency`.

    `periods`: those that may still owe something (`contracts.contract_periods`), with their
    `usage`. `items`: one-off items. `billed`: lines of other invoices of these periods and items;
    `credited`: what credit notes gave back of them, positive. `treatment`: the VAT of all lines,
    None while it is undecided. `credit_minor`: open credit from credit notes; `wallet_minor`: the
    wallet's balance.
    """

    currency: str
    periods: tuple[ContractPeriod, ...] = ()
    usage: Usage
    items: tuple[LineDraft, ...] = ()
    billed: tuple[LineDraft, ...] = ()
    credited: tuple[LineDraft, ...] = ()
    coupons: tuple[Coupon, ...] = ()
    treatment: TaxTreatment | None = None
    credit_minor: int = 0
    wallet_minor: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """An invoice before it has a number; amounts in minor units.

    `lines` are net and before coupons; a discount belongs to one of them. `due_minor` is total less
    credit and wallet. A bill below zero (a change to less, paid in advance) takes neither:
    `surplus_minor` of it goes to the customer, and nothing is due.
    """

    lines: tuple[LineDraft, ...]
    discounts: tuple[Discount, ...]
    totals: Totals
    credit_used_minor: int
    wallet_used_minor: int
    due_minor: int
    surplus_minor: int


def draft(facts: BillFacts, as_of: datetime) -> Bill:
    """The bill at the instant `as_of`: all that is owed up to it, less what was billed.

    The reference invoice: 49.00 + 25.00 + 22.50 + 20.00 = 116.50; 21 % 24.47; due 140.97. Drafted
    again with these lines as billed: nothing. Raises ValueError when terms are in another currency.
    """
    _same_currency(facts)
    proposed = [
        *(line for of in facts.periods for line in owed(of, facts.usage, as_of)),
        *(item for item in facts.items if item.period.starts_at <= as_of),
    ]
    lines = difference(proposed, facts.billed, facts.currency, facts.credited)
    return add_up(
        lines,
        facts.currency,
        coupons=facts.coupons,
        treatment=facts.treatment,
        credit_minor=facts.credit_minor,
        wallet_minor=facts.wallet_minor,
    )


def add_up(
    lines: Sequence[LineDraft],
    currency: str,
    *,
    coupons: Sequence[Coupon] = (),
    treatment: TaxTreatment | None = None,
    credit_minor: int = 0,
    wallet_minor: int = 0,
) -> Bill:
    """What lines come to: coupons, VAT, credit and wallet, in this order.

    50.00 and 20.00, a coupon of 10.00, 10 % VAT, credit of 20.00, wallet of 30.00 → subtotal 60.00,
    VAT 6.00, total 66.00, due 16.00.
    """
    if min(credit_minor, wallet_minor) < 0:
        raise ValueError("credit and wallet are not negative")
    off = discounts(lines, coupons, currency)
    subtotal = sum(line.amount_minor for line in lines) - sum(one.amount_minor for one in off)
    if treatment is None:
        sums = Totals(subtotal, (), 0, subtotal)
    else:
        sums = totals_by_treatment([(subtotal, treatment)])
    payable = max(0, sums.total_minor)
    credit = min(credit_minor, payable)
    wallet = min(wallet_minor, payable - credit)
    return Bill(
        lines=tuple(lines),
        discounts=off,
        totals=sums,
        credit_used_minor=credit,
        wallet_used_minor=wallet,
        due_minor=payable - credit - wallet,
        surplus_minor=max(0, -sums.total_minor),
    )


def _same_currency(facts: BillFacts) -> None:
    for of in facts.periods:
        for part in of.parts:
            if any(terms.currency != facts.currency for terms in part.terms):
                raise ValueError("a bill has one currency")
