# SPDX-License-Identifier: Apache-2.0
"""The main job, told step by step through the public API and the gateway (spec 11 §5).

An operator sets the installation up and sells the Wind API; another organization publishes a
product of its own; a customer registers, chooses Starter, calls, and gets the reference invoice:
22,500 calls, 25 assets and 8 reports in May 2026 come to 140.97 euro.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from nimbus.base import clock
from nimbus.demo import wind
from nimbus.demo.http import Api, Call, Caller, DemoError, Tally

CALLS = 22_500
TURBINES = 25
REPORTS = 8
CONNECTIONS = 16
STARTS_AT = "2026-05-01T00:00:00Z"
ENDS_AT = "2026-06-01T00:00:00Z"
PASSWORD_LETTERS = "Wind blows where it wants"  # noqa: S105 - a throw-away system's people
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
LINK = re.compile(r"token=([0-9A-Za-z._-]+)")
REFERENCE_LINES = [49_00, 25_00, 22_50, 20_00]
REFERENCE_TOTAL = 140_97

CALLING = "Calls until the counter shows"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story plays: the installation, its admin, where the example server answers."""

    url: str
    admin_email: str
    admin_password: str
    wind_url: str
    out: Path
    calls: int = CALLS


@dataclass(frozen=True, slots=True)
class Ending:
    """What the story ended with."""

    invoice: dict[str, Any]
    pdf: Path
    answered: int
    request_ids: tuple[str, ...]


async def tell(stage: Stage, say: Say) -> Ending:
    """Tell the story; raises `DemoError` where the system does not do what it promises."""
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(_api(stage.url))
        await _operator(admin, stage, say)
        await _second_provider(stage, admin, say, stack)
        customer, secret = await _customer(stage, admin, say, stack)
        caller = Caller(stage.url, wind.SLUG, secret)
        await _assets_and_reports(caller, say)
        await _calls(customer, caller, stage.calls, say)
        invoice = await _close_the_month(admin, customer, say)
        pdf = await _documents(customer, admin, invoice, stage, say)
        invoice = await _paid(admin, customer, invoice, say)
        tally = caller.tally
        return Ending(invoice, pdf, tally.answered, tuple(tally.request_ids))


@asynccontextmanager
async def _api(url: str) -> AsyncIterator[Api]:
    api = Api(url)
    try:
        yield api
    finally:
        await api.close()


async def _operator(admin: Api, stage: Stage, say: Say) -> None:
    say("The operator signs in and says who sells: name, address, VAT number, terms")
    login = {"email": stage.admin_email, "password": stage.admin_password}
    admin.token = (await admin.post("/api/user/auth/login", login))["access_token"]
    made = await admin.post(
        "/api/public/create-organization",
        {
            "name": "Nimbus Wind B.V.",
            "country": "NL",
            "vat_number": "NL123456782B90",
            "company_number": "12345678",
            "address": {"street": "Kade 1", "postal_code": "3011 AA", "city": "Rotterdam"},
            "time_zone": "UTC",
        },
    )
    admin.token = made["access_token"]
    await admin.put("/api/admin/settings", seller(made["organization"]["id"]))
    terms = await admin.get("/api/public/terms")
    await admin.post("/api/public/accept-terms", {"version": terms["version"]})
    say("The operator publishes the Wind API: product, meters, routes, plans")
    await publish(admin, wind.product(stage.wind_url), wind.METERS, wind.PLANS, wind.ROUTES)


def seller(organization_id: str) -> dict[str, Any]:
    """The operator's legal data of the demo installations."""
    return {
        "operator_organization_id": organization_id,
        "name": "Nimbus Wind B.V.",
        "address": {"street": "Kade 1", "postal_code": "3011 AA", "city": "Rotterdam"},
        "country": "NL",
        "vat_number": "NL123456782B90",
        "company_number": "12345678",
        "email": "billing@nimbus.example",
        "iban": "NL91ABNA0417164300",
        "terms_version": "2026-01",
        "terms_body": "Use the APIs fairly, keep your keys to yourself, pay within the term.",
    }


async def publish(
    api: Api,
    product: dict[str, Any],
    meters: tuple[dict[str, Any], ...],
    plans: tuple[dict[str, Any], ...],
    routes: tuple[dict[str, Any], ...],
) -> str:
    """Describe a product and publish it; answers its id."""
    product_id = str((await api.post("/api/provider/products", product))["id"])
    below = f"/api/provider/products/{product_id}"
    for family, bodies in (("meters", meters), ("plans", plans), ("routes", routes)):
        for body in bodies:
            await api.post(f"{below}/{family}", body)
    await api.post(f"{below}/publish", {})
    return product_id


async def _second_provider(stage: Stage, admin: Api, say: Say, stack: AsyncExitStack) -> None:
    say("A second organization registers and publishes a product of its own, Turbine Alerts")
    api = await stack.enter_async_context(_api(stage.url))
    await _register(api, admin, "petra@alerts.example", "Turbine Alerts B.V.", say)
    terms = await api.get("/api/public/terms")
    await api.post("/api/public/accept-terms", {"version": terms["version"]})
    product = {
        "slug": "turbine-alerts",
        "name": "Turbine Alerts",
        "category": "Energy",
        "short_description": "Warnings before a turbine stops.",
        "upstreams": {"Live": {"base_url": stage.wind_url}},
    }
    plan = {
        "slug": "basic",
        "name": "Basic",
        "rank": 1,
        "payment_on_invoice": True,
        "over_quota_policy": "deny",
        "prices": [{"base_fee": {"amount_minor": 9_00, "currency": "EUR"}}],
        "quotas": [{"meter": "api_calls", "amount": 1_000}],
    }
    routes = ({"method": "GET", "path": "/alerts", "title": "List alerts"},)
    await publish(api, product, (), (plan,), routes)


async def _customer(stage: Stage, admin: Api, say: Say, stack: AsyncExitStack) -> tuple[Api, str]:
    say("A customer registers, verifies the address, makes an organization")
    api = await stack.enter_async_context(_api(stage.url))
    await _register(api, admin, "ada@windpark.example", "Windpark Noord B.V.", say)
    say("The customer chooses Starter, on invoice; it waits for the terms")
    choice = {"product": wind.SLUG, "plan": "starter", "payment": "invoice"}
    await api.post("/api/billing/subscription", choice, 202)
    terms = await api.get("/api/public/terms")
    accepted = await api.post("/api/public/accept-terms", {"version": terms["version"]})
    secret = str(accepted["api_key"]["secret"])
    say(f"Terms accepted: the subscription runs, the first key is …{secret[-8:]}")
    return api, secret


async def _register(api: Api, admin: Api, email: str, organization: str, say: Say) -> None:
    password = f"{PASSWORD_LETTERS} {email[:4]}"
    body = {
        "email": email,
        "password": password,
        "first_name": email.split("@", maxsplit=1)[0].title(),
    }
    await api.post("/api/public/register", body)
    token = await _mailed_token(admin, email)
    signed_in = await api.post("/api/public/verify-email", {"token": token})
    api.token = signed_in["access_token"]
    made = await api.post(
        "/api/public/create-organization",
        {
            "name": organization,
            "country": "NL",
            "address": {"street": "Dijk 7", "postal_code": "9981 AA", "city": "Uithuizen"},
            "time_zone": "UTC",
        },
    )
    api.token = made["access_token"]
    say(f"{organization} is there: {email} is its owner")


async def _mailed_token(admin: Api, email: str) -> str:
    async def look() -> str | None:
        for mail in (await admin.get("/api/admin/mailbox?limit=50"))["data"]:
            found = LINK.search(mail["text"])
            if mail["recipient"] == email and found:
                return found.group(1)
        return None

    return str(await _eventually(look, f"a mail to {email}"))


async def _eventually(look: Callable[[], Any], what: str) -> Any:
    deadline = clock.monotonic() + PATIENCE_SECONDS
    while clock.monotonic() < deadline:
        found = await look()
        if found:
            return found
        await asyncio.sleep(POLL_SECONDS)
    raise DemoError(f"{what} did not come in {PATIENCE_SECONDS:.0f} s")


async def _assets_and_reports(caller: Caller, say: Say) -> None:
    farm = {"name": "Noordzee", "country": "NL", "latitude": 52.6, "longitude": 4.4}
    made = await caller.one(Call("POST", "/farms", farm))
    say(f"Through the gateway: one farm, {TURBINES} turbines, {REPORTS} PDF reports")
    for number in range(1, TURBINES + 1):
        turbine = {"farm_id": made["id"], "name": f"N{number:02}", "rated_power_kw": 8000}
        await caller.one(Call("POST", "/turbines", turbine))
    for month in range(1, REPORTS + 1):
        report = {"farm_id": made["id"], "title": f"Report {month}"}
        await caller.one(Call("POST", "/reports", report))


async def _calls(customer: Api, caller: Caller, calls: int, say: Say) -> None:
    say(f"{CALLING} {calls:,}, at the plan's 600 a second")
    started = clock.monotonic()
    shown = 0

    def progress(tally: Tally) -> None:
        nonlocal shown
        if tally.answered >= shown + 5_000:
            shown = tally.answered
            say(f"  {tally.answered:,} answered after {clock.monotonic() - started:.0f} s")

    counted = await _counted(customer, caller.tally.answered)
    while counted < calls:
        await caller.run(_reads(calls - counted), CONNECTIONS, progress)
        counted = await _counted(customer, caller.tally.answered)
    tally = caller.tally
    say(
        f"  {counted:,} counted; {tally.answered:,} answered, {tally.unanswered} broken off,"
        f" asked to slow down {tally.slowed_down} times, {clock.monotonic() - started:.1f} s"
    )


def _reads(count: int) -> Iterator[Call]:
    paths = itertools.cycle(("/turbines?limit=1", "/alerts", "/farms", "/turbines?limit=2"))
    return (Call("GET", path) for path in itertools.islice(paths, count))


async def _counted(customer: Api, at_least: int) -> int:
    """The number that the portal shows, once everything answered is in it and it stands still."""
    before = -1

    async def still() -> int | None:
        nonlocal before
        used = await used_calls(customer)
        settled = used >= at_least and used == before
        before = used
        return used if settled else None

    return int(await _eventually(still, f"the counter at {at_least:,}"))


async def used_calls(customer: Api) -> int:
    """The calls of the running period as `GET /api/billing/quota` shows them."""
    for row in (await customer.get("/api/billing/quota"))["data"]:
        if row["meter"] == "api_calls":
            return int(Decimal(row["used"]))
    return 0


async def _close_the_month(admin: Api, customer: Api, say: Say) -> dict[str, Any]:
    say(f"The clock goes to {ENDS_AT}: the period ends, the bill run runs")
    await admin.post("/api/admin/clock", {"advance_to": ENDS_AT})
    invoices = (await customer.get("/api/billing/invoices"))["data"]
    if len(invoices) != 1:
        raise DemoError(f"{len(invoices)} invoices where one was expected")
    invoice: dict[str, Any] = await customer.get(f"/api/billing/invoices/{invoices[0]['id']}")
    return invoice


async def _documents(
    customer: Api, admin: Api, invoice: dict[str, Any], stage: Stage, say: Say
) -> Path:
    _print_invoice(invoice, say)
    amounts = [line["amount"]["amount_minor"] for line in invoice["lines"]]
    total = invoice["total"]["amount_minor"]
    told = (amounts, total)
    if stage.calls == CALLS and told != (REFERENCE_LINES, REFERENCE_TOTAL):
        raise DemoError(f"not the reference invoice: {amounts}, {total}")
    content = await customer.get(f"/api/billing/invoices/{invoice['id']}/pdf")
    stage.out.mkdir(parents=True, exist_ok=True)
    pdf = stage.out / f"{invoice['number']}.pdf"
    pdf.write_bytes(content)
    say(f"The PDF is {pdf}")

    async def mailed() -> bool:
        mails = (await admin.get("/api/admin/mailbox?limit=50"))["data"]
        return any(invoice["number"] in mail["subject"] for mail in mails)

    await _eventually(mailed, "the invoice's mail")
    say("The invoice was mailed")
    return pdf


def _print_invoice(invoice: dict[str, Any], say: Say) -> None:
    def euro(money: dict[str, Any]) -> str:
        return f"{Decimal(money['amount_minor']) / 100:>10.2f}"

    say(f"Invoice {invoice['number']}")
    for line in invoice["lines"]:
        say(f"  {line['description'][:46]:<46} {euro(line['amount'])}")
    say(f"  {'Subtotal':<46} {euro(invoice['subtotal'])}")
    say(f"  {'VAT':<46} {euro(invoice['tax'])}")
    say(f"  {'Total':<46} {euro(invoice['total'])}")


async def _paid(admin: Api, customer: Api, invoice: dict[str, Any], say: Say) -> dict[str, Any]:
    await admin.post(f"/api/admin/billing/invoices/{invoice['id']}/mark-paid", {})
    paid: dict[str, Any] = await customer.get(f"/api/billing/invoices/{invoice['id']}")
    if paid["status"] != "Paid":
        raise DemoError(f"the invoice is {paid['status']}, not Paid")
    say("Marked as paid by hand: the invoice is Paid")
    return paid
