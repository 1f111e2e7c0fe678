# SPDX-License-Identifier: Apache-2.0
"""Every invoice follows from raw facts, whatever made it: a second reading of the law says so."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.billing import jobs as billing_jobs
from nimbus.billing import queries
from nimbus.billing.service import explanations
from nimbus.billing.service.proving import prove
from nimbus.errors import Refusal
from tests.support.bills import END, START, Sale, bill, subscribe, use
from tests.support.market import PRODUCTS, STARTER, sent
from tests.support.metered import Contract, rows
from tests.support.people import Person, make_owner
from tests.support.reported import METERS, REPORT
from tests.support.roles import as_role

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
JUNE_ENDS = END + 30 * DAY
TIERS = [
    {"up_to": "1000", "unit_price": "0.01", "flat_fee": "1"},
    {"up_to": None, "unit_price": "0.0035"},
]
CHARGES = [
    {"meter": "api_calls", "model": "graduated", "included": "100", "tiers": TIERS},
    {"meter": "jobs", "unit_price": "0.333"},
    {"meter": "peak", "unit_price": "1.25", "included": "2"},
    {"meter": "seats", "unit_price": "3.10", "minimum": "7"},
    {"meter": "users", "unit_price": "0.77", "maximum": "2"},
    {"meter": "storage", "unit_price": "0.0271"},
    {"meter": "tokens", "model": "package", "package_size": "7", "package_price": "0.99"},
]


async def busy(api: httpx2.AsyncClient, sale: Sale) -> tuple[Person, Contract]:
    """A new customer, since 1 May, on a plan with a fee in advance and a meter of each kind."""
    product = f"{PRODUCTS}/{sale.contract.product_id}"
    for meter in METERS:
        await sent(api, sale.admin, "POST", f"{product}/meters", meter)
    for rank, (slug, fee) in enumerate((("small", 3100), ("large", 6217)), 1):
        charges = [CHARGES[0], *CHARGES[rank:]]
        prices = [{"base_fee": {"amount_minor": fee, "currency": "EUR"}, "charges": charges}]
        plan = {**STARTER, "slug": slug, "name": slug, "rank": rank, "quotas": [], "prices": prices}
        plan |= {"base_fee_timing": "advance"}
        await sent(api, sale.admin, "POST", f"{product}/plans", plan)
    bob = await make_owner("bob@bolt.example")
    return bob, await subscribe(api, bob, "small")


async def reports(
    api: httpx2.AsyncClient, sale: Sale, contract: Contract, days: int, **values: str
) -> None:
    """Report, some days after START, values of meters of every kind."""
    moment = START + days * DAY
    clock.set_instant(moment + timedelta(minutes=1))
    events = [
        {
            "id": f"{meter}-{days}",
            "subscription_id": str(contract.subscription_id),
            "meter": meter,
            "at": clock.to_wire(moment),
            "value": value if meter not in {"users", "tokens"} else "1",
            "properties": {"user": value, "model": "huge"},
            **({"mode": "gauge"} if meter in {"seats", "storage"} else {}),
        }
        for meter, value in values.items()
    ]
    answer = await sent(api, sale.admin, "POST", REPORT, events)
    assert answer["rejected"] == []


async def coupon(
    api: httpx2.AsyncClient, sale: Sale, bob: Person, contract: Contract, **terms: Any
) -> None:
    terms = {"name": "Less", "times": 3, **terms}
    await sent(api, sale.admin, "POST", "/api/admin/billing/coupons", terms)
    redeemed = {"code": terms["code"], "subscription_id": str(contract.subscription_id)}
    await sent(api, bob, "POST", "/api/billing/coupons", redeemed)


async def acts(
    api: httpx2.AsyncClient, bob: Person, contract: Contract, act: str, **said: Any
) -> None:
    path = f"/api/billing/subscriptions/{contract.subscription_id}"
    version = (await sent(api, bob, "GET", path))["version"]
    await sent(api, bob, "POST", f"{path}/{act}", {"version": version, **said})


async def a_busy_spring(api: httpx2.AsyncClient, sale: Sale) -> Contract:
    """May and June with all that makes and bends an invoice."""
    bob, contract = await busy(api, sale)
    admin = f"/api/admin/subscriptions/{contract.subscription_id}"
    first = await bill(contract.subscription_id, START)
    assert first is not None
    [plan] = await rows("SELECT id FROM plans WHERE slug = 'small'")
    await coupon(api, sale, bob, contract, code="PLAN", percent="33.3", plan_id=str(plan["id"]))
    await coupon(api, sale, bob, contract, code="METER", percent="10", meter="storage")
    await coupon(
        api, sale, bob, contract, code="ALL", amount={"amount_minor": 111, "currency": "EUR"}
    )
    await reports(api, sale, contract, 3, storage="120.5", seats="9", users="ada", jobs="4")
    await reports(api, sale, contract, 5, storage="80", users="bob", peak="5.5", tokens="x")
    await use(contract, calls=1_250, at=START + 6 * DAY)
    item = {"description": "Set-up", "amount": {"amount_minor": 1234, "currency": "EUR"}}
    await sent(api, sale.admin, "POST", f"{admin}/items", item)
    clock.set_instant(START + 9 * DAY)
    moment = clock.to_wire(clock.now())
    await billing_jobs.progress.func(entity_id=str(contract.subscription_id), as_of=moment)
    clock.set_instant(START + 11 * DAY + timedelta(hours=7))
    note = {"lines": [{"position": 1, "amount_minor": 2500}], "disposition": "credit"}
    note |= {"reason": "Sorry"}
    await sent(api, sale.admin, "POST", f"/api/billing/invoices/{first.id}/credit-notes", note)
    await acts(api, bob, contract, "upgrade", plan="large")
    clock.set_instant(START + 20 * DAY)
    await acts(api, bob, contract, "pause")
    clock.set_instant(START + 22 * DAY)
    await acts(api, bob, contract, "resume")
    await use(contract, calls=4_000, at=START + 23 * DAY)
    await reports(api, sale, contract, 25, seats="3", users="ada", jobs="1")
    await bill(contract.subscription_id, END)
    await use(contract, calls=700, at=END - DAY)
    clock.set_instant(END + 3 * DAY)
    await acts(api, bob, contract, "cancel", reason="no", at_once=False)
    await acts(api, bob, contract, "reactivate")
    clock.set_instant(END + 12 * DAY)
    await acts(api, bob, contract, "cancel", reason="yes", at_once=True)
    await bill(contract.subscription_id, END + 12 * DAY)
    return contract


async def invoices_of(contract: Contract) -> list[dict[str, Any]]:
    return await rows(
        "SELECT id, kind, status, total_minor FROM invoices WHERE subscription_id = :id"
        " ORDER BY id",
        id=contract.subscription_id,
    )


async def test_every_invoice_of_a_busy_contract_is_proved_from_raw_facts(
    api: httpx2.AsyncClient, sale: Sale, settings: Settings
) -> None:
    contract = await a_busy_spring(api, sale)
    made = await invoices_of(contract)

    async with db.system_session("proofs") as session:
        proved = [(one["kind"], await prove(session, str(one["id"]))) for one in made]
    with as_role(settings, "superuser") as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("UPDATE contract_terms SET effective_at = effective_at - interval '1 day'")
    async with db.system_session("proofs") as session:
        otherwise = [await prove(session, str(one["id"])) for one in made]

    assert {kind for kind, _ in proved} == {"start", "progress", "change", "period"}
    assert [(kind, report.differences) for kind, report in proved if not report.ok] == []
    assert not all(report.ok for report in otherwise)


async def test_an_invoice_whose_events_are_gone_is_not_proved_and_that_is_said(
    sale: Sale, settings: Settings
) -> None:
    await use(sale.contract, calls=12_000)
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    with as_role(settings, "superuser") as owner:
        owner.execute(
            "INSERT INTO usage_retired (month, producer, served, refused)"
            " VALUES ('2026-05-01', gen_random_uuid(), 1, 0)"
        )

    async with db.system_session("proofs") as session:
        with pytest.raises(Refusal) as refused:
            await prove(session, str(invoice.number))

    assert [(one.field, one.code) for one in refused.value.fields] == [("invoice", "events_gone")]


async def explained(
    api: httpx2.AsyncClient, sale: Sale, invoice: dict[str, Any]
) -> list[dict[str, Any]]:
    path = f"/api/billing/invoices/{invoice['id']}"
    bob = await sent(api, sale.customer, "GET", path)
    return [
        await sent(api, sale.customer, "GET", f"{path}/lines/{line['position']}/explain")
        for line in bob["lines"]
    ]


async def test_each_line_of_a_changed_month_is_explained_with_its_share(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    clock.set_instant(START + 20 * DAY)
    await use(sale.contract, calls=10_500)
    path = f"/api/billing/subscriptions/{sale.subscription_id}"
    version = (await sent(api, sale.customer, "GET", path))["version"]
    up = {"version": version, "plan": "professional"}
    await sent(api, sale.customer, "POST", f"{path}/upgrade", up)
    await bill(sale.subscription_id, END)

    [invoice] = await rows("SELECT id FROM invoices")
    lines = await explained(api, sale, invoice)

    fees = [one for one in lines if one["line"]["kind"] == "Subscription"]
    calls = [one for one in lines if one["line"]["kind"] == "ApiUsage"]
    assert [one["formula"] for one in fees] == [
        "49.00 EUR × 20/31 = 31.61 EUR",
        "199.00 EUR × 11/31 = 70.61 EUR",
    ]
    steps = [{step["name"]: step["value"] for step in one["steps"]} for one in (*fees, *calls)]
    assert [(said["share"], said["days"]) for said in steps] == [
        ("20/31", "20 of 31"),
        ("11/31", "11 of 31"),
        ("20/31", "20 of 31"),
    ]
    assert steps[0]["seconds"] == "1728000 of 2678400"
    # 20/31 of 10,000 included calls.
    assert calls[0]["formula"] == "(10500 − 6452) × 0.002 = 8.096 → 8.10 EUR"
    assert sum(int(cell["events"]) for cell in calls[0]["hours"]) == 105
    assert [one["plan_version"]["plan"] for one in (*fees, *calls)] == [
        "starter",
        "professional",
        "starter",
    ]
    assert all(len(one["ledger"]) == 2 for one in lines)


async def test_every_line_of_a_busy_contract_adds_up_as_it_is_explained(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    contract = await a_busy_spring(api, sale)
    told = []
    for invoice in await invoices_of(contract):
        async with db.system_session("bill run") as session:
            row = await queries.any_invoice(session, invoice["id"])
            for line in await queries.lines_of(session, row.id):
                why = await explanations.explain(session, row, line.position)
                told += [(line.text, why)]

    for text, one in told:
        steps, asked = dict(one.steps), Decimal(one.line.amount_minor).scaleb(-2)
        assert steps["amount"] == f"{asked:.2f} EUR", one.formula
        if "asked_before" in steps:
            owed, before = (Decimal(steps[name][:-4]) for name in ("owed", "asked_before"))
            # What a credit note gave back is not taken back again.
            assert 0 <= asked - (owed - before) <= 25, one.formula
        if text == "usage":
            assert one.events, one.formula
        assert text in {"coupon", "item"} or one.price is not None, one.formula
    assert {text for text, _ in told} >= {"base_fee", "usage", "minimum", "maximum", "item"}
