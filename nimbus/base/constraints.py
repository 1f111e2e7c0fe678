# SPDX-License-Identifier: Apache-2.0
"""Constraints of the database as answers: the one that spoke decides which refusal it is."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import psycopg
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.errors import Refusal


@asynccontextmanager
async def refused_by(session: AsyncSession, refusals: Mapping[str, Refusal]) -> AsyncIterator[None]:
    """Write what the block adds; a violated constraint of `refusals` raises its refusal.

    The block and what was pending before it are undone together; any other violation is a fault
    and goes on as it is.
    """
    try:
        async with session.begin_nested():
            yield
            await session.flush()
    except IntegrityError as error:
        name = error.orig.diag.constraint_name if isinstance(error.orig, psycopg.Error) else None
        refusal = refusals.get(name or "")
        if refusal is None:
            raise
        raise refusal from None
