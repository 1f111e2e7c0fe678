# SPDX-License-Identifier: Apache-2.0
"""Whoever asks for another organization's object hears what they would hear of a random id.

Every operation of the API document that takes an id is asked, by every role of a stranger's
organization and by its key (T-08); a new one that this test has no object or request for fails it.
What was made for one organization (a cursor, a link) is of no use to another (T-10).
"""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from nimbus.identity import ROLES, link_token
from tests.architecture.tree import assert_none
from tests.support.bills import SELLER
from tests.support.estate import INVITED, Estate, estate, sold
from tests.support.market import ADD_ON, STARTER
from tests.support.operations import Operation, operations
from tests.support.people import Person

__all__ = ["estate", "sold"]

pytestmark = pytest.mark.anyio

ROUTE = {"method": "GET", "path": "/panels"}
INCREASE = {
    "reason": "mine",
    "meter": "api_calls",
    "period": "cycle",
    "units": 5,
    "ends_at": "2027-01-01T00:00:00Z",
}
PLAN = {name: value for name, value in STARTER.items() if name != "slug"}

# A request that would do something, were the object one's own: all but the ids.
BODIES: dict[str, dict[str, Any]] = {
    "admin_mark_invoice_paid": {},
    "admin_write_off_invoice": {"reason": "mine"},
    "admin_credit_balance": {"amount": {"amount_minor": 1, "currency": "EUR"}, "reason": "mine"},
    "set_block": {"network": "192.0.2.0/24", "minutes": 5, "reason": "mine"},
    "create_invoice": {},
    "create_credit_note": {"disposition": "refund", "reason": "mine"},
    "redeem_coupon": {"code": "NONE"},
    "admin_add_item": {"description": "Mine", "amount": {"amount_minor": 1, "currency": "EUR"}},
    "admin_set_threshold": {"amount": {"amount_minor": 1, "currency": "EUR"}},
    "admin_create_coupon": {"code": "MINE", "name": "Mine", "percent": "10"},
    "provider_reset_quota": {"reason": "mine"},
    "provider_increase_quota": INCREASE,
    "admin_reset_quota": {"reason": "mine"},
    "admin_increase_quota": INCREASE,
    "check_entitlement": {"entitlement": "api_calls", "consume": True},
    "cancel_subscription": {"reason": "no wind", "version": 1},
    "downgrade_subscription": {"plan": "starter", "version": 1},
    "upgrade_subscription": {"plan": "professional", "version": 1},
    "upgrade_current_subscription": {"plan": "professional", "version": 1},
    "downgrade_current_subscription": {"plan": "starter", "version": 1},
    "cancel_current_subscription": {"reason": "no wind", "version": 1},
    "preview_subscription_change": {"change": "upgrade", "plan": "professional", "version": 1},
    "reactivate_subscription": {"version": 1},
    "pause_subscription": {"version": 1},
    "resume_subscription": {"version": 1},
    "take_add_on": {"add_on": "support", "version": 1},
    "set_renewal": {"automatic": False, "version": 1},
    "renew_subscription": {"version": 1},
    "set_consumer_plan": {"plan": "professional", "version": 1},
    "set_consumer_contract": {"terms": {}, "version": 1},
    "revoke_consumer": {"reason": "no wind", "version": 1},
    "ban_consumer": {"reason": "no wind"},
    "move_plan_subscribers": {"to_plan": "starter", "reason": "dearer"},
    "admin_change_subscription": {"plan": "professional", "version": 1},
    "admin_set_contract": {"terms": {}, "version": 1},
    "admin_cancel_subscription": {"reason": "no wind", "version": 1},
    "create_add_on": ADD_ON,
    "change_add_on": {**{k: v for k, v in ADD_ON.items() if k != "slug"}, "version": 1},
    "create_api_key": {"name": "theirs", "environment": "Live"},
    "change_api_key": {"name": "theirs", "version": 1},
    "rotate_api_key": {},
    "switch_organization": {},
    "change_member": {"role": "viewer"},
    "change_product": {"name": "Mine now", "version": 2},
    "add_product_host": {"name": "api.mine.example"},
    "create_meter": {"key": "panels", "unit": "panels", "aggregation": "max"},
    "change_meter": {"unit": "panels", "version": 1},
    "create_plan": {**STARTER, "slug": "mine"},
    "change_plan": {**PLAN, "name": "Mine now", "version": 1},
    "create_route": ROUTE,
    "change_route": {**ROUTE, "version": 1},
    "change_settings": SELLER,
}

# What an owner hears where it is not 404: the operator's pages are closed to all others, and an
# object named in a field of a body is a field error.
REFUSED = {
    "admin_reset_quota": (403, "forbidden"),
    "admin_increase_quota": (403, "forbidden"),
    "admin_list_subscriptions": (403, "forbidden"),
    "admin_change_subscription": (403, "forbidden"),
    "admin_set_contract": (403, "forbidden"),
    "admin_cancel_subscription": (403, "forbidden"),
    "create_api_key": (422, "validation_failed"),
    "admin_list_invoices": (403, "forbidden"),
    "admin_remove_product_host": (403, "forbidden"),
    "set_block": (403, "forbidden"),
    "lift_block": (403, "forbidden"),
    "admin_finalize_invoice": (403, "forbidden"),
    "admin_mark_invoice_paid": (403, "forbidden"),
    "admin_write_off_invoice": (403, "forbidden"),
    "admin_credit_balance": (403, "forbidden"),
    "create_credit_note": (403, "forbidden"),
    "admin_mark_top_up_paid": (403, "forbidden"),
    "admin_add_item": (403, "forbidden"),
    "admin_set_threshold": (403, "forbidden"),
    "admin_release_billing": (403, "forbidden"),
    "admin_create_coupon": (403, "forbidden"),
    "change_settings": (403, "forbidden"),
}
NOT_FOUND = (404, "not_found")
# Path parameters that are public names and no ids.
NAMES = {"key", "slug", "position"}
PUBLIC_LISTS = {"list_marketplace_products"}

WITH_IDS = [operation for operation in operations() if operation.ids]
WITH_CURSOR = [
    operation
    for operation in operations()
    if ("query", "cursor") in operation.parameters and not operation.path.startswith("/api/admin/")
]


def unprepared(every: tuple[Operation, ...], objects: dict[str, str]) -> Iterator[str]:
    """What operations take and this test has no object, request or parent for."""
    for operation in every:
        for place, name in operation.parameters:
            if place == "path" and name not in operation.path_ids and name not in NAMES:
                yield f"{operation.id}: is {name} an id or a public name?"
        yield from (f"{operation.id}: no {name}" for name in operation.ids if name not in objects)
        if operation.ids and operation.has_body and operation.id not in BODIES:
            yield f"{operation.id}: no body"


def cases(operation: Operation, estate: Estate) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Ids of others, and random ones in their places; below an own parent too."""
    theirs = {name: estate.theirs[name] for name in operation.ids}
    yield theirs, {name: str(uuid4()) for name in theirs}
    if len(operation.path_ids) > 1:
        parents = {name: estate.own[name] for name in operation.path_ids[:-1]}
        last = operation.path_ids[-1]
        yield {**parents, last: theirs[last]}, {**parents, last: str(uuid4())}


def heard(answer: httpx2.Response) -> dict[str, Any]:
    """An answer but for what names the request."""
    assert answer.content, f"{answer.request.method} {answer.request.url}: {answer.status_code}"
    named = {"request_id", "instance"}
    return {name: value for name, value in answer.json().items() if name not in named}


async def test_every_operation_with_an_id_is_prepared(estate: Estate) -> None:
    assert_none(list(unprepared(operations(), estate.theirs)))
    assert not BODIES.keys() - {operation.id for operation in WITH_IDS}
    assert not REFUSED.keys() - {operation.id for operation in WITH_IDS}


@pytest.mark.parametrize("operation", WITH_IDS, ids=lambda operation: operation.id)
async def test_another_s_object_is_as_unknown_as_a_random_id_and_stays_as_it_is(
    estate: Estate, operation: Operation
) -> None:
    body = BODIES.get(operation.id)
    before = estate.rows_of_others()
    for role in ROLES:
        estate.become(estate.neighbour, role)
        estate.forget_throttles()
        for ids, random in cases(operation, estate):
            foreign = await estate.ask(estate.neighbour, operation, ids, body)
            unknown = await estate.ask(estate.neighbour, operation, random, body)

            assert heard(foreign) == heard(unknown), f"{role}: {foreign.text}"
            said = (foreign.status_code, foreign.json()["code"])
            allowed = {REFUSED.get(operation.id, NOT_FOUND)}
            assert said in allowed | ({(403, "forbidden")} if role != "owner" else set()), role

    for ids, random in cases(operation, estate):
        foreign = await estate.ask(estate.machine, operation, ids, body)
        unknown = await estate.ask(estate.machine, operation, random, body)

        assert heard(foreign) == heard(unknown), f"a key: {foreign.text}"
        assert foreign.status_code in {401, 403, 404}

    assert estate.rows_of_others() == before


async def test_the_objects_are_there_for_those_whose_they_are(estate: Estate) -> None:
    found = []
    for operation in WITH_IDS:
        if operation.method != "GET":
            continue
        whose = estate.customer
        if operation.path.startswith(("/api/provider/", "/api/admin/")):
            whose = estate.admin
        answer = await estate.ask(whose, operation, estate.theirs, None)
        if answer.status_code not in {200, 503}:  # 503: the document is being made
            found.append(f"{operation.id}: {answer.text}")
    assert_none(found)


@pytest.mark.parametrize("operation", WITH_CURSOR, ids=lambda operation: operation.id)
async def test_another_s_cursor_shows_nothing_of_theirs(
    estate: Estate, operation: Operation
) -> None:
    estate.become(estate.neighbour, "owner")
    whose = estate.customer if operation.path.startswith(("/api/b", "/api/d")) else estate.admin
    first = await _listed(estate, whose, operation, estate.theirs, limit=1)
    cursor = first["next_cursor"]
    assert cursor, f"{operation.id}: a second one of what is listed is missing"

    asked = (estate, estate.neighbour, operation, estate.own)
    whole = await _listed(*asked, limit=200)
    paged = await _listed(*asked, limit=200, cursor=cursor)

    assert all(item in whole["data"] for item in paged["data"])
    if operation.id not in PUBLIC_LISTS:
        assert not [item for item in first["data"] if "id" in item and item in whole["data"]]


async def _listed(
    estate: Estate, person: Person, operation: Operation, ids: dict[str, str], **query: Any
) -> Any:
    path = operation.path.format_map(ids)
    answer = await estate.api.get(path, params=query, headers=person.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_another_s_invitation_link_is_of_no_use(estate: Estate) -> None:
    [(invitation,)] = estate.execute(
        "SELECT id FROM invitations WHERE email = %(email)s", email=INVITED
    )
    before = estate.rows_of_others()

    answer = await estate.api.post(
        "/api/public/invitations/accept",
        json={"token": link_token(invitation)},
        headers=estate.neighbour.headers,
    )

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "token"
    assert estate.rows_of_others() == before


def test_an_operation_without_an_object_is_found() -> None:
    planted = Operation(
        id="read_farm",
        method="POST",
        path="/farms/{farm_id}/{row}",
        declared={},
        parameters=(("path", "farm_id"), ("path", "row")),
        path_ids=("farm_id",),
        query_ids=(),
        body_ids=("owner.user_id",),
        has_body=True,
    )

    assert list(unprepared((planted,), {})) == [
        "read_farm: is row an id or a public name?",
        "read_farm: no farm_id",
        "read_farm: no owner.user_id",
        "read_farm: no body",
    ]
