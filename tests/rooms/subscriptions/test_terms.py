# SPDX-License-Identifier: Apache-2.0
"""What a subscription was under at each instant can be read back, and never changes."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from nimbus import subscriptions
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.rules.periods import Period
from tests.support.market import make_wind, subscribe
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

START = datetime(2026, 5, 1, tzinfo=UTC)
MAY = Period(START, datetime(2026, 6, 1, tzinfo=UTC))


@pytest.fixture
async def consumer(api, upstream):
    clock.set_instant(START)
    await make_wind(api, await make_owner("provider@wind.example"), upstream)
    return await make_owner("owner@tapas.example")


async def read(subscription_id, period=MAY):
    async with db.system_session("test") as session:
        return await subscriptions.terms_between(session, subscription_id, period)


async def test_the_terms_of_a_period_tile_it_and_say_which_plan_held_when(consumer):
    starter = (await subscribe(consumer)).subscription
    clock.set_instant(START + timedelta(days=10))
    professional = (await subscribe(consumer, "professional")).subscription

    june = Period(MAY.ends_at, datetime(2026, 7, 1, tzinfo=UTC))
    before = Period(START - timedelta(days=3), START)
    first, second = await read(starter.id)

    assert first.plan_version_id == starter.plan_version_id
    assert second.plan_version_id == professional.plan_version_id
    assert first.period == Period(START, START + timedelta(days=10))
    assert second.period == Period(START + timedelta(days=10), MAY.ends_at)
    assert [part.period for part in await read(starter.id, june)] == [june]
    assert await read(starter.id, before) == ()


async def test_a_step_down_begins_with_the_next_period(consumer):
    started = (await subscribe(consumer, "professional")).subscription
    await subscribe(consumer, "starter")
    async with db.system_session("test") as session:
        await subscriptions.renew_period(session, SYSTEM, started.id, MAY.ends_at)

    parts = await read(started.id, Period(START, datetime(2026, 7, 1, tzinfo=UTC)))

    assert [part.period.starts_at for part in parts] == [START, MAY.ends_at]
    assert parts[0].plan_id != parts[1].plan_id


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE contract_terms SET served = false",
        "DELETE FROM contract_terms",
        (
            "INSERT INTO contract_terms SELECT gen_random_uuid(), organization_id,"
            " provider_organization_id, subscription_id, number + 1,"
            " effective_at - interval '1 day', plan_id, plan_version_id, served, reason,"
            " created_at FROM contract_terms"
        ),
    ],
    ids=["changed", "deleted", "back in time"],
)
async def test_the_database_keeps_terms_as_they_were_written(consumer, statement):
    await subscribe(consumer)

    with pytest.raises(IntegrityError, match="terms"):
        async with db.system_session("test") as session:
            await session.execute(text(statement))
