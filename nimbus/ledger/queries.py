# SPDX-License-Identifier: Apache-2.0
"""Balances, and the proof of the books; both need a system session."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Select,
    Subquery,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.proofs import Report
from nimbus.ledger.models import LedgerTransfer

Expected = Callable[[], Select[*tuple[Any, ...]]]
COMPARED = ("organization_id", "debit_account", "credit_account", "amount_minor", "currency")

_expectations: dict[str, Expected] = {}


def expect(source_kind: str, expected: Expected) -> None:
    """Register what facts of a kind must have posted, so that `check` can compare.

    `expected()` selects one row a leg: source_id, leg, organization_id, debit_account,
    credit_account, amount_minor, currency; worked out from the facts' own tables.
    """
    _expectations[source_kind] = expected


async def balance(
    session: AsyncSession, account: str, currency: str, organization_id: UUID | None = None
) -> int:
    """The balance of an account in minor units of `currency`, debit positive, from the transfers.

    Over all organizations, or one.
    """
    transfer = LedgerTransfer
    signed = case(
        (transfer.debit_account == account, transfer.amount_minor), else_=-transfer.amount_minor
    )
    statement = select(func.coalesce(func.sum(signed), 0)).where(
        or_(transfer.debit_account == account, transfer.credit_account == account),
        transfer.currency == currency,
    )
    if organization_id is not None:
        statement = statement.where(transfer.organization_id == organization_id)
    return int(await session.scalar(statement) or 0)


async def check(session: AsyncSession) -> Report:
    """Prove the books: chains and heads verify, every fact posted exactly what it must.

    One statement, so that it sees one moment while others post. Differences name the chain entry
    (organization, sequence) or the fact (source kind and id, leg) that is wrong.
    """
    problems = [_chain(), _heads(), _unknown_sources()]
    problems += [_wrong_postings(kind, expected()) for kind, expected in _expectations.items()]
    parts = [select(part.c.problem, part.c.detail) for part in problems]
    count = select(
        literal("checked").label("problem"),
        func.jsonb_build_object("count", func.count()).label("detail"),
    ).select_from(LedgerTransfer)
    rows = (await session.execute(union_all(count, *parts))).all()
    checked = next(row.detail["count"] for row in rows if row.problem == "checked")
    found = [{"problem": row.problem, **row.detail} for row in rows if row.problem != "checked"]
    return Report(checked, tuple(found))


def _chain() -> Subquery:
    """Entries whose hash is not that of the entry before and of themselves, or that skip one."""
    statement = text(
        """
        SELECT 'chain' AS problem,
               jsonb_build_object('organization_id', (entry).organization_id,
                                  'sequence', (entry).sequence) AS detail
        FROM (SELECT t AS entry,
                     coalesce(lag(t.hash) OVER chain, sha256(uuid_send(t.organization_id))) AS last,
                     coalesce(lag(t.sequence) OVER chain, 0) AS before
              FROM ledger_transfers t
              WINDOW chain AS (PARTITION BY t.organization_id ORDER BY t.sequence)) linked
        WHERE (entry).sequence <> before + 1 OR (entry).hash <> ledger_hash(last, entry)
        """
    )
    return _columns(statement)


def _heads() -> Subquery:
    """Chains whose head is not their last entry: the end was cut off."""
    statement = text(
        """
        SELECT 'head' AS problem,
               jsonb_build_object('organization_id', organization_id, 'head', head.sequence,
                                  'last', last.sequence) AS detail
        FROM ledger_heads head
        FULL JOIN (SELECT DISTINCT ON (organization_id) organization_id, sequence, hash
                   FROM ledger_transfers ORDER BY organization_id, sequence DESC) last
             USING (organization_id)
        WHERE (head.sequence, head.hash) IS DISTINCT FROM (last.sequence, last.hash)
        """
    )
    return _columns(statement)


def _columns(statement: Any) -> Subquery:
    found: Subquery = statement.columns(problem=Text(), detail=JSONB()).subquery()
    return found


def _unknown_sources() -> Subquery:
    """Transfers of a kind that no room answers for."""
    transfer = LedgerTransfer
    return (
        select(
            literal("unknown_source").label("problem"),
            func.jsonb_build_object(
                "source_kind", transfer.source_kind, "source_id", transfer.source_id
            ).label("detail"),
        )
        .where(transfer.source_kind.not_in(list(_expectations)))
        .subquery()
    )


def _wrong_postings(kind: str, expected: Select[*tuple[Any, ...]]) -> Subquery:
    """Legs that are missing, too many, or other than their fact says."""
    wanted = expected.subquery()
    posted = select(LedgerTransfer).where(LedgerTransfer.source_kind == kind).subquery()
    same = and_(wanted.c.source_id == posted.c.source_id, wanted.c.leg == posted.c.leg)
    differs = [wanted.c[name].is_distinct_from(posted.c[name]) for name in COMPARED]
    return (
        select(
            literal("posting").label("problem"),
            func.jsonb_build_object(
                "source_kind",
                cast(literal(kind), Text),
                "source_id",
                func.coalesce(wanted.c.source_id, posted.c.source_id),
                "leg",
                func.coalesce(wanted.c.leg, posted.c.leg),
                "expected_minor",
                wanted.c.amount_minor,
                "posted_minor",
                posted.c.amount_minor,
            ).label("detail"),
        )
        .select_from(wanted.outerjoin(posted, same, full=True))
        .where(or_(*differs))
        .subquery()
    )
