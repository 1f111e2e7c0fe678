# SPDX-License-Identifier: Apache-2.0
"""What every operation of the API has in common: problems, request ids, lists, one answer a key."""

from uuid import uuid4

import anyio
import httpx2
import psycopg
import pytest
from fastapi import FastAPI

from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from tests.support.people import make_owner, sign_up

pytestmark = pytest.mark.anyio

CREATE = "/api/public/create-organization"
DEADLINE_SECONDS = 10


async def test_a_problem_has_every_member_and_the_request_s_id(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/api/organizations/me", headers={"X-Request-Id": "from-the-gate"})

    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert sorted(problem) == sorted(
        ["type", "title", "status", "detail", "instance", "error", "code", "request_id", "errors"]
    )
    assert problem["status"] == answer.status_code == 401
    assert problem["instance"] == "/api/organizations/me"
    assert problem["request_id"] == "from-the-gate"


async def test_another_method_is_refused_and_the_right_ones_are_named(
    api: httpx2.AsyncClient,
) -> None:
    answer = await api.delete("/api/public/register")

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


async def test_head_answers_what_get_would_without_the_body(api: httpx2.AsyncClient) -> None:
    for path in ("/healthz", "/api/marketplace/products", "/api/organizations/me", "/nowhere"):
        got, headed = await api.get(path), await api.head(path)

        assert (headed.status_code, headed.content) == (got.status_code, b"")
        assert headed.headers["content-type"] == got.headers["content-type"]


async def test_a_path_is_one_path_and_never_leads_to_another(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/healthz/")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("escape", ["\x00", "a\x00b"])
async def test_text_that_cannot_be_kept_is_refused(api: httpx2.AsyncClient, escape: str) -> None:
    ada = await sign_up(api)
    credentials = {"email": escape, "password": "seven windmills at dawn"}
    for answer in (
        await api.post("/api/user/auth/login", json=credentials),
        await api.delete(
            f"/api/developer/api-keys/{uuid4()}", params={"reason": escape}, headers=ada.headers
        ),
        await api.post(
            "/api/billing/subscription",
            json={"product": escape, "plan": "basic", "payment": "invoice"},
            headers=ada.headers,
        ),
    ):
        assert answer.status_code in {404, 422}


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_an_instant_that_utc_cannot_hold_is_named(
    api: httpx2.AsyncClient, instant: str
) -> None:
    ada = await make_owner()
    key = {"name": "ci", "environment": "Live", "scopes": [], "expires_at": instant}
    summary = "/api/developer/usage/summary"
    for field, answer in (
        ("expires_at", await api.post("/api/developer/api-keys", json=key, headers=ada.headers)),
        ("from", await api.get(summary, params={"from": instant}, headers=ada.headers)),
        ("to", await api.get(summary, params={"to": instant}, headers=ada.headers)),
    ):
        assert answer.status_code == 422
        assert [item["field"] for item in answer.json()["errors"]] == [field]


async def test_a_fault_of_ours_tells_nothing_of_itself(app: FastAPI) -> None:
    async def fail() -> None:
        raise RuntimeError("the password is swordfish")

    app.add_api_route("/api/fails", fail)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://nimbus.test") as client:
        answer = await client.get("/api/fails")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "swordfish" not in answer.text


async def test_who_tries_too_often_is_told_when_to_come_back(api: httpx2.AsyncClient) -> None:
    ada = await sign_up(api)
    again = "/api/user/auth/resend-verification"
    answers = [await api.post(again, headers=ada.headers) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert answers[-1].json()["code"] == "rate_limited"
    assert answers[-1].json()["error"] == "Rate limit exceeded"
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_a_key_in_use_refuses_its_twin_and_makes_one_thing(
    api: httpx2.AsyncClient, database: Settings
) -> None:
    ada = await sign_up(api)
    headers = {**ada.headers, "Idempotency-Key": "twin"}
    body = {"name": "B", "country": "NL"}
    answers: list[httpx2.Response] = []

    async def create() -> None:
        answers.append(await api.post(CREATE, json=body, headers=headers))

    # The first waits inside its transaction, for a row that is held here.
    with psycopg.connect(**database_login(database, "owner")) as holder:
        holder.execute("SELECT 1 FROM users FOR UPDATE")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create)
            await somebody_waits(database)
            await create()
            holder.rollback()

    assert [answer.status_code for answer in answers] == [409, 201]
    assert answers[0].json()["code"] == "idempotency_in_flight"
    mine = (await api.get("/api/organizations", headers=ada.headers)).json()["data"]
    assert len(mine) == 2


async def somebody_waits(database: Settings) -> None:
    """Come back when a connection to the database waits for a lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with (
        psycopg.connect(**database_login(database, "owner"), autocommit=True) as connection,
        anyio.fail_after(DEADLINE_SECONDS),
    ):
        while connection.execute(waiting).fetchone() == (0,):
            await anyio.lowlevel.checkpoint()
