# SPDX-License-Identifier: Apache-2.0
"""What a change is said to cost is what it costs, to the line, or it is not made."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest

from nimbus import billing
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from tests.support.bills import START, rows, subscribe
from tests.support.market import PRODUCTS, STARTER, sent

pytestmark = pytest.mark.anyio

ELEVENTH = START + timedelta(days=10)
END = datetime(2026, 6, 1, tzinfo=UTC)
SUBSCRIPTIONS = "/api/billing/subscriptions"
SETUP = {
    "slug": "setup",
    "name": "Set-up",
    "base_fee_timing": "once",
    "prices": [{"base_fee": {"amount_minor": 5000, "currency": "EUR"}}],
}
SUPPORT = {
    "slug": "support",
    "name": "Support",
    "base_fee_timing": "advance",
    "prices": [{"base_fee": {"amount_minor": 3100, "currency": "EUR"}}],
}


class Contract:
    """A subscription whose fees are paid in advance, and its owner's calls."""

    def __init__(self, api, sale, subscription_id):
        self.api, self.person, self.id = api, sale.customer, subscription_id
        self.path = f"{SUBSCRIPTIONS}/{subscription_id}"

    async def version(self):
        return (await sent(self.api, self.person, "GET", self.path))["version"]

    async def preview(self, change, **body):
        asked = {"change": change, "version": await self.version(), **body}
        return await sent(self.api, self.person, "POST", f"{self.path}/preview", asked)

    async def ask(self, action, preview=None, **body):
        known = {"version": await self.version(), **body}
        if preview is not None:
            known["preview_id"] = preview["id"]
        headers = self.person.headers
        return await self.api.post(f"{self.path}/{action}", json=known, headers=headers)

    async def invoices(self, kind="change"):
        return await rows(
            "SELECT i.id, i.status, i.number, i.subtotal_minor, i.total_minor, array_agg("
            " ARRAY[l.description, l.amount_minor::text] ORDER BY l.position) AS lines"
            " FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id"
            " WHERE i.subscription_id = :id AND i.kind = :kind GROUP BY i.id ORDER BY i.id",
            id=self.id,
            kind=kind,
        )


@pytest.fixture
async def contract(api, sale):
    """A month of 31.00 paid in advance, since 1 May, the first fee billed."""
    product = sale.contract.product_id
    for slug, rank, fee in (("small", 1, 3100), ("large", 2, 6200)):
        plan = {**STARTER, "slug": slug, "name": slug.title(), "rank": rank}
        plan |= {"base_fee_timing": "advance", "quotas": []}
        plan["prices"] = [{"base_fee": {"amount_minor": fee, "currency": "EUR"}}]
        await sent(api, sale.admin, "POST", f"{PRODUCTS}/{product}/plans", plan)
    for add_on in (SETUP, SUPPORT):
        await sent(api, sale.admin, "POST", f"{PRODUCTS}/{product}/add-ons", add_on)
    path = f"{SUBSCRIPTIONS}/{sale.contract.subscription_id}"
    gone = {"version": 1, "reason": "Another plan", "at_once": True}
    await sent(api, sale.customer, "POST", f"{path}/cancel", gone)
    made = await subscribe(api, sale.customer, "small")
    async with db.system_session("test") as session:
        await billing.bill(session, SYSTEM, made.subscription_id, START)
    return Contract(api, sale, made.subscription_id)


def costs(view):
    return view and [(one["description"], one["amount"]["amount_minor"]) for one in view["lines"]]


async def test_an_upgrade_costs_what_its_preview_said_at_the_instant_of_the_preview(contract):
    clock.set_instant(ELEVENTH)
    said = await contract.preview("upgrade", plan="large")
    # 10 of 31 days of 31.00 stay; 21 days of 62.00 come: 10.00 + 42.00 - 31.00 = 21.00, with VAT.
    assert said["now"]["subtotal"]["amount_minor"] == 2100
    assert said["now"]["total"]["amount_minor"] == 2541
    assert await contract.invoices() == []
    clock.set_instant(ELEVENTH + timedelta(minutes=14))

    done = await contract.ask("upgrade", said, plan="large")

    assert done.status_code == 200, done.text
    [invoice] = await contract.invoices()
    assert (invoice["status"], invoice["total_minor"]) == ("Sent", 2541)
    assert [(text, int(minor)) for text, minor in invoice["lines"]] == costs(said["now"])
    assert done.json()["plan"]["slug"] == "large"


async def test_a_preview_leaves_no_trace_but_itself(contract):
    clock.set_instant(ELEVENTH)
    tables = (
        "subscriptions",
        "contract_terms",
        "invoices",
        "invoice_lines",
        "number_series",
        "outbox",
        "audit_log",
        "ledger_transfers",
        "one_off_items",
    )
    digest = " UNION ALL ".join(
        f"SELECT '{name}', md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {name} t"
        for name in tables
    )
    before = await rows(digest)

    await contract.preview("upgrade", plan="large")
    await contract.preview("take_add_on", add_on="setup")

    assert await rows(digest) == before


@pytest.mark.parametrize(
    "meanwhile", ["used", "expired", "another change", "another version", "another plan"]
)
async def test_a_preview_that_no_longer_holds_is_refused_and_nothing_is_changed(
    contract, meanwhile
):
    clock.set_instant(ELEVENTH)
    said = await contract.preview("upgrade", plan="large")
    action, body = "upgrade", {"plan": "large"}
    if meanwhile == "used":
        assert (await contract.ask("upgrade", said, plan="large")).is_success
        body["version"] = 1
    elif meanwhile == "expired":
        clock.set_instant(ELEVENTH + timedelta(minutes=15))
    elif meanwhile == "another change":
        action, body = "cancel", {"reason": "No wind"}
    elif meanwhile == "another version":
        assert (await contract.ask("add-ons", add_on="support")).is_success
    else:
        body["plan"] = "professional"
    invoices = await contract.invoices()

    answer = await contract.ask(action, said, **body)

    assert (answer.status_code, answer.json()["code"]) == (409, "stale_version")
    assert await contract.invoices() == invoices


async def test_of_two_changes_by_the_same_preview_one_is_made(contract):
    clock.set_instant(ELEVENTH)
    said = await contract.preview("upgrade", plan="large")
    answers = []

    async def go():
        known = {"version": 1, "preview_id": said["id"], "plan": "large"}
        headers = contract.person.headers
        path = f"{contract.path}/upgrade"
        answers.append(await contract.api.post(path, json=known, headers=headers))

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(go)

    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert len(await contract.invoices()) == 1


async def test_an_add_on_is_charged_for_what_is_left_of_the_period(contract):
    clock.set_instant(ELEVENTH)

    said = await contract.preview("take_add_on", add_on="support", quantity=2)
    done = await contract.ask("add-ons", said, add_on="support", quantity=2)

    # 21 of 31 days of twice 31.00.
    assert costs(said["now"])[-1][1] == said["now"]["subtotal"]["amount_minor"] == 4200
    assert done.status_code == 200, done.text
    assert [one["subtotal_minor"] for one in await contract.invoices()] == [4200]


async def test_a_fee_that_is_owed_once_is_charged_when_the_add_on_is_taken_and_never_again(
    contract,
):
    clock.set_instant(ELEVENTH)
    assert (await contract.ask("add-ons", add_on="setup")).is_success
    clock.set_instant(END)
    async with db.system_session("test") as session:
        await billing.bill(session, SYSTEM, contract.id, END)

    assert [one["lines"] for one in await contract.invoices()] == [[["Set-up", "5000"]]]
    [following] = await contract.invoices("period")
    assert not [line for line in following["lines"] if line[0] == "Set-up"]


async def test_what_a_step_down_at_once_gives_back_is_less_on_the_next_invoice(contract):
    clock.set_instant(ELEVENTH)
    await contract.ask("upgrade", plan="large")

    said = await contract.preview("downgrade", plan="small", at_once=True)

    assert said["now"] is None
    assert (
        sum(amount for _, amount in costs(said["next"])) == said["next"]["subtotal"]["amount_minor"]
    )
    assert min(amount for _, amount in costs(said["next"])) < 0


async def test_up_and_down_at_the_same_instant_costs_nothing(contract):
    clock.set_instant(ELEVENTH)
    before = await contract.preview("pause")
    assert (await contract.ask("upgrade", plan="large")).is_success
    assert (await contract.ask("downgrade", plan="small", at_once=True)).is_success
    clock.set_instant(END)
    async with db.system_session("test") as session:
        await billing.bill(session, SYSTEM, contract.id, END)

    changes, periods = await contract.invoices(), await contract.invoices("period")
    assert before["now"] is None
    paid = sum(one["subtotal_minor"] for one in [*changes, *periods])
    assert paid == 3100  # June's fee, in advance: May's was paid before
