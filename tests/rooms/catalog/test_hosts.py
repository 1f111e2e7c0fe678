# SPDX-License-Identifier: Apache-2.0
"""Host names of products over HTTP: one product a name, public names only, ours never."""

import asyncio
from dataclasses import replace

import httpx2
import pytest
from sqlalchemy import text

from nimbus.base import db
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from tests.support.market import PRODUCTS, make_wind, new_product, sent
from tests.support.people import Person, make_owner

pytestmark = pytest.mark.anyio

ADMIN = "/api/admin/product-hosts"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The test's settings, of an installation with a name of its own."""
    return replace(settings, public_url="https://Straße.nimbus.example:8443")


async def begin(api: httpx2.AsyncClient, provider: Person, slug: str = "wind") -> str:
    """A draft product, and where its host names are."""
    body = new_product("http://w.example", slug=slug)
    made = await sent(api, provider, "POST", PRODUCTS, body)
    return f"{PRODUCTS}/{made['id']}/hosts"


async def added(api: httpx2.AsyncClient, person: Person, hosts: str, name: str) -> tuple[int, str]:
    """The status and the name, or the code of the name's refusal."""
    answer = await api.post(hosts, json={"name": name}, headers=person.headers)
    body = answer.json()
    if answer.is_success:
        return answer.status_code, body["name"]
    [error] = body["errors"]
    assert error["field"] == "name"
    return answer.status_code, error["code"]


async def names(api: httpx2.AsyncClient, person: Person, hosts: str) -> list[str]:
    return [host["name"] for host in (await sent(api, person, "GET", hosts))["data"]]


async def test_a_name_is_kept_in_the_form_that_callers_send(api):
    provider = await make_owner()
    hosts = await begin(api, provider)

    for given, kept in (
        ("API.Wind.Example", "api.wind.example"),
        ("wind.example.", "wind.example"),
        (" w.example ", "w.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("XN--STRAE-OQA.example2", "xn--strae-oqa.example2"),
        ("wind.xn--p1ai", "wind.xn--p1ai"),
        ("ｗｉｎｄ.example3", "wind.example3"),
    ):
        assert await added(api, provider, hosts, given) == (201, kept)
    assert len(await names(api, provider, hosts)) == 7


NO_PUBLIC_NAMES = (
    *("127.0.0.1", "127.1", "0x7f.0.0.1", "10.0.0.256", "[::1]", "::1", "2130706433"),
    *("localhost", "wind.localhost", "printer.local", "db.internal", "x.invalid", "1.arpa"),
    *("wind", "wind.example:8000", "http://wind.example", "wind.example/x", "*.wind.example"),
    *("-wind.example", "wind-.example", "wind..example", ".", "a_b.example", "w.3com", "w .x"),
    *("wind.example\r\nx", "wind\x00.example", "ⅵ．1", "a" * 64 + ".example", "xn--a.example"),
    ".".join(["abcdefghi"] * 26) + ".example",
)


async def test_what_is_no_public_name_is_refused(api):
    provider = await make_owner()
    hosts = await begin(api, provider)

    for name in NO_PUBLIC_NAMES:
        assert await added(api, provider, hosts, name) == (422, "invalid_host"), name


async def test_the_installation_s_own_name_is_nobody_s_and_those_below_it_are_the_operator_s(api):
    provider = await make_owner()
    operator = await make_owner("admin@nimbus.example", platform_role="admin")
    theirs, ours = await begin(api, provider), await begin(api, operator, "ours")

    for person, hosts in ((provider, theirs), (operator, ours)):
        for own in ("straße.nimbus.example", "XN--STRAE-OQA.nimbus.example."):
            assert await added(api, person, hosts, own) == (422, "reserved")
    below = "login.straße.nimbus.example"
    assert await added(api, provider, theirs, below) == (422, "reserved")
    assert (await added(api, operator, ours, below))[0] == 201
    # Beside it is not below it.
    assert (await added(api, provider, theirs, "xstraße.nimbus.example"))[0] == 201


async def test_a_name_is_the_first_one_s_until_it_is_removed(api):
    first, second = await make_owner("a@a.example"), await make_owner("b@b.example")
    of_first, of_second = await begin(api, first), await begin(api, second, "sun")
    host = await sent(api, first, "POST", of_first, {"name": "api.example.com"})

    assert await added(api, second, of_second, "API.example.com") == (422, "taken")
    assert await added(api, first, of_first, "api.example.com") == (422, "taken")
    gone = await api.delete(f"{of_second}/{host['id']}", headers=second.headers)
    assert gone.status_code == 404
    await sent(api, first, "DELETE", f"{of_first}/{host['id']}")
    again = await api.delete(f"{of_first}/{host['id']}", headers=first.headers)
    assert again.status_code == 404

    assert await added(api, second, of_second, "api.example.com") == (201, "api.example.com")
    assert await names(api, first, of_first) == []


async def test_of_many_who_ask_at_once_one_gets_the_name(api):
    people = [await make_owner(f"p{number}@acme.example") for number in range(4)]
    places = [await begin(api, person, f"p{number}") for number, person in enumerate(people)]

    answers = await asyncio.gather(
        *(
            added(api, person, hosts, "api.example.com")
            for person, hosts in zip(people, places, strict=True)
        )
    )

    assert sorted(answers) == [(201, "api.example.com")] + [(422, "taken")] * 3


async def test_a_name_goes_with_its_product(api):
    provider = await make_owner()
    hosts = await begin(api, provider)
    await sent(api, provider, "POST", hosts, {"name": "api.example.com"})

    await sent(api, provider, "DELETE", hosts.removesuffix("/hosts"))

    other = await begin(api, provider, "sun")
    assert (await added(api, provider, other, "api.example.com"))[0] == 201


async def test_a_product_has_so_many_names_and_no_more(api):
    provider = await make_owner()
    hosts = await begin(api, provider)
    for number in range(20):
        await sent(api, provider, "POST", hosts, {"name": f"n{number}.example"})

    assert await added(api, provider, hosts, "n20.example") == (422, "too_many")


async def test_everyone_may_read_the_names_of_what_is_on_the_market_and_of_nothing_else(
    api, upstream
):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)
    hosts = f"{PRODUCTS}/{made['id']}/hosts"
    await sent(api, provider, "POST", hosts, {"name": "api.wind.example"})
    stranger = await make_owner("bob@tapas.example")

    assert (await api.get("/api/marketplace/products/wind")).json()["hosts"] == ["api.wind.example"]
    assert (await api.get(hosts, headers=stranger.headers)).status_code == 404
    await sent(api, provider, "POST", f"{PRODUCTS}/{made['id']}/unpublish")
    async with db.transaction(stranger.organization_id, stranger.actor.user_id) as session:
        assert await session.scalar(text("SELECT count(*) FROM product_hosts")) == 0


async def test_the_operator_takes_a_name_away_that_is_somebody_else_s(api):
    provider = await make_owner()
    hosts = await begin(api, provider)
    host = await sent(api, provider, "POST", hosts, {"name": "api.bank.example"})
    operator = await make_owner("admin@nimbus.example", platform_role="admin")
    support = await make_owner("help@nimbus.example", platform_role="support")

    [seen] = (await sent(api, support, "GET", ADMIN))["data"]
    assert (seen["name"], seen["product"]) == ("api.bank.example", "wind")
    assert seen["organization_id"] == str(provider.organization_id)
    for person, status in ((provider, 403), (support, 403), (operator, 204)):
        answer = await api.delete(f"{ADMIN}/{host['id']}", headers=person.headers)
        assert answer.status_code == status
    unknown = await api.delete(f"{ADMIN}/{new_id()}", headers=operator.headers)
    assert unknown.status_code == 404

    assert await names(api, provider, hosts) == []
    async with db.system_session("test") as session:
        told = await session.execute(
            text("SELECT action FROM audit_log WHERE entity_id = :id ORDER BY sequence"),
            {"id": host["id"]},
        )
        assert [action for (action,) in told] == ["ProductHostAdded", "ProductHostRemoved"]
