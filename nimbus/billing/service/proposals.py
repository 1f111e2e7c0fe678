# SPDX-License-Identifier: Apache-2.0
"""What is owed for a period: facts are loaded, the law decides, nothing is saved.

A preview and the bill run are this same function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, identity, usage
from nimbus.base import clock
from nimbus.billing import queries
from nimbus.billing.models import BillingPeriod, Seller
from nimbus.billing.texts import Language, days_of, line_text, meter_text, plain
from nimbus.catalog import PlanFacts
from nimbus.errors import Refusal
from nimbus.identity import OrganizationFacts
from nimbus.rules.contracts import PlanTerms, single
from nimbus.rules.invoicing import (
    Implausible,
    LineDraft,
    MeterUsage,
    Totals,
    difference,
    implausible,
    propose,
    totals,
)
from nimbus.rules.periods import Anchor, Period, period
from nimbus.rules.pricing import billable
from nimbus.rules.tax import Party, TaxTreatment, decide
from nimbus.subscriptions import SubscriptionFacts

LATE_USAGE = timedelta(days=35)
"""How far back usage may still come in (spec 11 §9)."""

UNDECIDED = TaxTreatment("O", Decimal(0), None, None)
"""Without a seller there is no VAT yet; a draft shows none."""

Kind = Literal["start", "period"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What is to be billed: a period of a subscription, of which `served` was served.

    `start`: only what is owed when it begins; `period`: all that is owed when it has ended. The
    plan version and the anchor are those of this period.
    """

    kind: Kind
    plan_version_id: UUID
    anchor_at: datetime
    time_zone: str
    number: int
    served: Period

    @property
    def at(self) -> datetime:
        """The instant up to which is billed."""
        return self.served.starts_at if self.kind == "start" else self.served.ends_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An invoice before it is saved. Without a seller no VAT is decided: `treatment` is None."""

    closing: Closing
    plan: PlanFacts
    currency: str
    lines: tuple[LineDraft, ...]
    descriptions: tuple[str, ...]
    usage: list[dict[str, str]]
    treatment: TaxTreatment | None
    evidence: dict[str, Any]
    totals: Totals
    buyer: OrganizationFacts
    implausible: Implausible | None


@dataclass(frozen=True, slots=True)
class _Chapter:
    """A period with the terms that hold for it and its usage."""

    number: int
    served: Period
    anchor: Anchor
    ends_at: datetime | None
    plan: PlanFacts
    terms: PlanTerms
    texts: Mapping[str, Mapping[str, str]]
    used: Mapping[str, MeterUsage]


async def propose_invoice(
    session: AsyncSession,
    subscription: SubscriptionFacts,
    closing: Closing,
    invoice_id: UUID,
    as_of: datetime,
) -> Proposal:
    """All that is owed for the closing and not billed on another invoice than `invoice_id`.

    `as_of` is when the buyer's VAT number is looked at. Usage that came in late for earlier
    periods is priced by their own terms and billed here.
    """
    buyer = await identity.organization_facts(session, subscription.organization_id)
    seller = await queries.current_seller(session)
    chapters = await _chapters(session, subscription, closing)
    lines = await _owed(session, subscription, closing, chapters, invoice_id)

    treatment, evidence = _tax(seller, buyer, closing, as_of)
    sums = totals(lines, treatment or UNDECIDED)
    usual = await queries.usual_total(session, subscription.id)
    language = language_of(buyer)
    return Proposal(
        closing=closing,
        plan=chapters[-1].plan,
        currency=subscription.currency,
        lines=lines,
        descriptions=tuple(
            _described(line, chapters, closing.time_zone, language) for line in lines
        ),
        usage=_usage_summary(chapters[-1], language) if closing.kind == "period" else [],
        treatment=treatment,
        evidence=evidence,
        totals=sums,
        buyer=buyer,
        implausible=implausible(lines, sums.total_minor, usual),
    )


def closing_of(closed: BillingPeriod) -> Closing:
    """A closed period as it was billed."""
    return Closing(
        kind="period",
        plan_version_id=closed.plan_version_id,
        anchor_at=closed.anchor_at,
        time_zone=closed.time_zone,
        number=closed.number,
        served=Period(closed.starts_at, closed.ends_at),
    )


def language_of(buyer: OrganizationFacts) -> Language:
    """The language that the buyer is written to in."""
    return "nl" if buyer.locale == "nl" else "en"


async def _chapters(
    session: AsyncSession, subscription: SubscriptionFacts, closing: Closing
) -> list[_Chapter]:
    """The earlier periods that may still get usage, and at last the one that is closed."""
    earlier = []
    if closing.kind == "period":
        since = closing.served.starts_at - LATE_USAGE
        earlier = [
            closing_of(closed)
            for closed in await queries.closed_periods(session, subscription.id, since)
            if closed.starts_at < closing.served.starts_at
        ]
    return [
        *[await _chapter(session, subscription, one, one.served.ends_at) for one in earlier],
        await _chapter(session, subscription, closing, subscription.ends_at),
    ]


async def _chapter(
    session: AsyncSession,
    subscription: SubscriptionFacts,
    closing: Closing,
    ends_at: datetime | None,
) -> _Chapter:
    plan = await catalog.plan_facts(session, closing.plan_version_id)
    anchor = plan.anchor(closing.anchor_at, closing.time_zone)
    served = closing.served
    whole = period(anchor, closing.number)
    if whole.starts_at != served.starts_at or whole.ends_at < served.ends_at:
        raise ValueError("the period is not the one of its anchor and number")
    version, currency = plan.plan_version_id, subscription.currency
    terms = await catalog.plan_terms(session, version, currency)
    by_event = [charge.meter_key for charge in terms.charges if charge.model == "percentage"]
    return _Chapter(
        number=closing.number,
        served=served,
        anchor=anchor,
        ends_at=ends_at,
        plan=plan,
        terms=terms,
        texts=await catalog.charge_texts(session, version, currency),
        used=await usage.period_quantities(
            session, subscription.id, served.starts_at, served.ends_at, by_event=by_event
        ),
    )


async def _owed(
    session: AsyncSession,
    subscription: SubscriptionFacts,
    closing: Closing,
    chapters: Sequence[_Chapter],
    invoice_id: UUID,
) -> tuple[LineDraft, ...]:
    """Everything proposed for the chapters, less what other invoices bill for them."""
    proposed: list[LineDraft] = []
    for chapter in chapters:
        last = chapter is chapters[-1]
        contract = single(chapter.terms, chapter.anchor, chapter.number, chapter.ends_at)
        measured = {(key, chapter.served): used for key, used in chapter.used.items()}
        proposed += propose(contract, measured, closing.at if last else chapter.served.ends_at)
    periods = {chapter.served.starts_at for chapter in chapters}
    periods |= {line.period.starts_at for line in proposed}
    billed = [
        row.draft()
        for row in await queries.billed_lines(session, subscription.id, min(periods), invoice_id)
        if row.starts_at in periods and _concerns(row.text, row.starts_at, closing)
    ]
    return difference(proposed, billed, subscription.currency)


def _concerns(text: str, starts_at: datetime, closing: Closing) -> bool:
    """Of a period that only begins at the closing, the fee alone: its usage is not owed yet."""
    return text == "base_fee" or starts_at < closing.at


def _tax(
    seller: Seller | None,
    buyer: OrganizationFacts,
    closing: Closing,
    as_of: datetime,
) -> tuple[TaxTreatment | None, dict[str, Any]]:
    """The VAT treatment on the last day of supply, and what it was decided by."""
    if seller is None:
        return None, {}
    first, last = days_of(closing.served, closing.time_zone)
    day = first if closing.kind == "start" else last
    valid = _is_valid(buyer)
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


def _is_valid(buyer: OrganizationFacts) -> bool:
    if buyer.vat_number is None:
        return False
    try:
        identity.check_vat_number(buyer.country, buyer.vat_number)
    except Refusal:
        return False
    return True


def _described(
    line: LineDraft,
    chapters: Sequence[_Chapter],
    time_zone: str,
    language: Language,
) -> str:
    starts_at = line.period.starts_at
    chapter = next((c for c in chapters if c.served.starts_at == starts_at), chapters[-1])
    charge = next((c for c in chapter.terms.charges if c.meter_key == line.meter_key), None)
    own = chapter.texts.get(line.meter_key or "", {}).get(language)
    return line_text(
        line, language, plan=chapter.plan.name, charge=charge, own=own, time_zone=time_zone
    )


def _usage_summary(chapter: _Chapter, language: Language) -> list[dict[str, str]]:
    rows = []
    for charge in chapter.terms.charges:
        used = chapter.used.get(charge.meter_key)
        if used is None:
            continue
        own = chapter.texts.get(charge.meter_key, {}).get(language)
        rows.append(
            {
                "meter": own or meter_text(charge.meter_key, language),
                "used": plain(used.quantity),
                "included": plain(charge.included),
                "billed": plain(billable(charge, used.quantity)),
            }
        )
    return rows
