# SPDX-License-Identifier: Apache-2.0
"""Events that a provider reports, which no gateway saw: what they say, and how they are counted.

Such an event has no key, route nor size, and adds to one meter at most. What all events of one
subscription and meter have in common stands once, so that one event is a small tuple.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import NamedTuple
from uuid import UUID

from nimbus.rules.metering import NIL, Cell
from nimbus.rules.money import EXACT
from nimbus.rules.tallies import Kind, Tally

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_HOUR_US = 3_600_000_000
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """What reported events count for, and who says so: a person or a key, in which request. What
    is not `live` is kept, and counts for nothing. A `correction` says by how much another event was
    wrong, below zero too: it adds to what that one said, and is no event more.
    """

    organization_id: UUID
    provider_organization_id: UUID
    subscription_id: UUID
    product_id: UUID
    meter_key: str
    live: bool
    reported_by: UUID
    request_id: str
    correction: bool = False


class Reported(NamedTuple):
    """One event: `event_id` is a UUID's 16 bytes, `occurred_us` microseconds since 1970, `amount`
    the quantity as a plain decimal text, `properties` a JSON object or "". It `counts` if it
    passes the meter's filters; `member` stands for its value of the property that a `unique`
    meter tells apart. Its sender's `external_id` is of the sender's `source`.
    """

    target: Target
    event_id: bytes
    occurred_us: int
    quantity: Decimal
    amount: str
    counts: bool
    source: str
    external_id: str
    properties: str
    member: UUID | None


def tally_reported(events: Iterable[Reported]) -> list[Tally]:
    """What reported events add, as one tally for each subscription and hour.

    At 10:05 and 10:50 a meter hears 2 and 3, at 11:00 it hears 1: two tallies, of two events that
    make 5, and of one. What passes no filter, or is not live, adds to no meter.
    """
    groups: dict[tuple[Target, int], list[Reported]] = {}
    for event in events:
        place = event.target, event.occurred_us // _HOUR_US
        known = groups.get(place)
        if known is None:
            groups[place] = [event]
        else:
            known.append(event)
    together: dict[tuple[UUID, bool, int], list[Sequence[Reported]]] = {}
    for (target, hour), group in groups.items():
        at = target.subscription_id, target.live, hour
        together.setdefault(at, []).append(group)
    return [_tally(hour, some) for (_, _, hour), some in together.items()]


def _tally(hour: int, groups: Sequence[Sequence[Reported]]) -> Tally:
    """Events of one hour and subscription, those of a target together."""
    target = groups[0][0].target
    instants = [event.occurred_us for group in groups for event in group]
    by_meter: dict[str, list[Reported]] = {}
    members: dict[str, set[UUID]] = {}
    for group in groups if target.live else ():
        key = group[0].target.meter_key
        if counting := [event for event in group if event.counts]:
            by_meter.setdefault(key, []).extend(counting)
        if some := {event.member for event in group if event.member is not None}:
            members.setdefault(key, set()).update(some)
    return Tally(
        kind=Kind(
            target.organization_id,
            target.provider_organization_id,
            target.subscription_id,
            target.product_id,
            NIL,
            NIL,
            0,
            "Live" if target.live else "Test",
            _EPOCH + hour * _HOUR,
        ),
        counted=target.live,
        first_at=_instant(min(instants)),
        last_at=_instant(max(instants)),
        cells={key: _cell(some) for key, some in by_meter.items()},
        apart=lambda: [_tally(hour, [[event]]) for group in groups for event in group],
        members=members,
    )


def _cell(events: Sequence[Reported]) -> Cell:
    latest = max(events, key=lambda event: (event.occurred_us, event.event_id))
    amounts = [event.quantity for event in events]
    return Cell(
        events=sum(not event.target.correction for event in events),
        total=reduce(EXACT.add, amounts),
        peak=max(amounts),
        last=latest.quantity,
        last_at=_instant(latest.occurred_us),
        last_event_id=UUID(bytes=latest.event_id),
    )


def _instant(us: int) -> datetime:
    return _EPOCH + us * _MICROSECOND
