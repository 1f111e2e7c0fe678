# SPDX-License-Identifier: Apache-2.0
"""The grants feed: what holds, in the shape gateways read, and no change is ever missed."""

import base64
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

import psycopg
import pytest

from nimbus.access import KeyTerms, create_key
from nimbus.access.secrets import keyed_hash
from nimbus.access.service import revoke_key, rotate_key
from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.base.ids import NIL, new_id
from nimbus.base.secrets import database_login, unseal
from nimbus.gateway.state import State
from nimbus.rules.grants import ALLOWED, AddressList, decide
from tests.support.market import PRODUCTS, make_wind, sent, subscribe
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

START = datetime(2026, 5, 1, tzinfo=UTC)
Connection = psycopg.Connection[Any]
INTRUDER_SECONDS = 20  # a deadline for what must happen at once
ORGANIZATION = """
    INSERT INTO organizations (id, name, slug, billing_email, address, country, time_zone, locale,
        currency, status, version, created_at, updated_at)
    VALUES (%(id)s, 'A', %(id)s::text, 'a@a.example', '{}', 'NL', 'UTC', 'en', 'EUR', 'Active', 1,
        now(), now())
"""


@pytest.fixture
def gate(database: Settings) -> Iterator[Connection]:
    """A connection as a gateway has it."""
    login: dict[str, Any] = dict(database_login(database, "gateway"))
    with psycopg.connect(**login, autocommit=True) as connection:
        yield connection


@pytest.fixture
def system(database: Settings) -> Iterator[Connection]:
    """A connection that may change everything."""
    with connect(database) as connection:
        yield connection


def connect(settings: Settings) -> Connection:
    login: dict[str, Any] = dict(database_login(settings, "system"))
    return psycopg.connect(**login)


def snapshot(gate: Connection) -> list[Any]:
    return gate.execute("SELECT number, kind, id::text, record FROM gateway_snapshot()").fetchall()


def feed(gate: Connection, after: int) -> list[Any]:
    return gate.execute(
        "SELECT number, kind, id::text, record FROM gateway_feed(%s)", (after,)
    ).fetchall()


def head(gate: Connection) -> int:
    return max((row[0] for row in feed(gate, 0)), default=0)


def records(rows: list[Any]) -> dict[tuple[str, str], Any]:
    return {(kind, entity): record for _, kind, entity, record in rows}


async def make_key(person: Any, **terms: Any) -> tuple[UUID, str]:
    async with db.transaction(person.organization_id, person.actor.user_id) as session:
        fields = KeyTerms(name="k", scopes=("assets.read",), **terms)
        key, secret = await create_key(session, person.actor, fields, environment="Live")
        return key.id, secret


async def test_a_snapshot_says_what_the_gateway_reads(api, gate, upstream):
    clock.set_instant(START)
    made = await make_wind(api, await make_owner("provider@wind.example"), upstream)
    consumer = await make_owner("owner@tapas.example")
    started = (await subscribe(consumer)).subscription
    key_id, secret = await make_key(consumer, rate_per_minute=60)

    rows = snapshot(gate)

    known = records(rows)
    assert {row[0] for row in rows} == {head(gate)}
    assert known["plan", str(started.plan_version_id)] == {
        "id": str(started.plan_version_id),
        "plan_id": str(started.plan_id),
        "product_id": made["id"],
        "slug": "starter",
        "name": "Starter",
        "rank": 10,
        "rate": {"amount": 600, "period_s": 1, "burst": None},
        "over_quota_policy": "overage",
        "charges": [
            {
                "currency": "EUR",
                "meter_key": meter,
                "model": "unit",
                "included": included,
                "unit_price": price,
                "terms": {},
            }
            for meter, included, price in (
                ("api_calls", "10000", "0.002"),
                ("assets", "10", "1.5"),
                ("reports", "0", "2.5"),
            )
        ],
    }
    assert known["subscription", str(started.id)].keys() == {
        *("id", "organization_id", "provider_organization_id", "product_id", "plan_version_id"),
        *("status", "currency", "trial_ends_at", "ends_at", "standings"),
    }
    assert known["key", str(key_id)] == {
        "id": str(key_id),
        "hash": keyed_hash(secret).hex(),
        "retired_hash": None,
        "retires_at": None,
        "organization_id": str(consumer.organization_id),
        "environment": "Live",
        "scopes": ["assets.read"],
        "ip_allow": [],
        "status": "Active",
        "expires_at": None,
        "rate_per_minute": 60,
        "product_id": None,
        "standings": [],
        "subscription_id": None,
    }


async def test_a_product_s_record_has_its_upstreams_and_routes(api, gate, database, upstream):
    credential = "Bearer " + "x" * 200
    live = {"base_url": upstream, "auth_header": "Authorization", "auth_secret": credential}
    provider = await make_owner("provider@wind.example")
    made = await make_wind(api, provider, "", upstreams={"Live": live})

    product = records(snapshot(gate))["product", made["id"]]

    sealed = product["upstreams"]["Live"].pop("auth_secret_sealed")
    assert unseal(database, base64.b64decode(sealed, validate=True)).decode() == credential
    assert product["upstreams"] == {
        "Live": {
            "base_url": upstream,
            "auth_header": "Authorization",
            "connect_timeout_ms": 5000,
            "answer_timeout_ms": 30000,
            "max_concurrent": 256,
        }
    }
    routes = {route["path"]: route for route in product.pop("routes")}
    assert routes["/reports"]["minimum_rank"] == 20
    assert routes["/reports"]["minimum_plan"] == "Professional"
    assert routes["/farms"] == {
        "id": routes["/farms"]["id"],
        "method": "GET",
        "path": "/farms",
        "upstream_path": "/farms",
        "scope": "assets.read",
        "minimum_rank": None,
        "minimum_plan": None,
        "weight": 1,
        "holds": {},
        "ip_allow": [],
        "ip_deny": [],
        "required": [],
        "strict_journal": False,
        "rate": None,
    }


async def test_what_the_feed_says_lets_the_gateway_decide(api, gate, database, upstream):
    clock.set_instant(START)
    provider = await make_owner("provider@wind.example")
    made = await make_wind(api, provider, upstream)
    consumer = await make_owner("owner@tapas.example")
    await subscribe(consumer)
    key_id, secret = await make_key(consumer)
    state = State(lambda sealed: unseal(database, sealed))
    state.replace(snapshot(gate))

    def verdict(path: bytes) -> str:
        product = state.product(b"wind")
        if product is None:
            return "no product"
        found = product.routes.find(b"GET", path)
        grant = state.grant(keyed_hash(secret), product)
        return decide(grant, found.route, ip_address("192.0.2.1"), START).code or "allowed"

    assert ALLOWED.code == ""
    assert verdict(b"/farms/7") == "allowed"
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        await revoke_key(session, consumer.actor, key_id, "leaked")
    state.follow(feed(gate, state.number))
    assert verdict(b"/farms/7") == "api_key_revoked"
    await sent(api, provider, "POST", f"{PRODUCTS}/{made['id']}/unpublish")
    state.follow(feed(gate, state.number))
    assert verdict(b"/farms/7") == "no product"


async def test_what_a_provider_says_to_the_gate_reaches_it(api, gate, database, upstream):
    provider = await make_owner("provider@wind.example")
    fields = {"parameter_check": True, "billable_statuses": ["2xx"], "websockets": True}
    made = await make_wind(
        api, provider, upstream, ip_allow=["192.0.2.0/24"], ip_deny=["192.0.2.7/32"], **fields
    )
    path = f"{PRODUCTS}/{made['id']}"
    parameters = [
        {"name": "city", "place": "query", "required": True},
        {"name": "page", "place": "query"},
        {"name": "id", "place": "path", "required": True},
    ]
    route = {
        "method": "GET",
        "path": "/cities/{id}",
        "parameters": parameters,
        "ip_allow": ["192.0.2.8/32"],
        "strict_journal": True,
    }
    await sent(api, provider, "POST", f"{path}/routes", route)
    state = State(lambda sealed: unseal(database, sealed))
    state.replace(snapshot(gate))

    product = state.product(b"wind")

    assert product is not None
    assert (product.billable, product.websockets) == (frozenset(range(200, 300)), True)
    assert product.upstreams["Live"].max_concurrent == 256
    found = product.routes.find(b"GET", b"/cities/7").route
    assert (found.required, found.strict_journal) == ((b"city",), True)
    networks = tuple(ip_network(text) for text in ("192.0.2.0/24", "192.0.2.7/32", "192.0.2.8/32"))
    of_product, of_route = AddressList((networks[0],), (networks[1],)), AddressList((networks[2],))
    assert found.address_lists == (of_product, of_route)
    assert product.routes.find(b"GET", b"/farms").route.address_lists == (of_product,)


async def test_a_host_name_leads_to_whose_it_is_now(api, gate, database, upstream):
    people = [await make_owner(f"{slug}@wind.example") for slug in ("wind", "sun")]
    wind, sun = [
        await make_wind(api, person, upstream, slug=slug, name=slug)
        for person, slug in zip(people, ("wind", "sun"), strict=True)
    ]
    state = State(lambda sealed: unseal(database, sealed))
    state.replace(snapshot(gate))

    def served() -> bytes | None:
        state.follow(feed(gate, state.number))
        product = state.product_of_host(b"api.example.com")
        return None if product is None else product.slug

    assert served() is None
    name = {"name": "API.example.com"}
    host = await sent(api, people[0], "POST", f"{PRODUCTS}/{wind['id']}/hosts", name)
    assert served() == b"wind"
    await sent(api, people[0], "DELETE", f"{PRODUCTS}/{wind['id']}/hosts/{host['id']}")
    await sent(api, people[1], "POST", f"{PRODUCTS}/{sun['id']}/hosts", name)
    assert served() == b"sun"
    again = State(lambda sealed: unseal(database, sealed))
    again.replace(snapshot(gate))
    assert again.product_of_host(b"api.example.com").slug == b"sun"
    await sent(api, people[1], "POST", f"{PRODUCTS}/{sun['id']}/unpublish")
    assert served() is None


async def test_every_change_that_matters_is_heard_and_no_other(api, gate, system, upstream):
    clock.set_instant(START)
    provider = await make_owner("provider@wind.example")
    made = await make_wind(api, provider, upstream)
    consumer = await make_owner("owner@tapas.example")
    started = (await subscribe(consumer)).subscription
    key_id, _ = await make_key(consumer)
    plan = str(started.plan_version_id)

    product, contract, key = made["id"], str(started.id), str(key_id)
    for statement, heard in (
        ("UPDATE products SET key_in_query = true", {("product", product)}),
        ("UPDATE upstreams SET answer_timeout_ms = 9", {("product", product)}),
        ("UPDATE routes SET weight = 2 WHERE path = '/farms'", {("product", product)}),
        ("UPDATE routes SET ip_deny = '{10.0.0.0/8}'", {("product", product)}),
        ("DELETE FROM routes WHERE path = '/reports'", {("product", product)}),
        (
            """INSERT INTO product_hosts (id, organization_id, product_id, name, created_at)
            SELECT id, organization_id, id, 'w.example', now() FROM products""",
            {("product", product)},
        ),
        ("DELETE FROM product_hosts", {("product", product)}),
        (
            "UPDATE plans SET name = 'S' WHERE slug = 'starter'",
            {("product", product), ("plan", plan)},
        ),
        ("UPDATE subscriptions SET status = 'Suspended'", {("subscription", contract)}),
        ("UPDATE subscriptions SET next_billing_at = NULL", set()),
        ("UPDATE quota_standings SET used = used + 1, leased = 5", set()),
        ("UPDATE quota_standings SET limit_units = 7", {("subscription", contract)}),
        ("UPDATE api_keys SET last_used_at = now()", set()),
        ("UPDATE api_keys SET name = 'other'", set()),
        ("UPDATE api_keys SET scopes = '{}'", {("key", key)}),
        (
            "UPDATE organizations SET status = 'Suspended' WHERE slug NOT LIKE 'x'",
            {
                ("organization", str(provider.organization_id)),
                ("organization", str(consumer.organization_id)),
            },
        ),
        ("UPDATE organizations SET locale = 'nl'", set()),
        ("INSERT INTO test_clock (instant) VALUES ('2026-05-02Z')", {("clock", str(NIL))}),
        ("UPDATE test_clock SET instant = '2026-05-03Z'", {("clock", str(NIL))}),
    ):
        before = head(gate)
        system.execute(statement)
        assert feed(gate, before) == [], "nothing is heard before the commit"
        system.commit()
        assert set(records(feed(gate, before))) == heard, statement
    assert records(feed(gate, 0))["clock", str(NIL)] == {"now": "2026-05-03T00:00:00.000000Z"}


async def test_what_is_gone_is_said_to_be_gone(api, gate, system, upstream):
    provider = await make_owner("provider@wind.example")
    made = await make_wind(api, provider, upstream)
    before = head(gate)

    await sent(api, provider, "DELETE", f"{PRODUCTS}/{made['id']}")

    gone = records(feed(gate, before))
    assert gone["product", made["id"]] is None
    assert [record for (kind, _), record in gone.items() if kind == "plan"] == [None, None]
    assert {kind for _, kind, _, _ in snapshot(gate)} == {"organization"}


async def test_a_number_from_another_time_asks_to_begin_anew(gate, system):
    system.execute(ORGANIZATION, {"id": new_id()})
    system.commit()
    now = head(gate)

    assert feed(gate, now) == []
    assert feed(gate, now + 1) == [(now, "reset", str(NIL), None)]


async def test_a_key_is_found_by_either_secret_with_what_it_needs(api, gate, upstream):
    clock.set_instant(START)
    provider = await make_owner("provider@wind.example")
    await make_wind(api, provider, upstream)
    consumer = await make_owner("owner@tapas.example")
    started = (await subscribe(consumer)).subscription
    key_id, first = await make_key(consumer)
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        _, second = await rotate_key(session, consumer.actor, key_id, timedelta(hours=1))

    def asked(secret: str) -> dict[tuple[str, str], Any]:
        found = gate.execute(
            "SELECT number, kind, id::text, record FROM gateway_key(%s)", (keyed_hash(secret),)
        )
        return records(found.fetchall())

    assert asked(first) == asked(second)
    assert set(asked(first)) == {
        ("key", str(key_id)),
        ("organization", str(consumer.organization_id)),
        ("subscription", str(started.id)),
    }
    record = asked(first)["key", str(key_id)]
    assert record["hash"] == keyed_hash(second).hex()
    assert record["retired_hash"] == keyed_hash(first).hex()
    assert record["retires_at"] == "2026-05-01T01:00:00.000000Z"
    assert asked(first + "x") == {}
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        await revoke_key(session, consumer.actor, key_id, None)
    assert asked(second)["key", str(key_id)]["status"] == "Revoked"
    assert ("key", str(key_id)) not in records(snapshot(gate))


async def test_numbers_become_visible_in_their_order(gate, system, database):
    slow, quick = new_id(), new_id()
    before = head(gate)
    system.execute(ORGANIZATION, {"id": slow})
    system.execute("SET CONSTRAINTS ALL IMMEDIATE")  # its number is taken, and not visible yet

    def overtake() -> None:
        with connect(database) as other:
            other.execute(ORGANIZATION, {"id": quick})

    thread = threading.Thread(target=overtake)
    thread.start()
    wait_until_blocked(system)
    assert feed(gate, before) == []
    system.commit()
    thread.join(INTRUDER_SECONDS)

    rows = feed(gate, before)
    assert [UUID(entity) for _, _, entity, _ in rows] == [slow, quick]
    assert rows[0][0] < rows[1][0]


def wait_until_blocked(connection: Connection) -> None:
    deadline = time.monotonic() + INTRUDER_SECONDS
    blocked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while connection.execute(blocked).fetchone() == (0,):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.005)


async def test_a_reader_that_follows_the_numbers_misses_no_change(gate, system, database):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    ids = [new_id() for _ in range(6)]
    for one in ids:
        system.execute(ORGANIZATION, {"id": one})
    system.commit()
    done = threading.Event()

    def write(number: int) -> None:
        chance = random.Random(seed + number)
        with connect(database) as connection:
            for _ in range(40):
                for one in chance.sample(ids, chance.randint(1, 2)) if number % 2 else [ids[0]]:
                    status = chance.choice(["Active", "Suspended", "Cancelled"])
                    change = "UPDATE organizations SET status = %s WHERE id = %s"
                    try:
                        connection.execute(change, (status, one))
                    except psycopg.errors.DeadlockDetected:
                        connection.rollback()
                if chance.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    threading.Thread(target=lambda: [w.join() for w in writers] and done.set()).start()
    start = snapshot(gate)
    known, at, reads = records(start), start[0][0], 0
    while True:
        finished = done.is_set()
        rows = feed(gate, at)
        numbers = [row[0] for row in rows]
        assert numbers == sorted(set(numbers))
        known.update(records(rows))
        at = max([at, *numbers])
        reads += bool(rows)
        if finished and not rows:
            break

    assert reads > 1
    assert known == records(snapshot(gate))


async def test_gateways_are_woken_by_a_commit_and_by_nothing_else(gate, system):
    gate.execute("LISTEN nimbus_feed")
    system.execute(ORGANIZATION, {"id": new_id()})
    system.rollback()
    system.execute("UPDATE organizations SET locale = 'nl'")
    system.commit()
    assert list(gate.notifies(timeout=0.2)) == []

    for _ in range(2):
        system.execute(ORGANIZATION, {"id": new_id()})
    system.commit()

    assert len(list(gate.notifies(timeout=INTRUDER_SECONDS, stop_after=1))) == 1


async def test_a_gateway_says_that_it_is_there_and_how_far_it_is(gate, system):
    gateway = new_id()

    gate.execute("SELECT gateway_hello(%s, 'node', 'folder')", (gateway,))
    gate.execute("SELECT gateway_confirm(%s, 7, 9)", (gateway,))
    gate.execute("SELECT gateway_hello(%s, 'node', 'folder')", (gateway,))

    rows = system.execute(
        "SELECT id, node, journal, number, journal_sequence FROM gateway_instances"
    )
    assert rows.fetchall() == [(gateway, "node", "folder", 7, 9)]


async def test_a_gateway_can_read_and_write_no_table(gate):
    for statement in (
        "SELECT * FROM api_keys",
        "SELECT * FROM grant_feed",
        "SELECT * FROM grant_records(NULL)",
        "SELECT grant_feed_note('key', gen_random_uuid())",
        "INSERT INTO gateway_instances DEFAULT VALUES",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            gate.execute(statement)
