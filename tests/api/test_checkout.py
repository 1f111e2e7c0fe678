# SPDX-License-Identifier: Apache-2.0
"""Choosing a plan over HTTP: subscribed with a first key, or waiting for the terms; once."""

from typing import Any

import httpx2
import pytest

from nimbus.base import clock
from tests.support.bills import START, counts
from tests.support.market import loopback_settings as settings
from tests.support.market import make_wind, sent, upstream
from tests.support.metered import rows
from tests.support.people import TERMS, Person, make_owner

__all__ = ["settings", "upstream"]

pytestmark = pytest.mark.anyio

CHOOSE = "/api/billing/subscription"
ACCEPT = "/api/public/accept-terms"
STARTER = {"product": "wind", "plan": "starter", "payment": "invoice"}
MADE = ("subscriptions", "api_keys", "checkout_choices")


@pytest.fixture
async def provider(api: httpx2.AsyncClient, upstream: str) -> Person:
    """Who sells the Wind API."""
    clock.set_instant(START)
    owner = await make_owner("peter@wind.example")
    await make_wind(api, owner, upstream)
    return owner


async def choose(
    api: httpx2.AsyncClient, person: Person, path: str = CHOOSE, **changes: Any
) -> httpx2.Response:
    body = {name: value for name, value in {**STARTER, **changes}.items() if value is not None}
    return await api.post(path, json=body, headers=person.headers)


@pytest.mark.parametrize("path", [CHOOSE, "/api/billing/subscriptions"])
async def test_a_plan_comes_with_a_subscription_and_one_key_that_is_bound_to_it(
    api: httpx2.AsyncClient, provider: Person, path: str
) -> None:
    ada = await make_owner()

    answer = await choose(api, ada, path)

    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["choice"] is None
    assert made["subscription"]["status"] == "Active"
    assert made["subscription"]["plan"]["slug"] == "starter"
    key = made["api_key"]
    assert key["secret"].startswith("nimbus_live_")
    assert key["secret"].endswith(key["last8"])
    assert key["scopes"] == ["assets.read"]
    [stored] = await rows(
        "SELECT environment, subscription_id::text, organization_id FROM api_keys"
    )
    assert stored == {
        "environment": "Live",
        "subscription_id": made["subscription"]["id"],
        "organization_id": ada.organization_id,
    }


async def test_the_same_plan_again_is_the_same_answer_without_another_key(
    api: httpx2.AsyncClient, provider: Person
) -> None:
    ada = await make_owner()
    first = await choose(api, ada)

    again = await choose(api, ada)

    assert again.status_code == 200
    assert again.json()["subscription"] == first.json()["subscription"]
    assert again.json()["api_key"] is None
    assert await counts(MADE) == {"subscriptions": 1, "api_keys": 1, "checkout_choices": 0}


async def test_a_repeated_request_with_its_key_is_answered_again_without_the_secret(
    api: httpx2.AsyncClient, provider: Person
) -> None:
    ada = await make_owner()
    headers = {**ada.headers, "Idempotency-Key": "one"}
    first = await api.post(CHOOSE, json=STARTER, headers=headers)
    again = await api.post(CHOOSE, json=STARTER, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert "secret" in first.json()["api_key"]
    assert "secret" not in again.json()["api_key"]
    assert again.json()["subscription"] == first.json()["subscription"]


async def test_a_higher_plan_changes_the_live_subscription(
    api: httpx2.AsyncClient, provider: Person
) -> None:
    ada = await make_owner()
    first = await choose(api, ada)

    higher = await choose(api, ada, plan="professional")

    assert higher.status_code == 200, higher.text
    assert higher.json()["subscription"]["id"] == first.json()["subscription"]["id"]
    assert higher.json()["subscription"]["plan"]["slug"] == "professional"
    assert await counts(["subscriptions"]) == {"subscriptions": 1}


async def test_a_pending_organization_s_choice_starts_when_the_terms_are_accepted(
    api: httpx2.AsyncClient, provider: Person
) -> None:
    ada = await make_owner(active=False)

    chosen = await choose(api, ada)
    second = await choose(api, ada, plan="professional")
    assert (chosen.status_code, second.status_code) == (202, 202)
    assert second.json() == {
        "subscription": None,
        "api_key": None,
        "choice": {"product": "wind", "plan": "professional", "payment": "invoice"},
    }
    assert await counts(MADE) == {"subscriptions": 0, "api_keys": 0, "checkout_choices": 1}

    accepted = await sent(api, ada, "POST", ACCEPT, {"version": TERMS})
    again = await sent(api, ada, "POST", ACCEPT, {"version": TERMS})

    assert accepted["organization"]["status"] == "Active"
    assert accepted["subscription"]["plan"]["slug"] == "professional"
    assert accepted["api_key"]["secret"].startswith("nimbus_live_")
    assert again == {
        "organization": accepted["organization"],
        "subscription": None,
        "api_key": None,
    }
    assert await counts(MADE) == {"subscriptions": 1, "api_keys": 1, "checkout_choices": 0}


async def test_terms_are_accepted_without_a_choice_too(
    api: httpx2.AsyncClient, provider: Person
) -> None:
    ada = await make_owner(active=False)

    accepted = await sent(api, ada, "POST", ACCEPT, {"version": TERMS})

    assert accepted["organization"]["status"] == "Active"
    assert (accepted["subscription"], accepted["api_key"]) == (None, None)


async def test_a_choice_whose_plan_is_gone_does_not_keep_the_terms_from_being_accepted(
    api: httpx2.AsyncClient, provider: Person
) -> None:
    ada = await make_owner(active=False)
    await choose(api, ada)
    [product] = (await sent(api, provider, "GET", "/api/provider/products"))["data"]
    await sent(api, provider, "POST", f"/api/provider/products/{product['id']}/unpublish")

    accepted = await sent(api, ada, "POST", ACCEPT, {"version": TERMS})

    assert accepted["organization"]["status"] == "Active"
    assert accepted["subscription"] is None
    assert await counts(MADE) == {"subscriptions": 0, "api_keys": 0, "checkout_choices": 0}


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"product": "sun"}, "product"),
        ({"plan": "gold"}, "plan"),
        ({"payment": "method"}, "payment"),
        ({"payment": None}, "payment"),
        ({"payment": "barter"}, "payment"),
        ({"surprise": True}, "surprise"),
    ],
)
async def test_a_wrong_choice_names_its_field_and_leaves_nothing(
    api: httpx2.AsyncClient,
    provider: Person,
    active: bool,
    changes: dict[str, Any],
    field: str,
) -> None:
    ada = await make_owner(active=active)

    answer = await choose(api, ada, **changes)

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert await counts(MADE) == {"subscriptions": 0, "api_keys": 0, "checkout_choices": 0}


async def test_wrong_terms_activate_nothing(api: httpx2.AsyncClient, provider: Person) -> None:
    ada = await make_owner(active=False)
    await choose(api, ada)

    answer = await api.post(ACCEPT, json={"version": "1999-01"}, headers=ada.headers)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "version"
    [organization] = await rows(
        "SELECT status FROM organizations WHERE id = :id", id=ada.organization_id
    )
    assert organization == {"status": "Pending"}
    assert await counts(["checkout_choices"]) == {"checkout_choices": 1}


async def test_only_who_may_manage_subscriptions_chooses(
    api: httpx2.AsyncClient, provider: Person
) -> None:
    ada = await make_owner()
    await rows(
        "UPDATE memberships SET role = 'billing' WHERE user_id = :id RETURNING id",
        id=ada.actor.user_id,
    )

    assert (await choose(api, ada)).status_code == 403
    assert (await api.post(CHOOSE, json=STARTER)).status_code == 401
    assert (await api.post(ACCEPT, json={"version": TERMS})).status_code == 401


async def test_a_suspended_organization_starts_nothing(
    api: httpx2.AsyncClient, provider: Person
) -> None:
    ada = await make_owner()
    await rows(
        "UPDATE organizations SET status = 'Suspended' WHERE id = :id RETURNING id",
        id=ada.organization_id,
    )

    answer = await choose(api, ada)

    assert (answer.status_code, answer.json()["code"]) == (403, "organization_suspended")
