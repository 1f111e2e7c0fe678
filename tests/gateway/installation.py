# SPDX-License-Identifier: Apache-2.0
"""The feed records of an installation of any size."""

import os
from collections.abc import Iterator
from uuid import UUID

from nimbus.gateway.records import Record
from tests.gateway.house import (
    key_record,
    plan_record,
    product_record,
    secret,
    standing_record,
    subscription_record,
)


def installation(organizations: int, keys: int) -> Iterator[tuple[int, str, str, Record]]:
    """The records of so many organizations with a subscription and so many keys each."""
    product, plan = product_record(80), plan_record()
    yield 1, "product", product["id"], product
    yield 1, "plan", plan["id"], plan
    key = key_record(secret(1), scopes=["wind.read"])
    for number in range(organizations):
        owner = str(new_uuid())
        yield 1, "organization", owner, {"id": owner, "status": "Active"}
        period = f"2026-05-{1 + number % 28:02}T10:11:12.{number:06}Z"
        standing = standing_record(1_000, id=str(new_uuid()), period_starts_at=period)
        ours = {"id": str(new_uuid()), "organization_id": owner}
        yield 1, "subscription", ours["id"], subscription_record(**ours, standings=[standing])
        for _ in range(keys):
            ours = {"id": str(new_uuid()), "organization_id": owner}
            yield 1, "key", ours["id"], {**key, **ours, "hash": os.urandom(32).hex()}


def new_uuid() -> UUID:
    return UUID(bytes=os.urandom(16))
