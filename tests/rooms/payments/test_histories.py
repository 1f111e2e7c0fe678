# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a subscription, each instant of it is paid once: random lives, on the real
database, against a tally that knows only what was shown at each instant.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import anyio
import pytest

from nimbus import billing, identity, subscriptions
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.billing.service.proving import prove
from nimbus.catalog import published_plan
from nimbus.errors import Refusal
from nimbus.payments.service import changes
from nimbus.payments.service.changes import Change
from nimbus.rules.periods import Period
from nimbus.subscriptions import queries
from nimbus.subscriptions.service import lives
from tests.support.bills import rows
from tests.support.market import PRODUCTS, STARTER, sent
from tests.support.people import make_owner
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

BEGIN = datetime(2026, 5, 1, tzinfo=UTC)
FEES = {"small": 3100, "large": 6200, "trial": 4100}
ADD_ON_FEE = 1700
WAYS = [
    *(Change(kind="upgrade", plan="large"), Change(kind="pause"), Change(kind="resume")),
    *(Change(kind="downgrade", plan="small", at_once=now) for now in (True, False)),
    *(Change(kind="cancel", reason="chance", at_once=now) for now in (False, False, True)),
    *(Change(kind="reactivate"), Change(kind="reactivate")),
    *(Change(kind="take_add_on", add_on="support", quantity=n) for n in (1, 2, 3)),
    Change(kind="leave_add_on"),
]


@dataclass
class Life:
    """One customer's subscriptions, and what they must have cost so far in minor units."""

    person: Any
    owed: Fraction = Fraction(0)
    stretches: int = 0
    done: list[str] = field(default_factory=list)

    async def live(self):
        async with db.system_session("test") as session:
            return await queries.live_subscriptions(session, self.person.organization_id)

    async def shown(self, subscription_id):
        """(status, fee of a whole period, period) now."""
        [row] = await rows(
            "SELECT s.period_starts_at, s.period_ends_at, p.slug FROM subscriptions s"
            " JOIN plans p ON p.id = s.plan_id WHERE s.id = :id",
            id=subscription_id,
        )
        [taken] = await rows(
            "SELECT coalesce(sum(a.quantity), 0)::int AS quantity FROM contract_add_ons a"
            " WHERE a.terms_id = (SELECT id FROM contract_terms"
            " WHERE subscription_id = :id ORDER BY number DESC LIMIT 1)",
            id=subscription_id,
        )
        async with db.system_session("test") as session:
            row_now = await queries.lock(session, subscription_id)
            status = row_now.status_at(clock.now())
        fee = FEES[row["slug"]] + ADD_ON_FEE * taken["quantity"]
        return status, fee, Period(row["period_starts_at"], row["period_ends_at"])


@pytest.fixture
async def product(api, sale):
    """Plans and an add-on that are paid in advance."""
    made = f"{PRODUCTS}/{sale.contract.product_id}"
    for rank, (slug, fee) in enumerate(FEES.items(), start=1):
        plan = {**STARTER, "slug": slug, "name": slug.title(), "rank": rank, "quotas": []}
        plan |= {"base_fee_timing": "advance", "trial_days": 9 if slug == "trial" else 0}
        plan["prices"] = [{"base_fee": {"amount_minor": fee, "currency": "EUR"}}]
        await sent(api, sale.admin, "POST", f"{made}/plans", plan)
    support = {"slug": "support", "name": "Support", "base_fee_timing": "advance"}
    support["prices"] = [{"base_fee": {"amount_minor": ADD_ON_FEE, "currency": "EUR"}}]
    await sent(api, sale.admin, "POST", f"{made}/add-ons", support)


async def start(life, plan):
    actor = life.person.actor
    async with db.transaction(actor.organization_id, actor.user_id) as session:
        organization = await identity.organization_facts(session, actor.organization_id)
        chosen = await published_plan(session, "wind", plan)
        await subscriptions.start(
            session, actor, organization, chosen, payment="invoice", as_of=clock.now()
        )


async def change(life, subscription, way, version):
    """Make a change now; the refusal's code where the law refuses."""
    if way.kind == "leave_add_on":
        [add_on] = await rows("SELECT id FROM plans WHERE slug = 'support'")
        way = Change(kind="leave_add_on", add_on_id=add_on["id"])
    try:
        async with db.system_session("contract changes") as session:
            await changes.carry_out(
                session,
                life.person.actor,
                subscription.id,
                way,
                version=version,
                preview_id=None,
                as_of=clock.now(),
            )
    except Refusal as refused:
        return refused.code
    return "done"


async def settle(life):
    """What falls due now: ends are written down, periods and first fees billed."""
    now = clock.now()
    for row in await all_of(life):
        due = row["next_billing_at"]
        if row["status"] == "Expired" and due is None:
            continue
        async with db.system_session("bill run") as session:
            await lives.advance(session, row["id"], now)
            await session.flush()
            while True:
                await billing.bill(session, SYSTEM, row["id"], now)
                await session.flush()
                facts = await subscriptions.subscription_facts(session, row["id"])
                due, before = facts.next_billing_at, due
                if due is None or due == before:
                    break


async def all_of(life):
    return await rows(
        "SELECT id, status, period_ends_at, ends_at, trial_ends_at, next_billing_at"
        " FROM subscriptions"
        " WHERE organization_id = :id ORDER BY id",
        id=life.person.organization_id,
    )


async def pass_time(life, until):
    """Let time pass to `until`, with a stop wherever a date decides, and tally what it costs."""
    while clock.now() < until:
        now = clock.now()
        stops = [until]
        for row in await all_of(life):
            dates = (row["period_ends_at"], row["ends_at"], row["trial_ends_at"])
            stops += [at for at in dates if at is not None and now < at < until]
        stop = min(stops)
        for subscription in await life.live():
            status, fee, period = await life.shown(subscription.id)
            if status in {"Active", "PastDue", "Cancelled"} and now >= subscription.anchor_at:
                share = Fraction(micros(stop - now), micros(period.ends_at - period.starts_at))
                trial = subscription.trial_ends_at
                if trial is None or now >= trial:
                    life.owed += fee * share
                    life.stretches += 2
        clock.set_instant(stop)
        await settle(life)


def micros(length):
    return length // timedelta(microseconds=1)


async def check(life):
    """At most one live subscription; terms tile its life."""
    live = await life.live()
    assert len(live) <= 1, life.done
    for row in await all_of(life):
        async with db.system_session("test") as session:
            facts = await subscriptions.subscription_facts(session, row["id"])
            span = Period(facts.started_at, clock.now() + timedelta(days=400))
            parts = await subscriptions.terms_between(session, row["id"], span)
        reached = facts.started_at
        for part in parts:
            assert part.period.starts_at == reached, life.done
            reached = part.period.ends_at
        assert reached == min(span.ends_at, facts.ends_at or span.ends_at), life.done


async def two_at_once(life, chance, subscription):
    """Two different changes of the same version at the same moment: not both."""
    outcomes = []

    async def go(way):
        outcomes.append(await change(life, subscription, way, subscription.version))

    async with anyio.create_task_group() as group:
        for way in chance.sample(WAYS, 2):
            group.start_soon(go, way)
    assert outcomes.count("done") <= 1, (life.done, outcomes)
    life.done.append(f"two at once: {outcomes}")


async def disproved(life):
    """The invoices that the second reading of the law finds otherwise, whenever they were made."""
    found = []
    for row in await rows(
        "SELECT id, kind FROM invoices WHERE organization_id = :id AND status <> 'Cancelled'",
        id=life.person.organization_id,
    ):
        async with db.system_session("proofs") as session:
            report = await prove(session, str(row["id"]))
        found += [(row["kind"], one) for one in report.differences]
    return found


async def live_a_life(life, chance, steps):
    for _ in range(steps):
        live = await life.live()
        if not live:
            plan = chance.choice(list(FEES))
            await start(life, plan)
            life.done.append(f"start {plan}")
            await settle(life)
        elif chance.random() < 0.1:
            await pass_time(life, clock.now() + timedelta(hours=1))
            live = await life.live()
            if live:
                await two_at_once(life, chance, live[0])
        else:
            way = chance.choice(WAYS)
            outcome = await change(life, live[0], way, live[0].version)
            life.done.append(f"{clock.now()} {way.kind} {way.at_once}: {outcome}")
        await check(life)
        if chance.random() < 0.7:
            hours = chance.choice([1, 7, 100, 300, 800])
            await pass_time(life, clock.now() + timedelta(hours=hours))
    await pass_time(life, clock.now() + timedelta(hours=1))
    for subscription in await life.live():
        end = Change(kind="cancel", reason="the end", at_once=True)
        await change(life, subscription, end, subscription.version)
    await settle(life)
    await check(life)


async def test_each_instant_of_any_history_is_paid_once(product, sale, soak: Soak):
    print(f"TEST_SEED={soak.seed}")
    for number in range(soak.count(2, 200)):
        clock.set_instant(BEGIN)
        chance = soak.random
        chance.seed(f"{soak.seed}/{number}")
        life = Life(await make_owner(f"owner@life{number}.example"))

        await live_a_life(life, chance, steps=14)

        [billed] = await rows(
            "SELECT coalesce(sum(l.amount_minor), 0)::bigint AS minor FROM invoice_lines l"
            " JOIN invoices i ON i.id = l.invoice_id WHERE i.status <> 'Cancelled'"
            " AND i.organization_id = :id",
            id=life.person.organization_id,
        )
        told = "\n".join([*life.done, f"TEST_SEED={soak.seed}, life {number}"])
        assert abs(billed["minor"] - life.owed) <= life.stretches, (billed, float(life.owed), told)
        assert await disproved(life) == [], told
