# SPDX-License-Identifier: Apache-2.0
"""Invoices, payments and settings over HTTP: the right shapes, for the right people only."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import text

from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.billing.service import papers
from tests.support.bills import (
    END,
    SELLER,
    SETTINGS,
    START,
    Sale,
    bill,
    counts,
    set_seller,
    settings,
    sold,
    subscribe,
    use_as_in_the_reference,
)
from tests.support.market import sent
from tests.support.people import Person, make_owner

__all__ = ["settings", "sold"]

pytestmark = pytest.mark.anyio

INVOICES = "/api/billing/invoices"


@pytest.fixture
async def sale(database: Settings, sold: tuple[str, Sale]) -> Sale:
    """A customer on Starter since 1 May 2026 who used what the reference invoice bills."""
    clock.set_instant(START)
    await use_as_in_the_reference(sold[1].contract)
    return sold[1]


async def become(person: Person, role: str) -> None:
    """Give the person another role in their organization."""
    async with db.system_session("test") as session:
        await session.execute(
            text("UPDATE memberships SET role = :role WHERE user_id = :user_id"),
            {"role": role, "user_id": person.actor.user_id},
        )


async def code_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_an_invoice_shows_its_lines_parties_and_totals(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    await bill(sale.subscription_id)

    [listed] = (await sent(api, sale.customer, "GET", INVOICES))["data"]
    shown = await sent(api, sale.customer, "GET", f"{INVOICES}/{listed['id']}")

    assert listed.items() <= shown.items()
    assert listed["number"] == "INV-2026-000001"
    assert (listed["status"], listed["payment_state"]) == ("Sent", "Pending")
    assert listed["total"] == {"amount_minor": 14097, "currency": "EUR"}
    assert (shown["subtotal"]["amount_minor"], shown["tax"]["amount_minor"]) == (11650, 2447)
    assert [
        (line["kind"], line["meter"], line["quantity"], line["unit_price"], line["vat_rate"])
        for line in shown["lines"]
    ] == [
        ("Subscription", None, "1", "49", "21"),
        ("ApiUsage", "api_calls", "12500", "0.002", "21"),
        ("Asset", "assets", "15", "1.5", "21"),
        ("Report", "reports", "8", "2.5", "21"),
    ]
    assert [line["description"] for line in shown["lines"]] == [
        "Starter, 1–31 May 2026",
        "API calls over the 10,000 included, 1–31 May 2026",
        "Assets over the 10 included, 1–31 May 2026",
        "Reports, 1–31 May 2026",
    ]
    assert shown["seller"]["name"] == "Nimbus Wind B.V."
    assert shown["buyer"]["vat_number"] == "NL123456782B90"
    assert shown["taxes"] == [
        {
            "category": "S",
            "rate": "21",
            "base": {"amount_minor": 11650, "currency": "EUR"},
            "tax": {"amount_minor": 2447, "currency": "EUR"},
        }
    ]
    assert shown["usage"][0] == {
        "meter": "API calls",
        "used": "22500",
        "included": "10000",
        "billed": "12500",
    }


async def test_the_pdf_is_served_once_it_is_made(api: httpx2.AsyncClient, sale: Sale) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    path = f"{INVOICES}/{invoice.id}/pdf"

    early = await api.get(path, headers=sale.customer.headers)
    async with db.system_session("bill run") as session:
        content = await papers.invoice_pdf(session, invoice.id)
    served = await api.get(path, headers=sale.customer.headers)

    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    assert served.content == content
    assert served.headers["content-type"] == "application/pdf"
    assert "INV-2026-000001.pdf" in served.headers["content-disposition"]
    assert "no-store" in served.headers["cache-control"]


async def test_an_unpaid_invoice_is_overdue_from_the_day_after_its_due_date(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    path = f"{INVOICES}/{invoice.id}"
    shown = {}
    for day in ("2026-06-15T21:59:59Z", "2026-06-15T22:00:00Z"):
        clock.set_instant(clock.from_wire(day))
        answer = await sent(api, sale.customer, "GET", path)
        shown[day] = (answer["status"], answer["payment_state"])

    assert list(shown.values()) == [("Sent", "Pending"), ("Overdue", "Overdue")]


async def test_the_run_for_one_subscription_makes_its_invoice_once(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    body = {"subscription_id": str(sale.subscription_id)}
    early = await api.post(INVOICES, json=body, headers=sale.customer.headers)
    clock.set_instant(END)
    made = await api.post(INVOICES, json=body, headers=sale.customer.headers)
    again = await api.post(INVOICES, json=body, headers=sale.customer.headers)

    assert await code_of(early) == (422, "validation_failed")
    assert early.json()["errors"][0]["code"] == "period_running"
    assert made.status_code == 201, made.text
    assert made.json()["total"]["amount_minor"] == 14097
    assert await code_of(again) == (400, "invoice_finalized")
    assert again.json()["error"] == "Invoice already finalized"
    assert await counts(["invoices"]) == {"invoices": 1}


async def test_the_coming_invoice_is_what_the_period_costs_so_far(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    [coming] = (await sent(api, sale.customer, "GET", f"{INVOICES}/upcoming"))["data"]
    invoice = await bill(sale.subscription_id)

    assert invoice is not None
    assert coming["total"]["amount_minor"] == invoice.total_minor == 14097
    assert len(coming["lines"]) == 4
    assert coming["subscription_id"] == str(sale.subscription_id)


@pytest.mark.parametrize(
    ("role", "reads", "runs"),
    [
        ("owner", True, True),
        ("admin", False, False),
        ("developer", False, False),
        ("billing", True, True),
        ("accountant", True, False),
        ("manager", False, False),
        ("viewer", False, False),
    ],
)
async def test_invoices_are_for_the_roles_of_the_matrix(
    api: httpx2.AsyncClient, sale: Sale, role: str, reads: bool, runs: bool
) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    await become(sale.customer, role)
    headers = sale.customer.headers

    for path in (
        INVOICES,
        f"{INVOICES}/upcoming",
        f"{INVOICES}/{invoice.id}",
        "/api/billing/payments",
    ):
        answer = await api.get(path, headers=headers)
        assert answer.status_code == (200 if reads else 403), path
    body = {"subscription_id": str(sale.subscription_id)}
    ran = await api.post(INVOICES, json=body, headers=headers)
    assert ran.status_code == (400 if runs else 403)


async def test_nobody_sees_or_runs_anothers_invoices_not_even_the_product_s_provider(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    before = await counts(["invoices", "billing_periods", "audit_log"])
    stranger = await make_owner("eve@other.example")
    strange = uuid4()

    for person in (stranger, sale.admin):
        assert (await sent(api, person, "GET", INVOICES))["data"] == []
        assert (await sent(api, person, "GET", f"{INVOICES}/upcoming"))["data"] == []
        assert (await sent(api, person, "GET", "/api/billing/payments"))["data"] == []
        for rest in ("", "/pdf"):
            theirs = await api.get(f"{INVOICES}/{invoice.id}{rest}", headers=person.headers)
            random = await api.get(f"{INVOICES}/{strange}{rest}", headers=person.headers)
            assert await code_of(theirs) == await code_of(random) == (404, "not_found")
            assert _bare(theirs) == _bare(random)
        for subscription_id in (sale.subscription_id, strange):
            body = {"subscription_id": str(subscription_id)}
            run = await api.post(INVOICES, json=body, headers=person.headers)
            assert await code_of(run) == (404, "not_found")
    after = await counts(["invoices", "billing_periods"])
    assert after == {name: before[name] for name in after}


def _bare(answer: httpx2.Response) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    return {k: v for k, v in problem.items() if k not in {"request_id", "instance"}}


async def test_a_key_reads_invoices_with_its_scope_only(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    await bill(sale.subscription_id)
    answers = {}
    for scopes in (["billing.read"], ["assets.read"]):
        body = {"name": "books", "environment": "Live", "scopes": scopes}
        made = await sent(api, sale.customer, "POST", "/api/developer/api-keys", body)
        answer = await api.get(INVOICES, headers={"Authorization": f"Bearer {made['secret']}"})
        answers[scopes[0]] = answer

    assert [row["number"] for row in answers["billing.read"].json()["data"]] == ["INV-2026-000001"]
    assert await code_of(answers["assets.read"]) == (403, "insufficient_scope")


async def test_the_operator_lists_all_and_marks_paid_once(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    paid = f"/api/admin/billing/invoices/{invoice.id}/mark-paid"

    [listed] = (await sent(api, sale.admin, "GET", "/api/admin/billing/invoices"))["data"]
    first = await sent(api, sale.admin, "POST", paid, {"reference": "statement 12"})
    second = await sent(api, sale.admin, "POST", paid, {"reference": "another"})

    assert (listed["organization"], listed["parked_reason"]) == ("Acme Energie B.V.", None)
    assert first == second
    assert first["amount"] == {"amount_minor": 14097, "currency": "EUR"}
    shown = await sent(api, sale.customer, "GET", f"{INVOICES}/{invoice.id}")
    assert (shown["status"], shown["payment_state"]) == ("Paid", "Paid")
    assert (await sent(api, sale.customer, "GET", "/api/billing/payments"))["data"] == [first]


async def test_the_operator_s_pages_are_for_the_operator(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    admin = "/api/admin/billing/invoices"
    calls = [
        ("GET", admin, None),
        ("POST", f"{admin}/{invoice.id}/mark-paid", {}),
        ("POST", f"{admin}/{invoice.id}/finalize", None),
        ("GET", SETTINGS, None),
        ("PUT", SETTINGS, SELLER),
    ]

    for method, path, body in calls:
        as_owner = await api.request(method, path, json=body, headers=sale.customer.headers)
        as_nobody = await api.request(method, path, json=body)
        assert await code_of(as_owner) == (403, "forbidden"), path
        assert await code_of(as_nobody) == (401, "unauthenticated"), path
    unknown = await api.post(f"{admin}/{uuid4()}/mark-paid", json={}, headers=sale.admin.headers)
    assert await code_of(unknown) == (404, "not_found")


async def test_settings_are_read_back_changed_by_version_and_kept_on_sent_invoices(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    await bill(sale.subscription_id)
    known = await sent(api, sale.admin, "GET", SETTINGS)

    stale = await api.put(
        SETTINGS,
        json={**SELLER, "operator_organization_id": known["operator_organization_id"]},
        headers=sale.admin.headers,
    )
    changed = await set_seller(api, sale.admin, name="Nimbus Zon B.V.", version=known["version"])

    assert known["vat_number"] == "NL123456782B90"
    assert known["version"] == 1
    assert await code_of(stale) == (409, "stale_version")
    assert (changed["name"], changed["version"]) == ("Nimbus Zon B.V.", 2)
    [listed] = (await sent(api, sale.customer, "GET", INVOICES))["data"]
    shown = await sent(api, sale.customer, "GET", f"{INVOICES}/{listed['id']}")
    assert shown["seller"]["name"] == "Nimbus Wind B.V."


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vat_number": "NL123456781B90"}, "vat_number"),
        ({"vat_number": "DE136695976"}, "vat_number"),
        ({"company_number": "1234"}, "company_number"),
        ({"iban": "NL91ABNA0417164301"}, "iban"),
        ({"country": "US"}, "country"),
        ({"time_zone": "Europe/Atlantis"}, "time_zone"),
        ({"operator_organization_id": str(uuid4())}, "operator_organization_id"),
        ({"name": " "}, "name"),
        ({"email": "nobody"}, "email"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_wrong_settings_name_their_field_and_change_nothing(
    api: httpx2.AsyncClient, sale: Sale, change: dict[str, Any], field: str
) -> None:
    known = await sent(api, sale.admin, "GET", SETTINGS)
    organization_id = str(sale.admin.organization_id)
    body = {**SELLER, "operator_organization_id": organization_id, "version": 1, **change}

    answer = await api.put(SETTINGS, json=body, headers=sale.admin.headers)

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert await sent(api, sale.admin, "GET", SETTINGS) == known


async def test_lists_go_on_by_cursor_newest_first(api: httpx2.AsyncClient, sale: Sale) -> None:
    await bill(sale.subscription_id)
    ends = (await sent(api, sale.customer, "GET", f"{INVOICES}/upcoming"))["data"][0]
    await bill(sale.subscription_id, clock.from_wire(ends["period_ends_at"]))

    first = await sent(api, sale.customer, "GET", f"{INVOICES}?limit=1")
    second = await sent(
        api, sale.customer, "GET", f"{INVOICES}?limit=1&cursor={first['next_cursor']}"
    )
    bad = await api.get(f"{INVOICES}?cursor=!", headers=sale.customer.headers)

    assert [row["number"] for row in first["data"]] == ["INV-2026-000002"]
    assert [row["number"] for row in second["data"]] == ["INV-2026-000001"]
    assert second["next_cursor"] is None
    assert bad.status_code == 422


async def test_invoices_of_several_customers_stay_apart(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    bob = await make_owner("bob@bolt.example")
    theirs = await subscribe(api, bob)
    await bill(sale.subscription_id)
    await bill(theirs.subscription_id)

    listed = {
        person.email: [row["number"] for row in (await sent(api, person, "GET", INVOICES))["data"]]
        for person in (sale.customer, bob)
    }

    assert listed == {
        "ada@acme.example": ["INV-2026-000001"],
        "bob@bolt.example": ["INV-2026-000002"],
    }


async def test_billing_operations_are_limited_by_the_minute(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    body = {"subscription_id": str(uuid4())}

    answers = [
        await api.post(INVOICES, json=body, headers=sale.customer.headers) for _ in range(90)
    ]

    assert {answer.status_code for answer in answers[:50]} == {404}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert await code_of(refused[0]) == (429, "rate_limited")
    assert int(refused[0].headers["retry-after"]) >= 1


async def test_who_pays_changes_what_the_next_invoice_says_and_no_other(
    api: httpx2.AsyncClient, sale: Sale
) -> None:
    details = "/api/billing/details"
    may = await bill(sale.subscription_id)
    assert may is not None
    known = await sent(api, sale.customer, "GET", details)
    changed = {name: value for name, value in known.items() if name != "currency"} | {
        "legal_name": "Acme Holding B.V.",
        "address": {"street": "Plein 2", "postal_code": "1011 AA", "city": "Amsterdam"},
        "billing_email": "bills@acme.example",
    }

    after = await sent(api, sale.customer, "PUT", details, changed)
    stale = await api.put(details, json=changed, headers=sale.customer.headers)
    wrong = {**changed, "version": after["version"], "vat_number": "NL000000000B00"}
    refused = await api.put(details, json=wrong, headers=sale.customer.headers)
    june = await bill(sale.subscription_id, END + timedelta(days=30))

    assert june is not None
    assert (may.buyer["name"], may.buyer["email"]) == (known["legal_name"], known["billing_email"])
    assert (june.buyer["name"], june.buyer["email"]) == ("Acme Holding B.V.", "bills@acme.example")
    assert june.buyer["address"]["city"] == "Amsterdam"
    assert june.currency == after["currency"] == known["currency"]
    assert (stale.status_code, refused.status_code) == (409, 422)
    assert refused.json()["errors"][0]["field"] == "vat_number"
