# SPDX-License-Identifier: Apache-2.0
"""Plans and routes: what was published stays as it was; what can't be billed is refused."""

from copy import deepcopy
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from nimbus import catalog
from nimbus.base import db
from nimbus.errors import Refusal
from tests.support.market import PRODUCTS, STARTER, make_wind, new_product, sent
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

TIERED = {
    "meter": "api_calls",
    "model": "graduated",
    "tiers": [
        {"up_to": "1000", "unit_price": "0.01", "flat_fee": "5"},
        {"up_to": None, "unit_price": "0.005"},
    ],
}
CHARGES = [
    TIERED,
    {"meter": "assets", "model": "package", "package_size": "100", "package_price": "5"},
    {
        "meter": "reports",
        "model": "percentage",
        "rate": "1.2",
        "fixed_per_event": "0.10",
        "free_events": 3,
        "free_amount": "0",
        "minimum": "0",
        "maximum": "900.5",
        "included": "0.000000000001",
        "description": {"en": "Reports", "nl": "Rapporten"},
    },
]
TRAIL = """
    SELECT action, count(*) FROM audit_log
    WHERE entity_type IN ('product', 'route', 'plan', 'meter') GROUP BY action
"""
ADDED_PRICE = """
    INSERT INTO plan_prices SELECT gen_random_uuid(), organization_id, product_id, id, 'USD', 1,
        created_at FROM plan_versions
"""


def plan(**changes):
    return {**deepcopy(STARTER), "slug": "basic", "rank": 5, **changes}


def priced(*charges, currency="EUR", fee=0):
    return {
        "prices": [
            {"base_fee": {"amount_minor": fee, "currency": currency}, "charges": list(charges)}
        ]
    }


async def refused(api, person, method, path, body):
    answer = await api.request(method, path, json=body, headers=person.headers)
    fields = [(error["field"], error["code"]) for error in answer.json()["errors"]]
    return answer.status_code, *fields


async def plans_path(api, provider, made):
    listed = await sent(api, provider, "GET", f"{PRODUCTS}/{made['id']}/plans")
    return {row["slug"]: row for row in listed["data"]}, f"{PRODUCTS}/{made['id']}/plans"


async def test_each_charge_comes_back_as_it_was_said_and_prices_the_same(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)
    path = f"{PRODUCTS}/{made['id']}/plans"

    shown = await sent(api, provider, "POST", path, plan(**priced(*CHARGES, fee=1)))

    for said, charge in zip(CHARGES, shown["prices"][0]["charges"], strict=True):
        for name in said.keys() - {"tiers", "fixed_per_event"}:
            assert charge[name] == said[name]
        for tier, shown_tier in zip(said.get("tiers", []), charge["tiers"], strict=True):
            assert shown_tier == {"flat_fee": "0", "rate": "0", **tier}
    assert shown["prices"][0]["charges"][2]["fixed_per_event"] == "0.1"
    async with db.transaction() as session:
        facts = await catalog.published_plan(session, "wind", "basic")
        terms = await catalog.plan_terms(session, facts.plan_version_id, "EUR")
        texts = await catalog.charge_texts(session, facts.plan_version_id, "EUR")
    assert terms.charges[0].tiers[0].up_to == Decimal(1000)
    assert terms.charges[1].package_size == Decimal(100)
    assert (terms.charges[2].free_events, terms.charges[2].minimum) == (3, Decimal(0))
    assert texts == {"reports": {"en": "Reports", "nl": "Rapporten"}}


async def test_terms_that_can_not_be_billed_are_named_and_nothing_is_left(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)
    path = f"{PRODUCTS}/{made['id']}/plans"
    unit = {"meter": "api_calls", "unit_price": "1"}
    gap = {**TIERED, "tiers": [{"up_to": "10"}, {"up_to": "10"}, {"up_to": None}]}
    at = "prices.0.charges.0"

    for change, field, code in (
        (priced({**unit, "meter": "storage"}), f"{at}.meter", "unknown_meter"),
        (priced({**unit, "model": "magic"}), f"{at}.model", "unknown_model"),
        (priced({**unit, "unit_price": "-1"}), f"{at}.unit_price", "negative"),
        (priced({**unit, "unit_price": "1e3"}), f"{at}.unit_price", "invalid_decimal"),
        (priced({**unit, "unit_price": f"0.{'0' * 12}1"}), f"{at}.unit_price", "too_many_places"),
        (priced(gap), f"{at}.tiers.1.up_to", "not_rising"),
        (priced({**TIERED, "tiers": [{"up_to": "10"}]}), f"{at}.tiers.0.up_to", "last_tier_open"),
        (priced({**TIERED, "tiers": []}), f"{at}.tiers", "wrong_number"),
        (priced(unit, unit), "prices.0.charges.1.meter", "duplicate"),
        (priced(unit, currency="XXX"), "prices.0.base_fee.currency", "unknown_currency"),
        (priced(unit, fee=-1), "prices.0.base_fee.amount_minor", "out_of_range"),
        ({"prices": priced()["prices"] * 2}, "prices.1.base_fee.currency", "duplicate"),
        ({"prices": []}, "prices", "too_short"),
        ({"quotas": [{"meter": "x", "amount": 1}]}, "quotas.0.meter", "unknown_meter"),
        ({"quotas": [{"meter": "assets", "amount": 1}] * 2}, "quotas.1.period", "duplicate"),
        ({"quotas": [{"meter": "assets", "amount": -1}]}, "quotas.0.amount", "greater_than_equal"),
        ({"slug": "starter"}, "slug", "taken"),
        ({"rank": 10}, "rank", "taken"),
        (
            {"rate_limit": {"amount": 0, "period": "second"}},
            "rate_limit.amount",
            "greater_than_equal",
        ),
        ({"over_quota_policy": "maybe"}, "over_quota_policy", "literal_error"),
    ):
        assert await refused(api, provider, "POST", path, plan(**change)) == (422, (field, code))
    async with db.system_session("test") as session:
        assert await session.scalar(text("SELECT count(*) FROM plans")) == 2
        assert await session.scalar(text("SELECT count(*) FROM plan_versions")) == 2


async def test_other_terms_are_a_new_version_and_the_old_one_stays(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)
    plans, path = await plans_path(api, provider, made)
    starter = plans["starter"]
    async with db.transaction() as session:
        signed = await catalog.published_plan(session, "wind", "starter")
    said = {**STARTER, "version": starter["version"]}
    del said["slug"]

    same = await sent(api, provider, "PUT", f"{path}/{starter['id']}", {**said, "name": "Start"})
    said = {**said, "name": "Start", "version": same["version"], **priced(fee=5900)}
    dearer = await sent(api, provider, "PUT", f"{path}/{starter['id']}", said)

    assert (same["plan_version"], dearer["plan_version"]) == (1, 2)
    async with db.transaction(provider.organization_id) as session:
        now = await catalog.published_plan(session, "wind", "starter")
        assert now.plan_version_id != signed.plan_version_id
        old = await catalog.plan_terms(session, signed.plan_version_id, "EUR")
        new = await catalog.plan_terms(session, now.plan_version_id, "EUR")
    assert (old.base_fee_minor, new.base_fee_minor) == (4900, 5900)
    stale = await api.put(f"{path}/{starter['id']}", json=said, headers=provider.headers)
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_version")


async def test_a_published_version_never_changes_whoever_tries(api, upstream):
    provider = await make_owner()
    await make_wind(api, provider, upstream)

    for statement in (
        "UPDATE plan_versions SET trial_days = 9",
        "UPDATE plan_versions SET published_at = NULL",
        "DELETE FROM plan_versions",
        "UPDATE plan_prices SET base_fee_minor = 1",
        "DELETE FROM plan_charges",
        "UPDATE plan_quotas SET amount = NULL",
        "UPDATE plan_quotas SET plan_version_id = gen_random_uuid()",
        ADDED_PRICE,
    ):
        with pytest.raises(IntegrityError, match="never change"):
            async with db.system_session("test") as session:
                await session.execute(text(statement))


async def test_only_the_current_version_of_an_active_plan_is_shown_to_others(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)
    plans, path = await plans_path(api, provider, made)
    async with db.transaction() as session:
        signed = await catalog.published_plan(session, "wind", "starter")
    said = {**STARTER, "version": plans["starter"]["version"], "status": "archived"}
    del said["slug"]

    await sent(api, provider, "PUT", f"{path}/{plans['starter']['id']}", said)

    shown = (await api.get("/api/billing/plans?product=wind")).json()["data"]
    assert [row["slug"] for row in shown] == ["professional"]
    async with db.transaction() as session:
        with pytest.raises(Refusal, match="no such plan"):
            await catalog.published_plan(session, "wind", "starter")
        with pytest.raises(Refusal, match="not_found"):
            await catalog.plan_facts(session, signed.plan_version_id)


async def test_routes_are_refused_by_field_and_two_can_not_answer_the_same_calls(api):
    provider = await make_owner()
    made = await sent(api, provider, "POST", PRODUCTS, new_product("http://w.example"))
    path = f"{PRODUCTS}/{made['id']}/routes"
    first = {"method": "GET", "path": "/farms/{id}/x"}
    route = await sent(api, provider, "POST", path, first)
    invalid = (
        "farms",
        "",
        "/farms//x",
        "/farms/",
        "/a/../b",
        "/a/.",
        "/a/%2e",
        "/a b",
        "/{a",
        "/{}",
    )
    invalid += ("/x{id}", "/{a}/{a}", "/*/x", "/a/**", "/é", "/a?b", "//", "/{a}{b}", "/..")

    for bad in invalid:
        answer = await refused(api, provider, "POST", path, {"method": "GET", "path": bad})
        assert answer == (422, ("path", "invalid_path")), bad
    for change, field, code in (
        ({"upstream_path": "/{other}"}, "upstream_path", "unknown_parameter"),
        ({"upstream_path": "/a/.."}, "upstream_path", "invalid_path"),
        ({"minimum_plan": "starter"}, "minimum_plan", "unknown_plan"),
        ({"method": "TRACE"}, "method", "literal_error"),
        ({"scope": "*"}, "scope", "string_pattern_mismatch"),
        ({"weight": -1}, "weight", "greater_than_equal"),
        ({"path": "/farms/{farm}/x"}, "path", "taken"),
    ):
        body = {"method": "GET", "path": "/new/{id}", **change}
        assert await refused(api, provider, "POST", path, body) == (422, (field, code))

    for good in ("/", "/files/*", "/farms/{farm_id}/turbines/{t}", "/a.b/~c/d:e"):
        await sent(api, provider, "POST", path, {"method": "POST", "path": good})
    changed = {**first, "title": "X", "version": route["version"]}
    await sent(api, provider, "PUT", f"{path}/{route['id']}", changed)
    stale = await api.put(f"{path}/{route['id']}", json=changed, headers=provider.headers)
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_version")
    await sent(api, provider, "DELETE", f"{path}/{route['id']}")
    assert await refused(api, provider, "DELETE", f"{path}/{route['id']}", None) == (404,)


async def test_a_meter_has_one_key_in_its_product(api):
    provider = await make_owner()
    made = await sent(api, provider, "POST", PRODUCTS, new_product("http://w.example"))
    path = f"{PRODUCTS}/{made['id']}/meters"
    meter = {"key": "assets", "unit": "asset", "aggregation": "max"}
    await sent(api, provider, "POST", path, meter)

    assert await refused(api, provider, "POST", path, meter) == (422, ("key", "taken"))
    for change, field in (
        ({"key": "As"}, "key"),
        ({"unit": ""}, "unit"),
        ({"aggregation": "x"}, "aggregation"),
    ):
        answer = await refused(api, provider, "POST", path, {**meter, **change})
        assert (answer[0], answer[1][0]) == (422, field)
    assert [m["key"] for m in (await sent(api, provider, "GET", path))["data"]] == [
        "assets",
        "api_calls",
    ]


async def test_each_change_of_the_catalogue_is_in_the_trail_once(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream)
    await sent(api, provider, "POST", f"{PRODUCTS}/{made['id']}/publish")

    async with db.transaction(provider.organization_id) as session:
        rows = await session.execute(text(TRAIL))
        published = "SELECT count(*) FROM outbox WHERE name = 'product.published'"
        outbox = await session.scalar(text(published))
        made_row = "SELECT entity_id FROM audit_log WHERE action = 'ProductCreated'"
        one = await session.scalar(text(made_row))
    assert dict(rows.all()) == {
        "MeterCreated": 2,
        "PlanCreated": 2,
        "ProductCreated": 1,
        "ProductPublished": 1,
        "RouteCreated": 3,
    }
    assert outbox == 1
    assert one == UUID(made["id"])
