# SPDX-License-Identifier: Apache-2.0
"""The sets of demo data, made by the product's own use cases at simulated instants.

Loading looks up what is there, makes what is missing and puts back what was changed, so a second
time changes nothing. The loading process has a business clock of its own; the house's stands.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import access, catalog, identity, payments, rooms, subscriptions
from nimbus.access import KeyTerms, queries
from nimbus.access.secrets import Environment, keyed_hash
from nimbus.base import clock, db
from nimbus.base.actors import Actor
from nimbus.base.config import Settings
from nimbus.demo import history, people, wind
from nimbus.demo.history import Life, Month, Past
from nimbus.demo.http import DemoError
from nimbus.demo.kept import Kept, Upstreams
from nimbus.demo.people import Account
from nimbus.demo.provider import put_operator
from nimbus.demo.traffic import Program
from nimbus.errors import Refusal
from nimbus.identity import ROLES
from nimbus.subscriptions import queries as subscription_queries

ADMIN = "admin@nimbus.example"
OPERATOR_SINCE = timedelta(days=400)
CUSTOMER_SINCE = timedelta(days=1)  # before the subscription
WAIT_SECONDS = 30.0
POLL_SECONDS = 0.1
NAMES = {
    "owner": ("Femke", "de Vries"),
    "admin": ("Daan", "Jansen"),
    "developer": ("Noor", "Bakker"),
    "billing": ("Lars", "Visser"),
    "accountant": ("Sofie", "Smit"),
    "manager": ("Milan", "Meijer"),
    "viewer": ("Eva", "Mulder"),
}

# Fourteen months: they grow, with a quiet summer and busy days before Christmas.
FRANCHISE_CALLS = (
    4_100, 4_600, 5_600, 7_100, 6_400, 6_800, 7_600,
    7_900, 8_500, 8_000, 6_800, 7_400, 9_800, 10_900,
)  # fmt: skip
ONE_TURBINE = "/turbines/{turbine_id}"
MEASUREMENTS = "/turbines/{turbine_id}/measurements"
FRANCHISE_PROGRAMS = (
    Program(name="Head office", share=6, reads=("/turbines", "/alerts")),
    Program(
        name="Shop screens",
        share=9,
        reads=(ONE_TURBINE,),
        rhythm="visitors",
        address="203.0.113.52",
    ),
    Program(
        name="Old intranet",
        share=3,
        reads=("/farms",),
        months=(0, 8),
        address="203.0.113.60",
    ),
    Program(
        name="Mobile app",
        share=12,
        reads=("/turbines", ONE_TURBINE),
        rhythm="visitors",
        months=(5, None),
        address="198.51.100.17",
        rate_per_minute=600,
    ),
    Program(
        name="Nightly report",
        share=4,
        reads=(MEASUREMENTS, "/reports"),
        rhythm="night",
        months=(2, None),
    ),
)
FRANCHISE_CONTRACT = {
    "base_fee": {"amount_minor": 480_00, "currency": "EUR"},
    "charges": [
        {"meter": "api_calls", "model": "unit", "included": "9000", "unit_price": "0.0012"},
        {"meter": "assets", "model": "unit", "included": "120", "unit_price": "0.80"},
    ],
    "quotas": [
        {"meter": "api_calls", "amount": 9_000, "period": "cycle"},
        {"meter": "assets", "amount": 120, "period": "cycle"},
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSet:
    """A customer: who belongs to it, by role at `<role>@<domain>`, and what it lived through."""

    name: str
    domain: str
    roles: tuple[str, ...]
    organization: dict[str, Any]
    past: Past | None
    keys: tuple[Environment, ...]


SETS = (
    DemoSet(
        name="DEMO_EMPTY",
        domain="empty.example",
        roles=("owner",),
        organization={
            "name": "Empty B.V.",
            "country": "NL",
            "billing_email": "owner@empty.example",
            "address": {"street": "Leegte 1", "postal_code": "8011 AA", "city": "Zwolle"},
        },
        past=None,
        keys=("Test",),
    ),
    DemoSet(
        name="DEMO_TAPAS",
        domain="tapas.example",
        roles=("owner",),
        organization={
            "name": "Tapas B.V.",
            "country": "NL",
            "company_number": "34567890",
            "billing_email": "owner@tapas.example",
            "address": {"street": "Marktplein 12", "postal_code": "3511 AB", "city": "Utrecht"},
        },
        past=Past(
            plan="starter",
            months=(
                Month(calls=4_200, assets=6, reports=2),
                Month(calls=7_900, assets=9, reports=3),
                Month(calls=11_300, assets=12, reports=5, paid=False),
            ),
            running=Month(calls=9_000, assets=14, reports=6),
            programs=(
                Program(name="Website", share=5, rhythm="visitors", reads=("/farms", "/turbines")),
                Program(
                    name="Till",
                    share=3,
                    reads=("/turbines/{turbine_id}",),
                    address="203.0.113.41",
                    rate_per_minute=300,
                ),
            ),
        ),
        keys=("Live", "Test"),
    ),
    DemoSet(
        name="DEMO_CAFESSERIE_FRANCHISE",
        domain="franchise.example",
        roles=ROLES,
        organization={
            "name": "Cafesserie Franchise B.V.",
            "country": "NL",
            "company_number": "56789012",
            "vat_number": "NL000099998B57",
            "billing_email": "billing@franchise.example",
            "address": {"street": "Kanaalkade 88", "postal_code": "1811 LS", "city": "Alkmaar"},
        },
        past=Past(
            plan="enterprise",
            months=tuple(
                Month(calls=calls, assets=40 + 9 * number, reports=12 + 3 * (number % 5))
                for number, calls in enumerate(FRANCHISE_CALLS)
            ),
            running=Month(calls=13_700, assets=180, reports=26),
            programs=FRANCHISE_PROGRAMS,
            contract=FRANCHISE_CONTRACT,
        ),
        keys=("Live", "Test"),
    ),
)


async def load(settings: Settings, names: Iterable[str], upstreams: Upstreams, kept: Kept) -> None:
    """Put these sets into the installation, and into `kept` how to sign in to them.

    The example servers have to answer. Raises `DemoError` or `Refusal` where that can't be.
    """
    assert rooms.JOBS, "every reaction is in force"
    await _until(upstreams.answer, "the Wind API to answer")
    await db.open_database(replace(settings, test_clock=False))
    try:
        now = await _business_now(settings)
        clock.set_instant(now - OPERATOR_SINCE)
        account = _account(kept, ADMIN, "admin")
        admin = await put_operator(account, upstreams)
        kept.add_account("platform_admin", ADMIN, account.password, None)
        chosen = [one for one in SETS if one.name in names]
        owners = {one.name: await _put_people(one, now, kept) for one in chosen}
        clock.set_instant(now)
        for one in chosen:
            await _put_subscription(one, owners[one.name], now, kept)
        await _put_pasts(chosen, owners, admin, now, kept)
        clock.set_instant(now)
        for one in chosen:
            await _put_keys(one, owners[one.name], kept)
    finally:
        clock.set_instant(None)
        await db.close_database()


async def _put_people(one: DemoSet, now: datetime, kept: Kept) -> Actor:
    """The owner, acting for the set's organization, which is Active and has its members."""
    details = people.details(one.organization)
    began = now
    if one.past is not None:
        zone = str(details.time_zone)
        began = history.begins_at(now, len(one.past.months), zone) - CUSTOMER_SINCE
    clock.set_instant(began)
    accounts = {role: _account(kept, f"{role}@{one.domain}", role) for role in one.roles}
    owner = await people.put_account(accounts["owner"])
    owner = await people.put_organization(owner, details)
    await people.put_active(owner)
    for role in one.roles:
        if role != "owner":
            await people.put_member(owner, accounts[role], role)
        kept.add_account(role, accounts[role].email, accounts[role].password, details.name)
    return owner


async def _put_subscription(one: DemoSet, owner: Actor, now: datetime, kept: Kept) -> None:
    """A trial that begins now; who lived through a past goes on, on the same plan."""
    subscribed = await _is_subscribed(owner)
    if one.past is None and not subscribed:
        await _start_trial(owner, now)
    if one.past is None or not subscribed:
        return
    async with db.transaction(owner.organization_id, owner.user_id) as session:
        done = await payments.start_subscription(
            session, owner, product=wind.SLUG, plan=one.past.plan, payment="invoice", as_of=now
        )
    if done.secret is not None:
        kept.add_key(one.organization["name"], "Live", done.secret)


async def _put_pasts(
    chosen: list[DemoSet], owners: dict[str, Actor], admin: Actor, now: datetime, kept: Kept
) -> None:
    """Let those who have not lived yet live through their past, side by side."""
    lives = [
        Life(owners[one.name], one.past, one.name)
        for one in chosen
        if one.past is not None and not await _is_subscribed(owners[one.name])
    ]
    if not lives:
        return
    secrets = await _live_through(lives, admin, now)
    for one in chosen:
        if one.name in secrets:
            kept.add_key(one.organization["name"], "Live", secrets[one.name])


async def _live_through(lives: list[Life], admin: Actor, now: datetime) -> dict[str, str]:
    """A gateway that started a moment ago has to say first that nothing lies in its journal."""
    deadline = clock.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await history.live_through(lives, admin, now)
        except Refusal as refusal:
            if refusal.code != "unavailable" or clock.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_SECONDS)


async def _is_subscribed(owner: Actor) -> bool:
    """Whether the organization subscribes to the Wind API, or ever did."""
    async with db.transaction(owner.organization_id, owner.user_id) as session:
        product = await catalog.product_or_operators(session, wind.SLUG)
        return await subscription_queries.had_one(session, owner.organization_id, product.id)


async def _start_trial(owner: Actor, now: datetime) -> None:
    async with db.transaction(owner.organization_id, owner.user_id) as session:
        facts = await identity.organization_facts(session, owner.organization_id)
        plan = await catalog.published_plan(session, wind.SLUG, wind.PROFESSIONAL["slug"])
        await subscriptions.start(session, owner, facts, plan, payment=None, as_of=now)


async def _put_keys(one: DemoSet, owner: Actor, kept: Kept) -> None:
    name = one.organization["name"]
    for environment in one.keys:
        async with db.transaction(owner.organization_id, owner.user_id) as session:
            known = kept.secret(name, environment)
            if known is not None and await _works(session, known):
                continue
            terms = KeyTerms(name=f"Demo {environment}", scopes=tuple(wind.SCOPES))
            _, secret = await access.create_key(session, owner, terms, environment=environment)
        kept.add_key(name, environment, secret)


async def _works(session: AsyncSession, secret: str) -> bool:
    key = await queries.key_by_hash(session, keyed_hash(secret))
    return key is not None and key.status == "Active"


async def _business_now(settings: Settings) -> datetime:
    """The house's instant, which this process' own clock leaves alone."""
    if not settings.test_clock:
        return clock.machine_now().replace(microsecond=0)
    async with db.system_session("demo sets") as session:
        instant: datetime = await session.scalar(text("SELECT instant FROM test_clock"))
    return instant


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = clock.monotonic() + WAIT_SECONDS
    while not condition():
        if clock.monotonic() > deadline:
            raise DemoError(f"Waited {WAIT_SECONDS:.0f} s for {what}")
        await asyncio.sleep(POLL_SECONDS)


def _account(kept: Kept, email: str, role: str) -> Account:
    first_name, last_name = NAMES[role]
    return Account(
        email=email, password=kept.password(email), first_name=first_name, last_name=last_name
    )
