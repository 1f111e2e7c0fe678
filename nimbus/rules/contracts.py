# SPDX-License-Identifier: Apache-2.0
"""What a contract says when: terms over time, cut into billing periods.

Terms change within a period (upgrade, add-on, pause). Three rules divide what a period costs:

- A fee, a minimum and a minimum commitment are asked for the time they held, as a share of the
  nominal period by the plan's proration.
- What a period gives (included units, free events and amount, the bounds and flat fees of tiers,
  the maximum) is whole, however short the service; only where terms follow each other within a
  period, each gives its share by time of what it would give alone. So a change never doubles it.
- The proration is that of the terms a period begins with. "none": these pay the whole period, and
  a change counts from the next one.

Sources: spec 04 "Subscription"; decision 0023.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Literal
from uuid import UUID

from nimbus.rules.money import round_half_up
from nimbus.rules.periods import Anchor, Period, nominal_period, period
from nimbus.rules.pricing import Charge, scaled
from nimbus.rules.proration import WHOLE, Basis, fraction

Timing = Literal["advance", "arrears"]


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What a plan version, or an add-on, asks in one currency: `quantity` times the fee of a whole
    period, the charges on usage, and a least total for a whole period of the contract.

    `source` names it on lines: two terms with one source are the same thing bought.
    """

    currency: str
    base_fee_minor: int
    timing: Timing
    proration: Basis
    charges: tuple[Charge, ...]
    source: UUID | None = None
    quantity: int = 1
    minimum_commitment_minor: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """The plan and add-ons that hold from `starts_at` up to `ends_at` (None: until further notice).

    Time without a segment is not served and not paid: a trial, a pause.
    """

    starts_at: datetime
    ends_at: datetime | None
    plan: PlanTerms
    add_ons: tuple[PlanTerms, ...] = ()


@dataclass(frozen=True, slots=True)
class Contract:
    """One subscription as far as billing looks: its periods, its terms over time, its end.

    `segments` rise and do not overlap. `first_period`: periods before it are closed for good and
    not proposed again, so that the work does not grow with age. `ends_at`: when service ended or
    will end, if that is known.
    """

    anchor: Anchor
    first_period: int
    segments: tuple[Segment, ...]
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A time within one period under the same terms, the plan's first."""

    served: Period
    terms: tuple[PlanTerms, ...]


@dataclass(frozen=True, slots=True)
class ContractPeriod:
    """One billing period of a contract.

    `whole` is what a full fee pays for, `closes_at` when all is owed: the period's end, or the end
    of the service before it. `parts` are in order, without gap except where nothing was served.
    """

    whole: Period
    closes_at: datetime
    time_zone: str
    parts: tuple[Part, ...]

    @property
    def served(self) -> Period:
        """From the first to the last instant served."""
        return Period(self.parts[0].served.starts_at, self.parts[-1].served.ends_at)

    @property
    def basis(self) -> Basis:
        """The proration of the terms that the period begins with."""
        return self.parts[0].terms[0].proration


@dataclass(frozen=True, slots=True)
class Fee:
    """`terms` held in `served`, for which `amount_minor` is to be paid."""

    terms: PlanTerms
    served: Period
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Metered:
    """Usage in `span` is priced by `charge`, which has its share of what the period gives.

    `minimum` and `maximum`, in whole currency units, bound the amount; the charge has none.
    """

    terms: PlanTerms
    charge: Charge
    span: Period
    minimum: Fraction
    maximum: Fraction | None


def single(
    terms: PlanTerms, anchor: Anchor, first_period: int = 0, ends_at: datetime | None = None
) -> Contract:
    """A contract whose terms never change: from the anchor on, to the end if there is one."""
    return Contract(anchor, first_period, (Segment(anchor.at, ends_at, terms),), ends_at)


def contract_periods(contract: Contract, as_of: datetime) -> Iterator[ContractPeriod]:
    """The periods that have begun by `as_of`, from the contract's first; served ones only.

    31 January, monthly, at 1 March: the period from 31 January and that from 28 February.
    """
    number = contract.first_period
    while (span := period(contract.anchor, number)).starts_at <= as_of:
        ends_at = span.ends_at
        if contract.ends_at is not None:
            ends_at = min(ends_at, contract.ends_at)
        if ends_at < span.starts_at:
            return
        parts = tuple(_parts(contract.segments, Period(span.starts_at, ends_at)))
        if parts:
            whole = nominal_period(contract.anchor, number)
            yield ContractPeriod(whole, ends_at, contract.anchor.time_zone, parts)
        number += 1


def _parts(segments: Sequence[Segment], span: Period) -> Iterator[Part]:
    for segment in segments:
        starts_at = max(span.starts_at, segment.starts_at)
        ends_at = span.ends_at if segment.ends_at is None else min(span.ends_at, segment.ends_at)
        if starts_at < ends_at:
            yield Part(Period(starts_at, ends_at), (segment.plan, *segment.add_ons))


def fees(of: ContractPeriod) -> tuple[Fee, ...]:
    """The fees of a period, one for each stretch of time under the same fee.

    100.00 for January until the 15th, then 200.00, by the day → 14/31: 45.16 and 17/31: 109.68.
    Each is its exact share, rounded; where a fee comes back within the period its stretches add up
    to the rounded whole (spec 09, I-08), so that an upgrade undone at once costs nothing (I-09).
    """
    found: list[Fee] = []
    reached: dict[object, Fraction] = {}
    first = [_sold(terms) for terms in of.parts[0].terms[:1]]
    seen: set[UUID | None] = set()
    for terms, served, main in _stretches(of):
        before = reached.get(_sold(terms), Fraction(0))
        if of.basis == "none":
            pays = _sold(terms) in first and not before if main else terms.source not in seen
            share = Fraction(1 if pays else 0)
        else:
            share = fraction(of.whole, served, of.basis, of.time_zone)
        seen.add(terms.source)
        reached[_sold(terms)] = after = before + share
        price = terms.base_fee_minor * terms.quantity
        amount_minor = round_half_up(after * price) - round_half_up(before * price)
        found.append(Fee(terms, served, amount_minor))
    return tuple(found)


def _sold(terms: PlanTerms) -> tuple[UUID | None, int, int, Timing]:
    """What makes two fees the same fee."""
    return terms.source, terms.base_fee_minor, terms.quantity, terms.timing


def _stretches(of: ContractPeriod) -> list[tuple[PlanTerms, Period, bool]]:
    """(terms, time, whether it is the plan) for each unbroken time under the same fee."""
    stretches: list[tuple[PlanTerms, Period, bool]] = []
    for part in of.parts:
        for place, terms in enumerate(part.terms):
            main = place == 0
            for at, (other, served, role) in enumerate(stretches):
                joins = served.ends_at == part.served.starts_at
                if joins and role == main and _sold(other) == _sold(terms):
                    joined = Period(served.starts_at, part.served.ends_at)
                    stretches[at] = (other, joined, role)
                    break
            else:
                stretches.append((terms, part.served, main))
    return stretches


def metered(of: ContractPeriod) -> tuple[Metered, ...]:
    """Which charge prices which usage of a period, in the order of the terms.

    One charge that holds throughout prices the whole period's usage, also over a pause. After an
    upgrade at half of the period: the usage up to then by the old charge with half of its included
    units (5,000 of 10,000), the rest by the new one with half of its (125,000 of 250,000).
    """
    runs: list[list[tuple[int, PlanTerms, Charge]]] = []
    for number, part in enumerate(of.parts):
        for terms in part.terms:
            for charge in terms.charges:
                for run in runs:
                    last, other, same = run[-1]
                    if (last, other.source, same) == (number - 1, terms.source, charge):
                        run.append((number, terms, charge))
                        break
                else:
                    runs.append([(number, terms, charge)])
    return tuple(_metered(of, run) for run in runs)


def _metered(of: ContractPeriod, run: Sequence[tuple[int, PlanTerms, Charge]]) -> Metered:
    _, terms, charge = run[-1]
    spans = [of.parts[number].served for number, _, _ in run]
    span = Period(spans[0].starts_at, spans[-1].ends_at)
    share = WHOLE
    if len(run) < len(of.parts):
        share = Fraction(_length(spans), _length([part.served for part in of.parts]))
    bare = charge
    if charge.minimum is not None or charge.maximum is not None:
        bare = replace(charge, minimum=None, maximum=None)
    least = Fraction(0)
    if charge.minimum:
        least = Fraction(charge.minimum) * (share if of.basis == "none" else _share(of, spans))
    most = None if charge.maximum is None else Fraction(charge.maximum) * share
    return Metered(terms, scaled(bare, share), span, least, most)


def _share(of: ContractPeriod, spans: Sequence[Period]) -> Fraction:
    """The part of the nominal period that these spans stand for, by the period's proration."""
    return sum((fraction(of.whole, span, of.basis, of.time_zone) for span in spans), Fraction(0))


def commitment(of: ContractPeriod) -> int:
    """The least total of a period in minor units: the plans' minimum for the time each held.

    10,000.00 a month from 4 February 2023: 25/28 → 8,928.57.
    """
    asked = [part.terms[0].minimum_commitment_minor for part in of.parts]
    if of.basis == "none" or not any(asked):
        return asked[0]
    return round_half_up(
        sum(
            (
                _share(of, [part.served]) * minor
                for part, minor in zip(of.parts, asked, strict=True)
            ),
            Fraction(0),
        )
    )


def _length(spans: Sequence[Period]) -> int:
    return sum((span.ends_at - span.starts_at) // timedelta(microseconds=1) for span in spans)
