# SPDX-License-Identifier: Apache-2.0
"""Signs of abuse are told once; whom the operator blocks, every gateway hears of."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest

from nimbus.access.jobs import announce_alert
from nimbus.base import clock, db, jobs
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from nimbus.base.secrets import database_login
from tests.support.market import sent
from tests.support.people import Person, make_owner

pytestmark = pytest.mark.anyio

BLOCKS = "/api/admin/blocks"
KEYS = "/api/developer/api-keys"
NOISE = {"network": "198.51.100.0/24", "minutes": 60, "reason": "It guesses keys."}
Connection = psycopg.Connection[Any]


@pytest.fixture
def gate(database: Settings) -> Iterator[Connection]:
    """A connection as a gateway has it."""
    login: dict[str, Any] = dict(database_login(database, "gateway"))
    with psycopg.connect(**login, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def operator(database: Settings) -> Person:
    """A person who runs the platform."""
    return await make_owner("admin@nimbus.example", platform_role="admin")


def blocks_in_feed(gate: Connection, after: int = 0) -> list[tuple[str, Any]]:
    rows = gate.execute("SELECT * FROM gateway_feed(%s)", (after,)).fetchall()
    return [(str(row[2]), row[3]) for row in rows if row[1] == "block"]


async def test_a_blocked_address_reaches_the_gateways_and_so_does_its_release(
    api: httpx2.AsyncClient, operator: Person, gate: Connection
) -> None:
    block = await sent(api, operator, "POST", BLOCKS, NOISE)
    [(found, record)] = blocks_in_feed(gate)
    assert found == block["id"]
    assert record["network"] == "198.51.100.0/24"
    assert clock.from_wire(record["ends_at"]) == clock.from_wire(block["ends_at"])
    for _ in range(2):
        lifted = await sent(api, operator, "DELETE", f"{BLOCKS}/{block['id']}")
        assert lifted["lifted_at"]
    assert blocks_in_feed(gate) == [(block["id"], None)]


async def test_a_block_ends_by_itself(
    api: httpx2.AsyncClient, operator: Person, gate: Connection
) -> None:
    await sent(api, operator, "POST", BLOCKS, NOISE)
    with psycopg.connect(**dict[str, Any](database_login(db.current().settings, "system"))) as all_:
        all_.execute("UPDATE blocks SET ends_at = now() - interval '1 second'")
    assert [record for _, record in blocks_in_feed(gate)] == [None]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"minutes": 5, "reason": "nobody"}, "body"),
        ({**NOISE, "key_id": str(new_id())}, "body"),
        ({**NOISE, "minutes": 0}, "minutes"),
        ({**NOISE, "network": "192.0.2.1/24"}, "network"),
        ({**NOISE, "reason": " "}, "reason"),
    ],
)
async def test_a_block_without_sense_is_refused(
    api: httpx2.AsyncClient, operator: Person, wrong: dict[str, Any], field: str
) -> None:
    answer = await api.post(BLOCKS, json=wrong, headers=operator.headers)
    assert answer.status_code == 422
    assert field in {error["field"] for error in answer.json()["errors"]}


async def test_an_unknown_key_can_not_be_blocked(api: httpx2.AsyncClient, operator: Person) -> None:
    wanted = {"key_id": str(new_id()), "minutes": 5, "reason": "leaked"}
    answer = await api.post(BLOCKS, json=wanted, headers=operator.headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def report(gate: Connection, kind: str, network: str | None, key: UUID | None) -> UUID:
    alert = new_id()
    gate.execute(
        "SELECT gateway_alert(%s, %s, %s, %s, %s, 50)", (new_id(), alert, kind, network, key)
    )
    return alert


async def test_a_sign_of_abuse_is_told_once_to_the_platform(
    api: httpx2.AsyncClient, operator: Person, gate: Connection
) -> None:
    alert = await report(gate, "refused_keys", "198.51.100.7/32", None)
    async with db.system_session("signs of abuse") as session:
        assert await jobs.next_due(session) is not None
    for _ in range(2):
        await announce_alert(entity_id=str(alert), as_of=clock.to_wire(clock.now()))
    async with db.system_session("signs of abuse") as session:
        assert await jobs.next_due(session) is None
    [shown] = (await sent(api, operator, "GET", "/api/admin/alerts"))["data"]
    assert (shown["kind"], shown["network"], shown["count"]) == (
        "refused_keys",
        "198.51.100.7/32",
        50,
    )


async def test_of_a_key_from_many_addresses_its_organization_is_told(
    api: httpx2.AsyncClient, gate: Connection, database: Settings
) -> None:
    consumer = await make_owner("owner@tapas.example")
    made = await sent(api, consumer, "POST", KEYS, {"name": "ci", "environment": "Live"})
    alert = await report(gate, "many_addresses", None, UUID(made["id"]))
    await announce_alert(entity_id=str(alert), as_of=clock.to_wire(clock.now()))
    with psycopg.connect(**dict[str, Any](database_login(database, "system"))) as all_:
        told = all_.execute(
            "SELECT organization_id FROM outbox WHERE name = 'abuse.suspected'"
        ).fetchall()
    assert told == [(consumer.organization_id,)]


async def test_a_gateway_reports_of_no_key_that_never_was(gate: Connection) -> None:
    await report(gate, "many_addresses", None, new_id())
    async with db.system_session("signs of abuse") as session:
        assert await jobs.next_due(session) is None
