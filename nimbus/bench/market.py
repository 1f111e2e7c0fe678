# SPDX-License-Identifier: Apache-2.0
"""What Nimbus sells while it is measured: made by the product's own use cases, all policy on.

Customers' keys carry a scope; the plan a rate with a burst and a quota that is hard (`deny`); the
route a scope and a plan; each caller's address a rate of its own. All are too large to be reached.
The others that limit have one rate, and a quota or none.
"""

import asyncio
import os
import secrets as randomness
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from nimbus import access, catalog, payments, rooms, supervisor
from nimbus.access import KeyTerms
from nimbus.base import clock, config, db, secrets
from nimbus.base.actors import Actor
from nimbus.base.config import Settings
from nimbus.bench.processes import LOOPBACK, free_port
from nimbus.catalog import schemas
from nimbus.catalog.service import plans, routes
from nimbus.demo import people, wind
from nimbus.demo.kept import Upstreams
from nimbus.demo.people import Account
from nimbus.demo.provider import put_operator

CUSTOMERS = 100
KEYS_PER_CUSTOMER = 10
SCOPE = "assets.read"
PLAN = "bench"
SMALL, LARGE, HUGE = "/small", "/blob", "/huge"
PREFIX = f"/api/v1/{wind.SLUG}"
PER_SECOND = {"amount": 1_000_000, "period": "second", "burst": 1_000_000}


@contextmanager
def database(folder: Path) -> Iterator[Settings]:
    """An installation in `folder` with its own PostgreSQL and schema; no role runs yet."""
    settings = config.load(
        {
            "NIMBUS_DATA_DIR": str(folder / "nimbus"),
            "NIMBUS_PORT": str(free_port()),
            "NIMBUS_PRIVATE_NETWORKS": f"{LOOPBACK}/32",
            "NIMBUS_LOG_LEVEL": "warning",
        }
    )
    with supervisor.exclusive_database(settings):
        command = [sys.executable, "-m", "nimbus", "migrate"]
        subprocess.run(command, check=True, env=environment(settings))
        yield settings


def environment(settings: Settings) -> dict[str, str]:
    """The environment in which a role of this installation runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NIMBUS_")}
    return {**kept, **config.to_environment(settings)}


def open_market(settings: Settings, upstream: str, customers: int = CUSTOMERS) -> list[str]:
    """Make the product, its customers and their keys; answers the secrets of the keys."""
    return asyncio.run(_open_market(settings, upstream, customers))


def database_pid(settings: Settings) -> int:
    """The process of the database server."""
    return int((settings.pg_dir / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])


def quota_used(settings: Settings) -> int:
    """Units of the quotas that are lent to gateways or counted."""
    login: dict[str, Any] = dict(secrets.database_login(settings, "owner"))
    with psycopg.connect(**login) as connection:
        row = connection.execute("SELECT sum(used + leased) FROM quota_standings").fetchone()
    assert row is not None
    return int(row[0] or 0)


async def _open_market(settings: Settings, upstream: str, customers: int) -> list[str]:
    assert rooms.JOBS, "every reaction is in force"
    await db.open_database(settings)
    try:
        password = randomness.token_urlsafe(16)
        admin = await put_operator(
            _account("admin@nimbus.example", password), Upstreams(upstream, upstream)
        )
        await _put_terms(admin)
        owner = await people.put_account(_account("owner@customers.example", password))
        return [secret for number in range(customers) for secret in await _customer(owner, number)]
    finally:
        await db.close_database()


async def _put_terms(admin: Actor) -> None:
    """The routes of the bench, and the plan whose limits are far away."""
    plan = {
        **wind.ENTERPRISE,
        "slug": PLAN,
        "name": "Bench",
        "rank": 9,
        "rate_limit": PER_SECOND,
        "over_quota_policy": "deny",
        "quotas": [{"meter": "api_calls", "amount": 10**15, "period": "cycle"}],
    }
    async with db.transaction(admin.organization_id, admin.user_id) as session:
        product = await catalog.product_or_operators(session, wind.SLUG)
        await plans.create_plan(session, admin, product.id, schemas.NewPlan(**plan))
        for path in (SMALL, LARGE, HUGE):
            route = schemas.RouteFields(
                method="GET",
                path=path,
                scope=SCOPE,
                minimum_plan=PLAN,
            )
            await routes.create_route(session, admin, product.id, route)


async def _customer(person: Actor, number: int) -> list[str]:
    """A subscribed organization; answers the secrets of its keys."""
    owner = await people.put_organization(
        person,
        people.details(
            {
                "name": f"Customer {number} B.V.",
                "country": "NL",
                "billing_email": "owner@customers.example",
                "address": {"street": "Plein 1", "postal_code": "3511 AB", "city": "Utrecht"},
            }
        ),
    )
    await people.put_active(owner)
    async with db.transaction(owner.organization_id, owner.user_id) as session:
        await payments.start_subscription(
            session, owner, product=wind.SLUG, plan=PLAN, payment="invoice", as_of=clock.now()
        )
        terms = KeyTerms(name="Bench", scopes=(SCOPE,))
        made = [
            await access.create_key(session, owner, terms, environment="Live")
            for _ in range(KEYS_PER_CUSTOMER)
        ]
    return [secret for _, secret in made]


def _account(email: str, password: str) -> Account:
    return Account(email=email, password=password, first_name="Bench", last_name="Nimbus")
