# SPDX-License-Identifier: Apache-2.0
"""Pause, resume, cancel, reactivate, renew by hand, add-ons and what waits: each through HTTP."""

from datetime import UTC, datetime, timedelta

import pytest

from nimbus import subscriptions
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.rules.periods import Period
from tests.support.market import PRODUCTS, STARTER, make_wind, sent, subscribe
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

START = datetime(2026, 5, 1, tzinfo=UTC)
END = datetime(2026, 6, 1, tzinfo=UTC)
MAY = Period(START, END)
TENTH, TWENTIETH = START + timedelta(days=9), START + timedelta(days=19)
SUBSCRIPTIONS = "/api/billing/subscriptions"
SUPPORT = {
    "slug": "support",
    "name": "Support",
    "prices": [{"base_fee": {"amount_minor": 3000, "currency": "EUR"}}],
}


class Consumer:
    """Who subscribed to the Wind API, and speaks to it by HTTP."""

    def __init__(self, api, person, subscription_id):
        self.api, self.person, self.id = api, person, subscription_id

    async def read(self):
        return await sent(self.api, self.person, "GET", f"{SUBSCRIPTIONS}/{self.id}")

    async def ask(self, action, **body):
        version = (await self.read())["version"]
        path = f"{SUBSCRIPTIONS}/{self.id}/{action}"
        body = {"version": version, **body}
        return await self.api.post(path, json=body, headers=self.person.headers)

    async def do(self, action, **body):
        answer = await self.ask(action, **body)
        assert answer.is_success, answer.text
        return answer.json()

    async def refused(self, action, **body):
        answer = await self.ask(action, **body)
        return answer.status_code, [error["code"] for error in answer.json()["errors"]]

    async def terms(self, period=MAY):
        async with db.system_session("test") as session:
            return await subscriptions.terms_between(session, self.id, period)

    async def renew(self, ended_at=END):
        async with db.system_session("test") as session:
            await subscriptions.renew_period(session, SYSTEM, self.id, ended_at)


@pytest.fixture
async def provider(api, upstream):
    clock.set_instant(START)
    owner = await make_owner("provider@wind.example")
    await make_wind(api, owner, upstream)
    product = (await sent(api, owner, "GET", PRODUCTS))["data"][0]
    await sent(api, owner, "POST", f"{PRODUCTS}/{product['id']}/add-ons", SUPPORT)
    return owner


@pytest.fixture
async def consumer(api, provider):
    person = await make_owner("owner@tapas.example")
    started = await subscribe(person)
    return Consumer(api, person, started.subscription.id)


async def test_a_paused_subscription_is_not_served_until_it_is_resumed(consumer):
    clock.set_instant(TENTH)
    assert (await consumer.do("pause"))["status"] == "Paused"
    assert await consumer.refused("pause") == (422, ["subscription_paused"])
    clock.set_instant(TWENTIETH)
    assert (await consumer.do("resume"))["status"] == "Active"

    parts = await consumer.terms()

    assert [(part.period.starts_at, part.served) for part in parts] == [
        (START, True),
        (TENTH, False),
        (TWENTIETH, True),
    ]


async def test_periods_go_on_while_a_subscription_is_paused(consumer):
    await consumer.do("pause")
    clock.set_instant(END)
    await consumer.renew()

    shown = await consumer.read()

    assert (shown["status"], shown["period"]["number"]) == ("Paused", 1)


async def test_a_paused_subscription_that_is_cancelled_gives_no_access_again(consumer):
    clock.set_instant(TENTH)
    await consumer.do("pause")

    cancelled = await consumer.do("cancel", reason="Too quiet")

    assert (cancelled["status"], cancelled["ends_at"]) == ("Expired", clock.to_wire(TENTH))


async def test_a_cancellation_can_be_taken_back_until_its_end(consumer):
    await consumer.do("cancel", reason="No wind")
    clock.set_instant(END - timedelta(microseconds=1))
    again = await consumer.do("reactivate")
    assert (again["status"], again["ends_at"], again["cancel_reason"]) == ("Active", None, None)
    assert again["next_billing_at"] == clock.to_wire(END)
    await consumer.do("cancel", reason="No wind")
    clock.set_instant(END)

    assert await consumer.refused("reactivate") == (422, ["subscription_expired"])


async def test_choosing_a_plan_again_takes_a_cancellation_back(consumer):
    await consumer.do("cancel", reason="No wind")

    again = await subscribe(consumer.person)

    assert (again.created, again.subscription.status) == (False, "Active")
    assert again.subscription.ends_at is None


async def test_without_renewal_it_ends_with_its_period_unless_renewed_by_hand(consumer):
    path = f"{SUBSCRIPTIONS}/{consumer.id}/renewal"
    off = {"automatic": False, "version": 1}
    shown = await sent(consumer.api, consumer.person, "PUT", path, off)
    assert (shown["status"], shown["ends_at"]) == ("Active", clock.to_wire(END))
    longer = await consumer.do("renew")
    clock.set_instant(END)
    await consumer.renew()
    assert (await consumer.read())["status"] == "Active"

    july = datetime(2026, 7, 1, tzinfo=UTC)
    clock.set_instant(july)

    assert longer["ends_at"] == clock.to_wire(july)
    assert (await consumer.read())["status"] == "Expired"
    assert await consumer.refused("renew") == (422, ["subscription_expired"])


async def test_an_add_on_is_had_at_once_and_left_with_the_period(consumer):
    clock.set_instant(TENTH)
    taken = await consumer.do("add-ons", add_on="support", quantity=2)
    assert [(one["slug"], one["quantity"]) for one in taken["add_ons"]] == [("support", 2)]
    fewer = await consumer.do("add-ons", add_on="support", quantity=1)
    assert fewer["scheduled_change"]["add_ons"][0]["quantity"] == 1
    add_on = taken["add_ons"][0]["id"]
    path = f"{SUBSCRIPTIONS}/{consumer.id}/add-ons/{add_on}?version={fewer['version']}"
    left = await sent(consumer.api, consumer.person, "DELETE", path)
    assert left["scheduled_change"]["add_ons"][0] == {
        "slug": "support",
        "name": "Support",
        "quantity": 0,
        "at": clock.to_wire(END),
    }
    clock.set_instant(END)
    await consumer.renew()

    june = Period(END, datetime(2026, 7, 1, tzinfo=UTC))
    may = [
        (part.period.starts_at, [a.quantity for a in part.add_ons])
        for part in await consumer.terms()
    ]
    assert may == [(START, []), (TENTH, [2])]
    assert [part.add_ons for part in await consumer.terms(june)] == [()]
    assert (await consumer.read())["scheduled_change"] is None


async def test_what_waits_can_be_taken_back(consumer):
    await subscribe(consumer.person, "professional")
    waiting = await consumer.do("downgrade", plan="starter")
    path = f"{SUBSCRIPTIONS}/{consumer.id}/scheduled-change?version={waiting['version']}"

    kept = await sent(consumer.api, consumer.person, "DELETE", path)

    assert (kept["plan"]["slug"], kept["scheduled_change"]) == ("professional", None)


async def test_a_waiting_change_holds_from_its_instant_though_no_bill_was_made_yet(consumer):
    await subscribe(consumer.person, "professional")
    await consumer.do("downgrade", plan="starter")
    clock.set_instant(END + timedelta(hours=1))
    await consumer.do("add-ons", add_on="support")

    parts = await consumer.terms(Period(START, END + timedelta(days=1)))

    assert [part.period.starts_at for part in parts] == [START, END, END + timedelta(hours=1)]
    assert len({part.plan_id for part in parts}) == 2


async def test_a_trial_that_the_plan_does_not_convert_ends_though_it_could_be_paid(api, provider):
    product = (await sent(api, provider, "GET", PRODUCTS))["data"][0]
    trial = {"slug": "try", "name": "Try", "rank": 1, "trial_days": 14, "trial_converts": False}
    await sent(api, provider, "POST", f"{PRODUCTS}/{product['id']}/plans", {**STARTER, **trial})
    person = await make_owner("owner@sol.example")
    started = (await subscribe(person, "try")).subscription

    clock.set_instant(START + timedelta(days=14))
    shown = await sent(api, person, "GET", f"{SUBSCRIPTIONS}/{started.id}")

    assert (started.status, started.payment, shown["status"]) == ("Trial", None, "Expired")
