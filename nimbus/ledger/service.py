# SPDX-License-Identifier: Apache-2.0
"""Posting: the only way into the ledger."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.db import json_of
from nimbus.base.ids import new_id
from nimbus.rules.ledger import Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """What one business fact posts: `source_kind` ("invoice") and `source_id` name the fact.

    `organization_id` is the customer whose chain it joins; `occurred_at` is business time.
    """

    organization_id: UUID
    source_kind: str
    source_id: UUID
    occurred_at: datetime
    transfers: tuple[Transfer, ...]


async def post(session: AsyncSession, postings: Iterable[Posting]) -> None:
    """Add postings at the end of their organizations' chains; a fact of nothing adds nothing.

    Needs a system session. Call it once in a transaction, after every other lock but that of the
    invoices' number series: the chains' heads are locked until commit, in the order of the
    organizations, so posters never wait for each other in a circle. A fact posted before is an
    IntegrityError: (source kind, source id, leg) is unique.
    """
    legs = [
        _leg(posting, transfer)
        for posting in sorted(postings, key=lambda one: one.organization_id.int)
        for transfer in posting.transfers
    ]
    if legs:
        statement = text("SELECT ledger_append(CAST(:legs AS jsonb))")
        await session.execute(statement, {"legs": json_of(legs)})


def _leg(posting: Posting, transfer: Transfer) -> dict[str, Any]:
    return {
        "id": new_id(),
        "organization_id": posting.organization_id,
        "source_kind": posting.source_kind,
        "source_id": posting.source_id,
        "occurred_at": posting.occurred_at,
        "debit_account": transfer.debit,
        "credit_account": transfer.credit,
        "amount_minor": transfer.amount_minor,
        "currency": transfer.currency,
        "leg": transfer.leg,
    }
