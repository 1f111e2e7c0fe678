# SPDX-License-Identifier: Apache-2.0
"""Credit notes add up to their invoice, to the cent and per rate; what they give back is kept."""

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import httpx2
import pytest
from psycopg import errors

from nimbus import ledger
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.base.config import Settings
from nimbus.billing.service import credit_notes
from tests.support.bills import END, Sale, bill, counts, use_as_in_the_reference
from tests.support.market import sent
from tests.support.metered import rows
from tests.support.people import make_owner
from tests.support.roles import ROLES, as_role
from tests.support.soak import a_seed

REFUSALS = (errors.RestrictViolation, errors.InsufficientPrivilege)

pytestmark = pytest.mark.anyio


async def reference(sale: Sale) -> UUID:
    """The reference invoice, sent."""
    await use_as_in_the_reference(sale.contract)
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    return invoice.id


async def books() -> dict[str, int]:
    async with db.system_session("bill run") as session:
        report = await ledger.check(session)
        assert report.ok, report.differences
        names = ("receivable", "revenue", "vat_payable", "refunds", "customer_balance")
        return {name: await ledger.balance(session, name, "EUR") for name in names}


def path(invoice_id: UUID) -> str:
    return f"/api/billing/invoices/{invoice_id}/credit-notes"


async def test_a_whole_credit_note_leaves_nothing_of_the_invoice(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    invoice_id = await reference(sale)

    body = {"disposition": "refund", "reason": "not delivered"}
    note = await sent(api, sale.admin, "POST", path(invoice_id), body)

    assert note["number"] == "CN-2026-000001"
    assert [note[name]["amount_minor"] for name in ("subtotal", "tax", "total", "open")] == [
        11650,
        2447,
        14097,
        14097,
    ]
    assert set((await books()).values()) == {0}
    shown = await sent(api, sale.customer, "GET", f"/api/billing/invoices/{invoice_id}")
    assert (shown["status"], shown["due"]["amount_minor"]) == ("Cancelled", 0)
    again = await api.post(path(invoice_id), json=body, headers=sale.admin.headers)
    assert (again.status_code, again.json()["errors"][0]["field"]) == (422, "lines")
    mine = await sent(api, sale.customer, "GET", path(invoice_id))
    assert [one["id"] for one in mine["data"]] == [note["id"]]


async def test_only_the_operator_issues_one(api: httpx2.AsyncClient, sale: Sale) -> None:
    invoice_id = await reference(sale)

    body = {"disposition": "refund", "reason": "I would like to"}
    refused = await api.post(path(invoice_id), json=body, headers=sale.customer.headers)

    assert refused.status_code == 403
    assert await counts(["credit_notes"]) == {"credit_notes": 0}


async def test_parts_in_any_order_mirror_the_vat_to_zero(sale: Sale) -> None:
    invoice_id = await reference(sale)
    seed = a_seed()
    print(f"TEST_SEED={seed}")
    chance = random.Random(seed)
    left = {1: 4900, 2: 2500, 3: 2250, 4: 2000}

    while left:
        position = chance.choice(list(left))
        amount = chance.randint(1, left[position])
        left[position] -= amount
        if not left[position]:
            del left[position]
        async with db.system_session("bill run") as session:
            await credit_notes.issue(
                session,
                SYSTEM,
                invoice_id,
                asked={position: amount},
                disposition="refund",
                reason="part",
            )

    [sums] = await rows(
        "SELECT sum(subtotal_minor)::bigint AS net, sum(tax_minor)::bigint AS tax FROM credit_notes"
    )
    assert (sums["net"], sums["tax"]) == (11650, 2447)
    assert set((await books()).values()) == {0}


async def test_numbers_of_credit_notes_have_no_gap_with_some_rolled_back(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    invoice_id = await reference(sale)
    chance = random.Random(7)

    async def once() -> bool:
        with suppress(InterruptedError):
            async with db.system_session("bill run") as session:
                await credit_notes.issue(
                    session,
                    SYSTEM,
                    invoice_id,
                    asked={1: 10},
                    disposition="credit",
                    reason="part",
                )
                if chance.random() < 0.3:
                    raise InterruptedError
            return True
        return False

    async def until_done() -> None:
        while not await once():
            pass

    await asyncio.gather(*(until_done() for _ in range(12)))

    numbers = [row["number"] for row in await rows("SELECT number FROM credit_notes")]
    assert sorted(numbers) == [f"CN-2026-{n:06d}" for n in range(1, 13)]
    await books()


async def test_credit_that_is_kept_pays_the_next_invoice_first(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    invoice_id = await reference(sale)
    await sent(api, sale.admin, "POST", f"/api/admin/billing/invoices/{invoice_id}/mark-paid", {})
    body = {
        "lines": [{"position": 3, "amount_minor": 2250}],
        "disposition": "credit",
        "reason": "goodwill",
    }
    note = await sent(api, sale.admin, "POST", path(invoice_id), body)
    assert (note["open"]["amount_minor"], note["credit"]["amount_minor"]) == (0, 2723)

    wallet = await sent(api, sale.customer, "GET", "/api/billing/wallet")
    june = await bill(sale.subscription_id, END.replace(month=7))

    assert wallet["credit"]["amount_minor"] == 2723
    assert june is not None
    assert (june.total_minor, june.credited_minor) == (5929, 2723)
    shown = await sent(api, sale.customer, "GET", f"/api/billing/invoices/{june.id}")
    assert shown["due"]["amount_minor"] == 5929 - 2723
    paid = await sent(
        api, sale.admin, "POST", f"/api/admin/billing/invoices/{june.id}/mark-paid", {}
    )
    assert paid["amount"]["amount_minor"] == 5929 - 2723
    balances = await books()
    assert (balances["receivable"], balances["customer_balance"]) == (0, 0)
    # What was given back of May is a gift: June does not bill it again.
    lines = await rows("SELECT amount_minor FROM invoice_lines WHERE invoice_id = :id", id=june.id)
    assert [row["amount_minor"] for row in lines] == [4900]


async def test_no_role_changes_a_credit_note(
    api: httpx2.AsyncClient, sale: Sale, settings: Settings
) -> None:
    invoice_id = await reference(sale)
    await sent(api, sale.admin, "POST", path(invoice_id), {"disposition": "credit", "reason": "x"})
    for role in ROLES:
        with as_role(settings, role, sale.customer.organization_id) as connection:
            for table in ("credit_notes", "credit_note_lines", "credit_note_taxes"):
                for statement in (
                    f"UPDATE {table} SET organization_id = organization_id",
                    f"DELETE FROM {table}",
                    f"TRUNCATE {table} CASCADE",
                ):
                    with pytest.raises(REFUSALS):
                        connection.execute(statement)


async def test_its_document_is_made_once_in_the_buyer_s_language(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    invoice_id = await reference(sale)
    note = await sent(
        api, sale.admin, "POST", path(invoice_id), {"disposition": "refund", "reason": "Ping"}
    )

    async def make() -> bytes:
        async with db.system_session("bill run") as session:
            return await credit_notes.credit_note_pdf(session, UUID(note["id"]))

    made = await asyncio.gather(make(), make())
    answer = await api.get(
        f"/api/billing/credit-notes/{note['id']}/pdf", headers=sale.customer.headers
    )
    other = await make_owner("eve@else.example")
    foreign = await api.get(f"/api/billing/credit-notes/{note['id']}/pdf", headers=other.headers)

    assert made[0] == made[1] == answer.content
    assert answer.content.startswith(b"%PDF")
    assert foreign.status_code == 404


async def test_what_is_written_off_is_due_no_more_and_the_invoice_stays(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    await use_as_in_the_reference(sale.contract)
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    path = f"/api/admin/billing/invoices/{invoice.id}"
    note = {"lines": [{"position": 1, "amount_minor": 900}], "disposition": "credit"}
    note |= {"reason": "Sorry"}
    given = f"/api/billing/invoices/{invoice.id}/credit-notes"
    await sent(api, sale.admin, "POST", given, note)
    clock.set_instant(END + timedelta(days=90))

    first = await sent(api, sale.admin, "POST", f"{path}/write-off", {"reason": "Bankrupt"})
    again = await sent(api, sale.admin, "POST", f"{path}/write-off", {"reason": "Again"})
    shown = await sent(api, sale.customer, "GET", f"/api/billing/invoices/{invoice.id}")
    refused = [
        await api.post(f"{path}/mark-paid", json={}, headers=sale.admin.headers),
        await api.post(given, json=note, headers=sale.admin.headers),
        await api.post(f"{path}/write-off", json={"reason": " "}, headers=sale.admin.headers),
    ]

    assert first == again
    assert first["amount"]["amount_minor"] == 14097 - 1089
    assert (shown["status"], shown["payment_state"]) == ("Sent", "WrittenOff")
    assert (shown["due"]["amount_minor"], shown["total"]["amount_minor"]) == (0, 14097)
    codes = [one.json()["errors"][0]["code"] for one in refused]
    assert codes == ["invoice_written_off", "invoice_written_off", "string_too_short"]
    posted = await rows(
        "SELECT debit_account, credit_account, amount_minor FROM ledger_transfers"
        " WHERE source_kind = 'write_off'"
    )
    assert [tuple(row.values()) for row in posted] == [("write_offs", "receivable", 13008)]
    told = await rows("SELECT name FROM outbox WHERE name = 'invoice.written_off'")
    trail = await rows("SELECT body FROM audit_log WHERE action = 'InvoiceWrittenOff'")
    assert (len(told), len(trail)) == (1, 1)
    assert "Bankrupt" in trail[0]["body"]
    async with db.system_session("bill run") as session:
        assert await ledger.balance(session, "receivable", "EUR") == 0
        report = await ledger.check(session)
    assert report.ok, report.differences
