# SPDX-License-Identifier: Apache-2.0
"""The link against a real database: grants come down, leases and confirmations go up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from nimbus.access import KeyTerms, create_key
from nimbus.access.secrets import keyed_hash
from nimbus.access.service import revoke_key
from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.base.secrets import database_login, unseal
from nimbus.gateway import link as link_module
from nimbus.gateway import verify
from nimbus.gateway.leases import Leases, Needs, Shortage
from nimbus.gateway.link import Link, load_state, state_file
from nimbus.gateway.meter import Journal
from nimbus.gateway.state import Row, State
from nimbus.gateway.verify import KeyLookups
from nimbus.rules.abuse import Sign
from nimbus.rules.grants import Standing, Subscription
from tests.gateway.house import until
from tests.support.market import (
    PRODUCTS,
    STARTER,
    listening,
    loopback_settings,
    make_wind,
    sent,
    subscribe,
)
from tests.support.people import Person, make_owner

pytestmark = pytest.mark.anyio

settings = loopback_settings
LIMIT = 25
STRICT = {
    **STARTER,
    "slug": "strict",
    "name": "Strict",
    "rank": 15,
    "over_quota_policy": "deny",
    "quotas": [{"meter": "api_calls", "amount": LIMIT, "period": "cycle"}],
}


@dataclass
class Linked:
    """One gateway's end of the link."""

    link: Link
    state: State
    leases: Leases
    lookups: KeyLookups
    journal: Journal

    def subscription(self, secret: str) -> Subscription | None:
        product = self.state.product(b"wind")
        grant = None if product is None else self.state.grant(keyed_hash(secret), product)
        return None if grant is None else grant.subscription

    def key_status(self, secret: str) -> str | None:
        product = self.state.product(b"wind")
        grant = None if product is None else self.state.grant(keyed_hash(secret), product)
        return None if grant is None else grant.key.status

    def standing(self, secret: str) -> tuple[Standing, ...]:
        subscription = self.subscription(secret)
        assert subscription is not None
        return subscription.standings_at("api_calls", clock.now())


@asynccontextmanager
async def linked(settings: Settings, folder: Path, *, follow: bool = True) -> AsyncIterator[Linked]:
    journal = Journal(folder, uuid4())
    state = State(lambda sealed: unseal(settings, sealed))
    link = Link(settings, state, journal)
    leases = Leases(2, link.ask_lease, link.give_back)
    lookups = KeyLookups(link.ask_key)
    link.serve(leases, lookups)
    work = link.run() if follow else link._keep_carrying()
    task = asyncio.get_running_loop().create_task(work)
    try:
        if follow:
            await asyncio.wait_for(link.tried.wait(), 10)
        else:
            await until(lambda: not link._down)
        yield Linked(link, state, leases, lookups, journal)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        leases.return_all()
        await link.stop()
        journal.close()


@dataclass
class Market:
    """A product with a strict plan, and a consumer of it with a key."""

    provider: Person
    consumer: Person
    product: dict[str, Any]
    key_id: UUID
    secret: str


@pytest.fixture
async def market(api: httpx2.AsyncClient) -> AsyncIterator[Market]:
    async with listening() as address:
        provider = await make_owner("provider@wind.example")
        product = await make_wind(api, provider, address, published=False)
        place = f"{PRODUCTS}/{product['id']}"
        await sent(api, provider, "POST", f"{place}/plans", STRICT)
        await sent(api, provider, "POST", f"{place}/publish")
        consumer = await make_owner("owner@tapas.example")
        await subscribe(consumer, "strict")
        key_id, secret = await make_key(consumer)
        yield Market(provider, consumer, product, key_id, secret)


async def make_key(person: Person) -> tuple[UUID, str]:
    async with db.transaction(person.organization_id, person.actor.user_id) as session:
        terms = KeyTerms(name="k", scopes=("assets.read",))
        key, secret = await create_key(session, person.actor, terms, environment="Live")
        return key.id, secret


async def revoke(market: Market) -> None:
    actor = market.consumer.actor
    async with db.transaction(actor.organization_id, actor.user_id) as session:
        await revoke_key(session, actor, market.key_id, "leaked")


def cut_connections(settings: Settings) -> None:
    """End every connection of the gateway's role to this database."""
    statement = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'nimbus-gateway' AND datname = current_database()"""
    assert execute(settings, statement, role="gateway")


def execute(
    settings: Settings, statement: str, *values: Any, role: str = "system"
) -> list[tuple[Any, ...]]:
    """A statement by someone who may see everything."""
    login: dict[str, Any] = dict(database_login(settings, role))
    with psycopg.connect(**login, autocommit=True) as connection:
        cursor = connection.execute(statement, values)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


async def test_what_changes_in_the_house_arrives_at_the_gate_which_confirms_it(
    settings: Settings, market: Market, tmp_path: Path
) -> None:
    async with linked(settings, tmp_path / "j") as gate:
        assert gate.subscription(market.secret) is not None
        _, second = await make_key(market.consumer)
        await until(lambda: gate.subscription(second) is not None)
        await revoke(market)
        for _ in range(3):
            gate.journal.reserve()

        await until(lambda: gate.key_status(market.secret) == "Revoked", 30)

        def confirmed() -> bool:
            rows = execute(
                settings,
                "SELECT number, journal_sequence FROM gateway_instances WHERE id = %s",
                gate.journal.producer,
            )
            return rows == [(gate.state.number, 3)]

        await until(confirmed)


async def test_a_key_the_feed_has_not_brought_is_found_by_its_hash(
    settings: Settings, market: Market, tmp_path: Path
) -> None:
    async with linked(settings, tmp_path / "j", follow=False) as gate:
        assert await gate.lookups.find(keyed_hash(market.secret)) is True
        assert gate.state.knows_key(keyed_hash(market.secret))
        assert await gate.lookups.find(b"\0" * 32) is False
        assert gate.state.number == 0, "the feed is followed from where it was"


async def test_two_gateways_lend_themselves_no_unit_too_many(
    settings: Settings, market: Market, tmp_path: Path
) -> None:
    async with linked(settings, tmp_path / "a") as one, linked(settings, tmp_path / "b") as two:

        async def take(gate: Linked) -> bool:
            standings = gate.standing(market.secret)
            assert standings
            taken = gate.leases.take(needs(standings))
            if taken is None:
                found = await gate.leases.wait_for(needs(standings), clock.now())
                return not isinstance(found, Shortage)
            return True

        one.link._keys += [number.to_bytes(32) for number in range(2_000)]
        calls = [take(gate) for _ in range(40) for gate in (one, two)]
        taken = await asyncio.gather(*calls)
        assert one.link._keys, "a flood of unknown keys keeps no lease waiting"
        assert sum(taken) == LIMIT
        [standing] = one.standing(market.secret)
        assert counters(settings, standing) == (0, LIMIT)
        # Only who holds units can give them back; how the two shared them is chance.
        holder = one if sum(taken[::2]) > sum(taken[1::2]) else two
        holder.leases.refund(needs(holder.standing(market.secret), 3))
        # So close to the limit nothing is kept. Ended in the middle of saying so, it would not
        # say it twice: then the units come back with the end of its journal.
        await until(lambda: counters(settings, standing) == (0, LIMIT - 3), 30)
    assert counters(settings, standing) == (0, LIMIT - 3), "and nothing is given back twice"


def needs(standings: tuple[Standing, ...], units: int = 1) -> Needs:
    """A call's units on each of these standings."""
    return tuple((standing, units) for standing in standings)


def counters(settings: Settings, standing: Standing) -> tuple[Any, ...]:
    """Used and leased units of a standing, as everybody sees them."""
    statement = "SELECT used, leased FROM quota_standings WHERE id = %s"
    return execute(settings, statement, standing.id)[0]


async def test_a_lost_connection_is_made_again_and_nothing_is_missed(
    settings: Settings, market: Market, tmp_path: Path
) -> None:
    async with linked(settings, tmp_path / "j") as gate:
        for _ in range(3):
            cut_connections(settings)
            _, secret = await make_key(market.consumer)
            assert await gate.lookups.find(keyed_hash(secret)) is True
            standings = gate.standing(market.secret)
            taken = gate.leases.take(needs(standings))
            if taken is None:
                taken = await gate.leases.wait_for(needs(standings), clock.now())
            assert taken is True
            before = gate.state.number
            await make_key(market.consumer)
            await until(lambda before=before: gate.state.number > before)


async def test_without_the_database_who_waits_hears_so_at_once_and_the_state_stays(
    settings: Settings, market: Market, tmp_path: Path
) -> None:
    async with linked(settings, tmp_path / "j") as gate:
        standings = gate.standing(market.secret)
        gate.link._connect = refused  # type: ignore[method-assign]
        cut_connections(settings)
        found = await gate.leases.wait_for(needs(standings), clock.now())
        assert isinstance(found, Shortage)
        assert found.code == "unavailable"
        assert await gate.lookups.find(b"\0" * 32) is None
        assert gate.subscription(market.secret) is not None


async def refused() -> Any:
    raise OSError("nobody there")


@pytest.mark.parametrize("held_back", ["question", "answer", "answer past a snapshot"])
async def test_a_look_up_in_flight_while_its_key_is_revoked_brings_nothing_back(
    settings: Settings,
    market: Market,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held_back: str,
) -> None:
    """The look-up is held at each of its awaits until the revocation, or a snapshot in which the
    key is no more, has arrived by the feed; and the snapshot comes while calls go on.
    """
    monkeypatch.setattr(link_module, "CALL_SECONDS", 60)
    monkeypatch.setattr(link_module, "SLICE", 1)
    monkeypatch.setattr(verify, "LOOKUP_SECONDS", 60)
    reached, go, ask = asyncio.Event(), asyncio.Event(), link_module._rows

    async def held(connection: Any, query: Any, values: tuple[Any, ...]) -> list[Row]:
        if "gateway_key" not in query:
            return await ask(connection, query, values)
        rows = [] if held_back == "question" else await ask(connection, query, values)
        reached.set()
        await go.wait()
        return rows or await ask(connection, query, values)

    async with linked(settings, tmp_path / "j") as gate:
        _, other = await make_key(market.consumer)
        await until(lambda: gate.subscription(other) is not None, 30)
        monkeypatch.setattr(link_module, "_rows", held)
        look_up = asyncio.ensure_future(gate.lookups.find(keyed_hash(market.secret)))
        await asyncio.wait_for(reached.wait(), 30)
        await revoke(market)
        await until(lambda: gate.key_status(market.secret) == "Revoked", 30)
        if held_back == "answer past a snapshot":
            gate.state.number = 10**9  # as if another database stood there: begin anew

            def anew() -> bool:
                assert gate.subscription(other) is not None, "what was known stays in force"
                return gate.state.number < 10**9

            await until(anew, 30)
            assert gate.key_status(market.secret) is None, "revoked keys are in no snapshot"
        go.set()
        assert await look_up is True
        assert gate.key_status(market.secret) == "Revoked"


async def test_the_last_good_state_is_on_disk_and_private(
    settings: Settings, market: Market, tmp_path: Path
) -> None:
    def on_disk() -> State:
        state = State(lambda sealed: unseal(settings, sealed))
        load_state(settings, state)
        return state

    path = state_file(settings)
    async with linked(settings, tmp_path / "j") as gate:
        await until(path.exists, 30)
        await revoke(market)

        def revoked_on_disk() -> bool:
            record = on_disk().records.key(keyed_hash(market.secret))
            return record is not None and record["status"] == "Revoked"

        await until(revoked_on_disk, 30)
        number = gate.state.number
    assert path.stat().st_mode & 0o777 == 0o600
    assert market.secret.encode() not in path.read_bytes()
    again = on_disk()
    assert (again.number, again.complete) == (number, True)
    assert again.knows_key(keyed_hash(market.secret))


async def test_signs_of_abuse_reach_the_house_once_also_over_a_lost_connection(
    settings: Settings, market: Market, tmp_path: Path
) -> None:
    async with linked(settings, tmp_path / "j") as gate:
        known = Sign("many_addresses", None, market.key_id, 50)
        gate.link.report(Sign("refused_keys", ip_network("192.0.2.7/32"), None, 50))
        cut_connections(settings)
        gate.link.report(known)

        def kinds() -> list[str]:
            return [row[0] for row in execute(settings, "SELECT kind FROM abuse_alerts ORDER BY 1")]

        await until(lambda: kinds() == ["many_addresses", "refused_keys"])
