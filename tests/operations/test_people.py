# SPDX-License-Identifier: Apache-2.0
"""`nimbus user` and `nimbus key` beside a running system: what they do counts there at once."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.operations.conftest import Install
from tests.operations.processes import Nimbus, nimbus, serving, wait_for
from tests.support.market import PRODUCTS, new_product

EMAIL = "olga@nimbus.example"
SECONDS_MAX = 30.0
FREE = {"base_fee": {"amount_minor": 0, "currency": "EUR"}}


@pytest.fixture(scope="module")
def system(install: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nimbus]:
    """One running system for all of these."""
    data = install(tmp_path_factory.mktemp("people") / "data")
    # Its upstreams may be on this machine.
    with serving(data, NIMBUS_PRIVATE_NETWORKS="127.0.0.0/8") as started:
        yield started


@pytest.fixture(scope="module")
def olga(system: Nimbus) -> dict[str, str]:
    """A user made by the command: the address, and the password it printed."""
    made = command(system, "user", "create", EMAIL)
    assert made.returncode == 0, made.stderr
    email, password = made.stdout.split()
    return {"email": email, "password": password}


def command(system: Nimbus, *words: str) -> Any:
    """A command on the running system's data."""
    return nimbus(*words, f"--data-dir={system.data_dir}")


def call(system: Nimbus, method: str, path: str, body: Any = None, token: str = "") -> Any:
    """The status and the answer of a call at the front door."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{system.port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - ours
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def sign_in(system: Nimbus, person: dict[str, str]) -> dict[str, Any]:
    """What signing in answers."""
    status, answer = call(system, "POST", "/api/user/auth/login", person)
    assert status == 200, answer
    return answer


def test_a_made_user_signs_in_with_the_password_that_was_printed(
    system: Nimbus, olga: dict[str, str]
) -> None:
    signed_in = sign_in(system, olga)

    assert olga["email"] == EMAIL
    assert signed_in["user"]["email_verified"]
    assert signed_in["user"]["platform_role"] is None
    assert olga["password"] not in system.output.read_text()


def test_an_address_that_has_an_account_is_named_and_stays_as_it_is(
    system: Nimbus, olga: dict[str, str]
) -> None:
    again = command(system, "user", "create", EMAIL.upper(), "--admin")

    assert again.returncode == 1
    assert again.stdout == ""
    assert again.stderr.strip().endswith("email: This address has an account")
    assert sign_in(system, olga)["user"]["platform_role"] is None


def test_what_is_no_address_is_refused(system: Nimbus) -> None:
    refused = command(system, "user", "create", "not an address")

    assert refused.returncode == 1
    assert "email:" in refused.stderr
    assert refused.stdout == ""


def test_who_is_made_an_admin_reads_the_operator_s_pages_from_the_next_request_on(
    system: Nimbus, olga: dict[str, str]
) -> None:
    token = sign_in(system, olga)["access_token"]
    before, _ = call(system, "GET", "/api/admin/settings", token=token)

    granted = command(system, "user", "grant-admin", EMAIL)

    assert before == 403
    assert (granted.returncode, granted.stdout) == (0, f"{EMAIL} is a platform admin\n")
    assert call(system, "GET", "/api/admin/settings", token=token)[0] == 200


def test_an_unknown_address_is_not_made_an_admin(system: Nimbus) -> None:
    refused = command(system, "user", "grant-admin", "nobody@nimbus.example")

    assert refused.returncode == 1
    assert "No account has this address." in refused.stderr


def test_a_revoked_key_is_refused_by_the_gateway_and_its_owner_reads_why(
    system: Nimbus, olga: dict[str, str]
) -> None:
    token = organization_of(system, sign_in(system, olga)["access_token"])
    publish_wind(system, token)
    fields = {"name": "leaked", "environment": "Live"}
    key = made(system, "/api/developer/api-keys", fields, token)

    def refused_with(code: str) -> bool:
        return call(system, "GET", "/api/v1/wind/farms", token=key["secret"])[1]["code"] == code

    wait_for(lambda: refused_with("subscription_required"), "the key is known", SECONDS_MAX)
    revoked = command(system, "key", "revoke", key["id"], "--reason=found on a forum")

    assert (revoked.returncode, revoked.stdout) == (0, f"key {key['id']} is revoked\n")
    wait_for(lambda: refused_with("api_key_revoked"), "the gateway refuses it", SECONDS_MAX)
    _, shown = call(system, "GET", f"/api/developer/api-keys/{key['id']}", token=token)
    assert (shown["status"], shown["revoke_reason"]) == ("Revoked", "found on a forum")


def made(system: Nimbus, path: str, body: Any, token: str) -> Any:
    """What a POST that must succeed answers."""
    status, answer = call(system, "POST", path, body, token)
    assert status in {200, 201}, answer
    return answer


def organization_of(system: Nimbus, token: str) -> str:
    """A token for a new organization."""
    organization = {"name": "Olga B.V.", "country": "NL"}
    answer = made(system, "/api/public/create-organization", organization, token)
    return str(answer["access_token"])


def publish_wind(system: Nimbus, token: str) -> None:
    """A product with one operation; its upstream is this system's own front door."""
    wind = new_product(f"http://127.0.0.1:{system.port}")
    product = f"{PRODUCTS}/{made(system, PRODUCTS, wind, token)['id']}"
    plan = {"slug": "free", "name": "Free", "rank": 1, "prices": [FREE]}
    made(system, f"{product}/plans", plan, token)
    made(system, f"{product}/routes", {"method": "GET", "path": "/farms"}, token)
    made(system, f"{product}/publish", None, token)


def test_an_unknown_key_is_said_to_be_unknown(system: Nimbus) -> None:
    unknown = command(system, "key", "revoke", str(uuid4()), "--reason=lost")
    unreasoned = command(system, "key", "revoke", str(uuid4()))

    assert unknown.returncode == 1
    assert "There is no such key." in unknown.stderr
    assert unreasoned.returncode != 0
    assert "--reason" in unreasoned.stderr
