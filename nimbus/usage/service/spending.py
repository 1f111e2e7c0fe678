# SPDX-License-Identifier: Apache-2.0
"""Spend standings: opened by month, counted with the calls, settled with what calls held.

What a gateway lent a call (`UsageEvent.held_micro`, on each standing that `held_on` names) is
given back in the transaction that adds what the call did cost. Amounts are in millionths of a
minor unit of the organization's currency.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.rules.metering import CALLS, NIL, Held
from nimbus.rules.money import EXACT, Money
from nimbus.rules.periods import Period
from nimbus.rules.spending import MICRO
from nimbus.rules.tallies import Tally, within
from nimbus.usage.models import SpendLease, SpendStanding, SpendState
from nimbus.usage.service.allowances import tell_spend
from nimbus.usage.service.quotas import while_no_storing
from nimbus.usage.service.rating import Share

EVER = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
"""The window of a prepaid balance."""


@dataclass(frozen=True, slots=True)
class Standings:
    """The spend standings that calls fall into: months by organization, and ids by organization,
    key (None: its own) and beginning.
    """

    months: Mapping[UUID, list[Period]]
    ids: Mapping[tuple[UUID, UUID | None, datetime], UUID]

    def month(self, organization_id: UUID, instant: datetime) -> Period | None:
        """The month of an organization that contains the instant, if it is open."""
        mine = self.months.get(organization_id, ())
        return next((window for window in mine if instant in window), None)


async def standings_of(session: AsyncSession, tallies: Iterable[Tally]) -> Standings:
    """The standings of these calls, opened where they are missing. A system session.

    Each organization has one of the month, so has each of its keys; a balance where it is prepaid.
    """
    concerned = [one for one in tallies if one.counted or one.held]
    found = await _find(session, concerned)
    missing: dict[tuple[UUID, str], tuple[datetime, set[UUID]]] = {}
    instants = [(each, at) for each in concerned for at in (each.first_at, each.last_at)]
    for one, at in instants:
        organization_id = one.kind.organization_id
        month = found.month(organization_id, at)
        keys = {one.kind.key_id} - {NIL}  # what came from outside is of no key
        if month is None or any(
            (organization_id, key, month.starts_at) not in found.ids for key in keys
        ):
            hour = f"{at:%Y%m%d%H}"  # one opening for the many calls of a new month
            missing.setdefault((organization_id, hour), (at, set()))[1].update(keys)
    for organization_id, hour in sorted(missing):
        instant, keys = missing[organization_id, hour]
        await session.execute(
            text("SELECT spend_open(:organization_id, CAST(:keys AS uuid[]), :instant)"),
            {"organization_id": organization_id, "keys": sorted(keys), "instant": instant},
        )
    return await _find(session, concerned) if missing else found


async def count(
    session: AsyncSession,
    producer: UUID,
    standings: Standings,
    shares: Iterable[Share],
    tallies: Iterable[Tally],
) -> None:
    """Add to the standings what their calls cost, and give back what these calls held."""
    spent: dict[UUID, Decimal] = {}
    keyless: dict[UUID, Decimal] = {}

    def add(to: dict[UUID, Decimal], standing_id: UUID | None, micro: Decimal) -> None:
        if standing_id is not None:
            to[standing_id] = EXACT.add(to.get(standing_id, Decimal(0)), micro)

    ids = dict(standings.ids)
    shares = list(shares)
    balances = await _balances(session, {share.organization_id for share in shares})
    ids |= {(owner, None, EVER.starts_at): own for owner, own in balances.items()}
    for share in shares:
        owner, month = share.organization_id, share.window.starts_at
        of_month = ids.get((owner, None, month))
        of_key = None if share.key_id is None else ids.get((owner, share.key_id, month))
        for standing_id in (of_month, of_key, ids.get((owner, None, EVER.starts_at))):
            add(spent, standing_id, share.micro)
        if of_key is None:
            add(keyless, of_month, share.micro)
    held: dict[UUID, int] = {}
    calls = list(tallies)
    for one in _in_months(standings, [one for one in calls if one.held]):
        for held_on, micro in one.held.items():
            for standing_id in _held_on(standings, one, held_on):
                held[standing_id] = held.get(standing_id, 0) + micro
    await _count_units(session, calls, spent, held)
    rows = await _locked(session, spent.keys() | held.keys())
    leases = await _leases(session, producer, held)
    for row in rows:
        row.used = EXACT.add(row.used, spent.get(row.id, Decimal(0)))
        row.keyless = EXACT.add(row.keyless, keyless.get(row.id, Decimal(0)))
        lease = leases.get(row.id)
        if lease is not None:
            settled = min(lease.units, held[row.id])
            lease.units -= settled
            row.leased -= settled
        tell_spend(session, row)
    await session.flush()


async def _balances(session: AsyncSession, organizations: Collection[UUID]) -> dict[UUID, UUID]:
    """The balances of organizations, looked up while none begins: so each counts all that is spent
    after its beginning, and nothing before.
    """
    if not organizations:
        return {}
    statement = select(SpendStanding.organization_id, SpendStanding.id).where(
        SpendStanding.organization_id.in_(organizations), SpendStanding.kind == "balance"
    )
    return {row.organization_id: row.id for row in await session.execute(statement)}


async def _count_units(
    session: AsyncSession,
    tallies: Iterable[Tally],
    spent: dict[UUID, Decimal],
    held: dict[UUID, int],
) -> None:
    """Add what calls used of their keys' quotas, and what they held of them.

    Looked up here, while nothing opens: a quota that was opened before has counted what was stored.
    """
    counted = [one for one in tallies if one.counted and CALLS in one.cells]
    if not counted:
        return
    statement = select(SpendStanding).where(
        SpendStanding.kind == "key_quota",
        SpendStanding.key_id.in_({one.kind.key_id for one in counted}),
        SpendStanding.period_ends_at > min(one.first_at for one in counted),
    )
    for row in await session.scalars(statement):
        mine = within([one for one in counted if one.kind.key_id == row.key_id], row.window())
        if mine:
            spent[row.id] = sum((one.cells[CALLS].total for one in mine), Decimal(0))
            held[row.id] = sum(one.held.get(Held.KEY_QUOTA, 0) for one in mine)


async def return_leases(session: AsyncSession, producer: UUID) -> None:
    """Give back what a gateway holds that is gone, its journal being stored. A system session."""
    rows = await session.scalars(select(SpendLease).where(SpendLease.producer == producer))
    leases = {lease.standing_id: lease for lease in rows}
    for standing in await _locked(session, leases):
        standing.leased -= leases[standing.id].units
        await session.delete(leases[standing.id])
    await session.flush()


async def spend_states(
    session: AsyncSession, organization_id: UUID, as_of: datetime
) -> list[SpendState]:
    """What an organization and each of its keys spent this month, and the balance it is prepaid
    by; nothing where nothing was called and nothing is limited.
    """
    rows = await session.scalars(
        select(SpendStanding)
        .where(
            SpendStanding.organization_id == organization_id,
            SpendStanding.kind != "key_quota",
            SpendStanding.period_starts_at <= as_of,
            SpendStanding.period_ends_at > as_of,
        )
        .order_by(SpendStanding.kind, SpendStanding.key_id)
    )
    return [
        SpendState(
            kind=row.kind,
            key_id=row.key_id,
            window=row.window(),
            used=row.used,
            leased=row.leased,
            limit=row.limit_micro,
        )
        for row in rows
    ]


async def credit_balance(session: AsyncSession, organization_id: UUID, amount: Money) -> None:
    """Add to the prepaid balance of an organization, in its currency; the first credit makes it
    prepaid: from then on its calls need a balance. A system session.
    """
    micro = amount.amount_minor * MICRO
    row = await _lock_balance(session, organization_id)
    if row is None:
        await while_no_storing(session)
        row = await _begin_balance(session, organization_id)
    row.limit_micro = (row.limit_micro or 0) + micro
    row.told_of, row.told = EXACT.subtract(Decimal(row.limit_micro), row.used), 0
    await session.flush()


async def settle_balance(
    session: AsyncSession,
    organization_id: UUID,
    *,
    billed_minor: int,
    spent_minor: int,
    left_minor: int,
) -> None:
    """An invoice billed calls that were held against the prepaid balance, and took money out of it.

    All in minor units of the organization's currency: `billed_minor` for the calls, `spent_minor`
    out of the balance, in which `left_minor` is left; never more than that is lent from now on.
    Without a balance nothing happens. A system session.
    """
    row = await _lock_balance(session, organization_id)
    if row is None or row.limit_micro is None:
        return
    more = (billed_minor - spent_minor) * MICRO
    most = int(row.used.to_integral_value(ROUND_FLOOR)) + left_minor * MICRO
    row.limit_micro = max(0, min(row.limit_micro + more, most))
    tell_spend(session, row)
    await session.flush()


async def _lock_balance(session: AsyncSession, organization_id: UUID) -> SpendStanding | None:
    statement = select(SpendStanding).where(
        SpendStanding.organization_id == organization_id, SpendStanding.kind == "balance"
    )
    locked = statement.with_for_update(key_share=True).execution_options(populate_existing=True)
    return await session.scalar(locked)


async def _begin_balance(session: AsyncSession, organization_id: UUID) -> SpendStanding:
    """An empty balance, while nothing is stored; the one that somebody else began meanwhile."""
    spent = await session.scalar(
        select(func.coalesce(func.sum(SpendStanding.used), 0)).where(
            SpendStanding.organization_id == organization_id,
            SpendStanding.kind == "organization_spend",
        )
    )
    new = postgresql.insert(SpendStanding).values(
        organization_id=organization_id,
        kind="balance",
        period_starts_at=EVER.starts_at,
        period_ends_at=EVER.ends_at,
        limit_micro=0,
        spent_before=spent,
        told_of=0,
    )
    await session.execute(new.on_conflict_do_nothing())
    row = await _lock_balance(session, organization_id)
    assert row is not None, "it begins in this transaction at the latest"
    return row


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next month of a limit has to be opened, over all organizations."""
    return await session.scalar(select(func.min(SpendStanding.period_starts_at)).where(*_DUE))


async def due(session: AsyncSession, as_of: datetime, limit: int) -> list[tuple[UUID, datetime]]:
    """The organizations with limits whose month has begun by `as_of` and no other is open."""
    rows = await session.execute(
        select(SpendStanding.organization_id, func.min(SpendStanding.period_starts_at))
        .where(*_DUE, SpendStanding.period_starts_at <= as_of)
        .group_by(SpendStanding.organization_id)
        .order_by(func.min(SpendStanding.period_starts_at))
        .limit(limit)
    )
    return [(row[0], row[1]) for row in rows]


async def follow(session: AsyncSession, organization_id: UUID, as_of: datetime) -> None:
    """Open the month after those of an organization that have begun and are limited."""
    await session.execute(
        text("SELECT spend_follow(:organization_id, :instant)"),
        {"organization_id": organization_id, "instant": as_of},
    )


_DUE = (
    SpendStanding.limit_micro.is_not(None),
    SpendStanding.followed.is_(False),
    SpendStanding.kind != "balance",
)


async def _find(session: AsyncSession, tallies: Collection[Tally]) -> Standings:
    if not tallies:
        return Standings({}, {})
    statement = select(SpendStanding).where(
        SpendStanding.organization_id.in_({one.kind.organization_id for one in tallies}),
        SpendStanding.kind != "key_quota",
        SpendStanding.period_ends_at > min(one.first_at for one in tallies),
        SpendStanding.period_starts_at <= max(one.last_at for one in tallies),
    )
    months: dict[UUID, list[Period]] = {}
    ids = {}
    for row in await session.scalars(statement):
        ids[row.organization_id, row.key_id, row.period_starts_at] = row.id
        if row.kind == "organization_spend":
            months.setdefault(row.organization_id, []).append(row.window())
    return Standings(months, ids)


def _in_months(standings: Standings, tallies: Iterable[Tally]) -> Iterator[Tally]:
    """These tallies, taken apart where they lie in two months."""
    for one in tallies:
        month = standings.month(one.kind.organization_id, one.first_at)
        yield from [one] if month is None or one.lies_in(month) else one.apart()


def _held_on(standings: Standings, one: Tally, held_on: Held) -> list[UUID]:
    owner = one.kind.organization_id
    month = standings.month(owner, one.first_at)
    at: list[tuple[UUID, UUID | None, datetime]] = []
    if held_on & Held.BALANCE:
        at.append((owner, None, EVER.starts_at))
    if held_on & Held.ORGANIZATION_SPEND and month is not None:
        at.append((owner, None, month.starts_at))
    if held_on & Held.KEY_SPEND and month is not None:
        at.append((owner, one.kind.key_id, month.starts_at))
    return [standings.ids[one] for one in at if one in standings.ids]


async def _leases(
    session: AsyncSession, producer: UUID, standing_ids: Collection[UUID]
) -> dict[UUID, SpendLease]:
    if not standing_ids:
        return {}
    statement = select(SpendLease).where(
        SpendLease.producer == producer, SpendLease.standing_id.in_(standing_ids)
    )
    rows = await session.scalars(statement.execution_options(populate_existing=True))
    return {lease.standing_id: lease for lease in rows}


async def _locked(session: AsyncSession, ids: Collection[UUID]) -> list[SpendStanding]:
    if not ids:
        return []
    statement = select(SpendStanding).where(SpendStanding.id.in_(ids)).order_by(SpendStanding.id)
    locked = statement.with_for_update(key_share=True).execution_options(populate_existing=True)
    return list(await session.scalars(locked))
