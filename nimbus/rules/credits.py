# SPDX-License-Identifier: Apache-2.0
"""Prepaid credit: which of a customer's grants pays, and what an expired one loses.

Credit is drawn after VAT, before the payment method (spec 04): lowest priority number first, then
what expires first, then what was given first.
Source: https://developer.konghq.com/metering-and-billing/ (credits), the cases credits.*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Grant:
    """Credit given at once, of which `balance_minor` is left; None never expires."""

    key: str
    balance_minor: int
    expires_at: datetime | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """`amount_minor` (above zero) taken from the grant `key`."""

    key: str
    amount_minor: int


def draw(grants: Sequence[Grant], amount_minor: int, as_of: datetime) -> tuple[Entry, ...]:
    """Which grants pay `amount_minor`, as far as they reach; expired ones never.

    A 50.00 until the 10th, B 80.00 until the 20th, C 100.00 of a later priority: 90.00 → A 50.00
    and B 40.00. `grants` come in the order in which they were given.
    """
    entries = []
    for grant in sorted(_live(grants, as_of), key=_order):
        taken = min(grant.balance_minor, amount_minor)
        if taken > 0:
            entries.append(Entry(grant.key, taken))
            amount_minor -= taken
    return tuple(entries)


def balance(grants: Sequence[Grant], as_of: datetime) -> int:
    """What can be drawn at `as_of`, in minor units: 100.00 of which 70.00 expired → 30.00."""
    return sum(grant.balance_minor for grant in _live(grants, as_of))


def expired(grants: Sequence[Grant], as_of: datetime) -> tuple[Entry, ...]:
    """What is to be written off: 100.00 given, 30.00 used, expired → an entry of 70.00."""
    return tuple(
        Entry(grant.key, grant.balance_minor)
        for grant in grants
        if grant.balance_minor > 0 and not _lives(grant, as_of)
    )


def _live(grants: Sequence[Grant], as_of: datetime) -> list[Grant]:
    return [grant for grant in grants if _lives(grant, as_of)]


def _lives(grant: Grant, as_of: datetime) -> bool:
    return grant.expires_at is None or as_of < grant.expires_at


def _order(grant: Grant) -> tuple[int, bool, datetime | None]:
    if grant.expires_at is None:
        return grant.priority, True, None
    return grant.priority, False, grant.expires_at
