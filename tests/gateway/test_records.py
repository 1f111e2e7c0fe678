# SPDX-License-Identifier: Apache-2.0
"""Packed records: they read back as they were, and take the room that a gateway has."""

import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from nimbus.gateway.records import GONE, Packed, Record, Records, entity_of, pack, unpack
from tests.gateway.house import key_record, product_record, secret, subscription_record
from tests.support.soak import Soak

LEAVES = (
    None,
    True,
    0,
    -(2**70),
    1.5,
    "",
    "Active",
    "0190aaaa-0000-7000-8000-00000000000a",
    "0190AAAA-0000-7000-8000-00000000000A",
    "0190aaaa-0000-7000-8000-00000000000g",
    "ab" * 32,
    "AB" * 32,
    "xy" * 32,
    "2026-05-01T00:00:00.000001Z",
    "0001-01-01T00:00:00.000000Z",
    "9999-12-31T23:59:59.999999Z",
    "2026-05-01T00:00:00Z",
    "2026-05-01T02:00:00+02:00",
    'é☃\U0001f600\n\\u0000"',
    "\0",
)
NAMES = ("id", "organization_id", "product_id", "hash", "standings", "x", "organization_id ")


def some_value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth < 3 and kind < 0.2:
        return [some_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if depth < 3 and kind < 0.4:
        return {name: some_value(chance, depth + 1) for name in chance.sample(NAMES, 3)}
    return chance.choice(LEAVES[:-1])


def test_a_record_reads_back_as_it_was(soak: Soak) -> None:
    chance = soak.random
    for _ in range(soak.count(2_000, 200_000)):
        name = str(UUID(int=chance.getrandbits(128)))
        record: Record = {key: some_value(chance) for key in chance.sample(NAMES[1:], 4)}
        if chance.random() < 0.8:
            record["id"] = name
        kind = chance.choice(("organization", "subscription", "key", "product"))
        packed = pack(kind, name, record)
        assert unpack(packed) == record
        assert entity_of(packed) == (kind, name)


@pytest.mark.parametrize("record", [{"x": LEAVES[-1]}, {"x": "2026-13-01T00:00:00.000000Z"}])
def test_what_can_not_be_packed_is_refused(record: Record) -> None:
    with pytest.raises(ValueError):
        pack("key", str(UUID(int=1)), record)


def test_the_values_that_are_an_entity_s_own_are_in_no_shape() -> None:
    one, other = (key_record(secret(number)) for number in (1, 2))
    shapes = {pack("key", record["id"], record).shape for record in (one, other)}
    assert len(shapes) == 1
    assert len(pack("key", one["id"], one).blob) == 17 + 32 + 16


class Model:
    """What `Records` is to be like, in plain dictionaries."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[int, Record | None]] = {}

    def put(self, number: int, kind: str, name: str, record: Record | None) -> None:
        if number >= self.records.get((kind, name), (0, None))[0]:
            self.records[kind, name] = number, record

    def of(self, kind: str) -> Iterator[Record]:
        for (found, _), (_, record) in self.records.items():
            if found == kind and record is not None:
                yield record


def test_whatever_comes_in_whatever_order_the_newest_record_of_each_entity_is_found(
    soak: Soak,
) -> None:
    chance = soak.random
    records, model = Records(), Model()
    digests = [chance.randbytes(32).hex() for _ in range(400)]
    organizations = [str(UUID(int=number)) for number in range(1, 6)]
    for _ in range(soak.count(4_000, 100_000)):
        kind = chance.choice(("key", "subscription", "organization"))
        name = str(UUID(int=chance.randrange(1, 6 if kind == "organization" else 300)))
        number = chance.randrange(1, 1_000)
        record = changed(chance, kind, name, organizations, digests)
        records.put(number, pack(kind, name, record))
        model.put(number, kind, name, record)
    for (kind, name), (number, record) in model.records.items():
        assert records.get(kind, name) == record
        assert records.number(kind, name) == number
    keys = list(model.of("key"))
    for digest in digests:
        having = [key for key in keys if digest in {key["hash"], key["retired_hash"]}]
        found = records.key(bytes.fromhex(digest))
        assert found in having if having else found is None
    for name in organizations:
        ours = [r["id"] for r in model.of("subscription") if r["organization_id"] == name]
        assert sorted(r["id"] for r in records.subscriptions(name)) == sorted(ours)
    again = Records()
    for row in records.rows(0, len(records)):
        again.put(*row)
    assert {entity_of(p): (n, unpack(p)) for n, p in again.rows(0, len(again))} == model.records


def changed(
    chance: random.Random, kind: str, name: str, organizations: list[str], digests: list[str]
) -> Record | None:
    """A record of this entity in one of the states that it may come to."""
    if chance.random() < 0.1:
        return None
    # The organization of an entity never changes.
    owner = organizations[UUID(name).int % len(organizations)]
    if kind == "organization":
        return {"id": name, "status": chance.choice(("Active", "Suspended"))}
    if kind == "subscription":
        ids = [{"id": str(UUID(int=n)), "limit": 1} for n in range(chance.randrange(4))]
        return subscription_record(id=name, organization_id=owner, standings=ids)
    retired = chance.choice((None, chance.choice(digests)))
    return key_record(
        secret(1),
        id=name,
        organization_id=owner,
        hash=chance.choice(digests),
        retired_hash=retired,
        status=chance.choice(("Active", "Revoked")),
    )


def test_shapes_that_nobody_has_any_more_take_no_room() -> None:
    records = Records()
    for number in range(1, 3_000):
        record = product_record(80, slug=f"slug-{number}")
        records.put(number, pack("product", record["id"], record))
    assert len(records._shapes) <= 4
    assert len(records._heap) < 3_000
    records.put(3_000, Packed(GONE, pack("product", record["id"], None).blob))
    assert records.get("product", record["id"]) is None


LOADED = """
from nimbus.gateway.__main__ import load  # all that a gateway process imports
from nimbus.gateway.state import State
from tests.gateway.installation import installation
state = State(lambda sealed: sealed)
state.replace(installation({organizations}, {keys}))
assert state.product(b"demo")
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


def test_a_gateway_with_100_000_grants_takes_at_most_60_mb() -> None:
    """The process's whole resident memory, with a thousand organizations and their keys."""
    program = LOADED.format(organizations=1_000, keys=100)
    outcome = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    resident = int(outcome.stdout.split()[1]) * 1024
    assert resident <= 60_000_000
