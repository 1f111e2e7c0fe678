# SPDX-License-Identifier: Apache-2.0
"""Products over HTTP: made, changed, published; nothing of a provider's leaks."""

import asyncio
import json
import socket

import pytest
from sqlalchemy import Text, cast, func, select, text
from sqlalchemy import table as sql_table

from nimbus.base import db
from nimbus.base.ids import new_id
from nimbus.base.secrets import unseal
from tests.support.bills import set_seller
from tests.support.market import PRODUCTS, STARTER, make_wind, new_product, sent, subscribe
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

CANARY = "Bearer canary-7f3a-upstream-credential"


async def problem(api, person, method, path, body=None):
    answer = await api.request(method, path, json=body, headers=person.headers)
    fields = [(error["field"], error["code"]) for error in answer.json()["errors"]]
    return answer.status_code, answer.json()["code"], fields


async def count(table):
    async with db.system_session("test") as session:
        return await session.scalar(select(func.count()).select_from(sql_table(table)))


async def test_a_product_comes_into_being_and_is_found_by_everyone(api, upstream):
    provider = await make_owner()

    made = await make_wind(api, provider, upstream)

    assert (made["status"], made["slug"], made["version"]) == ("published", "wind", 2)
    listed = (await api.get("/api/marketplace/products")).json()["data"]
    assert [product["slug"] for product in listed] == ["wind"]
    shown = (await api.get("/api/marketplace/products/wind")).json()
    assert [plan["slug"] for plan in shown["plans"]] == ["starter", "professional"]
    assert [meter["key"] for meter in shown["meters"]] == ["api_calls", "assets", "reports"]
    assert {route["path"]: route["minimum_plan"] for route in shown["routes"]} == {
        "/farms": None,
        "/farms/{id}": None,
        "/reports": "professional",
    }
    starter = (await api.get("/api/billing/plans?product=wind")).json()["data"][0]
    assert starter["prices"][0]["base_fee"] == {"amount_minor": 4900, "currency": "EUR"}
    assert [charge["unit_price"] for charge in starter["prices"][0]["charges"]] == [
        "0.002",
        "1.5",
        "2.5",
    ]


async def test_publishing_names_everything_that_is_missing(api):
    provider = await make_owner()
    made = await sent(api, provider, "POST", PRODUCTS, {"slug": "wind", "name": "Wind"})

    missing = await problem(api, provider, "POST", f"{PRODUCTS}/{made['id']}/publish")

    assert missing == (
        422,
        "validation_failed",
        [("plans", "missing"), ("routes", "missing"), ("upstreams.Live", "missing")],
    )


async def test_publishing_needs_an_upstream_that_may_be_reached_and_is(api, upstream):
    provider = await make_owner()
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    made = await make_wind(api, provider, nobody, published=False)
    path = f"{PRODUCTS}/{made['id']}"

    for base_url, code in (
        (nobody, "no_answer"),
        ("http://10.0.0.1", "not_allowed"),
        ("http://[::ffff:10.0.0.1]", "not_allowed"),
        ("http://nobody.invalid", "unresolved"),
    ):
        body = {
            "name": "W",
            "version": made["version"],
            "upstreams": {"Live": {"base_url": base_url}},
        }
        made = await sent(api, provider, "PUT", path, body)
        assert await problem(api, provider, "POST", f"{path}/publish") == (
            422,
            "validation_failed",
            [("upstreams.Live", code)],
        )


async def test_a_published_product_keeps_a_live_upstream(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)
    body = {"name": "Wind", "version": made["version"], "upstreams": {}}

    refused = await problem(api, provider, "PUT", f"{PRODUCTS}/{made['id']}", body)

    assert refused[2] == [("upstreams.Live", "missing")]
    assert await count("upstreams") == 1


async def test_an_unpublished_product_is_found_by_nobody_but_its_provider(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)

    await sent(api, provider, "POST", f"{PRODUCTS}/{made['id']}/unpublish")

    assert (await api.get("/api/marketplace/products")).json()["data"] == []
    assert (await api.get("/api/marketplace/products/wind")).status_code == 404
    assert (await api.get("/api/billing/plans?product=wind")).status_code == 404
    assert (await sent(api, provider, "GET", PRODUCTS))["data"][0]["status"] == "draft"


async def test_base_addresses_that_are_none_are_refused_and_nothing_is_left(api):
    provider = await make_owner()

    for base_url in (
        "ftp://wind.example",
        "wind.example",
        "http://",
        "http://user:pass@wind.example",
        "http://user@wind.example",
        "http://wind.example?x=1",
        "http://wind.example/#x",
        "http://wind.example/a/../b",
        "http://wind.example/%2e%2e",
        "http://wind.example:99999",
        "http://wind.example:0",
        "http://wind .example",
        "http://wind.example\\@evil.example",
        "http://wind.example\n",
        "http://[::1",
        "http://[zz]",
        "javascript:alert(1)",
    ):
        refused = await problem(api, provider, "POST", PRODUCTS, new_product(base_url))
        assert refused == (400, "invalid_url", [("upstreams.Live.base_url", "invalid_url")])
    assert await count("products") == 0
    assert await count("meters") == 0


async def test_each_bad_field_is_named(api):
    provider = await make_owner()

    for change, field, code in (
        ({"slug": "Wind"}, "slug", "string_pattern_mismatch"),
        ({"slug": "wind\n"}, "slug", "string_pattern_mismatch"),
        ({"name": " "}, "name", "string_too_short"),
        ({"name": "W\x00"}, "name", "value_error"),
        ({"organization_id": str(new_id())}, "organization_id", "extra_forbidden"),
        ({"status": "published"}, "status", "extra_forbidden"),
        ({"upstreams": {"Moon": {}}}, "upstreams.Moon.[key]", "literal_error"),
    ):
        body = new_product("http://w.example", **change)
        status, _, fields = await problem(api, provider, "POST", PRODUCTS, body)
        assert status == 422
        assert (field, code) in fields
    assert await count("products") == 0


async def test_a_text_that_no_text_can_hold_is_refused(api):
    provider = await make_owner()
    headers = {**provider.headers, "Content-Type": "application/json"}

    answer = await api.post(PRODUCTS, content=b'{"slug":"w","name":"\\ud800"}', headers=headers)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "name"


async def test_an_upstream_credential_must_be_sendable(api):
    provider = await make_owner()

    for header, secret, field, code in (
        ("Host", "x", "auth_header", "not_allowed"),
        ("X-Nimbus-Organization", "x", "auth_header", "not_allowed"),
        ("X Y", "x", "auth_header", "not_allowed"),
        ("Authorization", None, "auth_secret", "missing"),
        ("Authorization", "a\r\nX-Evil: 1", "auth_secret", "invalid"),
        (None, "x", "auth_header", "missing"),
    ):
        live = {"base_url": "http://w.example", "auth_header": header, "auth_secret": secret}
        body = new_product("", upstreams={"Live": live})
        refused = await problem(api, provider, "POST", PRODUCTS, body)
        assert refused == (422, "validation_failed", [(f"upstreams.Live.{field}", code)])


async def test_an_upstream_credential_is_sealed_kept_and_never_seen_again(api, settings, upstream):
    provider = await make_owner()
    live = {"base_url": upstream, "auth_header": "Authorization", "auth_secret": CANARY}

    made = await make_wind(api, provider, "", upstreams={"Live": live})
    del live["auth_secret"]
    path = f"{PRODUCTS}/{made['id']}"
    body = {"name": "Wind", "version": made["version"], "upstreams": {"Live": live}}
    changed = await sent(api, provider, "PUT", path, body)

    shown = json.dumps([made, changed, await sent(api, provider, "GET", PRODUCTS)])
    assert "canary" not in shown
    async with db.system_session("test") as session:
        sealed = await session.scalar(text("SELECT auth_secret_sealed FROM upstreams"))
        for table in ("audit_log", "outbox", "idempotency_keys"):
            whole = select(cast(sql_table(table).table_valued(), Text))
            assert "canary" not in "".join(await session.scalars(whole))
    assert b"canary" not in sealed
    assert unseal(settings, sealed).decode() == CANARY


async def test_consumers_and_visitors_never_see_where_a_product_is_served_from(api, upstream):
    provider = await make_owner()
    await make_wind(api, provider, upstream)
    consumer = await make_owner("bob@tapas.example")

    answers = [
        await api.get(path, headers=headers)
        for headers in (None, consumer.headers)
        for path in (
            "/api/marketplace/products",
            "/api/marketplace/products/wind",
            "/api/billing/plans?product=wind",
        )
    ]

    assert all(answer.status_code == 200 for answer in answers)
    for answer in answers:
        assert upstream not in answer.text
        assert "upstream" not in answer.text
    async with db.transaction(consumer.organization_id, consumer.actor.user_id) as session:
        assert await session.scalar(text("SELECT count(*) FROM products")) == 1
        assert await session.scalar(text("SELECT count(*) FROM upstreams")) == 0


async def test_another_provider_s_product_is_as_unknown_as_a_random_id(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)
    stranger = await make_owner("bob@tapas.example")
    body = {"name": "Mine", "version": made["version"]}

    async def answers(product_id):
        path = f"{PRODUCTS}/{product_id}"
        calls = [
            ("GET", "", None),
            ("PUT", "", body),
            ("DELETE", "", None),
            ("POST", "/publish", None),
            ("POST", "/unpublish", None),
            ("GET", "/routes", None),
            ("POST", "/routes", {"method": "GET", "path": "/x"}),
            ("GET", "/plans", None),
            ("POST", "/plans", STARTER),
            ("GET", "/meters", None),
            ("POST", "/meters", {"key": "x", "unit": "x", "aggregation": "sum"}),
        ]
        found = []
        for method, rest, sent_body in calls:
            answer = await api.request(
                method, path + rest, json=sent_body, headers=stranger.headers
            )
            seen = answer.json()
            seen.pop("request_id")
            found.append((answer.status_code, json.dumps(seen).replace(str(product_id), "ID")))
        return found

    theirs, random = await answers(made["id"]), await answers(new_id())

    assert theirs == random
    assert {status for status, _ in theirs} == {404}


async def test_a_slug_is_one_product_s_whoever_asks_first(api):
    people = [await make_owner(f"p{number}@acme.example") for number in range(4)]

    answers = await asyncio.gather(
        *(
            api.post(PRODUCTS, json=new_product("http://w.example"), headers=person.headers)
            for person in people
        )
    )

    assert sorted(answer.status_code for answer in answers) == [201, 422, 422, 422]
    refused = next(answer for answer in answers if answer.status_code == 422).json()
    assert [(e["field"], e["code"]) for e in refused["errors"]] == [("slug", "taken")]
    assert await count("products") == 1


async def test_a_stale_change_is_refused_and_changes_nothing(api):
    provider = await make_owner()
    made = await sent(api, provider, "POST", PRODUCTS, new_product("http://w.example"))
    path = f"{PRODUCTS}/{made['id']}"
    body = {"name": "Second", "version": made["version"]}
    await sent(api, provider, "PUT", path, body)

    refused = await problem(api, provider, "PUT", path, {**body, "name": "Third"})

    assert refused == (409, "stale_version", [])
    assert (await sent(api, provider, "GET", path))["name"] == "Second"


async def test_a_product_goes_with_all_that_belongs_to_it(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)

    await sent(api, provider, "DELETE", f"{PRODUCTS}/{made['id']}")

    for table in ("products", "upstreams", "meters", "routes", "plans", "plan_versions"):
        assert await count(table) == 0
    for table in ("plan_prices", "plan_charges", "plan_quotas"):
        assert await count(table) == 0


async def test_only_who_manages_products_may(api):
    provider = await make_owner()
    async with db.system_session("test") as session:
        await session.execute(text("UPDATE memberships SET role = 'developer'"))

    assert (await problem(api, provider, "GET", PRODUCTS))[:2] == (403, "forbidden")
    assert (await problem(api, provider, "POST", PRODUCTS, {}))[:2] == (403, "forbidden")
    assert (await api.get(PRODUCTS)).status_code == 401


async def test_the_same_request_again_makes_no_second_product(api):
    provider = await make_owner()
    headers = {**provider.headers, "Idempotency-Key": "once"}
    body = new_product("http://w.example")

    first = await api.post(PRODUCTS, json=body, headers=headers)
    again = await api.post(PRODUCTS, json=body, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert await count("products") == 1


async def test_the_market_is_searched_by_text_and_category(api, upstream):
    provider = await make_owner()
    await make_wind(api, provider, upstream, category="energy", short_description="50% wind_")
    await make_wind(api, provider, upstream, slug="sun", name="Sun API", category="solar")

    async def found(query):
        answer = await api.get(f"/api/marketplace/products?{query}")
        return [product["slug"] for product in answer.json()["data"]]

    assert await found("q=SUN") == ["sun"]
    assert await found("q=50%25") == ["wind"]
    assert await found("q=%25") == ["wind"]
    assert await found("category=energy") == ["wind"]
    assert await found("") == ["sun", "wind"]
    assert (await api.get("/api/marketplace/products?q=%00")).status_code == 422


async def test_where_no_product_is_named_the_operator_s_own_is_meant(api, upstream):
    provider = await make_owner()
    await make_wind(api, provider, upstream, slug="other", name="Other")
    assert (await api.get("/api/billing/plans")).status_code == 404
    operator = await make_owner("admin@nimbus.example", platform_role="admin")
    await set_seller(api, operator)
    assert (await api.get("/api/billing/plans")).status_code == 404

    await make_wind(api, operator, upstream)

    plans = (await api.get("/api/billing/plans")).json()["data"]
    assert [(plan["product"], plan["slug"]) for plan in plans] == [
        ("wind", "starter"),
        ("wind", "professional"),
    ]
    consumer = await make_owner("bob@tapas.example")
    none_yet = await api.get("/api/billing/subscription", headers=consumer.headers)
    assert (none_yet.status_code, none_yet.json()["code"]) == (404, "not_found")
    await subscribe(consumer)
    shown = await sent(api, consumer, "GET", "/api/billing/subscription")
    assert (shown["product"]["slug"], shown["plan"]["slug"]) == ("wind", "starter")
