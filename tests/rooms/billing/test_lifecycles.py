# SPDX-License-Identifier: Apache-2.0
"""Invoices through a contract's life: grace, fees in advance, trials, changes, the last period."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from psycopg import errors

from nimbus import ledger
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from nimbus.billing import jobs as billing_jobs
from nimbus.billing import queries
from nimbus.billing.models import Invoice
from nimbus.subscriptions.service import lives
from tests.support.bills import END, START, Sale, bill, counts, subscribe, use
from tests.support.market import ADD_ON, PRODUCTS, STARTER, sent
from tests.support.metered import Contract, rows
from tests.support.people import make_owner
from tests.support.roles import as_role

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
JUNE_ENDS = END + 30 * DAY


async def on_plan(api: httpx2.AsyncClient, sale: Sale, **terms: Any) -> Contract:
    """A new customer, since 1 May 2026, on a plan like Starter but for `terms`."""
    plan = {**STARTER, "slug": "special", "name": "Special", "rank": 15, **terms}
    await sent(api, sale.admin, "POST", f"{PRODUCTS}/{sale.contract.product_id}/plans", plan)
    return await subscribe(api, await make_owner("bob@bolt.example"), "special")


async def invoices_of(contract: Contract) -> list[dict[str, Any]]:
    return await rows(
        "SELECT * FROM invoices WHERE subscription_id = :id ORDER BY id",
        id=contract.subscription_id,
    )


async def finalize(invoice: Invoice, as_of: datetime) -> None:
    """The job that finalizes a draft, when business time has come to `as_of`."""
    clock.set_instant(as_of)
    await billing_jobs.finalize.func(entity_id=str(invoice.id), as_of=clock.to_wire(as_of))


async def lines_of(invoice_id: UUID) -> list[tuple[datetime, str, int]]:
    async with db.system_session("bill run") as session:
        return [
            (line.starts_at, line.kind, line.amount_minor)
            for line in await queries.lines_of(session, invoice_id)
        ]


async def assert_books_hold() -> None:
    async with db.system_session("bill run") as session:
        report = await ledger.check(session)
    assert report.ok, report.differences


async def test_an_invoice_waits_for_late_usage_through_the_plan_s_grace(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    contract = await on_plan(api, sale, grace_hours=48)
    await use(contract, calls=10_500)

    draft = await bill(contract.subscription_id)
    assert draft is not None
    assert (draft.status, draft.subtotal_minor, draft.number) == ("Draft", 5000, None)
    await use(contract, calls=500, at=END - DAY)
    await finalize(draft, END + DAY)
    [waiting] = await invoices_of(contract)
    await finalize(draft, END + 2 * DAY)
    [sent_one] = await invoices_of(contract)

    assert (waiting["status"], waiting["subtotal_minor"]) == ("Draft", 5100)
    assert (sent_one["status"], sent_one["subtotal_minor"]) == ("Sent", 5100)
    assert str(sent_one["issued_on"]) == "2026-06-03"
    [subscription] = await rows(
        "SELECT period_starts_at FROM subscriptions WHERE id = :id", id=contract.subscription_id
    )
    assert subscription["period_starts_at"] == END
    await assert_books_hold()


async def test_a_fee_in_advance_is_billed_at_the_start_and_once_a_period(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    contract = await on_plan(api, sale, base_fee_timing="advance")
    queued = await rows(
        "SELECT args FROM procrastinate_jobs WHERE task_name = 'billing.invoice'"
        " AND args->>'entity_id' = :id",
        id=str(contract.subscription_id),
    )
    assert len(queued) == 1

    first = await bill(contract.subscription_id, START)
    again = await bill(contract.subscription_id, START)
    await use(contract, calls=10_500)
    second = await bill(contract.subscription_id, END)

    assert first is not None
    assert again is None
    assert second is not None
    assert (first.kind, second.kind) == ("start", "period")
    assert await lines_of(first.id) == [(START, "Subscription", 4900)]
    assert await lines_of(second.id) == [
        (START, "ApiUsage", 100),
        (END, "Subscription", 4900),
    ]
    await assert_books_hold()


async def test_a_calendar_plan_s_first_period_costs_its_share(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    clock.set_instant(START + 10 * DAY - timedelta(hours=2))
    contract = await on_plan(api, sale, anchor="calendar", proration="day")

    invoice = await bill(contract.subscription_id, END - timedelta(hours=2))

    assert invoice is not None
    assert invoice.subtotal_minor == 3319  # 21 of 31 days of 49.00, Amsterdam's May
    assert (str(invoice.supply_from), str(invoice.supply_to)) == ("2026-05-11", "2026-05-31")


async def test_a_trial_is_free_and_the_paid_period_after_it_is_billed(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    contract = await on_plan(api, sale, trial_days=14)
    await use(contract, calls=50_000, at=START + DAY)
    converted = START + 14 * DAY

    clock.set_instant(converted)
    assert await bill(contract.subscription_id, converted) is None
    async with db.system_session("advance subscriptions") as session:
        await lives.advance(session, contract.subscription_id, converted)
    [subscription] = await rows(
        "SELECT period_ends_at FROM subscriptions WHERE id = :id", id=contract.subscription_id
    )
    invoice = await bill(contract.subscription_id, subscription["period_ends_at"])

    assert invoice is not None
    assert await lines_of(invoice.id) == [(converted, "Subscription", 4900)]


async def test_a_step_down_holds_from_the_next_period_on(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    choice = {"product": "wind", "payment": "invoice"}
    for plan in ("professional", "starter"):
        await sent(
            api, sale.customer, "POST", "/api/billing/subscription", {**choice, "plan": plan}
        )

    may = await bill(sale.subscription_id)
    june = await bill(sale.subscription_id, JUNE_ENDS)

    assert may is not None
    assert june is not None
    assert (may.subtotal_minor, june.subtotal_minor) == (19900, 4900)


async def test_the_last_period_of_who_cancels_is_billed_up_to_the_end_and_nothing_after(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    half = START + timedelta(days=15, hours=12)
    await use(sale.contract, calls=10_500)
    clock.set_instant(half)
    path = f"/api/billing/subscriptions/{sale.subscription_id}"
    known = await sent(api, sale.customer, "GET", path)
    body = {"reason": "moved", "version": known["version"], "at_once": True}
    await sent(api, sale.customer, "POST", f"{path}/cancel", body)

    last = await bill(sale.subscription_id, half)
    later = await bill(sale.subscription_id, JUNE_ENDS)

    assert last is not None
    assert await lines_of(last.id) == [
        (START, "Subscription", 2450),
        (START, "ApiUsage", 100),
    ]
    assert later is None
    await assert_books_hold()


async def test_a_period_for_which_nothing_is_owed_is_closed_without_an_invoice(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    free = [{"base_fee": {"amount_minor": 0, "currency": "EUR"}, "charges": []}]
    contract = await on_plan(api, sale, prices=free, quotas=[])

    assert await bill(contract.subscription_id) is None
    assert await bill(contract.subscription_id, JUNE_ENDS) is None

    closed = await rows(
        "SELECT starts_at, ends_at, previous_ends_at, invoice_id FROM billing_periods"
        " WHERE subscription_id = :id ORDER BY starts_at",
        id=contract.subscription_id,
    )
    assert [tuple(row.values()) for row in closed] == [
        (START, END, None, None),
        (END, JUNE_ENDS, END, None),
    ]
    assert await invoices_of(contract) == []


async def test_a_gap_or_an_overlap_between_closed_periods_can_t_be_written_down(
    sale: Sale, settings: Settings
) -> None:
    await bill(sale.subscription_id)
    copy = (
        "INSERT INTO billing_periods SELECT (jsonb_populate_record(p, %s)).* FROM billing_periods p"
    )

    def period(starts_at: datetime, ends_at: datetime, previous: datetime | None) -> str:
        from nimbus.base.events import to_json

        return to_json(
            {
                "id": new_id(),
                "starts_at": starts_at,
                "ends_at": ends_at,
                "previous_ends_at": previous,
            }
        )

    wrong = {
        "a gap": period(END + DAY, JUNE_ENDS, END),
        "after a gap": period(END + DAY, JUNE_ENDS, END + DAY),
        "an overlap": period(END - DAY, JUNE_ENDS, END - DAY),
        "a second first": period(END, JUNE_ENDS, None),
        "the same again": period(START, END, None),
        "backwards": period(END, END - DAY, END),
    }
    with as_role(settings, "nimbus_system") as system:
        for name, values in wrong.items():
            with pytest.raises(errors.IntegrityError):
                system.execute(copy, (values,))
                pytest.fail(name)
        system.execute(copy, (period(END, JUNE_ENDS, END),))

    assert await counts(["billing_periods"]) == {"billing_periods": 2}


async def test_each_invoice_is_drafted_and_finalized_in_trail_and_outbox(sale: Sale) -> None:
    before = await counts(["audit_log", "outbox"])

    await bill(sale.subscription_id)

    told = await rows(
        "SELECT name, organization_id, provider_organization_id FROM outbox"
        " ORDER BY id DESC LIMIT 3"
    )
    assert {row["name"] for row in told} == {
        "invoice.drafted",
        "invoice.finalized",
        "subscription.renewed",
    }
    assert {row["organization_id"] for row in told} == {sale.customer.organization_id}
    assert {row["provider_organization_id"] for row in told} == {sale.admin.organization_id}
    after = await counts(["audit_log", "outbox"])
    assert {name: after[name] - before[name] for name in after} == {"audit_log": 3, "outbox": 3}


async def test_an_add_on_that_is_left_gives_no_quota_in_the_period_that_begins(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    more = {**ADD_ON, "slug": "more", "quotas": [{"meter": "api_calls", "amount": 5000}]}
    product = f"{PRODUCTS}/{sale.contract.product_id}"
    add_on = await sent(api, sale.admin, "POST", f"{product}/add-ons", more)
    path = f"/api/billing/subscriptions/{sale.subscription_id}"
    taken = {"add_on": "more", "quantity": 1, "version": 1}
    await sent(api, sale.customer, "POST", f"{path}/add-ons", taken)
    known = (await sent(api, sale.customer, "GET", path))["version"]
    left = f"{path}/add-ons/{add_on['id']}?version={known}"
    await sent(api, sale.customer, "DELETE", left)

    await bill(sale.subscription_id)

    limits = await rows(
        "SELECT period_starts_at, limit_units FROM quota_standings WHERE subscription_id = :id"
        " AND meter_key = 'api_calls' ORDER BY period_starts_at",
        id=sale.subscription_id,
    )
    assert [(row["period_starts_at"], row["limit_units"]) for row in limits][:2] == [
        (START, 15_000),
        (END, 10_000),
    ]


async def test_who_leaves_as_a_period_begins_gets_back_what_was_paid_for_it(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    contract = await on_plan(api, sale, base_fee_timing="advance")
    await bill(contract.subscription_id, START)
    await bill(contract.subscription_id, END)
    async with db.system_session("contract changes") as session:
        await lives.cancel(
            session,
            replace(SYSTEM, platform_role="admin"),
            contract.subscription_id,
            reason="no more",
            as_of=END,
            at_once=True,
            version=None,
            side="operator",
        )
    back = await bill(contract.subscription_id, END)
    again = await bill(contract.subscription_id, JUNE_ENDS)

    assert back is not None
    assert (back.kind, back.parked_reason) == ("change", "negative_total")
    assert await lines_of(back.id) == [(END, "Subscription", -4900)]
    assert again is None


async def test_what_is_paid_at_the_start_is_the_first_fee_whatever_happens_later(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    contract = await on_plan(api, sale, base_fee_timing="advance")
    await bill(contract.subscription_id, START)
    await bill(contract.subscription_id, END)
    clock.set_instant(END + 10 * DAY)
    async with db.system_session("contract changes") as session:
        await lives.pause(
            session,
            replace(SYSTEM, platform_role="admin"),
            contract.subscription_id,
            version=None,
            as_of=END + 10 * DAY,
            side="operator",
        )

    assert await bill(contract.subscription_id, END + 10 * DAY) is None
    assert [one["kind"] for one in await invoices_of(contract)] == ["start", "period"]
