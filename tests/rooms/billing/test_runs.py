# SPDX-License-Identifier: Apache-2.0
"""The bill run: the right invoice, once, whoever runs it, however often, wherever it is killed."""

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx2
import pytest
from procrastinate.exceptions import ConnectorException
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from nimbus import ledger
from nimbus.base import clock, db, jobs
from nimbus.base.actors import SYSTEM
from nimbus.base.config import Settings
from nimbus.base.proofs import Report
from nimbus.billing import jobs as billing_jobs
from nimbus.billing import queries
from nimbus.billing.service import papers, runs
from nimbus.identity import lock_organization_facts
from tests.support.bills import (
    END,
    REFERENCE_LINES,
    START,
    Sale,
    amounts,
    bill,
    counts,
    set_seller,
    subscribe,
    use,
    use_as_in_the_reference,
)
from tests.support.market import sent
from tests.support.metered import rows
from tests.support.people import make_owner
from tests.support.roles import as_role

pytestmark = pytest.mark.anyio

MONTH = timedelta(days=31)
JUNE_ENDS = END + timedelta(days=30)


async def lines_of(invoice_id: UUID) -> list[Any]:
    async with db.system_session("bill run") as session:
        return await queries.lines_of(session, invoice_id)


async def books() -> tuple[dict[str, int], Report]:
    """Balances in euro cents, and the proof of the books."""
    async with db.system_session("bill run") as session:
        balances = {
            account: await ledger.balance(session, account, "EUR")
            for account in ("receivable", "revenue", "vat_payable", "cash:manual")
        }
        return balances, await ledger.check(session)


async def test_the_reference_invoice_comes_out_of_stored_usage(sale: Sale) -> None:
    await use_as_in_the_reference(sale.contract)

    invoice = await bill(sale.subscription_id)

    assert invoice is not None
    lines = await lines_of(invoice.id)
    assert amounts(lines) == REFERENCE_LINES
    assert [(line.quantity, line.unit_price) for line in lines[1:]] == [
        (12_500, Decimal("0.002")),
        (15, Decimal("1.5")),
        (8, Decimal("2.5")),
    ]
    assert (invoice.subtotal_minor, invoice.tax_minor, invoice.total_minor) == (11650, 2447, 14097)
    assert invoice.number == "INV-2026-000001"
    assert (str(invoice.issued_on), str(invoice.due_on)) == ("2026-06-01", "2026-06-15")
    assert (str(invoice.supply_from), str(invoice.supply_to)) == ("2026-05-01", "2026-05-31")
    assert invoice.tax_evidence["vat_number"] == "NL123456782B90"
    assert invoice.tax_evidence["category"] == "S"
    balances, proof = await books()
    assert balances == {
        "receivable": 14097,
        "revenue": -11650,
        "vat_payable": -2447,
        "cash:manual": 0,
    }
    assert proof.ok, proof.differences


async def test_the_next_period_has_begun_and_is_billed_next(sale: Sale) -> None:
    await use_as_in_the_reference(sale.contract)
    await bill(sale.subscription_id)
    await use(sale.contract, calls=300, at=END)

    second = await bill(sale.subscription_id, JUNE_ENDS)

    assert second is not None
    assert (second.period_starts_at, second.period_ends_at) == (END, JUNE_ENDS)
    assert second.subtotal_minor == 4900
    assert second.number == "INV-2026-000002"


async def test_eight_at_once_make_one_invoice(sale: Sale) -> None:
    await use_as_in_the_reference(sale.contract)
    clock.set_instant(END)

    made = await asyncio.gather(*(bill(sale.subscription_id) for _ in range(8)))

    assert sum(invoice is not None for invoice in made) == 1
    assert await counts(["invoices", "billing_periods"]) == {"invoices": 1, "billing_periods": 1}
    assert (await books())[1].ok


EVERYTHING = (
    "invoices",
    "invoice_lines",
    "invoice_taxes",
    "billing_periods",
    "number_series",
    "invoice_payment_states",
    "ledger_transfers",
    "outbox",
    "audit_log",
    "procrastinate_jobs",
    "subscriptions",
    "quota_standings",
)


async def test_a_run_that_finds_nothing_to_do_adds_no_row_anywhere(sale: Sale) -> None:
    await bill(sale.subscription_id)
    async with db.system_session("due-row scanner") as session:
        await jobs.defer_due(session, END)  # what else fell due then
    before = await counts(EVERYTHING)

    assert await bill(sale.subscription_id) is None
    async with db.system_session("due-row scanner") as session:
        ran = await jobs.defer_due(session, END)

    assert "billing.invoice" not in {job for job, _, _ in ran}
    assert "billing.finalize" not in {job for job, _, _ in ran}
    assert await counts(EVERYTHING) == before


async def test_killed_at_any_step_nothing_is_half_made_and_the_next_run_makes_it_whole(
    sale: Sale, settings: Settings
) -> None:
    await use_as_in_the_reference(sale.contract)
    before = await counts(EVERYTHING)

    for table, verb in (
        ("invoices", "INSERT"),
        ("invoice_lines", "INSERT"),
        ("invoice_taxes", "INSERT"),
        ("billing_periods", "INSERT"),
        ("subscriptions", "UPDATE"),
        ("number_series", "INSERT"),
        ("invoice_payment_states", "INSERT"),
        ("ledger_transfers", "INSERT"),
        ("procrastinate_jobs", "INSERT"),
        ("audit_log", "INSERT"),
        ("outbox", "INSERT"),
    ):
        with as_role(settings, "superuser") as owner:
            owner.execute(
                "CREATE OR REPLACE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql"
                " AS $$ BEGIN RAISE EXCEPTION 'crash'; END $$"
            )
            owner.execute(f"CREATE TRIGGER crash AFTER {verb} ON {table} EXECUTE FUNCTION crash()")
            with pytest.raises((DBAPIError, ConnectorException)):
                await bill(sale.subscription_id)
            owner.execute(f"DROP TRIGGER crash ON {table}")
        assert await counts(EVERYTHING) == before, f"{verb} {table}"

    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    assert invoice.number == "INV-2026-000001"
    assert (await books())[1].ok


async def test_numbers_have_no_gap_with_a_fifth_rolled_back(sale: Sale) -> None:
    subscription_ids = await copies_of(sale, 24)
    chance = random.Random(5)
    print("seed 5")
    clock.set_instant(END)

    def crash_sometimes() -> None:
        if chance.random() < 0.2:
            raise InterruptedError

    async def tried(subscription_id: UUID) -> bool:
        with suppress(InterruptedError):
            async with db.system_session("bill run") as session:
                await runs.bill(session, SYSTEM, subscription_id, END)
                crash_sometimes()
            return True
        return False

    async def until_done(subscription_id: UUID) -> None:
        while not await tried(subscription_id):
            pass

    await asyncio.gather(*(until_done(one) for one in subscription_ids))

    numbers = [
        row["number"]
        for row in await rows("SELECT number FROM invoices ORDER BY finalized_at, number")
    ]
    assert sorted(numbers) == [f"INV-2026-{n:06d}" for n in range(1, 25)]
    assert (await books())[1].ok


async def copies_of(sale: Sale, count: int) -> list[UUID]:
    """Other organizations with the same subscription, as rows."""
    made = await rows(
        "WITH numbers AS (SELECT n, gen_random_uuid() AS id FROM generate_series(1, :count) n),"
        " organization AS (INSERT INTO organizations (id, name, slug, legal_name, company_number,"
        " vat_number, billing_email, address, country, time_zone, locale, currency, status,"
        " version, created_at, updated_at) SELECT n.id, o.name, 'copy-' || n.n, o.legal_name,"
        " o.company_number, o.vat_number, o.billing_email, o.address, o.country, o.time_zone,"
        " o.locale, o.currency, o.status, 1, o.created_at, o.updated_at"
        " FROM organizations o, numbers n WHERE o.id = :organization_id RETURNING id)"
        " SELECT id FROM organization",
        count=count,
        organization_id=sale.customer.organization_id,
    )
    columns = [
        row["column_name"]
        for row in await rows(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'subscriptions'"
            " AND is_generated = 'NEVER' ORDER BY ordinal_position"
        )
    ]
    chosen = ", ".join(
        {"id": "gen_random_uuid()", "organization_id": "copy"}.get(name, name) for name in columns
    )
    subscribed = await rows(
        f"INSERT INTO subscriptions ({', '.join(columns)}) SELECT {chosen}"
        " FROM subscriptions, unnest(CAST(:copies AS uuid[])) AS copy WHERE id = :id RETURNING id",
        copies=[one["id"] for one in made],
        id=sale.subscription_id,
    )
    ids = [row["id"] for row in subscribed]
    await rows(
        "INSERT INTO contract_terms SELECT (jsonb_populate_record(t, jsonb_build_object("
        "'id', gen_random_uuid(), 'organization_id', s.organization_id,"
        " 'subscription_id', s.id))).* FROM contract_terms t, subscriptions s"
        " WHERE t.subscription_id = :original AND s.id = ANY (CAST(:ids AS uuid[])) RETURNING id",
        ids=ids,
        original=sale.subscription_id,
    )
    return ids


async def test_without_a_seller_invoices_wait_and_are_finalized_once_there_is_one(
    api: httpx2.AsyncClient, sale: Sale, settings: Settings
) -> None:
    with as_role(settings, "superuser") as owner:
        owner.execute("DELETE FROM sellers")
    await use_as_in_the_reference(sale.contract)

    draft = await bill(sale.subscription_id)
    assert draft is not None
    assert (draft.status, draft.number, draft.tax_minor) == ("Draft", None, 0)
    assert await due(END) == []
    await set_seller(api, sale.admin)
    assert await due(END) == [draft.id]
    await billing_jobs.finalize.func(entity_id=str(draft.id), as_of=clock.to_wire(END))
    await billing_jobs.finalize.func(entity_id=str(draft.id), as_of=clock.to_wire(END))

    [invoice] = await rows("SELECT * FROM invoices")
    assert (invoice["status"], invoice["number"]) == ("Sent", "INV-2026-000001")
    assert invoice["total_minor"] == 14097
    assert await due(END) == []
    assert (await books())[1].ok


async def due(as_of: Any) -> list[UUID]:
    """The drafts that the scanner would finalize."""
    async with db.system_session("due-row scanner") as session:
        return [row.id for row in await session.execute(queries.due_drafts(as_of, 10))]


async def test_usage_that_comes_in_late_is_billed_once_on_the_next_invoice(sale: Sale) -> None:
    await use(sale.contract, calls=10_500)
    first = await bill(sale.subscription_id)
    await use(sale.contract, calls=1_000, at=END - timedelta(days=1))

    second = await bill(sale.subscription_id, JUNE_ENDS)
    third = await bill(sale.subscription_id, JUNE_ENDS + MONTH)

    assert first is not None
    assert second is not None
    assert third is not None
    assert first.subtotal_minor == 4900 + 100
    late, *own = await lines_of(second.id)
    assert (late.starts_at, late.ends_at) == (START, END)
    assert (late.quantity, late.amount_minor) == (1_000, 200)
    assert amounts(own) == [4900]
    assert amounts(await lines_of(third.id)) == [4900]


async def test_an_implausible_total_is_parked_for_a_person_and_the_others_go_on(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    await bill(sale.subscription_id)
    other = await subscribe(api, await make_owner("bob@bolt.example"))
    await use(sale.contract, calls=1_000_000, at=END + timedelta(days=1))

    parked = await bill(sale.subscription_id, JUNE_ENDS)
    fine = await bill(other.subscription_id, JUNE_ENDS + MONTH)

    assert parked is not None
    assert (parked.status, parked.parked_reason) == ("Draft", "far_above_usual")
    assert parked.id not in await due(JUNE_ENDS + MONTH)
    assert fine is not None
    assert fine.status == "Sent"
    path = f"/api/admin/billing/invoices/{parked.id}/finalize"
    released = await api.post(path, headers=sale.admin.headers)
    assert released.status_code == 200, released.text
    assert released.json()["status"] == "Sent"
    again = await api.post(path, headers=sale.admin.headers)
    assert (again.status_code, again.json()["code"]) == (400, "invoice_finalized")
    assert (await books())[1].ok


async def test_a_preview_says_what_the_run_then_makes_and_saves_nothing(sale: Sale) -> None:
    await use_as_in_the_reference(sale.contract)
    clock.set_instant(END)
    before = await counts(EVERYTHING)

    previewed = [outcome async for outcome in billing_jobs.run(END, preview=True)]
    assert await counts(EVERYTHING) == before
    made = [outcome async for outcome in billing_jobs.run(END, preview=False)]
    again = [outcome async for outcome in billing_jobs.run(END, preview=False)]

    assert [one.total for one in previewed] == [one.total for one in made]
    assert [(one.number, one.error) for one in made] == [("INV-2026-000001", None)]
    assert again == []


async def test_the_scanner_finds_a_period_when_it_ends_and_not_before(sale: Sale) -> None:
    async with db.system_session("due-row scanner") as session:
        early = await jobs.defer_due(session, END - timedelta(microseconds=1))
        in_time = await jobs.defer_due(session, END)

    assert "billing.invoice" not in {job for job, _, _ in early}
    assert ("billing.invoice", END, 1) in in_time


async def test_the_document_is_made_once_and_stays(sale: Sale) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    queued = await rows("SELECT args FROM procrastinate_jobs WHERE task_name = 'billing.document'")
    assert [row["args"]["invoice_id"] for row in queued] == [str(invoice.id)]

    async def make() -> bytes:
        async with db.system_session("bill run") as session:
            return await papers.invoice_pdf(session, invoice.id)

    made = await asyncio.gather(make(), make(), make())

    assert made[0].startswith(b"%PDF")
    assert len(set(made)) == 1
    assert (await counts(["invoice_documents"])) == {"invoice_documents": 1}


@pytest.mark.parametrize(
    ("country", "vat_number", "category", "tax_minor"),
    [
        ("NL", "NL123456782B90", "S", 1029),
        ("DE", "DE136695976", "AE", 0),
        ("DE", None, "S", 931),
        ("US", None, "O", 0),
    ],
)
async def test_vat_follows_who_sells_to_whom_and_the_evidence_is_kept(
    sale: Sale, country: str, vat_number: str | None, category: str, tax_minor: int
) -> None:
    async with db.system_session("bill run") as session:
        await session.execute(
            text("UPDATE organizations SET country = :country, vat_number = :vat WHERE id = :id"),
            {"country": country, "vat": vat_number, "id": sale.customer.organization_id},
        )

    invoice = await bill(sale.subscription_id)

    assert invoice is not None
    assert invoice.tax_minor == tax_minor
    evidence = invoice.tax_evidence
    assert (evidence["category"], evidence["buyer_country"]) == (category, country)
    assert (evidence["vat_number"], evidence["vat_number_valid"]) == (
        vat_number,
        vat_number is not None,
    )
    [tax] = await rows("SELECT category, legal_text_key FROM invoice_taxes")
    texts = {"S": None, "AE": "reverse_charge", "O": "outside_scope"}
    assert tax == {"category": category, "legal_text_key": texts[category]}
    assert (await books())[1].ok


async def test_a_bill_run_does_not_wait_for_a_checkout_of_the_same_organization(
    sale: Sale,
) -> None:
    # Given a checkout, which locks its organization and then wants the subscription
    customer = sale.customer
    async with db.transaction(customer.organization_id, customer.actor.user_id) as session:
        await lock_organization_facts(session, customer.organization_id)

        # Then the bill run, which has the subscription, comes to its end
        invoice = await asyncio.wait_for(bill(sale.subscription_id), 60)

    assert invoice is not None
    assert invoice.status == "Sent"


async def test_a_change_of_the_buyer_s_vat_scheme_counts_from_the_next_period(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    me = "/api/billing/details"
    clock.set_instant(START + timedelta(days=19))
    known = await sent(api, sale.customer, "GET", me)
    moved = {name: value for name, value in known.items() if name != "currency"}
    moved |= {"country": "BE", "vat_number": "BE0428759497", "company_number": None}
    await sent(api, sale.customer, "PUT", me, moved)

    may = await bill(sale.subscription_id)
    june = await bill(sale.subscription_id, END + timedelta(days=30))

    assert may is not None
    assert june is not None
    assert (may.tax_evidence["buyer_country"], may.tax_evidence["category"]) == ("NL", "S")
    assert (june.tax_evidence["buyer_country"], june.tax_evidence["category"]) == ("BE", "AE")
    assert (may.currency, may.tax_minor, june.tax_minor) == (june.currency, 1029, 0)
