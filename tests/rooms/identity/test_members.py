# SPDX-License-Identifier: Apache-2.0
"""Members: roles count from the next request, and there is always an owner (K-09, K-10)."""

import asyncio

import httpx2
import pytest
from sqlalchemy import text

from nimbus.base import db
from nimbus.base.config import Settings
from nimbus.errors import Refusal
from nimbus.identity import MATRIX, ROLES, Permission, has, link_token
from nimbus.identity.service import members
from tests.support.people import Person, make_owner, person, sign_up

INVITE = "/api/organizations/users/invite"
SECOND = "bob@acme.example"


async def invited(api: httpx2.AsyncClient, owner: Person, email: str, role: str) -> Person:
    """A member of the owner's organization with `role`, by invitation."""
    answer = await api.post(INVITE, json={"email": email, "role": role}, headers=owner.headers)
    assert answer.status_code == 201, answer.text
    guest = await sign_up(api, email)
    token = await invitation_token(email)
    accept = "/api/public/invitations/accept"
    joined = await api.post(accept, json={"token": token}, headers=guest.headers)
    assert joined.status_code == 204, joined.text
    again = await api.post(accept, json={"token": token}, headers=guest.headers)
    assert again.json()["errors"][0]["code"] == "used_or_expired"
    switched = await api.post(
        "/api/organizations/switch",
        json={"organization_id": str(owner.organization_id)},
        headers=guest.headers,
    )
    return person(email, switched.json()["access_token"])


async def invitation_token(email: str) -> str:
    async with db.system_session("platform pages") as session:
        statement = text("SELECT id FROM invitations WHERE email = :email ORDER BY id DESC")
        return link_token(await session.scalar(statement, {"email": email}))


def test_the_matrix_is_the_specifications() -> None:
    marks = {role: "".join("x" if has(role, p) else "." for p in MATRIX) for role in ROLES}
    assert marks == {
        "owner": "xxxxxxxxxxxxxxxxx",
        "admin": "xx.xxxxx....xx..x",
        "developer": "xx..xxxx.........",
        "billing": "xx.....xx.xx..xx.",
        "accountant": "xx......x.x...x..",
        "manager": "xx.....x.........",
        "viewer": "xx...............",
    }
    assert not any(has(None, permission) for permission in Permission)


async def test_a_role_counts_from_the_next_request_on(api: httpx2.AsyncClient) -> None:
    ada = await make_owner()
    bob = await invited(api, ada, SECOND, "viewer")
    listing = "/api/organizations/users"
    assert (await api.get(listing, headers=bob.headers)).json()["code"] == "forbidden"
    path = f"{listing}/{bob.actor.user_id}"
    await api.put(path, json={"role": "admin"}, headers=ada.headers)
    assert (await api.get(listing, headers=bob.headers)).status_code == 200
    assert (await api.delete(path, headers=ada.headers)).status_code == 204
    assert (await api.get(listing, headers=bob.headers)).json()["code"] == "forbidden"


async def test_only_an_owner_makes_owners(api: httpx2.AsyncClient) -> None:
    ada = await make_owner()
    bob = await invited(api, ada, SECOND, "admin")
    body = {"email": "eve@acme.example", "role": "owner"}
    answer = await api.post(INVITE, json=body, headers=bob.headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    path = f"/api/organizations/users/{ada.actor.user_id}"
    demoted = await api.put(path, json={"role": "viewer"}, headers=bob.headers)
    assert demoted.json()["code"] == "forbidden"


async def test_two_owners_who_remove_each_other_at_once_leave_one(
    api: httpx2.AsyncClient, database: Settings
) -> None:
    ada = await make_owner()
    bob = await invited(api, ada, SECOND, "owner")

    async def remove(who: Person, whom: Person) -> str:
        try:
            async with db.transaction(who.organization_id, who.actor.user_id) as session:
                await members.remove(session, who.actor, whom.actor.user_id)
        except Refusal as refusal:
            return refusal.fields[0].code
        return "removed"

    outcomes = await asyncio.gather(remove(ada, bob), remove(bob, ada))
    assert sorted(outcomes) == ["last_owner", "removed"]
    survivor = ada if outcomes[0] == "removed" else bob
    with pytest.raises(Refusal):
        async with db.transaction(ada.organization_id, ada.actor.user_id) as session:
            await members.remove(session, survivor.actor, survivor.actor.user_id)


async def test_another_organizations_member_is_not_found(api: httpx2.AsyncClient) -> None:
    ada = await make_owner()
    eve = await sign_up(api, "eve@other.example")
    path = f"/api/organizations/users/{ada.actor.user_id}"
    for answer in (
        await api.put(path, json={"role": "viewer"}, headers=eve.headers),
        await api.delete(path, headers=eve.headers),
        await api.post(
            "/api/organizations/switch",
            json={"organization_id": str(ada.organization_id)},
            headers=eve.headers,
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
