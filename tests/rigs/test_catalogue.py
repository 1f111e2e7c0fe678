# SPDX-License-Identifier: Apache-2.0
"""What a provider says of hosts and addresses holds at every gateway once it has confirmed it.

As in test_changes: from the moment that a gateway's confirmed number is not below the change's, no
call that is sent afterwards is judged by what was before. Each connection is the kernel's choice of
a gateway.
"""

import asyncio
from uuid import UUID

import pytest

from nimbus.base import db
from nimbus.catalog.schemas import ChangedProduct
from nimbus.catalog.service.hosts import add_host, remove_host
from nimbus.catalog.service.products import change_product
from tests.support.rig import Market, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("store")]

GATEWAYS, CALLS = 3, 36
HOST = "api.rig.example"
PATH = f"/calls/{CALLS}"
SERVED, UNKNOWN, NOT_ALLOWED = {200}, {421}, {403}


async def statuses(rig: Rig, key: str, host: str, path: str) -> set[int]:
    """What many connections, each with one call, are answered."""

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.settings.port)
        try:
            head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\n\r\n"
            writer.write(head.encode())
            async with asyncio.timeout(30):
                return int((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        finally:
            writer.close()

    return set(await asyncio.gather(*(ask() for _ in range(CALLS))))


async def heard(rig: Rig) -> None:
    """Every gateway has confirmed what is committed now."""
    number = rig.feed_number()

    def all_confirmed() -> bool:
        told = rig.confirmed()
        return len(told) == GATEWAYS and min(told.values()) >= number

    await rig.until(all_confirmed, "every gateway has confirmed the change")


async def test_hosts_and_address_lists_hold_at_every_gateway(rig: Rig, market: Market) -> None:
    customer = await rig.customer()
    actor = market.provider.actor
    [[product_id]] = rig.execute("SELECT id FROM products")
    [[version]] = rig.execute("SELECT version FROM products")
    [[base_url]] = rig.execute("SELECT base_url FROM upstreams")
    await rig.start_gateways(GATEWAYS)

    async def at_host() -> set[int]:
        await heard(rig)
        return await statuses(rig, customer.key, HOST, PATH)

    async def deny(*networks: str) -> None:
        nonlocal version
        fields = {
            "name": "Rig",
            "version": version,
            "ip_deny": networks,
            "upstreams": {"Live": {"base_url": base_url}},
        }
        async with db.transaction(actor.organization_id, actor.user_id) as session:
            changed = ChangedProduct.model_validate(fields)
            version = (await change_product(session, actor, product_id, changed)).version

    assert await at_host() == UNKNOWN
    async with db.transaction(actor.organization_id, actor.user_id) as session:
        host_id: UUID = (await add_host(session, actor, product_id, HOST)).id
    assert await at_host() == SERVED
    assert await statuses(rig, customer.key, HOST, f"/api/v1/rig{PATH}") == {404}
    await deny("127.0.0.0/8")
    assert await at_host() == NOT_ALLOWED
    assert await statuses(rig, customer.key, "127.0.0.1", f"/api/v1/rig{PATH}") == NOT_ALLOWED
    await deny()
    assert await at_host() == SERVED
    async with db.transaction(actor.organization_id, actor.user_id) as session:
        await remove_host(session, actor, product_id, host_id)
    assert await at_host() == UNKNOWN
