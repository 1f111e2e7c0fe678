# SPDX-License-Identifier: Apache-2.0
"""What a bill says: the facts of a case in, a proposal out; nothing is read and nothing saved.

A preview, the bill of one subscription and a run over all of them are this same function.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any
from uuid import UUID

from nimbus import identity
from nimbus.base import clock
from nimbus.billing.models import Seller
from nimbus.billing.service.reading import Case, Closing
from nimbus.billing.texts import Language, LineName, days_of, line_text, meter_text, plain
from nimbus.catalog import PlanFacts
from nimbus.errors import Refusal
from nimbus.identity import OrganizationFacts
from nimbus.rules.bill import Bill, BillFacts, draft
from nimbus.rules.invoicing import NO_USAGE, Implausible, LineDraft, Totals, implausible
from nimbus.rules.money import Money, major, minor_digits, round_half_up
from nimbus.rules.pricing import billable
from nimbus.rules.tax import Party, TaxTreatment, decide

FIRST_USUAL = 100_000
"""In whole currency units: ten times this, or a hundred fees, is implausible as a first total."""


class CaseError(Exception):
    """A case that no bill can be made of: `reason` parks its subscription for a person."""

    def __init__(self, subscription_id: UUID, reason: str) -> None:
        super().__init__(reason)
        self.subscription_id = subscription_id
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An invoice before it is saved. Without a seller no VAT is decided: `treatment` is None.

    `lines` are those of `bill` and, below zero, one for each coupon; `coupons` are the redemptions
    that took something, with how much.
    """

    case: Case
    bill: Bill
    plan: PlanFacts
    lines: tuple[LineDraft, ...]
    descriptions: tuple[str, ...]
    usage: list[dict[str, str]]
    unused: bool
    treatment: TaxTreatment | None
    evidence: dict[str, Any]
    coupons: dict[UUID, int]
    implausible: Implausible | None

    @property
    def closing(self) -> Closing:
        """What it bills."""
        return self.case.wish.closing

    @property
    def currency(self) -> str:
        """The subscription's."""
        return self.case.wish.subscription.currency

    @property
    def totals(self) -> Totals:
        """What the lines add up to."""
        return self.bill.totals

    @property
    def buyer(self) -> OrganizationFacts:
        """Who it is for."""
        return self.case.buyer


def propose(case: Case, as_of: datetime) -> Proposal:
    """All that is owed for the case's closing and not billed on another invoice.

    `as_of` is when the buyer's VAT number is looked at. Raises CaseError for what the law can't
    compute.
    """
    closing, currency = case.wish.closing, case.wish.subscription.currency
    treatment, evidence = _tax(case.seller, case.taxed, closing, as_of)
    try:
        bill = draft(
            BillFacts(
                currency=currency,
                periods=case.periods,
                usage=case.usage,
                items=case.items,
                billed=case.billed,
                credited=case.credited,
                coupons=case.coupons,
                treatment=treatment,
                credit_minor=case.credit_minor,
                wallet_minor=case.wallet_minor,
            ),
            max([closing.at, *(item.period.starts_at for item in case.items)]),
        )
    except (ArithmeticError, ValueError, LookupError) as error:
        raise CaseError(case.wish.subscription.id, str(error) or repr(error)) from error
    coupons = _coupons(bill)
    lines = (*bill.lines, *(_coupon_line(case, id_, off) for id_, off in coupons.items()))
    language = language_of(case.buyer)
    used = closing.kind != "start" and any(
        amount.quantity
        for (_, span), amount in case.usage.items()
        if span.starts_at >= closing.served.starts_at
    )
    return Proposal(
        case=case,
        bill=bill,
        plan=case.book.prices[closing.plan_version_id, currency].plan,
        lines=lines,
        descriptions=tuple(_described(case, line, language) for line in lines),
        usage=_usage_summary(case, language) if closing.kind != "start" else [],
        unused=not used,
        treatment=treatment,
        evidence=evidence,
        coupons=coupons,
        implausible=implausible(lines, bill.totals.total_minor, _usual(case)),
    )


def forecast(proposal: Proposal, as_of: datetime, levels: Collection[str]) -> int:
    """The total of a running period at its end, in minor units, if each meter goes on as it went.

    100 calls in 10 of 31 days → 310. The meters of `levels` stay where they are: 160 assets after
    10 days are 160 at the end.
    """
    case, served = proposal.case, proposal.closing.served
    gone = min(as_of, served.ends_at) - served.starts_at
    if gone <= timedelta(0):
        return proposal.totals.total_minor
    share = Fraction(_microseconds(served.ends_at - served.starts_at), _microseconds(gone))
    usage = {
        key: replace(used, quantity=Decimal(round_half_up(Fraction(used.quantity) * share)))
        if key[1].starts_at >= served.starts_at and key[0] not in levels
        else used
        for key, used in case.usage.items()
    }
    return propose(replace(case, usage=usage), as_of).totals.total_minor


def language_of(buyer: OrganizationFacts) -> Language:
    """The language that the buyer is written to in."""
    return "nl" if buyer.locale == "nl" else "en"


def _microseconds(span: timedelta) -> int:
    return int(span // timedelta(microseconds=1))


def _usual(case: Case) -> int:
    """What a total is held against: the usual one; of a first invoice ten fees, or much money."""
    if case.usual_minor is not None:
        return case.usual_minor
    currency = case.wish.subscription.currency
    fee = case.book.prices[case.wish.closing.plan_version_id, currency].terms.base_fee_minor
    floor: int = FIRST_USUAL * 10 ** minor_digits(currency)
    return max(10 * fee, floor)


def _coupons(bill: Bill) -> dict[UUID, int]:
    off: dict[UUID, int] = {}
    for one in bill.discounts:
        off[UUID(one.coupon)] = off.get(UUID(one.coupon), 0) + one.amount_minor
    return off


def _coupon_line(case: Case, redemption_id: UUID, off: int) -> LineDraft:
    currency, served = case.wish.subscription.currency, case.wish.closing.served
    price = major(Money(off, currency))
    return LineDraft("Other", None, "coupon", Decimal(-1), price, -off, served, redemption_id)


def _tax(
    seller: Seller | None, buyer: OrganizationFacts, closing: Closing, as_of: datetime
) -> tuple[TaxTreatment | None, dict[str, Any]]:
    """The VAT treatment on the last day of supply, and what it was decided by."""
    if seller is None:
        return None, {}
    first, last = days_of(closing.served, closing.time_zone)
    day = first if closing.kind in {"start", "change"} else last
    valid = buyer.vat_number is not None and _is_valid(buyer.country, buyer.vat_number)
    treatment = decide(Party(seller.country, True), Party(buyer.country, valid), day)
    evidence = {
        "decided_for": day.isoformat(),
        "seller_country": seller.country,
        "buyer_country": buyer.country,
        "vat_number": buyer.vat_number,
        "vat_number_valid": valid,
        "checked_by": "checksum",
        "checked_at": clock.to_wire(as_of),
        "category": treatment.category,
        "rate": plain(treatment.rate),
    }
    return treatment, evidence


@lru_cache(maxsize=4096)
def _is_valid(country: str, vat_number: str) -> bool:
    try:
        identity.check_vat_number(country, vat_number)
    except Refusal:
        return False
    return True


def _described(case: Case, line: LineDraft, language: Language) -> str:
    own = case.texts.get(line.source) if line.source is not None else None
    charge = None
    name = own
    if own is None:
        price = case.book.of_source(line.source, case.wish.subscription.currency)
        if price is None:
            key = (case.wish.closing.plan_version_id, case.wish.subscription.currency)
            price = case.book.prices[key]
        name = price.plan.name
        own = price.texts.get(line.meter_key or "", {}).get(language)
        charge = next((c for c in price.terms.charges if c.meter_key == line.meter_key), None)
    named = LineName(name or "", charge, own)
    return line_text(line, language, named, case.wish.closing.time_zone)


def _usage_summary(case: Case, language: Language) -> list[dict[str, str]]:
    """What was used of each meter in the closing's period, by the terms it ended with."""
    closing = case.wish.closing
    price = case.book.prices[closing.plan_version_id, case.wish.subscription.currency]
    rows = []
    for charge in price.terms.charges:
        spans = [
            used
            for (key, span), used in case.usage.items()
            if key == charge.meter_key and span.starts_at >= closing.served.starts_at
        ]
        if not spans:
            continue
        quantity = sum((used.quantity for used in spans), NO_USAGE.quantity)
        own = price.texts.get(charge.meter_key, {}).get(language)
        rows.append(
            {
                "meter": own or meter_text(charge.meter_key, language),
                "used": plain(quantity),
                "included": plain(charge.included),
                "billed": plain(billable(charge, quantity)),
            }
        )
    return rows
