# SPDX-License-Identifier: Apache-2.0
"""The audit trail's proof: every row is where its organization's hash chain says (A-02).

hash(n) = SHA-256(hash(n-1), n as 8 bytes big-endian, body), and hash(0) = SHA-256(organization).
The columns beside the body only repeat it, for searching; they are compared with it.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.proofs import Report

ROWS_AT_ONCE = 2000


async def verify(session: AsyncSession) -> Report:
    """Recompute every chain; `session` is a system session. Differences name the row."""
    differences: list[dict[str, Any]] = []
    heads = {
        row.organization_id: (row.sequence, bytes(row.hash))
        for row in await session.execute(text("SELECT * FROM audit_heads"))
    }
    tails = {organization: (0, _start(organization)) for organization in heads}
    checked = 0
    rows = await session.stream(
        text("SELECT * FROM audit_log ORDER BY organization_id, sequence").execution_options(
            yield_per=ROWS_AT_ONCE
        )
    )
    async for row in rows:
        checked += 1
        sequence, previous = tails.get(row.organization_id, (0, _start(row.organization_id)))
        differences.extend(
            _difference(row.organization_id, row.sequence, problem)
            for problem in _problems(row, sequence, previous)
        )
        tails[row.organization_id] = (row.sequence, bytes(row.hash))
    for organization, tail in tails.items():
        if heads.get(organization) != tail:
            problem = "the end of the trail is not what its head says"
            differences.append(_difference(organization, tail[0], problem))
    return Report(checked, tuple(differences))


def _difference(organization_id: UUID, sequence: int, problem: str) -> dict[str, Any]:
    return {"organization_id": str(organization_id), "sequence": sequence, "problem": problem}


def _start(organization_id: UUID) -> bytes:
    return hashlib.sha256(organization_id.bytes).digest()


def _problems(row: Any, sequence: int, previous: bytes) -> Iterator[str]:
    if row.sequence != sequence + 1:
        yield f"rows {sequence + 1} to {row.sequence - 1} are missing"
    chained = previous + row.sequence.to_bytes(8, "big") + row.body.encode()
    if hashlib.sha256(chained).digest() != bytes(row.hash):
        yield "the row was changed, or one before it"
    body = json.loads(row.body)
    columns = {
        "action": row.action,
        "entity_type": row.entity_type,
        "entity_id": str(row.entity_id),
        "user_id": None if row.user_id is None else str(row.user_id),
    }
    for name, value in columns.items():
        if body[name] != value:
            yield f"{name} differs from the chained body"
    if datetime.fromisoformat(body["at"]) != row.at:
        yield "at differs from the chained body"
