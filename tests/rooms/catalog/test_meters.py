# SPDX-License-Identifier: Apache-2.0
"""What a provider says of meters: properties, filters, places in answers; and who hears of it."""

import pytest

from tests.support.market import PRODUCTS, new_product, sent
from tests.support.people import make_owner

pytestmark = pytest.mark.anyio

SUM = {"key": "tokens", "unit": "token", "aggregation": "sum"}
UNIQUE = {"key": "users", "unit": "user", "aggregation": "unique", "property": "user"}
PATH = {"source_path": "usage.total_tokens"}


async def refused(api, person, method, path, body) -> list[tuple[str, str]]:
    answer = await api.request(method, path, json=body, headers=person.headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
    return [(error["field"], error["code"]) for error in answer.json()["errors"]]


async def test_a_meter_says_what_it_counts_and_a_stale_change_is_refused(api):
    provider = await make_owner()
    made = await sent(api, provider, "POST", PRODUCTS, new_product("http://w.example"))
    meters = f"{PRODUCTS}/{made['id']}/meters"
    filters = {"region": ["eu", "us"]}

    users = await sent(api, provider, "POST", meters, {**UNIQUE, "filters": filters})
    tokens = await sent(api, provider, "POST", meters, {**SUM, **PATH})

    assert (users["property"], users["filters"], users["source_path"]) == ("user", filters, None)
    assert (tokens["property"], tokens["filters"], tokens["version"]) == (None, {}, 1)
    body = {"unit": "thousand tokens", "filters": filters, "version": 1}
    changed = await sent(api, provider, "PUT", f"{meters}/tokens", body)
    assert changed == {**tokens, **body, "source_path": None, "version": 2}
    stale = await api.put(f"{meters}/tokens", json=body, headers=provider.headers)
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_version")
    missing = await api.put(f"{meters}/windmills", json=body, headers=provider.headers)
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({**UNIQUE, "property": None}, "property", "missing"),
        ({**SUM, "property": "user"}, "property", "not_allowed"),
        ({**SUM, "source_path": "a..b"}, "source_path", "invalid"),
        ({**SUM, "source_path": "[0]"}, "source_path", "invalid"),
        ({**UNIQUE, **PATH}, "source_path", "not_allowed"),
    ],
)
async def test_what_no_meter_can_be_is_refused_on_its_field(api, body, field, code):
    provider = await make_owner()
    made = await sent(api, provider, "POST", PRODUCTS, new_product("http://w.example"))
    meters = f"{PRODUCTS}/{made['id']}/meters"
    assert await refused(api, provider, "POST", meters, body) == [(field, code)]


async def test_few_meters_of_a_product_are_read_from_answers_and_gateways_hear_which(api, owner):
    provider = await make_owner()
    made = await sent(api, provider, "POST", PRODUCTS, new_product("http://w.example"))
    meters = f"{PRODUCTS}/{made['id']}/meters"
    for number in range(5):
        await sent(api, provider, "POST", meters, {**SUM, "key": f"m{number}", **PATH})
    more = {**SUM, **PATH}
    assert await refused(api, provider, "POST", meters, more) == [("source_path", "too_many")]

    expected = '[{"path": "usage.total_tokens", "meter": "m0"}]'
    owner(
        "DO $$ BEGIN ASSERT (SELECT record -> 'taps' @> '" + expected + "'::jsonb"
        " AND jsonb_array_length(record -> 'taps') = 5 FROM gateway_snapshot()"
        f" WHERE id = '{made['id']}'); END $$"
    )
