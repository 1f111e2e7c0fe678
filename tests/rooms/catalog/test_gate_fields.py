# SPDX-License-Identifier: Apache-2.0
"""What a provider says to the gate over HTTP: address lists, parameters, statuses, switches."""

import json

import pytest
from sqlalchemy import text

from nimbus.base import db
from tests.support.market import PRODUCTS, make_wind, new_product, sent
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

CITY = {"name": "city", "place": "query", "type": "string", "required": True}
OF_PRODUCT = {
    "ip_allow": ["192.0.2.0/24", "2001:db8::/32"],
    "ip_deny": ["192.0.2.7/32"],
    "parameter_check": True,
    "billable_statuses": ["2xx", "404", "300-303"],
    "websockets": True,
}
OF_ROUTE = {
    "ip_allow": ["198.51.100.0/24"],
    "ip_deny": ["2001:db8::7/128"],
    "parameters": [
        {**CITY, "description": "Where", "example": "Delft"},
        {
            "name": "id",
            "place": "path",
            "type": "integer",
            "required": True,
            "description": "",
            "example": None,
        },
    ],
    "strict_journal": True,
    "holds": {"reports": 3, "assets": 1000},
}


async def refused(api, person, method, path, body):
    answer = await api.request(method, path, json=body, headers=person.headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
    return [error["field"] for error in answer.json()["errors"]]


async def test_what_is_said_of_a_product_is_kept_and_shown(api):
    provider = await make_owner()
    plain = await sent(api, provider, "POST", PRODUCTS, new_product("http://w.example"))
    path = f"{PRODUCTS}/{plain['id']}"

    assert {name: plain[name] for name in OF_PRODUCT} == {
        "ip_allow": [],
        "ip_deny": [],
        "parameter_check": False,
        "billable_statuses": None,
        "websockets": False,
    }
    assert plain["upstreams"]["Live"]["max_concurrent"] == 256
    live = {"base_url": "http://w.example", "max_concurrent": 3}
    body = {"name": "Wind", "version": plain["version"], "upstreams": {"Live": live}, **OF_PRODUCT}
    await sent(api, provider, "PUT", path, body)

    shown = await sent(api, provider, "GET", path)
    assert {name: shown[name] for name in OF_PRODUCT} == OF_PRODUCT
    assert shown["upstreams"]["Live"]["max_concurrent"] == 3
    async with db.system_session("test") as session:
        changed = "SELECT body FROM audit_log WHERE action = 'ProductChanged'"
        told = json.loads(await session.scalar(text(changed)))
    assert told["after"]["ip_allow"] == OF_PRODUCT["ip_allow"]
    assert told["before"]["ip_allow"] == []


async def test_what_is_said_of_a_route_is_kept_and_shown(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream, parameter_check=True, billable_statuses=["2xx"])
    routes = f"{PRODUCTS}/{made['id']}/routes"
    body = {"method": "GET", "path": "/cities/{id}"}

    plain = await sent(api, provider, "POST", routes, body)
    assert {name: plain[name] for name in OF_ROUTE} == {
        "ip_allow": [],
        "ip_deny": [],
        "parameters": [],
        "strict_journal": False,
        "holds": {},
    }
    change = {**body, **OF_ROUTE, "version": plain["version"]}
    await sent(api, provider, "PUT", f"{routes}/{plain['id']}", change)

    newest = (await sent(api, provider, "GET", routes))["data"][0]
    assert {name: newest[name] for name in OF_ROUTE} == OF_ROUTE
    offered = (await api.get("/api/marketplace/products/wind")).json()
    assert offered["parameter_check"] is True
    assert offered["billable_statuses"] == ["2xx"]
    assert offered["websockets"] is False
    [city] = [route for route in offered["routes"] if route["path"] == "/cities/{id}"]
    assert city["parameters"] == OF_ROUTE["parameters"]
    assert not {"ip_allow", "ip_deny", "strict_journal", "holds"} & city.keys()


async def test_each_bad_field_of_a_product_is_named(api):
    provider = await make_owner()

    for change, field in (
        ({"ip_allow": ["192.0.2.1/24"]}, "ip_allow.0"),
        ({"ip_deny": ["10.0.0.0/8", "nowhere"]}, "ip_deny.1"),
        ({"ip_deny": ["::ffff:10.0.0.0/104"]}, "ip_deny.0"),
        ({"ip_allow": ["10.0.0.0/8"] * 101}, "ip_allow"),
        ({"billable_statuses": []}, "billable_statuses"),
        ({"billable_statuses": ["2xx", "5xx"]}, "billable_statuses.1"),
        ({"billable_statuses": ["299-200"]}, "billable_statuses.0"),
        ({"billable_statuses": ["500"]}, "billable_statuses.0"),
        ({"parameter_check": "perhaps"}, "parameter_check"),
        ({"websockets": None}, "websockets"),
        (
            {"upstreams": {"Live": {"base_url": "http://w.example", "max_concurrent": 0}}},
            "upstreams.Live.max_concurrent",
        ),
    ):
        body = new_product("http://w.example") | change
        assert await refused(api, provider, "POST", PRODUCTS, body) == [field]


async def test_each_bad_field_of_a_route_is_named(api, upstream):
    provider = await make_owner()
    made = await make_wind(api, provider, upstream, published=False)
    routes = f"{PRODUCTS}/{made['id']}/routes"
    in_path = {**CITY, "place": "path"}

    for parameters, field in (
        ([CITY, CITY], "parameters.1.name"),
        ([in_path], "parameters.0.name"),
        ([{**in_path, "name": "id", "required": False}], "parameters.0.required"),
        ([{**CITY, "name": "api_key"}], "parameters.0.name"),
        ([{**CITY, "name": "a&b"}], "parameters.0.name"),
        ([{**CITY, "name": ""}], "parameters.0.name"),
        ([{**CITY, "place": "header"}], "parameters.0.place"),
        ([{**CITY, "type": "city"}], "parameters.0.type"),
        ([{**CITY, "name": f"p{number}"} for number in range(101)], "parameters"),
    ):
        body = {"method": "GET", "path": "/x/{id}", "parameters": parameters}
        assert await refused(api, provider, "POST", routes, body) == [field]
    for holds, field in (
        ({"reports": 0}, "holds.reports"),
        ({"reports": "3"}, "holds.reports"),
        ({"api_calls": 1}, "holds.api_calls"),
        ({"nothing": 1}, "holds.nothing"),
    ):
        body = {"method": "GET", "path": "/x/{id}", "holds": holds}
        assert await refused(api, provider, "POST", routes, body) == [field]
    body = {"method": "GET", "path": "/files/*", "parameters": [{**in_path, "name": "*"}]}
    assert await refused(api, provider, "POST", routes, body) == ["parameters.0.name"]
    assert len((await sent(api, provider, "GET", routes))["data"]) == 3
