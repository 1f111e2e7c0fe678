# SPDX-License-Identifier: Apache-2.0
"""Two strangers in one installation, each with something of everything; made once a module."""

import secrets as randomness
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest
from psycopg import sql

from nimbus.app import create_app
from nimbus.base import clock, db
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from tests.support.bills import END, Sale, bill, copy_of, sold, subscribe, use
from tests.support.market import ADD_ON, listening, make_wind, new_product, sent
from tests.support.metered import rows
from tests.support.operations import Operation
from tests.support.people import Person, make_owner

__all__ = ["estate", "sold"]

AFTER = datetime(2026, 7, 1, tzinfo=UTC)
INVITED = "guest@acme.example"


NAMED = {"position": "1", "key": "assets"}
"""What paths name that is no id: a line of an invoice, a meter."""


@dataclass(frozen=True)
class Estate:
    """The operator's admin and its customer on one side, a neighbour on the other.

    `theirs` are ids of objects that are not the neighbour's, by the name of the parameter that
    takes them; `own` are the neighbour's. `machine` is a key of the neighbour's organization that
    reads what is billed.
    """

    settings: Settings
    api: httpx2.AsyncClient
    admin: Person
    customer: Person
    neighbour: Person
    machine: Person
    theirs: dict[str, str]
    own: dict[str, str]

    def execute(self, statement: str, **values: Any) -> list[Any]:
        """Run a statement as the superuser, behind every rule."""
        with psycopg.connect(str(self.settings.database_owner_url)) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def become(self, person: Person, role: str) -> None:
        """Give the person another role in their organization."""
        self.execute(
            "UPDATE memberships SET role = %(role)s"
            " WHERE user_id = %(user)s AND organization_id = %(organization)s",
            role=role,
            user=person.actor.user_id,
            organization=person.organization_id,
        )

    def forget_throttles(self) -> None:
        """As if a long time had passed since the last request."""
        self.execute("DELETE FROM throttles")

    def rows_of_others(self) -> dict[str, str]:
        """A digest of every row that is not the neighbour's, a table each."""
        tables = self.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND NOT a.attisdropped"
            " AND a.attname = 'organization_id' AND c.relnamespace = 'public'::regnamespace"
        )
        digest = "SELECT '{0}', md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {0} t"
        others = " WHERE t.organization_id IS DISTINCT FROM %(own)s"
        each = [digest.format(name) + others for (name,) in tables]
        return dict(self.execute(" UNION ALL ".join(each), own=self.neighbour.organization_id))

    async def ask(
        self, person: Person | None, operation: Operation, ids: dict[str, str], body: Any
    ) -> httpx2.Response:
        """Call an operation with ids where it takes them."""
        path = operation.path.format_map({**NAMED, **ids})
        headers = {"X-Nimbus-CSRF": "1", **(person.headers if person else {})}
        query = {name: ids[name] for name in operation.query_ids}
        content = body
        if operation.has_body:
            content = {**body, **{name: ids[name] for name in operation.body_ids if name in ids}}
        return await self.api.request(
            operation.method, path, params=query, json=content, headers=headers
        )


@pytest.fixture(scope="module")
async def estate(server: Any, sold: tuple[str, Sale]) -> AsyncIterator[Estate]:
    """The database of a sale, with a neighbour beside it, and a second one of all that is listed.

    The operator's customer is on its Wind API and on the neighbour's Solar API; two periods are
    billed and paid; someone is invited. It is July 2026.
    """
    template, sale = sold
    name = f"estate_{randomness.token_hex(4)}"
    server.execute(copy_of(template, name))
    settings = replace(server.settings(name), private_networks=(ip_network("127.0.0.0/8"),))
    await db.open_database(settings)
    transport = httpx2.ASGITransport(app=create_app(settings), raise_app_exceptions=False)
    try:
        async with (
            listening() as upstream,
            httpx2.AsyncClient(transport=transport, base_url="http://nimbus.test") as api,
        ):
            yield await _furnish(settings, api, sale, upstream)
    finally:
        clock.set_instant(None)
        await db.close_database()
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def _credit(
    api: httpx2.AsyncClient, sale: Sale, invoice_id: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A credit note on an invoice of the customer's, and a top-up that it asked for."""
    part = {"lines": [{"position": 1, "amount_minor": 100}], "disposition": "refund"}
    path = f"/api/billing/invoices/{invoice_id}/credit-notes"
    note = await sent(api, sale.admin, "POST", path, {**part, "reason": "one day less"})
    asked = {"amount": {"amount_minor": 100, "currency": "EUR"}}
    return note, await sent(api, sale.customer, "POST", "/api/billing/wallet/top-up", asked)


async def _furnish(
    settings: Settings, api: httpx2.AsyncClient, sale: Sale, upstream: str
) -> Estate:
    clock.set_instant(sale_start := END.replace(month=5))
    neighbour = await make_owner("noor@solar.example")
    solar = await make_wind(api, neighbour, upstream, slug="solar", name="Solar API")
    await sent(api, sale.admin, "POST", "/api/provider/products", new_product(upstream, slug="sea"))
    await subscribe(api, sale.customer, product="solar")
    invitation = {"email": INVITED, "role": "viewer"}
    await sent(api, sale.customer, "POST", "/api/organizations/users/invite", invitation)
    await use(sale.contract, calls=300, at=sale_start.replace(day=3))
    billed = await _bills(api, sale)
    logged = await _log(api, sale)
    clock.set_instant(AFTER)
    reading = {"name": "machine", "environment": "Live", "scopes": ["billing.read"]}
    key = await sent(api, neighbour, "POST", "/api/developer/api-keys", reading)
    contract = sale.contract
    hosts = f"/api/provider/products/{contract.product_id}/hosts"
    for name in ("api.wind.example", "wind.example"):
        host = await sent(api, sale.admin, "POST", hosts, {"name": name})
    starter = "SELECT id FROM plans WHERE product_id = :id AND slug = 'starter'"
    [plan] = await rows(starter, id=contract.product_id)
    [own_plan] = await rows(starter, id=UUID(solar["id"]))
    nuisance = {"network": "192.0.2.0/24", "minutes": 60, "reason": "It scans."}
    block = await sent(api, sale.admin, "POST", "/api/admin/blocks", nuisance)
    theirs: dict[str, UUID | str] = {
        **billed,
        **logged,
        "subscription_id": contract.subscription_id,
        "key_id": contract.key_id,
        "user_id": sale.customer.actor.user_id,
        "organization_id": sale.customer.organization_id,
        "operator_organization_id": sale.customer.organization_id,
        "product_id": contract.product_id,
        "plan_id": plan["id"],
        **await _contracts(api, sale, plan["id"]),
        "route_id": contract.route_id,
        "host_id": host["id"],
        "block_id": block["id"],
    }
    return Estate(
        settings=settings,
        api=api,
        admin=sale.admin,
        customer=sale.customer,
        neighbour=neighbour,
        machine=replace(neighbour, token=key["secret"]),
        theirs={parameter: str(value) for parameter, value in theirs.items()},
        own={
            "product_id": solar["id"],
            "plan_id": str(own_plan["id"]),
            # It has none: what it would be asked below is refused with the parent.
            "subscription_id": str(new_id()),
        },
    )


async def _bills(api: httpx2.AsyncClient, sale: Sale) -> dict[str, UUID | str]:
    """Two invoices that are paid, one in part credited; credit, and a top-up that is awaited."""
    invoices = [await bill(sale.subscription_id, end) for end in (END, AFTER)]
    for invoice in invoices:
        assert invoice is not None
        paid = f"/api/admin/billing/invoices/{invoice.id}/mark-paid"
        await sent(api, sale.admin, "POST", paid, {})
    for amount in (5000, 2500):
        credit = {"amount": {"amount_minor": amount, "currency": "EUR"}, "reason": "paid ahead"}
        paid = f"/api/admin/organizations/{sale.customer.organization_id}/balance-credits"
        await sent(api, sale.admin, "POST", paid, credit)
    note, top_up = await _credit(api, sale, str(invoices[0].id) if invoices[0] else "")
    return {
        "invoice_id": invoices[0].id if invoices[0] else "",
        "credit_note_id": note["id"],
        "top_up_id": top_up["id"],
    }


async def _log(api: httpx2.AsyncClient, sale: Sale) -> dict[str, UUID | str]:
    """A call in the log, and files of calls that were asked for."""
    files = {"format": "csv", "from": "2026-05-01T00:00:00Z", "to": "2026-06-01T00:00:00Z"}
    for _ in range(2):
        file = await sent(api, sale.customer, "POST", "/api/developer/usage/export", files)
    calls = "SELECT event_id FROM usage_events WHERE organization_id = :id LIMIT 1"
    [call] = await rows(calls, id=sale.customer.organization_id)
    return {"event_id": call["event_id"], "export_id": file["id"]}


async def _contracts(api: httpx2.AsyncClient, sale: Sale, plan_id: UUID) -> dict[str, UUID | str]:
    """Add-ons, a second subscriber, moves of a plan's subscribers, and a previewed change."""
    product = f"/api/provider/products/{sale.contract.product_id}"
    for slug in ("support", "training"):
        add_on = await sent(api, sale.admin, "POST", f"{product}/add-ons", {**ADD_ON, "slug": slug})
    await subscribe(api, await make_owner("mila@zee.example"), product="wind")
    for reason in ("dearer", "dearer still"):
        move = {"to_plan": "starter", "reason": reason}
        await sent(api, sale.admin, "POST", f"{product}/plans/{plan_id}/moves", move)
    subscription = f"/api/billing/subscriptions/{sale.subscription_id}"
    known = (await sent(api, sale.customer, "GET", subscription))["version"]
    up = {"change": "upgrade", "plan": "professional", "version": known}
    preview = await sent(api, sale.customer, "POST", f"{subscription}/preview", up)
    return {"add_on_id": add_on["id"], "preview_id": preview["id"]}
