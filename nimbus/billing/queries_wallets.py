# SPDX-License-Identifier: Apache-2.0
"""The reads of wallets and top-ups."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, literal, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.billing.models import TopUp, WalletEntry
from nimbus.errors import Refusal
from nimbus.rules.credits import Entry, Grant
from nimbus.rules.ledger import CUSTOMER_BALANCE, EXPIRED_CREDIT, RECEIVABLE, cash


def entries_of(organization_id: UUID) -> Select[WalletEntry]:
    """What came into the wallet of an organization and went out of it."""
    return select(WalletEntry).where(WalletEntry.organization_id == organization_id)


def grants_of(organization_id: UUID) -> Select[WalletEntry]:
    """What was put into the wallet of an organization."""
    return entries_of(organization_id).where(WalletEntry.kind.in_(("grant", "top_up")))


def top_ups_of(organization_id: UUID) -> Select[TopUp]:
    """The top-ups that an organization asked for."""
    return select(TopUp).where(TopUp.organization_id == organization_id)


@dataclass(slots=True)
class Purse:
    """The entries of an organization in one currency that have money in them, oldest first."""

    entries: list[tuple[bool, Grant]]

    def of(self, *, credit: bool) -> list[Grant]:
        """Those from credit notes, or those that were paid ahead."""
        return [grant for from_note, grant in self.entries if from_note == credit]

    def take(self, entry: Entry) -> None:
        """What was taken out of one is not in it any more."""
        self.entries = [
            (credit, replace(grant, balance_minor=grant.balance_minor - entry.amount_minor))
            if grant.key == entry.key
            else (credit, grant)
            for credit, grant in self.entries
        ]


async def lock_open(
    session: AsyncSession, organization_ids: Collection[UUID]
) -> dict[tuple[UUID, str], Purse]:
    """(organization, currency) → what is in its wallet, locked in one order for all."""
    ids = {"ids": list(organization_ids)}
    locked = text(
        "SELECT id FROM wallet_entries WHERE organization_id = ANY (:ids)"
        " AND source_entry_id IS NULL ORDER BY id FOR UPDATE"
    )
    if not (await session.execute(locked, ids)).all():
        return {}
    rows = await session.execute(
        text("SELECT * FROM wallet_left WHERE organization_id = ANY (:ids) ORDER BY id"), ids
    )
    found: dict[tuple[UUID, str], Purse] = {}
    for row in rows:
        grant = Grant(str(row.id), row.left_minor, row.expires_at, row.priority)
        purse = found.setdefault((row.organization_id, row.currency), Purse([]))
        purse.entries.append((row.kind == "credit_note", grant))
    return found


async def lock_top_up(session: AsyncSession, top_up_id: UUID) -> TopUp | None:
    """A top-up, locked until the transaction ends."""
    return await session.scalar(select(TopUp).where(TopUp.id == top_up_id).with_for_update())


async def entry_of_top_up(session: AsyncSession, top_up_id: UUID) -> WalletEntry | None:
    """The entry that a top-up became when its money came in."""
    return await session.scalar(select(WalletEntry).where(WalletEntry.top_up_id == top_up_id))


async def paid_top_ups(session: AsyncSession, ids: Collection[UUID]) -> set[UUID]:
    """Those of these top-ups whose money came in."""
    asked = select(WalletEntry.top_up_id).where(WalletEntry.top_up_id.in_(ids))
    return {one for one in await session.scalars(asked) if one is not None}


async def lock_entry(session: AsyncSession, entry_id: UUID) -> WalletEntry:
    """An entry, locked until the transaction ends; 404."""
    asked = select(WalletEntry).where(WalletEntry.id == entry_id).with_for_update()
    found = await session.scalar(asked)
    if found is None:
        raise Refusal("not_found")
    return found


async def left_of(session: AsyncSession, entry_id: UUID) -> int:
    """What is left of an entry, in minor units."""
    asked = select(func.coalesce(func.sum(WalletEntry.amount_minor), 0)).where(
        or_(WalletEntry.id == entry_id, WalletEntry.source_entry_id == entry_id)
    )
    return int(await session.scalar(asked) or 0)


async def due_to_expire(
    session: AsyncSession, as_of: datetime, limit: int
) -> list[tuple[UUID, datetime]]:
    """Entries with money in them whose end has come by `as_of`, the earliest first."""
    rows = await session.execute(
        text(
            "SELECT id, expires_at FROM wallet_left WHERE expires_at <= :as_of AND left_minor > 0"
            " ORDER BY expires_at, id LIMIT :limit"
        ),
        {"as_of": as_of, "limit": limit},
    )
    return [(row.id, row.expires_at) for row in rows]


async def next_to_expire(session: AsyncSession) -> datetime | None:
    """When the next entry with money in it ends."""
    earliest: datetime | None = await session.scalar(
        text("SELECT min(expires_at) FROM wallet_left WHERE left_minor > 0")
    )
    return earliest


def expected_grants() -> Select[*tuple[Any, ...]]:
    """What grants and top-ups must have posted, for the proof of the books."""
    entry = WalletEntry
    return _legs("credit", cash("manual"), CUSTOMER_BALANCE).where(
        entry.kind.in_(("grant", "top_up"))
    )


def expected_draws() -> Select[*tuple[Any, ...]]:
    """What draws must have posted."""
    return _legs("balance_used", CUSTOMER_BALANCE, RECEIVABLE).where(WalletEntry.kind == "draw")


def expected_expiries() -> Select[*tuple[Any, ...]]:
    """What expiries must have posted."""
    return _legs("expired", CUSTOMER_BALANCE, EXPIRED_CREDIT).where(WalletEntry.kind == "expiry")


def _legs(leg: str, debit: str, credit: str) -> Select[*tuple[Any, ...]]:
    return select(
        WalletEntry.id.label("source_id"),
        literal(leg).label("leg"),
        WalletEntry.organization_id,
        literal(debit).label("debit_account"),
        literal(credit).label("credit_account"),
        func.abs(WalletEntry.amount_minor).label("amount_minor"),
        WalletEntry.currency,
    )
