# SPDX-License-Identifier: Apache-2.0
"""Calls counted together: what all calls of one kind in one hour add to meters, quota and money.

A tally is as good as its calls wherever a window holds all of them; where a window cuts through it,
`within` takes it apart again. So what is counted by tallies is what is counted call by call: the
tests hold the two together. Source: spec 03 "Usage event", spec 09 U-05.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import NamedTuple
from uuid import UUID

from nimbus.rules.metering import (
    CALLS,
    Cell,
    Environment,
    Held,
    UsageEvent,
    is_counted,
    roll_up,
)
from nimbus.rules.money import EXACT
from nimbus.rules.periods import Period

MONEY = Held.ORGANIZATION_SPEND | Held.KEY_SPEND | Held.BALANCE


class Kind(NamedTuple):
    """Which cells calls add to, whatever the meter; `hour` is in UTC."""

    organization_id: UUID
    provider_organization_id: UUID
    subscription_id: UUID
    product_id: UUID
    key_id: UUID
    route_id: UUID
    status_class: int
    environment: Environment
    hour: datetime


@dataclass(frozen=True, slots=True)
class Tally:
    """Served calls of one kind, all of them counted or none.

    `cells` by meter; `leased` units of calls and `holds` units of reported meters were taken from
    leases; `held` is money that was held, in millionths of a minor unit, by what it was held on;
    and units, on the quota of the key. `members` are the different values that meters saw.
    `apart` gives a tally for each call, in the order of their sequences.
    """

    kind: Kind
    counted: bool
    first_at: datetime
    last_at: datetime
    cells: Mapping[str, Cell]
    apart: "Callable[[], Sequence[Tally]]" = field(compare=False)
    leased: int = 0
    holds: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[Held, int] = field(default_factory=dict)
    members: Mapping[str, Collection[UUID]] = field(default_factory=dict)

    def lies_in(self, window: Period) -> bool:
        """Whether all calls are of this window."""
        return self.first_at in window and self.last_at in window

    def held_units(self, meter_key: str) -> int:
        """The units of a meter that their gateway took from its leases."""
        return self.leased if meter_key == CALLS else self.holds.get(meter_key, 0)


def kind_of(call: UsageEvent) -> Kind:
    """Which cells a call adds to."""
    return Kind(
        call.organization_id,
        call.provider_organization_id,
        call.subscription_id,
        call.product_id,
        call.key_id,
        call.route_id,
        call.status // 100,
        call.environment,
        call.occurred_at.replace(minute=0, second=0, microsecond=0),
    )


def tally(calls: Iterable[UsageEvent]) -> list[Tally]:
    """These served calls by kind: one by one, the law that whoever is quicker is held against."""
    groups: dict[tuple[Kind, bool], list[UsageEvent]] = {}
    for call in calls:
        groups.setdefault((kind_of(call), is_counted(call)), []).append(call)
    return [tally_of(group) for group in groups.values()]


def tally_of(calls: Sequence[UsageEvent]) -> Tally:
    """Calls of one kind, all counted or none, as one tally."""
    holds: dict[str, int] = {}
    held: dict[Held, int] = {}
    for call in calls:
        for meter_key, units in call.holds:
            holds[meter_key] = holds.get(meter_key, 0) + units
        for held_on, more in held_by(call.held_on, call.held_micro, call.units).items():
            held[held_on] = held.get(held_on, 0) + more
    return Tally(
        kind=kind_of(calls[0]),
        counted=is_counted(calls[0]),
        first_at=min(call.occurred_at for call in calls),
        last_at=max(call.occurred_at for call in calls),
        cells={key.meter_key: cell for key, cell in roll_up(calls).items()},
        apart=lambda: [tally_of([call]) for call in calls],
        leased=sum(call.leased for call in calls),
        holds=holds,
        held=held,
    )


def held_by(held_on: Held, micro: int, units: int) -> dict[Held, int]:
    """What calls held, by what they held it on: the same money on each counter of money, their
    units on the quota of their key.
    """
    found = {held_on & MONEY: micro} if micro else {}
    if held_on & Held.KEY_QUOTA and units:
        found[Held.KEY_QUOTA] = units
    return found


def within(tallies: Iterable[Tally], window: Period) -> list[Tally]:
    """What lies in a half-open window; a tally that it cuts through is taken apart.

    Of calls at 11:10 and 11:50 in one tally, the window that ends at 11:30 has the first.
    """
    found = []
    for one in tallies:
        if one.lies_in(window):
            found.append(one)
        elif one.last_at >= window.starts_at and one.first_at < window.ends_at:
            found += [single for single in one.apart() if single.lies_in(window)]
    return found


def merged(tallies: Iterable[Tally]) -> dict[str, Cell]:
    """The quantities of tallies added up, by meter; without the size of the calls."""
    cells: dict[str, list[Cell]] = {}
    for one in tallies:
        for meter_key, cell in one.cells.items():
            cells.setdefault(meter_key, []).append(cell)
    return {meter_key: _joined(some) for meter_key, some in cells.items()}


def _joined(cells: Sequence[Cell]) -> Cell:
    latest = max(cells, key=lambda cell: (cell.last_at, cell.last_event_id))
    return Cell(
        events=sum(cell.events for cell in cells),
        total=reduce(EXACT.add, (cell.total for cell in cells)),
        peak=max(cell.peak for cell in cells),
        last=latest.last,
        last_at=latest.last_at,
        last_event_id=latest.last_event_id,
    )


def single_quantities(tallies: Iterable[Tally], meter_key: str) -> tuple[Decimal, ...]:
    """The quantity of each single call of a meter, where it has one, in the order of their instants
    and ids.
    """
    singles = [
        call.cells[meter_key]
        for one in tallies
        if meter_key in one.cells
        for call in one.apart()
        if meter_key in call.cells
    ]
    singles.sort(key=lambda cell: (cell.last_at, cell.last_event_id))
    return tuple(cell.total for cell in singles if cell.total)


def placed(
    tallies: Iterable[Tally], window_at: Callable[[datetime], Period | None]
) -> Iterator[tuple[Period, Tally]]:
    """Each tally with the window that it lies in, taken apart where it lies in several; what is in
    no window is left out.
    """
    for one in tallies:
        window = window_at(one.first_at)
        if window is not None and one.lies_in(window):
            yield window, one
        elif one.first_at != one.last_at:
            yield from placed(one.apart(), window_at)
