# SPDX-License-Identifier: Apache-2.0
"""From registration to an active organization, over HTTP, on a real database."""

from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from nimbus.base import db
from tests.support.people import PASSWORD, TERMS, latest_link, publish_test_terms, sign_up

REGISTER = "/api/public/register"
EMAIL = "ada@acme.example"


async def rows(statement: str) -> list[Any]:
    async with db.system_session("platform pages") as session:
        return list(await session.execute(text(statement)))


async def test_registration_leads_to_a_pending_organization_owned_by_the_user(
    api: httpx2.AsyncClient,
) -> None:
    ada = await sign_up(api, vat_number="nl 123456782.B90", company_number="1234 5678")
    answer = await api.get("/api/organizations/me", headers=ada.headers)
    assert answer.status_code == 200
    organization = answer.json()
    assert organization["status"] == "Pending"
    assert organization["vat_number"] == "NL123456782B90"
    assert organization["company_number"] == "12345678"
    assert organization["time_zone"] == "Europe/Amsterdam"
    mine = (await api.get("/api/organizations", headers=ada.headers)).json()["data"]
    assert [(row["role"], row["status"]) for row in mine] == [("owner", "Pending")]


async def test_each_fact_is_one_audit_row_and_one_outbox_row_of_one_transaction(
    api: httpx2.AsyncClient,
) -> None:
    await sign_up(api)
    audit = await rows("SELECT action, transaction_id::text FROM audit_log ORDER BY created_at")
    outbox = await rows("SELECT name, transaction_id::text FROM outbox ORDER BY created_at")
    assert [row[0] for row in audit] == ["UserRegistered", "EmailVerified", "OrganizationCreated"]
    assert [row[0] for row in outbox] == [
        "user.registered",
        "user.email_verified",
        "organization.created",
    ]
    assert [row[1] for row in audit] == [row[1] for row in outbox]


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"email": "not an address"}, "email", "value_error"),
        ({"email": None}, "email", "string_type"),
        ({"password": "short"}, "password", "too_short"),
        ({"password": "passwordpassword"}, "password", "too_common"),
        ({"password": "x" * 300}, "password", "too_long"),
        ({"locale": "xx"}, "locale", "literal_error"),
        ({"admin": True}, "admin", "extra_forbidden"),
        ({"first_name": "a\nBcc: b@example.com"}, "first_name", "value_error"),
    ],
)
async def test_a_bad_registration_names_its_field_and_leaves_nothing(
    api: httpx2.AsyncClient, change: dict[str, Any], field: str, code: str
) -> None:
    body = {"email": EMAIL, "password": PASSWORD, **change}
    answer = await api.post(REGISTER, json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "validation_failed"
    assert [(item["field"], item["code"]) for item in problem["errors"]] == [(field, code)]
    assert await rows("SELECT 1 FROM users") == []
    assert await rows("SELECT 1 FROM outbox") == []


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b'{"email":', "application/json", 400, "malformed_request"),
        (b"email=a", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"email":"' + b"a" * 1_100_000 + b'"}', "application/json", 413, "payload_too_large"),
        (b"", "application/json", 422, "validation_failed"),
    ],
)
async def test_a_body_that_is_not_ours_is_a_clear_problem(
    api: httpx2.AsyncClient, content: bytes, kind: str, status: int, code: str
) -> None:
    answer = await api.post(REGISTER, content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["request_id"]


async def test_a_verification_link_works_once(api: httpx2.AsyncClient) -> None:
    await api.post(REGISTER, json={"email": EMAIL, "password": PASSWORD})
    token = await latest_link(EMAIL)
    first = await api.post("/api/public/verify-email", json={"token": token})
    again = await api.post("/api/public/verify-email", json={"token": token})
    forged = await api.post("/api/public/verify-email", json={"token": token[:-1] + "0"})
    assert first.status_code == 200
    for refused in (again, forged):
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "token"
        assert refused.json()["errors"][0]["code"] == "used_or_expired"


async def test_registering_twice_answers_the_same_and_makes_one_account(
    api: httpx2.AsyncClient,
) -> None:
    body = {"email": EMAIL, "password": PASSWORD}
    first = await api.post(REGISTER, json=body)
    again = await api.post(REGISTER, json={**body, "email": EMAIL.upper()})
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert len(await rows("SELECT 1 FROM users")) == 1


async def test_sign_in_refuses_alike_whatever_is_wrong(api: httpx2.AsyncClient) -> None:
    await sign_up(api)
    login = "/api/user/auth/login"
    wrong = await api.post(login, json={"email": EMAIL, "password": "wrong password 123"})
    nobody = await api.post(login, json={"email": "x@acme.example", "password": PASSWORD})
    right = await api.post(login, json={"email": EMAIL, "password": PASSWORD})
    assert wrong.status_code == nobody.status_code == 401
    drop = ("request_id",)
    strip = [{k: v for k, v in r.json().items() if k not in drop} for r in (wrong, nobody)]
    assert strip[0] == strip[1]
    assert right.status_code == 200
    assert "HttpOnly" in right.headers["set-cookie"]


async def test_a_reused_refresh_token_ends_the_family(api: httpx2.AsyncClient) -> None:
    await sign_up(api)
    csrf = {"X-Nimbus-CSRF": "1"}
    old = api.cookies.get("nimbus_refresh")
    assert old is not None
    refresh = "/api/user/auth/refresh"
    assert (await api.post(refresh, headers=csrf)).status_code == 200
    new = api.cookies.get("nimbus_refresh")
    assert new is not None
    assert new != old
    async with db.system_session("platform pages") as session:
        await session.execute(
            text("UPDATE sessions SET rotated_at = rotated_at - interval '1 minute'")
        )
    api.cookies.clear()
    stolen = await api.post(refresh, headers={**csrf, "Cookie": f"nimbus_refresh={old}"})
    assert stolen.status_code == 401
    family = await api.post(refresh, headers={**csrf, "Cookie": f"nimbus_refresh={new}"})
    assert family.status_code == 401
    foreign = await api.post(refresh, headers={"Cookie": f"nimbus_refresh={new}"})
    assert foreign.status_code == 403


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"vat_number": "NL123456789B01"}, "vat_number", "invalid"),
        ({"vat_number": "DE136695976"}, "vat_number", "wrong_country"),
        ({"company_number": "1234"}, "company_number", "invalid"),
        ({"country": "XX"}, "country", "value_error"),
        ({"currency": "EURO"}, "currency", "value_error"),
        ({"time_zone": "Mars/Base"}, "time_zone", "value_error"),
        ({"name": "  "}, "name", "string_too_short"),
    ],
)
async def test_a_bad_organization_names_its_field_and_leaves_nothing(
    api: httpx2.AsyncClient, change: dict[str, Any], field: str, code: str
) -> None:
    await api.post(REGISTER, json={"email": EMAIL, "password": PASSWORD})
    token = await latest_link(EMAIL)
    signed_in = (await api.post("/api/public/verify-email", json={"token": token})).json()
    answer = await api.post(
        "/api/public/create-organization",
        json={"name": "Acme", "country": "NL", **change},
        headers={"Authorization": f"Bearer {signed_in['access_token']}"},
    )
    assert answer.status_code == 422
    found = [(item["field"], item["code"]) for item in answer.json()["errors"]]
    assert found == [(field, code)]
    assert await rows("SELECT 1 FROM organizations") == []


async def test_a_stale_version_is_refused(api: httpx2.AsyncClient) -> None:
    ada = await sign_up(api)
    body = {"name": "Acme", "country": "NL", "version": 1}
    first = await api.put("/api/organizations/me", json=body, headers=ada.headers)
    stale = await api.put("/api/organizations/me", json=body, headers=ada.headers)
    assert (first.status_code, first.json()["version"]) == (200, 2)
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_version")


async def test_an_idempotency_key_answers_the_first_answer_again(api: httpx2.AsyncClient) -> None:
    ada = await sign_up(api)
    headers = {**ada.headers, "Idempotency-Key": "k1"}
    path = "/api/public/create-organization"
    first = await api.post(path, json={"name": "B", "country": "NL"}, headers=headers)
    again = await api.post(path, json={"name": "B", "country": "NL"}, headers=headers)
    other = await api.post(path, json={"name": "C", "country": "NL"}, headers=headers)
    assert first.json()["organization"] == again.json()["organization"]
    assert "access_token" not in again.json()
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")
    assert len(await rows("SELECT 1 FROM organizations")) == 2


async def test_a_stranger_is_asked_to_sign_in(api: httpx2.AsyncClient) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}):
        answer = await api.get("/api/organizations/me", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    unknown = await api.get("/api/nowhere")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")


async def test_terms_that_are_missing_or_not_current_leave_the_organization_pending(
    api: httpx2.AsyncClient,
) -> None:
    ada = await sign_up(api)
    path = "/api/public/accept-terms"
    missing = await api.post(path, json={"version": TERMS}, headers=ada.headers)
    assert (await api.get("/api/public/terms")).status_code == 404
    await publish_test_terms()
    other = await api.post(path, json={"version": "2019-01"}, headers=ada.headers)
    nothing = await api.post(path, json={}, headers=ada.headers)
    found = [answer.json()["errors"][0] for answer in (missing, other, nothing)]
    assert [(item["field"], item["code"]) for item in found] == [
        ("version", "no_terms"),
        ("version", "not_current"),
        ("version", "missing"),
    ]
    assert await rows("SELECT status FROM organizations") == [("Pending",)]
    assert await rows("SELECT 1 FROM terms_acceptances") == []
    accepted = await api.post(path, json={"version": TERMS}, headers=ada.headers)
    again = await api.post(path, json={"version": TERMS}, headers=ada.headers)
    assert accepted.json()["organization"]["status"] == "Active"
    assert again.status_code == 200
    assert len(await rows("SELECT 1 FROM terms_acceptances")) == 1
