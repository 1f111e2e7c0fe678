# SPDX-License-Identifier: Apache-2.0
"""API keys over HTTP and in the database: shown once, unique for ever, revoked for ever."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest
from sqlalchemy import text

from nimbus.access.secrets import keyed_hash, new_secret
from nimbus.access.service import note_used, resolve_key
from nimbus.base import clock, db
from nimbus.base.actors import Actor
from nimbus.base.config import Settings
from nimbus.base.ids import new_id
from nimbus.base.secrets import database_login
from nimbus.errors import Refusal
from nimbus.rules.grants import well_formed
from tests.support.people import Person, make_owner

KEYS = "/api/developer/api-keys"
BODY = {"name": "ci", "environment": "Live", "scopes": ["assets.read"]}
REASON = "platform pages"


async def make_key(api: httpx2.AsyncClient, person: Person, **changes: Any) -> dict[str, Any]:
    answer = await api.post(KEYS, json={**BODY, **changes}, headers=person.headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def resolve(secret: str, ip: str | None = None) -> Actor | str:
    """Who a secret is, or the code of its refusal."""
    async with db.transaction() as session:
        try:
            return await resolve_key(session, secret, Actor(kind="visitor", ip=ip))
        except Refusal as refusal:
            return refusal.code


async def test_a_secret_is_shown_once_and_kept_nowhere(
    api: httpx2.AsyncClient, settings: Settings
) -> None:
    ada = await make_owner()
    headers = {**ada.headers, "Idempotency-Key": "once"}
    first = (await api.post(KEYS, json=BODY, headers=headers)).json()
    again = (await api.post(KEYS, json=BODY, headers=headers)).json()
    secret = first["secret"]
    assert well_formed(secret.encode())
    assert secret.startswith("nimbus_live_")
    assert again["id"] == first["id"]
    assert "secret" not in again
    assert first["last8"] == secret[-8:]
    listed = (await api.get(KEYS, headers=ada.headers)).json()["data"]
    assert [row["id"] for row in listed] == [first["id"]]
    with psycopg.connect(str(settings.database_owner_url)) as connection:
        tables = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND n.nspname = 'public'"
        ).fetchall()
        assert len(tables) > 20
        for (table,) in tables:
            rows = connection.execute(f"SELECT t::text FROM {table} t").fetchall()
            assert not any(secret in row[0] or secret[12:-8] in row[0] for row in rows), table


async def test_a_key_speaks_for_its_organization_alone(api: httpx2.AsyncClient) -> None:
    ada = await make_owner()
    made = await make_key(api, ada)
    actor = await resolve(made["secret"])
    assert isinstance(actor, Actor)
    assert (actor.kind, actor.organization_id) == ("key", ada.organization_id)
    assert actor.scopes == {"assets.read"}
    assert await resolve(new_secret("Live")) == "invalid_api_key"
    assert await resolve(made["secret"][:-1] + "!") == "invalid_api_key"


async def test_a_revoked_key_is_refused_for_ever(api: httpx2.AsyncClient, owner: Any) -> None:
    ada = await make_owner()
    made = await make_key(api, ada)
    path = f"{KEYS}/{made['id']}"
    revoked = await api.delete(f"{path}?reason=leaked", headers=ada.headers)
    assert (revoked.json()["status"], revoked.json()["revoke_reason"]) == ("Revoked", "leaked")
    again = await api.delete(path, headers=ada.headers)
    assert again.json()["revoked_at"] == revoked.json()["revoked_at"]
    assert await resolve(made["secret"]) == "api_key_revoked"
    body = {**BODY, "version": revoked.json()["version"]}
    body.pop("environment")
    changed = await api.put(path, json=body, headers=ada.headers)
    assert (changed.status_code, changed.json()["errors"][0]["field"]) == (422, "status")
    for statement in (
        "UPDATE api_keys SET status = 'Active', revoked_at = NULL",
        "DELETE FROM api_keys",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            owner(statement)


async def test_a_value_that_was_a_key_is_never_one_again(
    api: httpx2.AsyncClient, owner: Any
) -> None:
    ada = await make_owner()
    made = await make_key(api, ada)
    await api.post(f"{KEYS}/{made['id']}/rotate", json={"grace_hours": 0}, headers=ada.headers)
    other = await make_key(api, ada, name="other")
    reused = keyed_hash(made["secret"]).hex()
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner(f"UPDATE api_keys SET key_hash = '\\x{reused}' WHERE id = '{other['id']}'")


@pytest.mark.parametrize(("after", "old_works"), [(-1, True), (0, False), (1, False)])
async def test_both_secrets_work_until_the_grace_ends_and_one_after_it(
    api: httpx2.AsyncClient, after: int, old_works: bool
) -> None:
    ada = await make_owner()
    start = clock.machine_now()
    clock.set_instant(start)
    made = await make_key(api, ada)
    answer = await api.post(
        f"{KEYS}/{made['id']}/rotate", json={"grace_hours": 2}, headers=ada.headers
    )
    rotated = answer.json()
    clock.set_instant(start + timedelta(hours=2, microseconds=after))
    old, new = await resolve(made["secret"]), await resolve(rotated["secret"])
    assert isinstance(new, Actor)
    assert isinstance(old, Actor) is old_works
    if not old_works:
        assert old == "api_key_expired"


async def test_a_key_is_held_to_its_addresses_and_to_its_organization(
    api: httpx2.AsyncClient, owner: Any
) -> None:
    ada = await make_owner()
    secret = (await make_key(api, ada, ip_allow=["198.51.100.0/24"]))["secret"]

    here = await resolve(secret, "198.51.100.9")
    elsewhere = [await resolve(secret, ip) for ip in ("203.0.113.1", "::1", None)]
    owner("UPDATE organizations SET status = 'Suspended'")
    suspended = await resolve(secret, "198.51.100.9")

    assert isinstance(here, Actor)
    assert elsewhere == ["ip_not_allowed"] * 3
    assert suspended == "organization_suspended"


async def test_an_expired_key_is_refused_from_its_instant_on(api: httpx2.AsyncClient) -> None:
    ada = await make_owner()
    start = clock.machine_now()
    clock.set_instant(start)
    expires = start + timedelta(days=1)
    made = await make_key(api, ada, expires_at=clock.to_wire(expires))
    clock.set_instant(expires - timedelta(microseconds=1))
    assert isinstance(await resolve(made["secret"]), Actor)
    clock.set_instant(expires)
    assert await resolve(made["secret"]) == "api_key_expired"
    shown = await api.get(f"{KEYS}/{made['id']}", headers=ada.headers)
    assert shown.json()["status"] == "Expired"


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"name": ""}, "name", "string_pattern_mismatch"),
        ({"name": "a<b"}, "name", "string_pattern_mismatch"),
        ({"environment": "live"}, "environment", "literal_error"),
        ({"scopes": ["*"]}, "scopes.0", "string_pattern_mismatch"),
        ({"scopes": ["assets.read", "none.such"]}, "scopes.1", "unknown_scope"),
        ({"rate_per_minute": 0}, "rate_per_minute", "greater_than_equal"),
        ({"ip_allow": ["10.0.0.1/8"]}, "ip_allow.0", "value_error"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "in_the_past"),
        ({"expires_at": "2020-01-01T00:00:00"}, "expires_at", "timezone_aware"),
        ({"product": "none"}, "product", "unknown_product"),
        ({"subscription_id": str(new_id())}, "subscription_id", "unknown_subscription"),
        ({"secret": "mine"}, "secret", "extra_forbidden"),
    ],
)
async def test_a_bad_key_names_its_field_and_leaves_nothing(
    api: httpx2.AsyncClient, change: dict[str, Any], field: str, code: str | None
) -> None:
    ada = await make_owner()
    answer = await api.post(KEYS, json={**BODY, **change}, headers=ada.headers)
    assert answer.status_code == 422, answer.text
    errors = answer.json()["errors"]
    assert errors[0]["field"].startswith(field)
    assert code is None or errors[0]["code"] == code
    async with db.system_session(REASON) as session:
        assert await session.scalar(text("SELECT count(*) FROM api_keys")) == 0


async def test_another_tenants_key_is_not_found_and_not_touched(api: httpx2.AsyncClient) -> None:
    ada = await make_owner()
    eve = await make_owner("eve@other.example")
    made = await make_key(api, ada)
    change = {"name": "x", "scopes": [], "version": 1}
    bodies = []
    for key_id in (made["id"], str(new_id())):
        path = f"{KEYS}/{key_id}"
        answers = (
            await api.get(path, headers=eve.headers),
            await api.put(path, json=change, headers=eve.headers),
            await api.post(f"{path}/rotate", json={}, headers=eve.headers),
            await api.delete(path, headers=eve.headers),
        )
        assert {answer.status_code for answer in answers} == {404}
        hide = ("request_id", "instance")
        bodies.append([{k: v for k, v in a.json().items() if k not in hide} for a in answers])
    assert bodies[0] == bodies[1]
    assert (await api.get(KEYS, headers=eve.headers)).json()["data"] == []
    unchanged = (await api.get(f"{KEYS}/{made['id']}", headers=ada.headers)).json()
    assert unchanged == {k: v for k, v in made.items() if k != "secret"}


async def test_key_changes_are_limited_by_user(api: httpx2.AsyncClient) -> None:
    ada = await make_owner()
    made = await make_key(api, ada)
    path = f"{KEYS}/{made['id']}"
    # Ten at once; a slow machine may have earned a few more by then, and never forty.
    answers = [await api.delete(path, headers=ada.headers) for _ in range(40)]
    assert {answer.status_code for answer in answers[:9]} == {200}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "rate_limited"
    assert int(refused.headers["retry-after"]) >= 1


async def test_when_a_key_was_last_used_is_noted_to_the_minute(
    api: httpx2.AsyncClient, settings: Settings
) -> None:
    ada = await make_owner()
    made = await make_key(api, ada)
    used = clock.machine_now().replace(microsecond=0)

    async def note_and_read(instant: datetime) -> str:
        async with db.system_session(REASON) as session:
            await note_used(session, {UUID(made["id"]): instant, new_id(): instant})
        answer = await api.get(f"{KEYS}/{made['id']}", headers=ada.headers)
        return str(answer.json()["last_used_at"])

    assert await note_and_read(used) == clock.to_wire(used)
    assert await note_and_read(used + timedelta(seconds=59)) == clock.to_wire(used)
    assert await note_and_read(used - timedelta(days=1)) == clock.to_wire(used)
    later = used + timedelta(minutes=1)
    assert await note_and_read(later) == clock.to_wire(later)
    with psycopg.connect(**database_login(settings, "system")) as other:  # type: ignore[arg-type]
        other.execute("SELECT 1 FROM api_keys FOR UPDATE")
        assert await note_and_read(later + timedelta(hours=1)) == clock.to_wire(later)
