# SPDX-License-Identifier: Apache-2.0
"""Revocation and plan change at every gateway, also when the message is lost (K-03, Q-10).

A gateway tells the house which number of the feed it has taken. From the moment somebody can read
there a number that is not below the change's, no call that is sent afterwards may be judged by
what was before: that is asserted, call by call and gateway by gateway. How long it takes is
measured and printed by `make soak`: within a second, within two when the NOTIFY is lost.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import pytest

from nimbus.access.service import revoke_key
from nimbus.base import clock, db
from nimbus.rules.metering import SlotState, read_segment
from nimbus.subscriptions import subscription_facts
from nimbus.subscriptions.service.changes import change_plan
from tests.support.load import Attempt, Caller, call_until
from tests.support.rig import Customer, Rig
from tests.support.soak import Soak

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("store")]

GATEWAYS, CALLERS = 4, 64
Change = Callable[[], Awaitable[None]]


@dataclass
class Heard:
    """When the change was committed, and when each gateway was seen to have confirmed it."""

    committed: float = 0
    confirmed: dict[str, float] = field(default_factory=dict)


async def change_while_calling(rig: Rig, callers: list[Caller], change: Change) -> Heard:
    """Change something under load, wait until every gateway has confirmed it, call on a little."""
    heard, done = Heard(), False

    async def go() -> None:
        nonlocal done
        await rig.until(lambda: all(len(each.attempts) > 20 for each in callers))
        await change()
        heard.committed = time.monotonic()
        number = rig.feed_number()

        def all_confirmed() -> bool:
            told = rig.confirmed()
            now = time.monotonic()
            for producer, confirmed in told.items():
                if confirmed >= number:
                    heard.confirmed.setdefault(producer, now)
            return len(heard.confirmed) == GATEWAYS

        await rig.until(all_confirmed, "every gateway has confirmed the change")
        before = [len(each.attempts) for each in callers]
        await rig.until(
            lambda: all(len(c.attempts) > n + 20 for c, n in zip(callers, before, strict=True))
        )
        done = True

    await call_until(callers, lambda: done, go())
    return heard


def lose_notifications(rig: Rig) -> None:
    """From now on no change is told: gateways find it only by looking."""
    [[source]] = rig.execute(
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'grant_feed_note'"
    )
    silent = source.replace("PERFORM pg_notify('nimbus_feed', '');", "")
    assert silent != source
    rig.execute(silent)


def gateway_of(rig: Rig) -> dict[str, str]:
    """Which gateway served each request id, read from the journals."""
    served = {}
    for folder in rig.producers():
        for path in folder.glob("*.journal"):
            for slot in read_segment(path.read_bytes())[1]:
                if slot.state is SlotState.COMPLETED and slot.record is not None:
                    served[slot.record.request_id] = folder.name
    return served


def judge(
    rig: Rig,
    soak: Soak,
    change: tuple[list[Caller], Heard],
    outdated: Callable[[Attempt], bool],
    what: str,
) -> None:
    """No call sent after its gateway's confirmation was judged by the old state."""
    callers, heard = change
    served_by = gateway_of(rig)
    assert len(set(served_by.values())) == GATEWAYS, "each gateway has served some"
    latest = dict.fromkeys(heard.confirmed, heard.committed)
    for caller in callers:
        for each in caller.attempts:
            assert each.status is not None
            if not outdated(each):
                continue
            gateway = served_by[each.request_id]
            assert each.sent < heard.confirmed[gateway], "confirmed, and judged by the old state"
            latest[gateway] = max(latest[gateway], each.sent)
    new = [e for c in callers for e in c.attempts if e.sent > max(heard.confirmed.values())]
    assert len(new) > CALLERS
    worst = max(latest.values()) - heard.committed
    soak.say(
        f"{what}: the last outdated call was sent {worst * 1000:.0f} ms after the commit; confirmed"
        f" after {(max(heard.confirmed.values()) - heard.committed) * 1000:.0f} ms"
    )


@pytest.mark.parametrize("told", [True, False], ids=["told", "message lost"])
async def test_after_a_gateway_confirmed_a_revocation_it_admits_no_call_of_the_key(
    rig: Rig, soak: Soak, told: bool
) -> None:
    customer = await rig.customer()
    await rig.start_gateways(GATEWAYS)
    if not told:
        lose_notifications(rig)
    for number in range(soak.count(1, 20)):
        key_id, key = await rig.another_key(customer.person)
        callers = rig.callers(CALLERS, key, f"r{number}x")
        heard = await change_while_calling(rig, callers, partial(revoke, customer, key_id))
        judge(rig, soak, (callers, heard), lambda each: each.status == 200, f"revoked, told {told}")
        assert {e.status for c in callers for e in c.attempts} == {200, 401}


async def revoke(customer: Customer, key_id: UUID) -> None:
    actor = customer.person.actor
    async with db.transaction(actor.organization_id, actor.user_id) as session:
        await revoke_key(session, actor, key_id, "leaked")


@pytest.mark.parametrize("told", [True, False], ids=["told", "message lost"])
async def test_after_a_gateway_confirmed_a_plan_change_its_answers_are_of_the_new_plan(
    rig: Rig, soak: Soak, told: bool
) -> None:
    """Up and down again; the limit that an answer tells says which plan judged it."""
    customer = await rig.customer()
    await rig.start_gateways(GATEWAYS)
    if not told:
        lose_notifications(rig)
    for number in range(soak.count(1, 10)):
        up = await under_load(rig, customer, "better", f"u{number}x")
        judge(rig, soak, up, lambda each: "q=20000" in policy(each), f"upgraded, told {told}")
        down = await under_load(rig, customer, "open", f"d{number}x")
        judge(rig, soak, down, lambda each: "q=19000" in policy(each), f"down again, told {told}")


def policy(attempt: Attempt) -> str:
    assert attempt.status == 200
    return attempt.field("ratelimit-policy")


async def under_load(
    rig: Rig, customer: Customer, plan: str, name: str
) -> tuple[list[Caller], Heard]:
    callers = rig.callers(CALLERS, customer.key, name)
    return callers, await change_while_calling(rig, callers, partial(move, customer, plan))


async def move(customer: Customer, plan: str) -> None:
    actor = customer.person.actor
    async with db.transaction(actor.organization_id, actor.user_id) as session:
        facts = await subscription_facts(session, customer.subscription_id)
        await change_plan(
            session,
            actor,
            customer.subscription_id,
            plan,
            direction="upgrade" if plan == "better" else "downgrade",
            version=facts.version,
            as_of=clock.now(),
        )
