# SPDX-License-Identifier: Apache-2.0
"""The portal in a real Chromium, in front of the whole running system with its demo data."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from nimbus.demo import story, wind
from nimbus.demo.http import Api
from nimbus.demo.system import System, throw_away, wind_api
from tests.operations.processes import wait_for
from tests.support.browser import Watched, accessibility_faults, chromium, watched_page

CUSTOMER = "owner@tapas.example"
PASSWORD = "the wind asks nobody first"
PHONE = {"viewport": {"width": 390, "height": 844}, "locale": "nl-NL", "has_touch": True}
expect.set_options(timeout=20_000)  # a small machine runs other tests beside these
STANDS_STILL = "document.getAnimations().every((one) => one.playState !== 'running')"
LINK = re.compile(r"/verify-email\?token=\S+")


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """A running system that sells the Wind API and has billed Tapas for a month."""
    with throw_away("2026-05-01T00:00:00Z", 1) as running, wind_api() as upstream:
        asyncio.run(prepare(running, upstream))
        yield running


@pytest.fixture(scope="module")
def browser(system: System) -> Iterator[Browser]:
    # After the system: playwright's loop keeps asyncio.run() out of this thread.
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def called(system: System) -> int:
    """How many calls Tapas made in June, two PDF reports among them; they are stored."""
    login = {"email": CUSTOMER, "password": PASSWORD}
    farm = {"name": "Noordzee", "country": "NL", "latitude": 52.6, "longitude": 4.4}
    with httpx2.Client(base_url=system.url, timeout=30) as client:
        token = client.post("/api/user/auth/login", json=login).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        body = {"name": "Journey", "environment": "Live", "scopes": wind.SCOPES}
        made = client.post("/api/developer/api-keys", json=body)
        secret = made.json()["secret"]
        with httpx2.Client(base_url=f"{system.url}/api/v1/wind", timeout=30) as caller:
            caller.headers["X-API-Key"] = secret
            wait_for(lambda: caller.get("/alerts").status_code == 200, "the key at the gateway")
            farm_id = caller.post("/farms", json=farm).json()["id"]
            for number in (1, 2):
                report = {"farm_id": farm_id, "title": f"Report {number}"}
                assert caller.post("/reports", json=report).status_code < 300
            for path in (f"/farms/{farm_id}", "/turbines", "/farms", "/farms/none"):
                caller.get(path)

        def stored() -> int:
            calls = client.get("/api/developer/usage/logs").json()["data"]
            return len(calls) if len(calls) >= 8 else 0

        return int(wait_for(stored, "the calls in the log"))


@pytest.fixture
def watched(browser: Browser, system: System) -> Iterator[Watched]:
    with watched_page(browser, system.url, locale="en-GB") as page:
        yield page


def test_a_visitor_registers_and_ends_on_an_active_start_page(
    watched: Watched, system: System
) -> None:
    page = watched.page
    register(page, system, "sanne@windpark.example")
    fill_organization(page, vat_number="NL000099998B57")
    page.get_by_role("radio", name="Starter").check()
    looks_good(page)
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("checkbox").check()
    looks_good(page)
    page.get_by_role("button", name="Accept and activate").click()
    secret = page.get_by_label("API key (Live)")
    expect(secret).to_have_value(re.compile(r"^nimbus_live_[0-9A-Za-z]{49}$"))
    looks_good(page)
    page.get_by_role("button", name="Go to the start page").click()
    main = page.get_by_role("main")
    expect(main.get_by_text("Organization")).to_be_visible()
    expect(main.get_by_role("region", name="Plan")).to_contain_text("Starter")
    expect(main.get_by_text("Active", exact=True).first).to_be_visible()
    expect(main.get_by_role("region", name="Active keys")).to_contain_text("1")
    looks_good(page)
    assert watched.faults == []


def test_a_refused_number_is_said_at_its_field_and_nothing_is_made(
    watched: Watched, system: System
) -> None:
    page = watched.page
    register(page, system, "joris@windpark.example")
    fill_organization(page, vat_number="NL123456789B01")
    field = page.get_by_label("VAT number")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description(re.compile("does not exist"))
    page.reload()
    expect(page.get_by_label("VAT number")).to_have_value("")
    assert [fault for fault in watched.faults if "422" not in fault] == []


def test_a_wrong_password_is_said_aloud_without_telling_whether_there_is_an_account(
    watched: Watched,
) -> None:
    page = watched.page
    texts = []
    for email in (CUSTOMER, "nobody@nowhere.example"):
        sign_in(page, email, "not the password at all")
        texts.append(page.get_by_role("alert").first.inner_text())
    assert "do not match" in texts[0]
    assert re.sub(r"Reference: \S+", "", texts[0]) == re.sub(r"Reference: \S+", "", texts[1])


def test_a_new_key_shows_its_secret_once_and_is_revoked_after_a_question(watched: Watched) -> None:
    page = watched.page
    sign_in(page, CUSTOMER, PASSWORD)
    page.get_by_role("link", name="API keys").click()
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("Laptop of Sanne")
    looks_good(page)
    page.get_by_role("button", name="Create key").click()
    secret = page.get_by_label("API key", exact=True).input_value()
    assert re.fullmatch(r"nimbus_test_[0-9A-Za-z]{49}", secret)
    page.get_by_role("button", name="I have saved it").click()
    row = page.get_by_role("row", name="Laptop of Sanne")
    expect(row).to_contain_text(secret[-8:])
    page.reload()
    expect(row).to_contain_text("Active")
    assert secret not in page.content()
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("dialog")).to_contain_text("cannot be undone")
    looks_good(page)
    page.get_by_role("button", name="Revoke the key").click()
    expect(row).to_contain_text("Revoked")
    assert watched.faults == []


def test_an_invoice_comes_down_as_a_pdf(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    sign_in(page, CUSTOMER, PASSWORD)
    page.get_by_role("link", name="Invoices", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("^Download INV-")).first.click()
    looks_good(page)
    assert re.fullmatch(r"INV-\d{4}-\d{6}\.pdf", download.value.suggested_filename)
    download.value.save_as(tmp_path / "invoice.pdf")
    assert (tmp_path / "invoice.pdf").read_bytes().startswith(b"%PDF-")
    assert watched.faults == []


def test_what_was_called_is_shown_with_its_costs_and_a_call_says_what_it_cost(
    watched: Watched, called: int
) -> None:
    page = watched.page
    sign_in(page, CUSTOMER, PASSWORD)
    page.get_by_role("link", name="Usage", exact=True).click()
    main = page.get_by_role("main")
    expect(main.get_by_role("region", name="Calls", exact=True)).to_contain_text(str(called))
    expect(main.get_by_role("table", name="By endpoint", exact=True)).to_contain_text(
        "/farms/{farm_id}"
    )
    expect(main.get_by_role("table", name="By key")).to_contain_text("Journey")
    costs = main.get_by_role("region", name="Costs so far: Wind API")
    expect(costs).to_contain_text("€5.00")
    expect(costs.get_by_role("row", name="POST /reports")).to_contain_text("€5.00")
    chart = main.get_by_role("slider", name="Calls per day")
    chart.press("End")
    chart.press("ArrowLeft")
    chart.press("ArrowRight")
    expect(chart).to_have_attribute("aria-valuetext", re.compile(f"^1 Jun 2026: {called} calls"))
    looks_good(page)
    page.get_by_text("Test", exact=True).click()
    expect(page.get_by_text("No calls in this range")).to_be_visible()
    looks_good(page)
    page.get_by_role("link", name="Request log").click()
    page.get_by_label("Status").fill("2xx")
    page.get_by_label("Status").press("Enter")
    expect(page).to_have_url(re.compile(r"/logs\?status=2xx$"))
    page.get_by_label("Method").select_option("POST")
    page.reload()
    expect(page.get_by_label("Status")).to_have_value("2xx")
    expect(page.get_by_role("button", name=re.compile("^Details"))).to_have_count(3)
    looks_good(page)
    page.get_by_role("button", name="Details of POST /reports").first.press("Enter")
    detail = page.get_by_role("dialog")
    expect(detail.get_by_role("region", name="What it cost")).to_contain_text(
        "1 PDF reports at €2.50"
    )
    looks_good(page)
    page.keyboard.press("Escape")
    expect(detail).to_have_count(0)
    assert watched.faults == []


def test_a_file_of_calls_is_made_while_one_watches(
    watched: Watched, called: int, tmp_path: Path
) -> None:
    page = watched.page
    sign_in(page, CUSTOMER, PASSWORD)
    page.goto("/logs")
    expect(page.get_by_role("button", name=re.compile("^Details"))).to_have_count(called)
    page.get_by_role("button", name="Export").click()
    page.get_by_label("Format").select_option("jsonl")
    page.get_by_role("button", name="Make the file").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("^Download ")).first.click()
    looks_good(page)
    download.value.save_as(tmp_path / "calls.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert len(rows) == called
    assert sum(Decimal(row["amount"]) for row in rows) == 5
    assert watched.faults == []


def test_a_provider_sees_who_calls_its_products(
    watched: Watched, system: System, called: int
) -> None:
    page = watched.page
    sign_in(page, system.admin_email, system.admin_password)
    page.get_by_role("link", name="Product analytics").click()
    main = page.get_by_role("main")
    expect(main.get_by_role("region", name="Callers")).to_contain_text("1")
    row = main.get_by_role("table", name="Who calls most").get_by_role("row", name="Tapas B.V.")
    expect(row).to_contain_text(str(called))
    expect(main.get_by_role("table", name="By product")).to_contain_text("Wind API")
    looks_good(page)
    assert watched.faults == []


def test_a_change_of_the_subscription_is_shown_with_its_price_before_it_is_made(
    watched: Watched,
) -> None:
    page = watched.page
    sign_in(page, CUSTOMER, PASSWORD)
    page.get_by_role("link", name="Subscriptions").click()
    card = page.get_by_role("region", name="Wind API Starter")
    expect(card).to_contain_text("€49.00 per month")
    looks_good(page)
    card.get_by_role("button", name="Move up to Professional").click()
    said = page.get_by_role("dialog").get_by_role("status")
    expect(said).to_contain_text("Nothing is charged now.")
    expect(said).to_contain_text("Professional, 1–30 June 2026€199.00")
    expect(said).to_contain_text("Total")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()

    card.get_by_role("button", name="Cancel the subscription").click()
    page.get_by_label("Why do you leave?").fill("Too little wind")
    expect(said).to_contain_text("Access ends on 1 Jul 2026.")
    page.get_by_role("button", name="Confirm").click()
    expect(card).to_contain_text("Ends on 1 Jul 2026.")
    card.get_by_role("button", name="Undo the cancellation").click()
    page.get_by_role("button", name="Confirm").click()
    expect(card).to_contain_text("Current period")
    assert watched.faults == []


def test_a_provider_makes_a_meter_and_what_is_wrong_with_it_is_said_at_its_field(
    watched: Watched, system: System
) -> None:
    page = watched.page
    sign_in(page, system.admin_email, system.admin_password)
    page.get_by_role("link", name="Meters", exact=True).click()
    page.get_by_role("button", name="New meter").click()
    page.get_by_label("Unit").fill("GB")
    page.get_by_label("What it does").select_option("Amount times time")
    expect(page.get_by_role("dialog")).to_contain_text("5 GB-months")
    page.get_by_role("button", name="Add a condition").click()
    page.get_by_label("Property").fill("tier")
    page.get_by_label("Values").fill("warm, cold")
    looks_good(page)
    page.get_by_label("Key").fill("assets")
    page.get_by_label("Key").press("Enter")
    expect(page.get_by_label("Key")).to_be_focused()
    expect(page.get_by_label("Key")).to_have_accessible_description(re.compile("has a meter"))
    page.get_by_label("Key").fill("storage_gb")
    page.get_by_label("Key").press("Enter")
    row = page.get_by_role("row", name="GB of storage")
    expect(row).to_contain_text("tier is warm or cold")
    row.get_by_role("button", name="Change").click()
    page.get_by_role("button", name="Remove the condition tier").click()
    page.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Everything")
    assert [fault for fault in watched.faults if "422" not in fault] == []


def test_a_move_of_subscribers_says_whom_and_at_what_fee_before_it_is_made(
    watched: Watched, system: System
) -> None:
    page = watched.page
    sign_in(page, system.admin_email, system.admin_password)
    page.get_by_role("link", name="Plans", exact=True).click()
    card = page.get_by_role("region", name="Starter")
    expect(card.get_by_role("row", name="API calls")).to_contain_text("€0.002 each")
    card.get_by_role("button", name="Move the subscribers of Starter").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Nobody has to move")
    page.get_by_label("To", exact=True).select_option("Professional, version 1")
    said = dialog.get_by_role("row", name="Version 1")
    expect(said).to_have_text(re.compile(r"Version 1\d€49\.00€199\.00"))
    looks_good(page)
    page.get_by_label("What you tell them").fill("Starter is no longer sold")
    page.get_by_role("button", name="Move them").click()
    expect(card.get_by_role("note")).to_contain_text(re.compile(r"([1-9]) of \1 are told\."))
    assert watched.faults == []


def test_a_provider_gives_a_subscriber_more_and_agrees_prices_with_it(
    watched: Watched, system: System
) -> None:
    page = watched.page
    sign_in(page, system.admin_email, system.admin_password)
    page.get_by_role("link", name="Consumers").click()
    page.get_by_role("link", name="Tapas B.V.").click()
    quotas = page.get_by_role("region", name="Quotas")
    expect(quotas).to_contain_text("of 10 left")
    quotas.get_by_role("button", name="Give more: assets").click()
    page.get_by_label("How many more").fill("5")
    page.get_by_label("Reason").fill("A try-out")
    page.get_by_label("Reason").press("Enter")
    expect(quotas).to_contain_text("of 15 left")
    quotas.get_by_role("button", name="Count anew: API calls").click()
    page.get_by_label("Reason").fill("A wrong loop")
    page.get_by_label("Reason").press("Enter")
    expect(quotas).to_contain_text("10,000 of 10,000 left")
    page.get_by_role("button", name="Agree own prices").click()
    page.get_by_label("Fixed fee in EUR").fill("45")
    page.get_by_label("Price of one more in EUR").first.fill("0.0015")
    looks_good(page)
    page.get_by_role("button", name="Agree", exact=True).click()
    expect(page.get_by_role("row", name="API calls")).to_contain_text("€0.0015 each")
    expect(page.get_by_role("main")).to_contain_text("€45.00")
    assert watched.faults == []


def test_an_invoice_that_will_not_be_paid_is_written_off_with_a_reason(
    watched: Watched, system: System
) -> None:
    page = watched.page
    sign_in(page, system.admin_email, system.admin_password)
    page.get_by_role("link", name="Invoices sent").click()
    row = page.get_by_role("row", name="Tapas B.V.")
    row.get_by_role("button", name="Write off").click()
    page.get_by_role("dialog").get_by_role("button", name="Write off").click()
    expect(page.get_by_label("Reason")).to_have_attribute("aria-invalid", "true")
    looks_good(page)
    page.get_by_label("Reason").fill("Bankrupt")
    page.get_by_label("Reason").press("Enter")
    expect(row).to_contain_text("Written off")
    expect(row.get_by_role("button")).to_have_count(0)
    assert watched.faults == []


def test_what_a_provider_sees_fits_a_phone_in_the_dark(browser: Browser, system: System) -> None:
    with watched_page(browser, system.url, **PHONE, color_scheme="dark") as watched:
        page = watched.page
        page.goto("/sign-in")
        page.get_by_label("E-mailadres").fill(system.admin_email)
        page.get_by_role("textbox", name="Wachtwoord").fill(system.admin_password)
        page.get_by_role("button", name="Inloggen").click()
        for name in ("Meters", "Tarieven", "Verzonden facturen", "Afnemers"):
            page.get_by_role("button", name="Menu").click()
            page.get_by_role("link", name=name, exact=True).click()
            looks_good(page)
        page.get_by_role("link", name="Tapas B.V.").click()
        expect(page.get_by_role("region", name="Prijzen")).to_be_visible()
        looks_good(page)
        assert watched.faults == []


def test_a_session_outlives_a_reload_in_two_tabs_and_its_token_lies_in_no_storage(
    watched: Watched,
) -> None:
    first = watched.page
    sign_in(first, CUSTOMER, PASSWORD)
    second = watched.context.new_page()
    second.goto("/keys")
    expect(second.get_by_role("heading", name="API keys")).to_be_visible()
    # Both exchange the same refresh cookie now; one after the other, or the family is ended.
    for page in (first, second):
        page.evaluate("void setTimeout(() => location.reload())")
    for page in (first, second):
        expect(page.get_by_role("button", name="Account")).to_be_visible()
    stored = first.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "eyJ" not in stored
    assert first.evaluate("document.cookie") == ""
    first.get_by_role("button", name="Account").click()
    first.get_by_role("menuitem", name="Sign out").click()
    for page in (first, second):
        expect(page.get_by_role("heading", name="Welcome back")).to_be_visible()
    assert watched.faults == []


def test_on_a_phone_in_dutch_nothing_is_wider_than_the_screen(
    browser: Browser, system: System
) -> None:
    with watched_page(browser, system.url, **PHONE) as watched:
        page = watched.page
        for path in ("/register", "/forgot-password", "/sign-in"):
            page.goto(path)
            looks_good(page)
        page.get_by_label("E-mailadres").fill(CUSTOMER)
        page.get_by_role("textbox", name="Wachtwoord").fill(PASSWORD)
        page.get_by_role("button", name="Inloggen").click()
        expect(page.get_by_role("region", name="Aanroepen deze maand")).to_be_visible()
        for name in ("Start", "Verbruik", "Logboek", "API-sleutels", "Facturen", "Abonnementen"):
            page.get_by_role("button", name="Menu").click()
            page.get_by_role("link", name=name, exact=True).click()
            looks_good(page)
        assert watched.faults == []


def test_an_unknown_link_of_a_mail_says_what_to_do(watched: Watched) -> None:
    watched.page.goto("/verify-email?token=0123456789")
    expect(watched.page.get_by_role("heading", name="This link does not work")).to_be_visible()
    looks_good(watched.page)


def register(page: Page, system: System, email: str) -> None:
    """Register `email` and open the link of the mail."""
    page.goto("/register")
    page.get_by_label("First name").fill("Sanne")
    page.get_by_label("Last name").fill("de Vries")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Company").fill("Windpark Noord")
    page.get_by_role("textbox", name="Password").fill(PASSWORD)
    looks_good(page)
    page.get_by_role("button", name="Create an account").click()
    expect(page.get_by_role("heading", name="Check your mail")).to_be_visible()
    looks_good(page)
    page.goto(mailed_link(system, email))


def fill_organization(page: Page, *, vat_number: str) -> None:
    expect(page.get_by_label("Legal name")).to_have_value("Windpark Noord")
    page.get_by_label("VAT number").fill(vat_number)
    page.get_by_label("Street and number").fill("Dijk 7")
    page.get_by_label("Postal code").fill("9981 AA")
    page.get_by_label("City").fill("Uithuizen")
    looks_good(page)
    page.get_by_role("button", name="Continue").click()


def sign_in(page: Page, email: str, password: str) -> None:
    page.goto("/sign-in")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_role("textbox", name="Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(
        page.get_by_role("button", name="Account").or_(page.get_by_text("match"))
    ).to_be_visible()


def looks_good(page: Page) -> None:
    """Nothing loads any more, nothing sticks out, and axe has nothing to say."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_role("status", name=re.compile("^(Loading|Bezig)"))).to_have_count(0)
    wait_for(lambda: page.evaluate(STANDS_STILL), "an end of all motion")
    width, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= room
    assert accessibility_faults(page) == []


def mailed_link(system: System, email: str) -> str:
    """The path of the verification link in the newest mail to `email`."""
    login = {"email": system.admin_email, "password": system.admin_password}
    with httpx2.Client(base_url=system.url) as admin:
        token = admin.post("/api/user/auth/login", json=login).json()["access_token"]
        admin.headers["Authorization"] = f"Bearer {token}"

        def look() -> str | None:
            mails = admin.get("/api/admin/mailbox").json()["data"]
            texts = [mail["text"] for mail in mails if mail["recipient"] == email]
            links = [found.group() for text in texts if (found := LINK.search(text))]
            return links[0] if links else None

        return str(wait_for(look, f"a mail to {email}"))


async def prepare(system: System, upstream: str) -> None:
    """The operator sells the Wind API; Tapas takes Starter in May and is billed in June."""
    async with AsyncExitStack() as stack:
        admin, customer = Api(system.url), Api(system.url)
        stack.push_async_callback(admin.close)
        stack.push_async_callback(customer.close)

        login = {"email": system.admin_email, "password": system.admin_password}
        admin.token = (await admin.post("/api/user/auth/login", login))["access_token"]
        seller = await organization(admin, "Nimbus Wind B.V.", vat_number="NL123456782B90")
        await admin.put("/api/admin/settings", story.seller(seller))
        await accept_terms(admin)
        await story.publish(admin, wind.product(upstream), wind.METERS, wind.PLANS, wind.ROUTES)

        await customer.post("/api/public/register", {"email": CUSTOMER, "password": PASSWORD})
        token = mailed_link(system, CUSTOMER).partition("token=")[2]
        verified = await customer.post("/api/public/verify-email", {"token": token})
        customer.token = verified["access_token"]
        await organization(customer, "Tapas B.V.")
        choice = {"product": wind.SLUG, "plan": "starter", "payment": "invoice"}
        await customer.post("/api/billing/subscription", choice)
        await accept_terms(customer)
        await admin.post("/api/admin/clock", {"advance_to": "2026-06-01T00:00:00Z"})


async def organization(api: Api, name: str, **details: str) -> str:
    address = {"street": "Kade 1", "postal_code": "3011 AA", "city": "Rotterdam"}
    body = {"name": name, "country": "NL", "address": address, **details}
    made = await api.post("/api/public/create-organization", body)
    api.token = made["access_token"]
    return str(made["organization"]["id"])


async def accept_terms(api: Api) -> None:
    terms = await api.get("/api/public/terms")
    await api.post("/api/public/accept-terms", {"version": terms["version"]})
