# SPDX-License-Identifier: Apache-2.0
"""What a set of bills follows from, read with one statement for each kind of fact."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import identity, subscriptions, usage
from nimbus.billing import queries, queries_sets
from nimbus.billing.models import BilledLine, BillingPeriod, Seller
from nimbus.billing.service.prices import PriceBook
from nimbus.identity import OrganizationFacts
from nimbus.rules.contracts import (
    Contract,
    ContractPeriod,
    PlanTerms,
    Segment,
    contract_periods,
    metered,
)
from nimbus.rules.coupons import Coupon
from nimbus.rules.invoicing import LineDraft, MeterUsage
from nimbus.rules.periods import Anchor, Period
from nimbus.subscriptions import SubscriptionFacts, Terms
from nimbus.usage import Asked

LATE_USAGE = timedelta(days=35)
"""How far back usage may still come in (spec 11 §9)."""

AHEAD = timedelta(days=3700)
"""Longer than any period: so far terms are looked at, for the fee of the next one in advance."""

Other = TypeVar("Other")
Kind = Literal["start", "period", "progress", "change"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What is to be billed: a period of a subscription, of which `served` was served.

    `start`: only what is owed when it begins; `period`: all that is owed when it has ended;
    `progress`: its usage up to the end of `served`, while it runs; `change`: what its fees in
    advance differ by when `served` begins, in a period that began at `opened_at`, and items. The
    plan version and the anchor are those of this period.
    """

    kind: Kind
    plan_version_id: UUID
    anchor_at: datetime
    time_zone: str
    number: int
    served: Period
    opened_at: datetime | None = None

    @property
    def at(self) -> datetime:
        """The instant up to which is billed."""
        early = self.kind in {"start", "change"}
        return self.served.starts_at if early else self.served.ends_at

    @property
    def since(self) -> datetime:
        """When its period began."""
        return self.served.starts_at if self.opened_at is None else self.opened_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A bill that is asked for; `invoice_id` is the one that it is or will be."""

    subscription: SubscriptionFacts
    closing: Closing
    invoice_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that one bill follows from. `taxed`: the buyer as it was when the period began, which VAT
    goes by (spec 09, I-16). `periods`: those that may still owe something, the one that
    is closed at `place`. `usual_minor`: the median of earlier totals, None without any.
    """

    wish: Wish
    book: PriceBook
    buyer: OrganizationFacts
    taxed: OrganizationFacts
    seller: Seller | None
    periods: tuple[ContractPeriod, ...]
    place: int
    usage: Mapping[tuple[str, Period], MeterUsage]
    items: tuple[LineDraft, ...]
    billed: tuple[LineDraft, ...]
    credited: tuple[LineDraft, ...]
    coupons: tuple[Coupon, ...]
    texts: Mapping[UUID, str]
    usual_minor: int | None
    credit_minor: int
    wallet_minor: int


async def read_cases(
    session: AsyncSession, wishes: Sequence[Wish], book: PriceBook, as_of: datetime
) -> list[Case]:
    """The facts of each wished bill, in their order; a system session.

    Of usage, what is stored now: also what came in late for periods of the last 35 days. `as_of` is
    when credit and wallet are looked at.
    """
    ids = [wish.subscription.id for wish in wishes]
    owners = {wish.subscription.organization_id for wish in wishes}
    buyers = await identity.facts_of_organizations(session, owners)
    named = [buyers[wish.subscription.organization_id] for wish in wishes]
    taxed = await identity.facts_then(session, named, [wish.closing.since for wish in wishes])
    seller = await queries.current_seller(session)
    chapters = _chapters(wishes, await _earlier(session, wishes))
    contracts = await _contracts(session, wishes, chapters, book)
    used = await _usage(session, wishes, contracts)
    scopes = [_scope(wish, own) for wish, own in _pairs(wishes, chapters)]
    billed = await queries_sets.billed_lines(session, scopes)
    own_ids = [wish.invoice_id for wish in wishes]
    items = await queries_sets.open_items(session, ids, own_ids)
    coupons = await queries_sets.open_coupons(session, ids, own_ids)
    usual = await queries_sets.usual_totals(session, scopes)
    open_money = await queries_sets.open_money(session, owners, as_of)
    cases = []
    for place, wish in enumerate(wishes):
        mine, owner = wish.subscription.id, wish.subscription.organization_id
        rows = [
            row
            for row in billed.get(mine, ())
            if row.invoice_id != wish.invoice_id and _concerns(row, wish.closing)
        ]
        unit, closes = wish.subscription.currency, wish.closing.kind in {"period", "change"}
        credit, wallet = open_money.get((owner, unit), (0, 0))
        cases.append(
            Case(
                wish=wish,
                book=book,
                buyer=buyers[owner],
                taxed=taxed[place],
                seller=seller,
                periods=contracts[place],
                place=len(chapters[place]) - 1,
                usage=used[place],
                items=tuple(row.draft() for row in items.get(mine, ()) if closes),
                billed=tuple(row.draft() for row in rows),
                credited=tuple(
                    replace(row.draft(), amount_minor=row.credited_minor)
                    for row in rows
                    if row.credited_minor
                ),
                coupons=tuple(
                    row.coupon() for row in coupons.get(mine, ()) if row.currency in {None, unit}
                ),
                texts={row.id: row.name for row in coupons.get(mine, ())}
                | {row.id: row.description for row in items.get(mine, ())},
                usual_minor=usual.get(mine),
                credit_minor=credit,
                wallet_minor=wallet,
            )
        )
    return cases


def closing_of(closed: BillingPeriod | Row[Any]) -> Closing:
    """A closed period, as it is stored, as it was billed."""
    return Closing(
        kind="period",
        plan_version_id=closed.plan_version_id,
        anchor_at=closed.anchor_at,
        time_zone=closed.time_zone,
        number=closed.number,
        served=Period(closed.starts_at, closed.ends_at),
    )


def _pairs(wishes: Sequence[Wish], others: Sequence[Other]) -> Iterator[tuple[Wish, Other]]:
    return zip(wishes, others, strict=True)


async def _earlier(session: AsyncSession, wishes: Sequence[Wish]) -> dict[UUID, list[Closing]]:
    """The closed periods that may still get usage."""
    found: dict[UUID, list[Closing]] = {}
    scopes = [
        (
            wish.subscription.organization_id,
            wish.subscription.id,
            wish.closing.served.starts_at - LATE_USAGE,
        )
        for wish in wishes
        if wish.closing.kind == "period"
    ]
    for row in await queries_sets.closed_periods(session, scopes):
        found.setdefault(row.subscription_id, []).append(closing_of(row))
    return found


def _chapters(
    wishes: Sequence[Wish], earlier: Mapping[UUID, Sequence[Closing]]
) -> list[list[Closing]]:
    return [
        [
            *(
                one
                for one in earlier.get(wish.subscription.id, ())
                if one.served.starts_at < wish.closing.served.starts_at
            ),
            wish.closing,
        ]
        for wish in wishes
    ]


async def _contracts(
    session: AsyncSession,
    wishes: Sequence[Wish],
    chapters: Sequence[Sequence[Closing]],
    book: PriceBook,
) -> list[tuple[ContractPeriod, ...]]:
    """The contract periods of each bill's chapters; the last also with the one that begins then."""
    spans = {
        wish.subscription.id: Period(own[0].since, wish.closing.at + AHEAD)
        for wish, own in _pairs(wishes, chapters)
    }
    terms = await subscriptions.terms_of_periods(session, spans)
    wanted = {(wish.closing.plan_version_id, wish.subscription.currency) for wish in wishes}
    for wish in wishes:
        for part in terms[wish.subscription.id]:
            unit = wish.subscription.currency
            wanted.add((part.plan_version_id, unit))
            wanted |= {(taken.plan_version_id, unit) for taken in part.add_ons}
    await book.read(session, wanted)
    return [
        tuple(_periods(wish, own, terms[wish.subscription.id], book))
        for wish, own in _pairs(wishes, chapters)
    ]


def _periods(
    wish: Wish, chapters: Sequence[Closing], terms: Sequence[Terms], book: PriceBook
) -> list[ContractPeriod]:
    subscription = wish.subscription
    segments = book.segments(terms, subscription.currency, wish.closing.at + AHEAD)
    found: list[ContractPeriod] = []
    for chapter in chapters:
        last = chapter is wish.closing
        plan = book.prices[wish.closing.plan_version_id, subscription.currency].plan
        anchor: Anchor = plan.anchor(chapter.anchor_at, chapter.time_zone)
        ends_at = subscription.ends_at if last else chapter.served.ends_at
        if chapter.kind == "progress":
            ends_at, segments = chapter.served.ends_at, _usage_only(segments)
        contract = Contract(anchor, chapter.number, segments, ends_at)
        until = chapter.at if last else chapter.served.starts_at
        found += contract_periods(contract, until)
    return found


async def _usage(
    session: AsyncSession, wishes: Sequence[Wish], contracts: Sequence[Sequence[ContractPeriod]]
) -> list[dict[tuple[str, Period], MeterUsage]]:
    """What was used in the spans that the law prices, of periods that are over."""
    asked: dict[tuple[int, Period], set[str]] = {}
    for place, (wish, periods) in enumerate(_pairs(wishes, contracts)):
        for of in periods:
            if wish.closing.kind != "start" and of.closes_at <= wish.closing.at:
                for one in metered(of):
                    single = asked.setdefault((place, one.span), set())
                    if one.charge.model == "percentage":
                        single.add(one.charge.meter_key)
    quantities = await usage.quantities_of_periods(
        session,
        [
            Asked(
                organization_id=wishes[place].subscription.organization_id,
                subscription_id=wishes[place].subscription.id,
                product_id=wishes[place].subscription.product_id,
                period=span,
                by_event=single,
            )
            for (place, span), single in asked.items()
        ],
    )
    found: list[dict[tuple[str, Period], MeterUsage]] = [{} for _ in wishes]
    for (place, span), meters in zip(asked, quantities, strict=True):
        for key, used in meters.items():
            found[place][key, span] = used
    return found


def _scope(wish: Wish, chapters: Sequence[Closing]) -> tuple[UUID, UUID, datetime]:
    subscription = wish.subscription
    return subscription.organization_id, subscription.id, chapters[0].since


def _concerns(row: BilledLine, closing: Closing) -> bool:
    """Of a period that only begins at the closing, the fee alone: its usage is not owed yet. Of one
    that runs on, its usage alone. Items are billed once, whenever.
    """
    if row.text == "item":
        return False
    if closing.kind == "change":
        return bool(row.text == "base_fee")
    if closing.kind == "progress":
        usage = row.text in {"usage", "maximum"}
        return usage and row.starts_at >= closing.served.starts_at
    begins_then = row.text == "base_fee" and row.starts_at == closing.at
    return bool(begins_then or row.starts_at < closing.at)


def _usage_only(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The same terms without what is asked for time, and without least amounts."""
    return tuple(
        replace(
            segment,
            plan=_without_fees(segment.plan),
            add_ons=tuple(map(_without_fees, segment.add_ons)),
        )
        for segment in segments
    )


def _without_fees(terms: PlanTerms) -> PlanTerms:
    charges = tuple(replace(charge, minimum=None) for charge in terms.charges)
    return replace(terms, base_fee_minor=0, minimum_commitment_minor=0, charges=charges)
