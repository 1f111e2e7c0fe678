# SPDX-License-Identifier: Apache-2.0
"""One live subscription a product, through its life; both sides see it, nobody else does."""

import json
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from nimbus import catalog, subscriptions
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.base.ids import new_id
from nimbus.base.jobs import next_due
from nimbus.errors import Refusal
from nimbus.subscriptions import jobs, queries
from nimbus.subscriptions.models import Subscription
from tests.support.market import PRODUCTS, PROFESSIONAL, STARTER, make_wind, sent, subscribe
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

START = datetime(2026, 5, 1, tzinfo=UTC)
SUBSCRIPTIONS = "/api/billing/subscriptions"


@pytest.fixture
async def provider(api, upstream):
    clock.set_instant(START)
    owner = await make_owner("provider@wind.example")
    await make_wind(api, owner, upstream)
    return owner


@pytest.fixture
async def consumer(provider):
    return await make_owner("owner@tapas.example")


async def rows():
    async with db.system_session("test") as session:
        return list(await session.scalars(select(Subscription).order_by(Subscription.id)))


async def names():
    """The facts about subscriptions in the order they became true."""
    async with db.system_session("test") as session:
        found = text("SELECT name FROM outbox WHERE entity_type = 'subscription' ORDER BY id")
        return [name.removeprefix("subscription.") for name in await session.scalars(found)]


async def refused(api, person, path, body):
    answer = await api.post(path, json=body, headers=person.headers)
    fields = [(error["field"], error["code"]) for error in answer.json()["errors"]]
    return answer.status_code, *fields


async def renew(started):
    async with db.system_session("test") as session:
        facts = await subscriptions.subscription_facts(session, started.subscription.id)
        return await subscriptions.renew_period(
            session,
            SYSTEM,
            facts.id,
            min(facts.period_ends_at, facts.ends_at or facts.period_ends_at),
        )


async def new_trial_plan(api, provider, **changes):
    product = (await sent(api, provider, "GET", PRODUCTS))["data"][0]
    plan = {**STARTER, "slug": "try", "name": "Try", "rank": 1, "trial_days": 14, **changes}
    await sent(api, provider, "POST", f"{PRODUCTS}/{product['id']}/plans", plan)


async def test_a_subscription_begins_with_its_first_period_in_the_organization_s_zone(consumer):
    started = await subscribe(consumer)

    facts = started.subscription
    assert started.created
    assert (facts.status, facts.currency, facts.payment) == ("Active", "EUR", "invoice")
    assert facts.period_starts_at == START
    assert facts.period_ends_at == datetime(2026, 6, 1, tzinfo=UTC)
    assert facts.next_billing_at == facts.period_ends_at
    assert facts.time_zone == "Europe/Amsterdam"
    assert await names() == ["created"]


async def test_eight_starts_at_once_make_one_subscription(consumer):
    results = []

    async def begin():
        results.append(await subscribe(consumer))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(begin)

    assert len({result.subscription.id for result in results}) == 1
    assert sorted(result.created for result in results) == [False] * 7 + [True]
    assert await names() == ["created"]


async def test_the_database_itself_refuses_a_second_live_subscription(consumer):
    await subscribe(consumer)

    with pytest.raises(IntegrityError, match="uq_subscriptions_live"):
        async with db.system_session("test") as session:
            first = (await session.scalars(select(Subscription))).one()
            values = {c.key: getattr(first, c.key) for c in Subscription.__table__.columns}
            session.add(Subscription(**{**values, "id": new_id()}))


async def test_the_same_product_again_is_the_same_answer_or_another_plan(consumer):
    first = await subscribe(consumer)

    same = await subscribe(consumer)
    higher = await subscribe(consumer, "professional")
    lower = await subscribe(consumer, "starter")

    ids = {one.subscription.id for one in (first, same, higher, lower)}
    assert len(ids) == 1
    assert [one.created for one in (same, higher, lower)] == [False] * 3
    assert higher.subscription.plan_version_id != first.subscription.plan_version_id
    assert lower.subscription.plan_version_id == higher.subscription.plan_version_id
    assert (await rows())[0].scheduled_change["plan"] == "starter"
    assert await names() == ["created", "changed", "changed"]


async def test_an_upgrade_holds_at_once_and_a_stale_one_is_refused(api, consumer):
    started = await subscribe(consumer)
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"
    body = {"plan": "professional", "version": 1}

    changed = await sent(api, consumer, "POST", f"{path}/upgrade", body)
    stale = await api.post(f"{path}/upgrade", json=body, headers=consumer.headers)

    assert (changed["plan"]["slug"], changed["version"]) == ("professional", 2)
    assert changed["price"]["base_fee"] == {"amount_minor": 19900, "currency": "EUR"}
    assert changed["period"]["ends_at"] == "2026-06-01T00:00:00Z"
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_version")
    assert await names() == ["created", "changed"]


async def test_of_two_changes_at_once_one_wins_and_the_other_is_stale(api, consumer):
    started = await subscribe(consumer)
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"
    statuses = []

    async def change(action, body):
        answer = await api.post(f"{path}/{action}", json=body, headers=consumer.headers)
        statuses.append(answer.status_code)

    async with anyio.create_task_group() as group:
        group.start_soon(change, "upgrade", {"plan": "professional", "version": 1})
        group.start_soon(change, "cancel", {"reason": "too dear", "version": 1})

    assert sorted(statuses) == [200, 409]
    assert len(await names()) == 2


async def test_starting_again_beside_reactivating_leaves_one_that_goes_on(api, consumer):
    started = await subscribe(consumer)
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"
    gone = {"reason": "too dear", "version": 1}
    await sent(api, consumer, "POST", f"{path}/cancel", gone)
    starts, answers = [], []

    async def start_again():
        starts.append(await subscribe(consumer))

    async def reactivate():
        answers.append(
            await api.post(f"{path}/reactivate", json={"version": 2}, headers=consumer.headers)
        )

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(start_again)
            group.start_soon(reactivate)

    # Whoever comes first makes it go on; the others find it so, or are stale.
    assert {one.subscription.id for one in starts} == {started.subscription.id}
    assert not any(one.created for one in starts)
    assert {one.status_code for one in answers} <= {200, 409}
    [row] = await rows()
    assert (row.status, row.ends_at, row.version) == ("Active", None, 3)
    assert await names() == ["created", "cancelled", "reactivated"]


async def test_a_downgrade_waits_for_the_period_s_end_unless_asked_for_at_once(api, consumer):
    started = await subscribe(consumer, "professional")
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"

    waiting = await sent(
        api, consumer, "POST", f"{path}/downgrade", {"plan": "starter", "version": 1}
    )
    assert waiting["plan"]["slug"] == "professional"
    due = {"plan": "starter", "at": "2026-06-01T00:00:00Z", "add_ons": [], "reason": None}
    assert waiting["scheduled_change"] == due
    clock.set_instant(datetime(2026, 6, 1, tzinfo=UTC))
    renewed = await renew(started)
    again = await renew_at(started, datetime(2026, 6, 1, tzinfo=UTC))

    assert renewed == again
    assert (renewed.period_number, renewed.status) == (1, "Active")
    assert renewed.period_ends_at == datetime(2026, 7, 1, tzinfo=UTC)
    shown = await sent(api, consumer, "GET", path)
    assert (shown["plan"]["slug"], shown["scheduled_change"]) == ("starter", None)
    higher = {"plan": "professional", "version": shown["version"]}
    up = await sent(api, consumer, "POST", f"{path}/upgrade", higher)
    lower = {"plan": "starter", "version": up["version"], "at_once": True}
    down = await sent(api, consumer, "POST", f"{path}/downgrade", lower)
    assert (down["plan"]["slug"], down["scheduled_change"]) == ("starter", None)
    assert await names() == ["created", "changed", "renewed", "changed", "changed"]


async def renew_at(started, ended_at):
    async with db.system_session("test") as session:
        return await subscriptions.renew_period(session, SYSTEM, started.subscription.id, ended_at)


async def test_cancelled_is_served_until_its_end_then_expired_without_any_job(api, consumer):
    started = await subscribe(consumer)
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"

    body = {"reason": "moving on", "version": 1}
    cancelled = await sent(api, consumer, "POST", f"{path}/cancel", body)

    assert (cancelled["status"], cancelled["ends_at"]) == ("Cancelled", "2026-06-01T00:00:00Z")
    assert (cancelled["cancel_reason"], cancelled["auto_renew"]) == ("moving on", False)
    clock.set_instant(datetime(2026, 6, 1, tzinfo=UTC))
    assert (await sent(api, consumer, "GET", path))["status"] == "Expired"
    again = await subscribe(consumer)
    assert again.created
    assert [row.status for row in await rows()] == ["Expired", "Active"]
    assert await names() == ["created", "cancelled", "expired", "created"]


async def test_the_job_writes_down_an_end_once(api, consumer):
    started = await subscribe(consumer)
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"
    await sent(api, consumer, "POST", f"{path}/cancel", {"reason": "x", "version": 1})
    end = datetime(2026, 6, 1, tzinfo=UTC)

    async with db.system_session("test") as session:
        assert await subscriptions.queries.next_to_advance(session) == end
        early = await subscriptions.queries.due_to_advance(session, end - timedelta(seconds=1), 9)
        due = await subscriptions.queries.due_to_advance(session, end, 9)
    for _ in range(2):
        await jobs.advance(entity_id=str(due[0][0]), as_of=clock.to_wire(end))

    assert early == []
    assert [row.status for row in await rows()] == ["Expired"]
    assert await names() == ["created", "cancelled", "expired"]


async def test_the_last_period_of_a_cancelled_subscription_is_billed_once(api, consumer):
    started = await subscribe(consumer)
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"
    clock.set_instant(START + timedelta(days=9))
    body = {"reason": "x", "version": 1, "at_once": True}
    shown = await sent(api, consumer, "POST", f"{path}/cancel", body)

    assert shown["status"] == "Expired"
    async with db.system_session("test") as session:
        due = await subscriptions.due_for_billing(session, clock.now(), 9)
    assert due == [(started.subscription.id, START + timedelta(days=9))]
    await renew(started)
    async with db.system_session("test") as session:
        assert await subscriptions.due_for_billing(session, START + timedelta(days=99), 9) == []
        assert await subscriptions.next_billing(session) is None


async def test_a_trial_that_nobody_pays_for_ends_by_itself_and_is_not_given_twice(
    api, provider, consumer
):
    await new_trial_plan(api, provider)

    trial = await subscribe(consumer, "try", payment=None)

    assert trial.subscription.status == "Trial"
    assert trial.subscription.trial_ends_at == START + timedelta(days=14)
    assert trial.subscription.next_billing_at is None
    path = f"{SUBSCRIPTIONS}/{trial.subscription.id}"
    clock.set_instant(START + timedelta(days=14) - timedelta(microseconds=1))
    assert (await sent(api, consumer, "GET", path))["status"] == "Trial"
    clock.set_instant(START + timedelta(days=14))
    assert (await sent(api, consumer, "GET", path))["status"] == "Expired"
    with pytest.raises(Refusal) as no_second:
        await subscribe(consumer, "try", payment=None)
    assert [(f.field, f.code) for f in no_second.value.fields] == [("payment", "missing")]
    assert [row.status for row in await rows()] == ["Trial"]
    paid = await subscribe(consumer, "try")
    assert (paid.created, paid.subscription.status) == (True, "Active")


async def test_a_trial_with_a_payment_goes_on_by_itself_and_is_billed_from_its_end(
    api, provider, consumer
):
    await new_trial_plan(api, provider)
    trial = await subscribe(consumer, "try", payment=None)
    await subscribe(consumer, "try")
    end = START + timedelta(days=14)
    path = f"{SUBSCRIPTIONS}/{trial.subscription.id}"
    clock.set_instant(end)
    assert (await sent(api, consumer, "GET", path))["status"] == "Active"

    for _ in range(2):
        await jobs.advance(entity_id=str(trial.subscription.id), as_of=clock.to_wire(end))

    row = (await rows())[0]
    assert (row.status, row.period_starts_at, row.period_number) == ("Active", end, 0)
    assert row.next_billing_at == row.period_ends_at == datetime(2026, 6, 15, tzinfo=UTC)
    assert await names() == ["created", "changed", "changed"]


async def due_notices(at):
    """Run what is due at an instant, as the scanner and the worker do, twice."""
    clock.set_instant(at)
    async with db.system_session("test") as session:
        due = await queries.due_trial_notices(session, at, 9)
    for _ in range(2):
        for subscription_id, due_at in due:
            await jobs.tell_of_trial(entity_id=str(subscription_id), as_of=clock.to_wire(due_at))
    return len(due)


async def mails():
    async with db.system_session("test") as session:
        found = text("SELECT data, locale FROM notices WHERE template = 'trial_ending'")
        return [dict(row) for row in (await session.execute(found)).mappings()]


@pytest.mark.parametrize("paid", [True, False])
async def test_a_trial_tells_of_its_end_three_days_before_it_once(api, provider, consumer, paid):
    await new_trial_plan(api, provider)
    await subscribe(consumer, "try", payment=None)
    if paid:
        await subscribe(consumer, "try")
    told_at = START + timedelta(days=11)
    async with db.system_session("test") as session:
        assert await queries.next_trial_notice(session) == told_at
        # Where time is moved by hand, it stops there.
        assert await next_due(session) == told_at

    assert await due_notices(told_at - timedelta(microseconds=1)) == 0
    assert await due_notices(told_at) == 1
    assert await due_notices(told_at + timedelta(days=9)) == 0

    assert (await names()).count("trial_ending") == 1
    [mail] = await mails()
    assert mail["data"]["product"] == "Wind API"
    assert (mail["data"]["on"], mail["data"]["goes_on"]) == ("15 May 2026", "yes" if paid else "")


async def test_no_trial_tells_of_its_end_that_has_ended_or_was_cancelled(api, provider, consumer):
    await new_trial_plan(api, provider)
    trial = await subscribe(consumer, "try", payment=None)
    path = f"{SUBSCRIPTIONS}/{trial.subscription.id}"
    told_at = START + timedelta(days=11)
    await sent(api, consumer, "POST", f"{path}/cancel", {"reason": "no", "version": 1})
    assert await due_notices(told_at) == 0
    await sent(api, consumer, "POST", f"{path}/reactivate", {"version": 2})
    # The worker was away until the trial was over.
    assert await due_notices(START + timedelta(days=14)) == 1

    assert await mails() == []
    async with db.system_session("test") as session:
        assert await queries.next_trial_notice(session) is None


async def test_suspended_and_restored_each_once(consumer):
    started = await subscribe(consumer)
    async with db.system_session("test") as session:
        for _ in range(2):
            await subscriptions.suspend(session, SYSTEM, started.subscription.id, "unpaid")
    async with db.system_session("test") as session:
        far = START + timedelta(days=99)
        assert await subscriptions.due_for_billing(session, far, 9) == []
        restored = await subscriptions.restore(session, SYSTEM, started.subscription.id, "paid")

    assert restored.status == "Active"
    assert await names() == ["created", "suspended", "restored"]


async def test_what_can_not_be_started_is_named_and_leaves_nothing(api, provider, consumer):
    await new_trial_plan(api, provider, payment_on_invoice=False, trial_days=0)

    async def why(**asked):
        with pytest.raises(Refusal) as refusal:
            await subscribe(consumer, **asked)
        return [(f.field, f.code) for f in refusal.value.fields] or refusal.value.code

    assert await why(plan="gold") == [("plan", "unknown_plan")]
    assert await why(product="sun") == [("product", "unknown_product")]
    assert await why(payment=None) == [("payment", "missing")]
    assert await why(payment="method") == [("payment", "no_payment_method")]
    assert await why(plan="try") == [("payment", "not_on_invoice")]
    async with db.system_session("test") as session:
        await session.execute(text("UPDATE organizations SET currency = 'USD'"))
    assert await why() == [("plan", "no_price")]
    async with db.system_session("test") as session:
        await session.execute(text("UPDATE organizations SET status = 'Suspended'"))
    assert await why() == "organization_suspended"
    assert await rows() == []
    assert await names() == []


async def test_what_can_not_be_changed_is_named_and_leaves_it_as_it_was(api, provider, consumer):
    await new_trial_plan(api, provider, slug="yearly", rank=99, interval="year")
    started = await subscribe(consumer)
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"

    for action, plan, answer in (
        ("upgrade", "gold", ("plan", "unknown_plan")),
        ("upgrade", "starter", ("plan", "no_upgrade")),
        ("downgrade", "starter", ("plan", "no_downgrade")),
        ("downgrade", "professional", ("plan", "no_downgrade")),
        ("upgrade", "yearly", ("plan", "other_periods")),
        ("upgrade", "Not A Slug", ("plan", "string_pattern_mismatch")),
    ):
        body = {"plan": plan, "version": 1}
        assert await refused(api, consumer, f"{path}/{action}", body) == (422, answer)
    for reason in ("", " ", "x" * 501, "a\x00"):
        answer = await refused(api, consumer, f"{path}/cancel", {"reason": reason, "version": 1})
        assert (answer[0], answer[1][0]) == (422, "reason")
    await sent(api, consumer, "POST", f"{path}/cancel", {"reason": "x", "version": 1})
    for action in ("cancel", "upgrade"):
        body = {
            "version": 2,
            **({"reason": "x"} if action == "cancel" else {"plan": "professional"}),
        }
        answer = await refused(api, consumer, f"{path}/{action}", body)
        assert answer == (422, ("status", "subscription_cancelled"))
    assert await names() == ["created", "cancelled"]


async def test_another_organization_s_subscription_is_as_unknown_as_a_random_id(
    api, provider, consumer
):
    started = await subscribe(consumer)
    stranger = await make_owner("eve@other.example")

    async def answers(person, subscription_id):
        path = f"{SUBSCRIPTIONS}/{subscription_id}"
        found = [await api.get(path, headers=person.headers)]
        for action, body in (
            ("upgrade", {"plan": "professional", "version": 1}),
            ("downgrade", {"plan": "starter", "version": 1}),
            ("cancel", {"reason": "x", "version": 1}),
        ):
            found.append(await api.post(f"{path}/{action}", json=body, headers=person.headers))
        bodies = [{**answer.json(), "request_id": ""} for answer in found]
        return json.dumps(bodies).replace(str(subscription_id), "ID")

    for person in (stranger, provider):
        theirs = await answers(person, started.subscription.id)
        assert theirs == await answers(person, new_id())
        assert theirs.count('"status": 404') == 4
    assert (await sent(api, stranger, "GET", SUBSCRIPTIONS))["data"] == []
    assert (await sent(api, provider, "GET", SUBSCRIPTIONS))["data"] == []
    async with db.transaction(stranger.organization_id) as session:
        assert await session.scalar(select(func.count()).select_from(Subscription)) == 0
    async with db.transaction(provider.organization_id) as session:
        assert await session.scalar(select(func.count()).select_from(Subscription)) == 1


async def test_a_provider_reads_its_consumer_s_subscription_and_can_not_write_it(
    provider, consumer
):
    await subscribe(consumer)

    async with db.transaction(provider.organization_id) as session:
        changed = await session.execute(text("UPDATE subscriptions SET status = 'Expired'"))
        assert changed.rowcount == 0


async def test_every_member_sees_plan_and_status_and_only_some_the_price(api, consumer):
    await subscribe(consumer)
    path = "/api/billing/subscription?product=wind"

    for role, sees in (("owner", True), ("accountant", True), ("developer", False)):
        async with db.system_session("test") as session:
            await session.execute(
                text("UPDATE memberships SET role = :role WHERE user_id = :id"),
                {"role": role, "id": consumer.actor.user_id},
            )
        shown = await sent(api, consumer, "GET", path)
        assert (shown["plan"]["slug"], shown["status"]) == ("starter", "Active")
        assert (shown["price"] is not None) == sees
        listed = await api.get(SUBSCRIPTIONS, headers=consumer.headers)
        assert listed.status_code == (200 if sees else 403)
    assert (await api.get(path)).status_code == 401


async def test_a_subscriber_keeps_reading_what_it_signed(api, provider, consumer):
    started = await subscribe(consumer)
    product = (await sent(api, provider, "GET", PRODUCTS))["data"][0]
    plans = await sent(api, provider, "GET", f"{PRODUCTS}/{product['id']}/plans")
    starter = next(plan for plan in plans["data"] if plan["slug"] == "starter")
    said = {**PROFESSIONAL, "name": "Other", "rank": 11, "version": 1, "status": "archived"}
    del said["slug"]
    await sent(api, provider, "PUT", f"{PRODUCTS}/{product['id']}/plans/{starter['id']}", said)
    await sent(api, provider, "POST", f"{PRODUCTS}/{product['id']}/unpublish")

    shown = await sent(api, consumer, "GET", f"{SUBSCRIPTIONS}/{started.subscription.id}")

    assert shown["price"]["base_fee"]["amount_minor"] == 4900
    assert shown["plan"]["plan_version"] == 1
    stranger = await make_owner("eve@other.example")
    async with db.transaction(stranger.organization_id) as session:
        with pytest.raises(Refusal, match="not_found"):
            await catalog.plan_facts(session, started.subscription.plan_version_id)


async def test_a_product_that_somebody_subscribed_to_is_not_deleted(api, provider, consumer):
    await subscribe(consumer)
    product = (await sent(api, provider, "GET", PRODUCTS))["data"][0]

    answer = await api.delete(f"{PRODUCTS}/{product['id']}", headers=provider.headers)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "has_subscribers"


async def test_a_key_reads_what_is_billed_by_its_scope_and_changes_nothing(api, consumer):
    started = await subscribe(consumer)
    path = f"{SUBSCRIPTIONS}/{started.subscription.id}"

    async def with_key(*scopes):
        body = {"name": "k", "environment": "Live", "scopes": list(scopes)}
        made = await sent(api, consumer, "POST", "/api/developer/api-keys", body)
        return {"Authorization": f"Bearer {made['secret']}"}

    reader, other = await with_key("billing.read"), await with_key("assets.read")

    assert (await api.get(path, headers=reader)).json()["price"] is not None
    assert (await api.get(path, headers=other)).json()["code"] == "insufficient_scope"
    for action in ("cancel", "upgrade", "downgrade"):
        answer = await api.post(f"{path}/{action}", json={"version": 1}, headers=reader)
        assert answer.status_code == 403
