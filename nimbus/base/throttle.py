# SPDX-License-Identifier: Apache-2.0
"""Limits on the management API, exact over all its processes: one row a bucket, GCRA."""

import hashlib
import math

from sqlalchemy import text

from nimbus.base import db
from nimbus.errors import Refusal


async def throttle(bucket: str, amount: int, seconds: int) -> None:
    """Take one of `amount` per `seconds` (machine time) from `bucket`.

    Counts in a transaction of its own, so that a refused request counts too. The bucket's name
    is stored as a hash only. Raises `Refusal('rate_limited')` with `Retry-After` in seconds.
    """
    key = hashlib.sha256(bucket.encode()).digest()
    async with db.transaction() as session:
        wait = await session.scalar(
            text("SELECT throttle_take(:key, :amount, :seconds)"),
            {"key": key, "amount": amount, "seconds": seconds},
        )
    if wait:
        raise Refusal(
            "rate_limited",
            "Too many of these requests; wait a little.",
            headers={"Retry-After": str(max(1, math.ceil(wait)))},
        )
