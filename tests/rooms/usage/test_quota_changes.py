# SPDX-License-Identifier: Apache-2.0
"""What changes a quota, changes it by the law: plans, resets, increases, roll-over, thresholds."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.base.config import Settings
from nimbus.errors import Refusal
from nimbus.usage import jobs
from nimbus.usage.service import adjustments, quotas
from tests.support.metered import END, START, STORING, Contract, Market, event, proof, rows, store
from tests.support.quotas import MONTH, Tenant, offer, tenant
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
LIMITS = {"small": 40, "middle": 100, "large": 160}


@pytest.fixture
def wind(contract: Contract, metered_market: Market, settings: Settings) -> Tenant:
    """The consumer on the first of May."""
    assert contract.subscription_id == metered_market.contract.subscription_id
    return tenant(metered_market, settings, START)


async def reset(wind: Tenant, **chosen: Any) -> None:
    clock.set_instant(wind.now)
    async with db.system_session("adjust quotas") as session:
        await adjustments.reset(
            session,
            SYSTEM,
            wind.contract.subscription_id,
            meter_key=chosen.get("meter_key"),
            period=chosen.get("period"),
            reason="ours",
            as_of=wind.now,
        )


async def raise_by(wind: Tenant, units: int, ends_at: datetime, period: str = "month") -> None:
    clock.set_instant(wind.now)
    async with db.system_session("adjust quotas") as session:
        await adjustments.increase(
            session,
            SYSTEM,
            wind.contract.subscription_id,
            meter_key="api_calls",
            period=period,
            units=units,
            ends_at=ends_at,
            reason="a busy week",
            as_of=wind.now,
        )


async def opened(wind: Tenant) -> None:
    """As the job does when a window has begun."""
    async with db.system_session("open quotas") as session:
        await quotas.open_standings(session, wind.contract.subscription_id, wind.now)


async def announced(name: str) -> list[dict[str, Any]]:
    found = await rows("SELECT payload FROM outbox WHERE name = :name ORDER BY id", name=name)
    return [row["payload"] for row in found]


async def test_no_sequence_of_changes_gives_more_than_the_best_plan(
    wind: Tenant, tmp_path: Path, soak: Soak
) -> None:
    """Random plans that carry or count anew, resets by hand, cancelling and beginning again, calls
    of random weight: what is served in a month stays within the best plan of each count.
    """
    choice = soak.random
    for name, amount in LIMITS.items():
        for how in ("carry", "reset"):
            await offer(
                wind.market, f"{name}-{how}", [{**MONTH, "amount": amount, "on_plan_change": how}]
            )
    plan = "large-reset"
    await wind.move(plan)
    month, served, best = (2026, 5), 0, [LIMITS["large"]]
    for _ in range(soak.count(45, 2000)):
        action = choice.choice(["move", "move", "move", "use", "use", "use", "again", "hand", "on"])
        if action == "move":
            plan = choice.choice([f"{n}-{h}" for n in LIMITS for h in ("carry", "reset")])
            if f"{plan}" != (await plan_of(wind)):
                await wind.move(plan)
            best[-1] = max(best[-1], LIMITS[plan.split("-")[0]])
        elif action == "again":
            await wind.begin_again(plan)
        elif action == "hand":
            await reset(wind)
            best.append(LIMITS[plan.split("-")[0]])
        elif action == "on":
            wind.now += choice.randrange(1, 13) * DAY
            clock.set_instant(wind.now)
            await opened(wind)
            if (wind.now.year, wind.now.month) != month:
                month, served = (wind.now.year, wind.now.month), 0
                best = [LIMITS[plan.split("-")[0]]]
        else:
            weight = choice.randrange(1, 6)
            lent = await wind.borrow(choice.randrange(1, 90))
            await wind.call(lent, weight)
            served += lent - lent % weight
        row = await wind.standing()
        assert served <= sum(best), (action, row)
        assert row["used"] + row["leased"] <= row["limit_units"] or not await wind.borrow(1)
    assert await proof(tmp_path) == []


async def plan_of(wind: Tenant) -> str:
    [row] = await rows(
        "SELECT p.slug FROM subscriptions s JOIN plans p ON p.id = s.plan_id WHERE s.id = :id",
        id=wind.contract.subscription_id,
    )
    return str(row["slug"])


async def test_down_and_up_again_mints_nothing(wind: Tenant) -> None:
    for name in ("small", "large"):
        quota = {**MONTH, "amount": LIMITS[name], "on_plan_change": "reset"}
        await offer(wind.market, name, [quota])
    await wind.move("large")
    await wind.call(await wind.borrow(160))

    await wind.move("small", START + DAY)
    assert await wind.borrow(1) == 0
    await wind.move("large", START + 2 * DAY)
    assert await wind.borrow(1) == 0


async def test_an_upgrade_that_counts_anew_leaves_what_the_better_plan_has_more(
    wind: Tenant, tmp_path: Path
) -> None:
    for name in ("small", "large"):
        quota = {**MONTH, "amount": LIMITS[name], "on_plan_change": "reset"}
        await offer(wind.market, name, [quota])
    await wind.move("small")
    await wind.call(await wind.borrow(30))
    await wind.move("large", START + DAY)

    row = await wind.standing()
    assert (row["used"], row["used_before"], row["limit_units"]) == (0, 30, 130)
    assert await wind.borrow(1000) == 130
    assert await proof(tmp_path) == []


async def test_who_cancels_and_begins_again_gets_no_second_quota(wind: Tenant) -> None:
    await offer(wind.market, "free", [{**MONTH, "amount": 50}])
    await wind.move("free")
    await wind.call(await wind.borrow(45))
    wind.now += 3 * DAY
    await wind.begin_again("free")

    assert await wind.borrow(50) == 5


async def test_a_reset_by_hand_counts_from_zero_keeps_what_is_lent_and_changes_no_event(
    wind: Tenant, tmp_path: Path
) -> None:
    await offer(wind.market, "small", [{**MONTH, "amount": 40}])
    await wind.move("small")
    await wind.borrow(40)
    await wind.call(30)
    before = await rows("SELECT count(*) AS n FROM usage_events")
    assert await wind.borrow(1) == 0

    await reset(wind)

    row = await wind.standing()
    assert (row["used"], row["leased"], row["limit_units"]) == (0, 10, 40)
    closed = await rows(
        "SELECT used, closed_because FROM quota_standings WHERE closed_at IS NOT NULL"
        " AND period = 'month'"
    )
    assert closed == [{"used": Decimal(30), "closed_because": "by_hand"}]
    await wind.call(10)
    assert await wind.borrow(100) == 30
    assert await rows("SELECT count(*) AS n FROM usage_events") == [{"n": before[0]["n"] + 10}]
    assert await proof(tmp_path) == []
    [fact] = await rows("SELECT payload FROM outbox WHERE name = 'quota.reset'")
    assert [(one["meter"], one["period"]) for one in fact["payload"]["quotas"]] == [
        ("api_calls", "month")
    ]


async def test_a_level_that_is_reset_begins_at_the_reset(wind: Tenant, tmp_path: Path) -> None:
    sizes = (("7", START), ("4", START + DAY))
    for number, (size, at) in enumerate(sizes, 1):
        meters = (("assets", Decimal(size)),)
        await store(
            wind.producer,
            [event(wind.contract, wind.producer, number, at, meters=meters)],
            first=number,
        )
    wind.now = START + DAY
    assert (await wind.standing("assets"))["used"] == 7

    await reset(wind, meter_key="assets")

    assert (await wind.standing("assets"))["used"] == 4
    assert await proof(tmp_path) == []


async def test_an_increase_holds_at_once_in_the_next_window_too_and_ends_by_itself(
    wind: Tenant,
) -> None:
    await offer(wind.market, "small", [{**MONTH, "amount": 40}])
    await wind.move("small")
    ends_at = datetime(2026, 6, 10, tzinfo=UTC)

    await raise_by(wind, 25, ends_at)

    assert await wind.borrow(100) == 65
    async with db.system_session(STORING) as session:
        assert await quotas.next_due(session) <= ends_at
    [june] = await rows(
        "SELECT limit_units FROM quota_standings WHERE period = 'month' AND period_starts_at > :at",
        at=wind.now,
    )
    assert june["limit_units"] == 65
    wind.now = ends_at
    await opened(wind)
    assert (await wind.standing())["limit_units"] == 40


async def test_an_increase_ends_in_the_future_and_is_one_of_a_limit(wind: Tenant) -> None:
    with pytest.raises(Refusal) as past:
        await raise_by(wind, 5, START, "cycle")
    with pytest.raises(Refusal) as nothing:
        await raise_by(wind, 5, END, "day")

    assert [error.fields[0].field for error in (past.value, nothing.value)] == ["ends_at", "meter"]


async def test_unused_units_roll_over_once_within_their_bound_and_leave_the_old_window(
    wind: Tenant, tmp_path: Path
) -> None:
    await offer(wind.market, "saving", [{**MONTH, "amount": 100, "roll_over": 30}])
    await wind.move("saving")
    await wind.call(await wind.borrow(60))
    may = await wind.standing()
    async with db.system_session(STORING) as session:
        found = await quotas.next_due(session)
        assert found is not None
    wind.now = may["period_ends_at"]
    clock.set_instant(wind.now)

    for _ in range(2):
        await opened(wind)
        await jobs.roll_over(str(may["id"]), clock.to_wire(wind.now))

    june = await wind.standing()
    assert (june["own_units"], june["rolled"], june["limit_units"]) == (100, [30], 130)
    [old] = await rows("SELECT limit_units FROM quota_standings WHERE id = :id", id=may["id"])
    assert old["limit_units"] == 70
    await wind.call(await wind.borrow(20))
    wind.now = june["period_ends_at"]
    clock.set_instant(wind.now)
    await opened(wind)
    await jobs.roll_over(str(june["id"]), clock.to_wire(wind.now))
    assert (await wind.standing())["limit_units"] == 130  # 100 of June were left: 30 of them
    assert await proof(tmp_path) == []


async def test_units_that_are_still_lent_do_not_roll_over(wind: Tenant) -> None:
    await offer(wind.market, "saving", [{**MONTH, "amount": 100, "roll_over": 1000}])
    await wind.move("saving")
    assert await wind.borrow(90) == 90
    may = await wind.standing()
    wind.now = may["period_ends_at"]
    clock.set_instant(wind.now)
    await opened(wind)
    await jobs.roll_over(str(may["id"]), clock.to_wire(wind.now))

    assert (await wind.standing())["limit_units"] == 110


async def test_overage_ends_at_its_cap(wind: Tenant) -> None:
    quota = {**MONTH, "amount": 20, "overage_cap": 5}
    await offer(wind.market, "capped", [quota], "overage")
    await wind.move("capped")

    assert await wind.borrow(100) == 25
    assert await wind.borrow(1) == 0


async def test_each_threshold_is_announced_once_where_it_is_stored(wind: Tenant) -> None:
    await offer(wind.market, "small", [{**MONTH, "amount": 40}])
    await wind.move("small")
    await wind.borrow(40)
    for units in (19, 1, 5, 5, 2, 8):
        await wind.call(units)
    await wind.call(0)

    mine = [f for f in await announced("usage.threshold_reached") if f["period"] == "month"]
    assert [(f["threshold"], f["used"]) for f in mine] == [
        (50, "20.000000000000"),
        (80, "32.000000000000"),
        (100, "40.000000000000"),
    ]
    [exceeded] = [f for f in await announced("quota.exceeded") if f["period"] == "month"]
    assert exceeded["behavior"] == "deny"

    await reset(wind)
    await wind.borrow(40)
    await wind.call(40)
    again = [f for f in await announced("usage.threshold_reached") if f["period"] == "month"]
    assert [(f["threshold"], f["reached"]) for f in again[3:]] == [(50, 100), (80, 100), (100, 100)]


async def test_a_month_of_a_quota_ends_at_midnight_of_the_zone_and_a_cycle_of_the_31st_comes_back(
    wind: Tenant,
) -> None:
    both = [{**MONTH, "amount": 40}, {"meter": "api_calls", "period": "cycle", "amount": 90}]
    await offer(wind.market, "both", both, anchor="start")
    wind.now = datetime(2026, 5, 31, 10, tzinfo=UTC)
    await wind.begin_again("both")
    for _ in range(4):
        wind.now += 32 * DAY
        await opened(wind)

    found = await rows(
        "SELECT period, period_ends_at FROM quota_standings WHERE subscription_id = :id"
        " ORDER BY period, period_ends_at",
        id=wind.contract.subscription_id,
    )
    ends = {
        period: [
            row["period_ends_at"].strftime("%m-%d %H") for row in found if row["period"] == period
        ]
        for period in ("cycle", "month")
    }
    assert ends["cycle"][:4] == ["06-30 10", "07-31 10", "08-31 10", "09-30 10"]
    assert ends["month"][:4] == ["05-31 22", "06-30 22", "07-31 22", "08-31 22"]


async def test_the_highest_threshold_of_a_batch_is_mailed_in_the_organization_s_words(
    wind: Tenant,
) -> None:
    await offer(wind.market, "small", [{**MONTH, "amount": 40}])
    await wind.move("small")
    await wind.borrow(40)
    await wind.call(33)
    await wind.call(7)

    mails = await rows(
        "SELECT template, data, locale FROM notices WHERE template LIKE '%threshold'"
    )
    said = [(mail["template"], mail["data"]["percent"], mail["data"]["used"]) for mail in mails]
    assert said == [("quota_threshold", "80", "33"), ("quota_threshold", "100", "40")]
    data = mails[0]["data"]
    assert (data["product"], data["behavior"], data["limit"]) == ("Wind API", "deny", "40")
