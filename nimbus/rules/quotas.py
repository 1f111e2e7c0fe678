# SPDX-License-Identifier: Apache-2.0
"""How many units a quota window allows: changes of plan, roll-over, increases, thresholds.

The law of changes (spec 09, Q-07): what a window has used stays used, whatever plan comes. A quota
that is counted anew with a change of plan, and a subscription that begins again while a window of
the one before would still run, allow no more than the best plan of that window still leaves. So no
sequence of changes comes to more free units than the best single plan does; a reset by hand and an
increase are given on top, by someone who may, and written down.

Units of limits are whole; what was used may be a fraction, and its last part takes a whole unit.
Unlimited is None throughout.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal

OverQuotaPolicy = Literal["deny", "warn", "allow", "overage"]
OnChange = Literal["carry", "reset"]
THRESHOLDS = (50, 80, 100)
"""Percent of a limit at which people are told. Source: spec 03 "Limits"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a plan says of one meter in one quota period.

    `overage_cap`: units over the amount that are served and billed under `overage`, None for any
    number. `roll_over`: the most unused units that come along into the next windows, of which each
    can be used for `roll_over_windows`. `on_change`: whether a change to this plan carries on what
    the window has counted, or counts anew.
    """

    amount: int | None
    policy: OverQuotaPolicy
    overage_cap: int | None = None
    roll_over: int = 0
    roll_over_windows: int = 1
    on_change: OnChange = "carry"

    @property
    def ends(self) -> bool:
        """Whether there is a unit that is not served any more."""
        if self.amount is None:
            return False
        return self.policy == "deny" or (self.policy == "overage" and self.overage_cap is not None)


UNLIMITED = Quota(amount=None, policy="allow")


def best_of(best: int | None, amount: int | None) -> int | None:
    """The most that any plan of a window allows, once `amount` is one of them.

    100 and 250 → 250; an unlimited one among them → unlimited.
    """
    return None if best is None or amount is None else max(best, amount)


def added(amount: int | None, more: int | None, times: int) -> int | None:
    """A plan's amount with that of an add-on which is taken so many times. 100 and twice 50 → 200;
    with an unlimited one of them → unlimited.
    """
    return None if amount is None or more is None else amount + more * times


def own_units(quota: Quota, best: int | None, before: Decimal) -> int | None:
    """What a window allows by its plan, when `before` was used of it under earlier counts: on rows
    that a change of plan closed, or by a subscription to the same product that ended meanwhile.

    250 a month after 80 were used of the old plan's 100: min(250, 250 - 80) = 170. 100 again after
    100 of 100 were used: min(100, 100 - 100) = 0. 50 after 30 of the old plan's 100:
    min(50, 100 - 30) = 50, together 80. A plan that ends nowhere keeps its amount: what is over it
    is not refused, and is billed by the charges. Source: spec 09, Q-07.
    """
    if quota.amount is None or best is None or not quota.ends:
        return quota.amount
    return max(0, min(quota.amount, best - whole(before)))


def limit(quota: Quota, own: int | None, rolled: Iterable[int], increase: int) -> int | None:
    """The units that a window allows in all: its own, what rolled over as far as the present plan
    lets it, and what was added for a time. 100, rolled (30, 5), at most 20, increase 10 → 130.
    """
    if own is None:
        return None
    return own + sum(_within(quota.roll_over, rolled)) + increase


def roll_over(quota: Quota, own: int | None, rolled: Iterable[int], used: Decimal) -> list[int]:
    """What a window that is over hands to the next one, the newest units first.

    The oldest are used first, then newer ones, the window's own, at last what was added for a time,
    which never rolls over. `used` holds what is still lent as well. Own 100, rolled (30,), used 50,
    at most 80, for two windows → [80, 0]; used 20 → [80, 0] again, of 100 and 10; at most 200 →
    [100, 10]; for one window → [100].
    """
    if own is None or not quota.roll_over:
        return []
    kept = [own, *_within(quota.roll_over, rolled)]
    left = whole(used)
    for place in range(len(kept) - 1, -1, -1):
        taken = min(left, kept[place])
        kept[place] -= taken
        left -= taken
    return _within(quota.roll_over, kept[: quota.roll_over_windows])


def ceiling(limit_units: int | None, policy: str, overage_cap: int | None) -> int | None:
    """The unit after which none is served; None where all are. 100 under deny → 100; under overage
    with a cap of 20 → 120, without one, and under warn and allow → None.
    """
    if limit_units is None:
        return None
    if policy == "deny":
        return limit_units
    if policy == "overage" and overage_cap is not None:
        return limit_units + overage_cap
    return None


def crossed(used: Decimal, limit_units: Decimal | int | None, told: int) -> list[int]:
    """The thresholds that are reached and were not told yet; `told` is the highest that was.

    79 of 100 after 50 was told → none; 80 → [80]; 100 at once, none told → [50, 80, 100]. Of
    nothing, the first unit is all: 1 of 0 → [50, 80, 100], 0 of 0 → none.
    """
    if limit_units is None or used <= 0:
        return []
    return [one for one in THRESHOLDS if one > told and used * 100 >= one * limit_units]


def whole(used: Decimal) -> int:
    """Used units as whole ones: the last part takes a unit. 9.2 → 10."""
    return int(used.to_integral_value(ROUND_CEILING))


def _within(room: int, units: Iterable[int]) -> list[int]:
    """As much of each as there is room for, the newest first."""
    kept = []
    for one in units:
        kept.append(min(one, room))
        room -= kept[-1]
    return kept
