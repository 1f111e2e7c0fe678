# SPDX-License-Identifier: Apache-2.0
"""Slots of a journal by chance: calls of every kind, open ones, torn ones."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from typing import Any
from uuid import UUID

from nimbus.rules.metering import (
    NIL,
    SLOT_SIZE,
    Held,
    UsageEvent,
    encode_record,
    event_id,
    write_completed,
    write_reserved,
)

START = datetime(2026, 5, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SPAN_US = 2 * 3_600_000_000
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"units": 3, "leased": 3},
    {"status": 404},
    {"environment": "Test", "units": 0, "billable": False},
    {"status": 502, "units": 0, "billable": False},
    {"meters": (("tokens", Decimal(25)), ("api_calls", Decimal(9)))},
    {"meters": (("tokens", Decimal("0.500000000001")),), "continued": True, "units": 0},
    {"held_micro": 70, "held_on": Held.BALANCE | Held.ORGANIZATION_SPEND},
    {"held_micro": 30, "held_on": Held.KEY_SPEND | Held.KEY_QUOTA, "units": 2},
    {"held_on": Held.KEY_QUOTA, "holds": (("tokens", 40), ("pages", 1))},
    {"refusal": "rate_limited", "status": 429, "units": 0, "billable": False, "upstream_us": 0},
    {"ip": ip_address("2001:db8::17"), "method": "OPTIONS", "request_id": "x"},
    {"bytes_out": 2**41, "duration_us": 2**45},  # no array counts so much
)


def some_call(
    choice: random.Random, owners: Sequence[dict[str, UUID]], producer: UUID, sequence: int
) -> UsageEvent:
    """A call of one of the owners, whose fields are its ids, within two hours of START."""
    values: dict[str, Any] = {
        "event_id": event_id(producer, sequence),
        "occurred_at": START + choice.randrange(SPAN_US) * MICROSECOND,
        "environment": "Live",
        "method": choice.choice(["GET", "POST"]),
        "status": 200,
        "refusal": "",
        "duration_us": choice.randrange(1 << choice.randrange(1, 34)),
        "upstream_us": 1000,
        "bytes_in": choice.randrange(1000),
        "bytes_out": choice.randrange(10**6),
        "units": 1,
        "leased": 0,
        "billable": True,
        "ip": ip_address("198.51.100.7"),
        "request_id": str(UUID(int=choice.getrandbits(128))),
        "meters": (),
    }
    values |= choice.choice(owners)
    values |= choice.choice(KINDS)
    if values["refusal"] and choice.random() < 0.5:
        values |= {"subscription_id": NIL, "product_id": NIL, "key_id": NIL, "route_id": NIL}
    if choice.random() < 0.2:  # two at one instant
        values["occurred_at"] = START + SPAN_US // 3 * MICROSECOND
    return UsageEvent(**values)


def some_slots(
    choice: random.Random, owners: Sequence[dict[str, UUID]], producer: UUID, count: int
) -> bytes:
    """`count` slots from sequence 1 on: most of them completed, some open, some never used."""
    return b"".join(_slot(choice, owners, producer, sequence) for sequence in range(1, count + 1))


def damaged(choice: random.Random, data: bytes) -> bytes:
    """The same with flipped bits, pages of zeros, slots of somebody else, or the end cut off."""
    broken = bytearray(data)
    for _ in range(choice.randrange(1, 6)):
        kind, at = choice.randrange(4), choice.randrange(len(broken))
        slot = at // SLOT_SIZE * SLOT_SIZE
        if kind == 0:
            broken[at] ^= 1 << choice.randrange(8)
        elif kind == 1:
            broken[slot : slot + SLOT_SIZE] = bytes(SLOT_SIZE)
        elif kind == 2:
            other = choice.randrange(len(broken) // SLOT_SIZE) * SLOT_SIZE
            broken[slot : slot + SLOT_SIZE] = broken[other : other + SLOT_SIZE]
        else:
            broken[at : at + 8] = b"\xff" * len(broken[at : at + 8])
    return bytes(broken[: choice.choice([len(broken), choice.randrange(1, len(broken))])])


def owners(choice: random.Random, count: int) -> list[dict[str, UUID]]:
    """Who calls what, by chance."""
    names = ("organization_id", "provider_organization_id", "key_id", "subscription_id",
             "product_id", "route_id")  # fmt: skip
    return [{name: UUID(int=choice.getrandbits(128)) for name in names} for _ in range(count)]


def _slot(
    choice: random.Random, owners: Sequence[dict[str, UUID]], producer: UUID, sequence: int
) -> bytearray:
    slot = bytearray(SLOT_SIZE)
    if choice.random() < 0.03:
        return slot
    if choice.random() < 0.05:
        write_reserved(slot, 0, sequence)
        return slot
    write_completed(slot, 0, sequence, encode_record(some_call(choice, owners, producer, sequence)))
    return slot
