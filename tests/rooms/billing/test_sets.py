# SPDX-License-Identifier: Apache-2.0
"""Bills in sets: each period once, by any number of runs at once, wherever they are killed."""

import asyncio
import os
import signal
import sys
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import httpx2
import pytest

from nimbus import ledger, usage
from nimbus.base import audit, clock, db
from nimbus.base.config import Settings, to_environment
from nimbus.billing import jobs as billing_jobs
from nimbus.rules.periods import Period
from tests.rooms.billing.test_runs import copies_of
from tests.support.bills import END, START, Sale, bill, counts, use, use_as_in_the_reference
from tests.support.market import sent
from tests.support.metered import rows
from tests.support.roles import as_role
from tests.support.soak import Soak

pytestmark = pytest.mark.anyio


async def run(*, at_once: int = 2, limit: int = 50) -> list[billing_jobs.Outcome]:
    return [one async for one in billing_jobs.run(END, at_once=at_once, limit=limit)]


async def assert_each_billed_once(subscriptions: int) -> None:
    """One invoice each, numbers without gaps, the books and the trail hold."""
    [found] = await rows(
        "SELECT count(*) AS invoices, count(DISTINCT subscription_id) AS subscriptions,"
        " count(DISTINCT number) AS numbers, max(number) AS last FROM invoices"
        " WHERE status = 'Sent'"
    )
    assert found == {
        "invoices": subscriptions,
        "subscriptions": subscriptions,
        "numbers": subscriptions,
        "last": f"INV-2026-{subscriptions:06d}",
    }
    [series] = await rows("SELECT last_number FROM number_series")
    assert series["last_number"] == subscriptions
    async with db.system_session("bill run") as session:
        for proof in (ledger.check, audit.verify):
            report = await proof(session)
            assert report.ok, report.differences


async def test_many_runs_at_once_bill_each_subscription_once(sale: Sale, soak: Soak) -> None:
    count = soak.count(120, 10_000)
    await copies_of(sale, count - 1)
    clock.set_instant(END)
    at_once = soak.count(4, 2)

    done = await asyncio.gather(*(run(at_once=at_once, limit=25) for _ in range(soak.count(3, 5))))

    assert sum(len(outcomes) for outcomes in done) == count
    assert [one.error for outcomes in done for one in outcomes if one.error] == []
    await assert_each_billed_once(count)


RUN = """
import asyncio
from nimbus import rooms
from nimbus.base import clock, config, db
from nimbus.billing import jobs
async def main():
    assert rooms.JOBS
    await db.open_database(config.load(), pool_size=16)
    print("ready", flush=True)
    async for outcome in jobs.run(clock.from_wire("{end}"), at_once={at_once}, limit=10):
        assert outcome.error is None, outcome.error
        print(outcome.number, flush=True)
    await db.close_database()
asyncio.run(main())
"""


async def test_runs_that_are_killed_leave_whole_bills_and_the_next_ones_go_on(
    sale: Sale, settings: Settings, soak: Soak
) -> None:
    count = soak.count(120, 10_000)
    await copies_of(sale, count - 1)
    with as_role(settings, "superuser") as owner:
        owner.execute("INSERT INTO test_clock (instant) VALUES (%s)", (END,))
    environment = {**os.environ, **to_environment(settings), "NIMBUS_TEST_CLOCK": "true"}
    program = RUN.format(end=clock.to_wire(END), at_once=soak.count(2, 18))

    async def billing(lines: int | None) -> int:
        """Run for so many lines, or to the end; how many were read."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        read = 0
        while (lines is None or read < lines) and await asyncio.wait_for(
            process.stdout.readline(), 300
        ):
            read += 1
        if lines is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL)
        assert await process.wait() in ({0} if lines is None else {0, -signal.SIGKILL})
        return read

    runs, chance = soak.count(2, 5), soak.random
    for _ in range(soak.count(1, 4)):
        most = soak.count(25, 400)
        read = await asyncio.gather(*(billing(chance.randint(2, most)) for _ in range(runs)))
        soak.say(f"{runs} runs killed after {read} lines")
    read = await asyncio.gather(*(billing(None) for _ in range(soak.count(1, runs))))
    soak.say(f"{len(read)} runs went to the end: {read} lines")
    clock.set_instant(END)
    assert await run() == []

    await assert_each_billed_once(count)


async def test_a_bill_that_no_column_holds_parks_its_subscription_and_the_others_go_on(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    await copies_of(sale, 8)
    await use(sale.contract, reports="999999999999999999999999")
    clock.set_instant(END)

    outcomes = await run(limit=4)
    again = await run()

    [failed] = [one for one in outcomes if one.error]
    assert failed.subscription_id == sale.subscription_id
    assert len(outcomes) == 9
    assert again == []
    assert await counts(["invoices"]) == {"invoices": 8}
    [parked] = await rows("SELECT parked_reason FROM subscriptions WHERE parked_reason <> ''")
    assert parked["parked_reason"] == "too_large"
    released = await sent(
        api,
        sale.admin,
        "POST",
        f"/api/admin/subscriptions/{sale.subscription_id}/release-billing",
    )
    assert released == {
        "subscription_id": str(sale.subscription_id),
        "threshold": None,
        "parked": False,
    }


async def test_a_first_invoice_of_a_million_waits_for_a_person(sale: Sale) -> None:
    await use(sale.contract, reports="500000")

    invoice = await bill(sale.subscription_id)

    assert invoice is not None
    assert (invoice.status, invoice.parked_reason) == ("Draft", "far_above_usual")


async def test_a_period_in_which_nothing_was_used_is_marked(sale: Sale) -> None:
    await bill(sale.subscription_id)
    await use(sale.contract, calls=1, at=END + timedelta(days=1))
    await bill(sale.subscription_id, END + timedelta(days=30))

    marked = await rows("SELECT unused FROM billing_periods ORDER BY starts_at")
    assert [row["unused"] for row in marked] == [True, False]


@pytest.mark.parametrize("aggregation", ["max", "last"])
async def test_the_sum_over_many_periods_is_the_sum_over_each(
    sale: Sale, settings: Settings, soak: Soak, aggregation: str
) -> None:
    with as_role(settings, "superuser") as owner:
        owner.execute("UPDATE meters SET aggregation = %s WHERE key = 'assets'", (aggregation,))
    chance = soak.random
    for day in range(0, 31, 3):
        at = START + timedelta(days=day, minutes=chance.randint(0, 1439))
        await use(sale.contract, calls=chance.randint(1, 900), at=at, assets=str(day), reports="2")
    spans = [Period(START, END)]
    for _ in range(20):
        first, last = sorted(chance.sample(range(31 * 24 * 60), 2))
        spans.append(Period(START + timedelta(minutes=first), START + timedelta(minutes=last)))
    contract = sale.contract

    async with db.system_session("bill run") as session:
        together = await usage.quantities_of_periods(
            session,
            [
                usage.Asked(
                    organization_id=contract.organization_id,
                    subscription_id=contract.subscription_id,
                    product_id=contract.product_id,
                    period=span,
                )
                for span in spans
            ],
        )
        alone = [
            await usage.period_quantities(
                session, contract.subscription_id, span.starts_at, span.ends_at
            )
            for span in spans
        ]

    assert together == [dict(one) for one in alone]
    assert together[0]["reports"].quantity == Decimal(22)


async def test_why_an_amount_is_asked_down_to_the_calls(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    await use_as_in_the_reference(sale.contract)
    invoice = await bill(sale.subscription_id)
    assert invoice is not None

    path = f"/api/billing/invoices/{invoice.id}/lines"
    calls = await sent(api, sale.customer, "GET", f"{path}/2/explain")
    fee = await sent(api, sale.customer, "GET", f"{path}/1/explain")
    missing = await api.get(f"{path}/9/explain", headers=sale.customer.headers)

    assert calls["formula"] == "(22500 − 10000) × 0.002 = 25 → 25.00 EUR"
    assert sum(Decimal(cell["quantity"]) for cell in calls["hours"]) == 22_500
    assert len(calls["events"]) == 20
    assert calls["plan_version"]["plan"] == "starter"
    assert {entry["leg"] for entry in calls["ledger"]} == {"net", "vat:NL:21"}
    assert fee["formula"] == "1 × 49 = 49.00 EUR"
    assert missing.status_code == 404


async def test_coupons_items_and_the_wallet_come_off_in_their_order(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    await use_as_in_the_reference(sale.contract)
    euro = {"currency": "EUR"}
    coupons = "/api/admin/billing/coupons"
    half = {"code": "HALF", "name": "Half of the reports", "percent": "50", "meter": "reports"}
    ten = {"code": "TEN", "name": "Ten off", "amount": {**euro, "amount_minor": 1000}, "times": 1}
    for coupon in (half, ten):
        await sent(api, sale.admin, "POST", coupons, coupon)
        body = {"code": coupon["code"].lower()}
        first = await sent(api, sale.customer, "POST", "/api/billing/coupons", body)
        again = await sent(api, sale.customer, "POST", "/api/billing/coupons", body)
        assert first == again
    path = f"/api/admin/subscriptions/{sale.subscription_id}/items"
    item = {"description": "Training", "amount": {**euro, "amount_minor": 10000}}
    await sent(api, sale.admin, "POST", path, item)
    credit = {"amount": {**euro, "amount_minor": 5000}, "reason": "paid ahead"}
    await sent(
        api,
        sale.admin,
        "POST",
        f"/api/admin/organizations/{sale.customer.organization_id}/balance-credits",
        credit,
    )
    upcoming = await sent(api, sale.customer, "GET", "/api/billing/invoices/upcoming")

    may = await bill(sale.subscription_id)
    june = await bill(sale.subscription_id, END + timedelta(days=30))

    assert may is not None
    assert june is not None
    net = 11650 + 10000 - 1000 - 1000
    tax = 4127  # 21 % of 196.50 = 41.265
    assert (may.subtotal_minor, may.tax_minor) == (net, tax)
    assert (may.wallet_minor, june.wallet_minor) == (5000, 0)
    assert upcoming["data"][0]["total"]["amount_minor"] == net + tax
    assert upcoming["data"][0]["due"]["amount_minor"] == net + tax - 5000
    lines = await rows(
        "SELECT text, amount_minor FROM invoice_lines WHERE invoice_id = :id ORDER BY position",
        id=may.id,
    )
    assert [tuple(row.values()) for row in lines if row["text"] in {"item", "coupon"}] == [
        ("item", 10000),
        ("coupon", -1000),
        ("coupon", -1000),
    ]
    assert june.subtotal_minor == 4900  # TEN was for once, HALF finds no reports
    wallet = await sent(api, sale.customer, "GET", "/api/billing/wallet")
    assert wallet["balance"]["amount_minor"] == 0
    async with db.system_session("bill run") as session:
        report = await ledger.check(session)
    assert report.ok, report.differences


async def test_a_top_up_counts_when_its_money_came_in_and_what_expires_is_an_entry(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    amount = {"amount_minor": 2500, "currency": "EUR"}
    asked = await sent(api, sale.customer, "POST", "/api/billing/wallet/top-up", {"amount": amount})
    before = await sent(api, sale.customer, "GET", "/api/billing/wallet")
    path = f"/api/admin/billing/top-ups/{asked['id']}/mark-paid"
    first = await sent(api, sale.admin, "POST", path)
    again = await sent(api, sale.admin, "POST", path)
    soon = {"amount": amount, "reason": "gift", "expires_at": clock.to_wire(START + DAY)}
    credits_path = f"/api/admin/organizations/{sale.customer.organization_id}/balance-credits"
    gift = await sent(api, sale.admin, "POST", credits_path, soon)
    clock.set_instant(START + DAY)
    for _ in range(2):
        await billing_jobs.expire_credit.func(
            entity_id=gift["id"], as_of=clock.to_wire(START + DAY)
        )
    after = await sent(api, sale.customer, "GET", "/api/billing/wallet")

    assert (asked["status"], before["balance"]["amount_minor"]) == ("Pending", 0)
    assert first == again
    assert after["balance"]["amount_minor"] == 2500
    assert [entry["kind"] for entry in after["entries"]] == ["expiry", "grant", "top_up"]
    assert after["top_ups"][0]["status"] == "Paid"
    [standing] = await rows("SELECT limit_micro FROM spend_standings WHERE kind = 'balance'")
    assert standing["limit_micro"] == 2500 * 1_000_000
    async with db.system_session("bill run") as session:
        report = await ledger.check(session)
    assert report.ok, report.differences


DAY = timedelta(days=1)


async def test_usage_above_its_threshold_is_billed_in_between_and_once(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    path = f"/api/admin/subscriptions/{sale.subscription_id}/billing-threshold"
    amount = {"amount_minor": 2000, "currency": "EUR"}
    await sent(api, sale.admin, "PUT", path, {"amount": amount})
    await use(sale.contract, calls=22_500)
    clock.set_instant(START + 20 * DAY)

    async def over() -> list[UUID]:
        from nimbus.billing.service import extras

        async with db.system_session("due-row scanner") as session:
            return [one for one, _ in await extras.over_threshold(session, clock.now(), 10)]

    assert await over() == [sale.subscription_id]
    moment = clock.to_wire(clock.now())
    await billing_jobs.progress.func(entity_id=str(sale.subscription_id), as_of=moment)
    assert await over() == []
    await use(sale.contract, calls=500, at=START + 25 * DAY)
    may = await bill(sale.subscription_id)

    assert may is not None
    made = await rows("SELECT kind, subtotal_minor FROM invoices ORDER BY id")
    assert [tuple(row.values()) for row in made] == [("progress", 2500), ("period", 4900 + 100)]


async def test_an_invoice_is_proved_from_raw_facts_and_a_changed_one_is_not(
    sale: Sale, settings: Settings
) -> None:
    from nimbus.billing.service.proving import prove

    await use_as_in_the_reference(sale.contract)
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    await use(sale.contract, calls=700, at=END - DAY)
    june = await bill(sale.subscription_id, END + 30 * DAY)
    assert june is not None

    async with db.system_session("proofs") as session:
        reports = [await prove(session, str(one.number)) for one in (invoice, june)]
    with as_role(settings, "superuser") as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute(
            "UPDATE invoices SET total_minor = total_minor + 1, tax_minor = tax_minor + 1"
            " WHERE id = %s",
            (invoice.id,),
        )
    async with db.system_session("proofs") as session:
        changed = await prove(session, str(invoice.number))

    assert [report.differences for report in reports] == [(), ()]
    assert [difference["what"] for difference in changed.differences] == ["tax", "total"]
