# SPDX-License-Identifier: Apache-2.0
"""A provider's side: who subscribed, contract prices, bans, private plans, moves of subscribers."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from nimbus import catalog, subscriptions
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.errors import Refusal
from nimbus.subscriptions.service import consumers
from tests.support.market import PRODUCTS, STARTER, make_wind, sent, subscribe
from tests.support.metered import rows
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

START = datetime(2026, 5, 1, tzinfo=UTC)
END = datetime(2026, 6, 1, tzinfo=UTC)
CONSUMERS = "/api/provider/consumers"
PLAN = {name: value for name, value in STARTER.items() if name != "slug"}


@pytest.fixture
async def provider(api, upstream):
    clock.set_instant(START)
    owner = await make_owner("provider@wind.example")
    await make_wind(api, owner, upstream)
    return owner


@pytest.fixture
async def consumer(provider):
    person = await make_owner("owner@tapas.example")
    return person, (await subscribe(person)).subscription


async def product_path(api, provider):
    product = (await sent(api, provider, "GET", PRODUCTS))["data"][0]
    return f"{PRODUCTS}/{product['id']}"


async def test_a_contract_changes_what_one_subscriber_has_and_nobody_else(api, provider, consumer):
    person, started = consumer
    other = await make_owner("owner@sol.example")
    theirs = (await subscribe(other)).subscription
    agreed = {
        "base_fee": {"amount_minor": 2900, "currency": "EUR"},
        "charges": [{"meter": "api_calls", "unit_price": "0.0015", "included": "50000"}],
        "quotas": [{"meter": "api_calls", "amount": 50000, "period": "cycle"}],
    }

    shown = await sent(
        api, provider, "POST", f"{CONSUMERS}/{started.id}/contract", {"terms": agreed, "version": 1}
    )

    assert (shown["contract"], shown["base_fee"]["amount_minor"]) == (True, 2900)
    mine = await sent(api, person, "GET", f"/api/billing/subscriptions/{started.id}")
    prices = {charge["meter"]: charge["unit_price"] for charge in mine["price"]["charges"]}
    page = await sent(api, provider, "GET", f"{CONSUMERS}/{started.id}")
    assert page["terms"]["base_fee"] == agreed["base_fee"]
    assert {charge["meter"]: charge["unit_price"] for charge in page["terms"]["charges"]} == prices
    assert [quota["limit"] for quota in page["quotas"] if quota["meter"] == "api_calls"] == [
        "50000"
    ]
    assert prices == {"api_calls": "0.0015", "assets": "1.5", "reports": "2.5"}
    same = await sent(api, other, "GET", f"/api/billing/subscriptions/{theirs.id}")
    assert (same["contract"], same["price"]["base_fee"]["amount_minor"]) == (False, 4900)
    standings = await rows(
        "SELECT limit_units FROM quota_standings WHERE subscription_id = :id"
        " AND meter_key = 'api_calls'",
        id=started.id,
    )
    assert {standing["limit_units"] for standing in standings} == {50000}
    [agreed_on] = await rows(
        "SELECT plan_version_id FROM subscriptions WHERE id = :id", id=started.id
    )
    async with db.transaction(other.organization_id) as session:
        with pytest.raises(Refusal):
            await catalog.plan_facts(session, agreed_on["plan_version_id"])


async def test_a_banned_subscriber_is_out_at_once_and_can_not_come_back(api, provider, consumer):
    person, started = consumer
    listed = await sent(api, provider, "GET", CONSUMERS)
    assert [(one["id"], one["banned"]) for one in listed["data"]] == [(str(started.id), False)]

    shown = await sent(api, provider, "POST", f"{CONSUMERS}/{started.id}/ban", {"reason": "Fraud"})

    assert (shown["status"], shown["banned"]) == ("Expired", True)
    with pytest.raises(Refusal) as refused:
        await subscribe(person)
    assert refused.value.code == "forbidden"
    await sent(api, provider, "DELETE", f"{CONSUMERS}/{started.id}/ban")
    assert (await subscribe(person)).created


async def test_a_provider_sets_the_plan_of_its_own_subscribers_only(api, provider, consumer):
    _, started = consumer
    stranger = await make_owner("stranger@sun.example")
    path = f"{CONSUMERS}/{started.id}/plan"
    body = {"plan": "professional", "version": 1}

    refused = await api.post(path, json=body, headers=stranger.headers)
    changed = await sent(api, provider, "POST", path, body)

    assert refused.status_code == 404
    assert changed["plan"]["slug"] == "professional"


async def test_a_private_plan_is_there_for_those_it_was_made_for(api, provider):
    product = await product_path(api, provider)
    friend, stranger = await make_owner("a@friend.example"), await make_owner("b@other.example")
    private = {**STARTER, "slug": "friends", "name": "Friends", "rank": 5}
    body = {**private, "visibility": "private", "audience": [str(friend.organization_id)]}
    await sent(api, provider, "POST", f"{product}/plans", body)

    slugs = {}
    for person in (friend, stranger):
        plans = await sent(api, person, "GET", "/api/billing/plans?product=wind")
        slugs[person] = [plan["slug"] for plan in plans["data"]]
    choice = {"product": "wind", "plan": "friends", "payment": "invoice"}
    path = "/api/billing/subscription"
    refused = await api.post(path, json=choice, headers=stranger.headers)
    taken = await sent(api, friend, "POST", path, choice)

    assert slugs == {
        friend: ["friends", "starter", "professional"],
        stranger: ["starter", "professional"],
    }
    assert refused.status_code == 422
    assert taken["subscription"]["plan"]["slug"] == "friends"


async def test_a_new_price_is_announced_and_holds_from_the_first_period_after_the_notice(
    api, provider, consumer
):
    person, started = consumer
    product = await product_path(api, provider)
    plan = (await sent(api, provider, "GET", f"{product}/plans"))["data"][-1]
    dearer = {**PLAN, "version": plan["version"]}
    fee = {"amount_minor": 5900, "currency": "EUR"}
    dearer["prices"] = [{**STARTER["prices"][0], "base_fee": fee}]
    await sent(api, provider, "PUT", f"{product}/plans/{plan['id']}", dearer)
    asked = {
        "to_plan": "starter",
        "reason": "Dearer from July",
        "not_before": "2026-06-15T00:00:00Z",
    }

    moves = f"{product}/plans/{plan['id']}/moves"
    shown = await sent(api, provider, "GET", f"{moves}/preview?to_plan=starter")
    [version] = shown["versions"]
    assert (shown["total"], shown["left_out"], shown["to_plan_version"]) == (1, 0, 2)
    assert (version["plan_version"], version["subscribers"], version["contract"]) == (1, 1, False)
    assert [version[fee]["amount_minor"] for fee in ("fee", "fee_then")] == [4900, 5900]
    move = await sent(api, provider, "POST", moves, asked)
    async with db.system_session("move subscribers") as session:
        more = await consumers.go_on_moving(session, SYSTEM, UUID(move["id"]))
    async with db.system_session("move subscribers") as session:
        again = await consumers.go_on_moving(session, SYSTEM, UUID(move["id"]))

    assert (move["total"], more, again) == (1, False, False)
    [done] = (await sent(api, provider, "GET", f"{product}/plans/{plan['id']}/moves"))["data"]
    assert (done["status"], done["moved"], done["left_out"]) == ("Done", 1, 0)
    path = f"/api/billing/subscriptions/{started.id}"
    waiting = (await sent(api, person, "GET", path))["scheduled_change"]
    assert (waiting["at"], waiting["reason"]) == ("2026-07-01T00:00:00Z", "Dearer from July")
    [mail] = await rows("SELECT data FROM notices WHERE template = 'plan_change'")
    assert (mail["data"]["on"], mail["data"]["reason"]) == ("1 July 2026", "Dearer from July")
    fees = []
    for ended in (END, datetime(2026, 7, 1, tzinfo=UTC)):
        clock.set_instant(ended)
        async with db.system_session("test") as session:
            await subscriptions.renew_period(session, SYSTEM, started.id, ended)
        shown = await sent(api, person, "GET", path)
        fees.append(shown["price"]["base_fee"]["amount_minor"])
    assert fees == [4900, 5900]


async def test_the_operator_changes_and_ends_any_subscription(api, provider, consumer):
    _, started = consumer
    admin = await make_owner("admin@nimbus.example", platform_role="admin")
    listed = await sent(api, admin, "GET", "/api/admin/subscriptions")
    path = f"/api/admin/subscriptions/{started.id}"

    changed = await sent(api, admin, "PUT", path, {"plan": "professional", "version": 1})
    ended = await sent(
        api, admin, "POST", f"{path}/cancel", {"reason": "Asked by phone", "version": 2}
    )

    assert [one["id"] for one in listed["data"]] == [str(started.id)]
    assert changed["plan"]["slug"] == "professional"
    assert ended["ends_at"] == clock.to_wire(END)
    assert ended["status"] == "Cancelled"
