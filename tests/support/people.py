# SPDX-License-Identifier: Apache-2.0
"""People and organizations for tests, made by the product's own use cases."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx2
from sqlalchemy import text

from nimbus.base import db
from nimbus.base.actors import SYSTEM, Actor
from nimbus.base.ids import NIL
from nimbus.identity import link_token, publish_terms
from nimbus.identity.models import User
from nimbus.identity.service import accounts, organizations
from nimbus.identity.service.organizations import OrganizationDetails
from nimbus.identity.tokens import read_access_token

PASSWORD = "correct horse battery staple 7"
TERMS = "2026-01"
DETAILS = OrganizationDetails(
    name="Acme Energie B.V.",
    country="NL",
    legal_name="Acme Energie B.V.",
    company_number="12345678",
    vat_number="NL123456782B90",
    billing_email="billing@acme.example",
    address={"street": "Keizersgracht 1", "postal_code": "1015 CJ", "city": "Amsterdam"},
    time_zone="Europe/Amsterdam",
    locale="en",
)


@dataclass(frozen=True)
class Person:
    """A signed-in person: how to call the API and the use cases as them."""

    email: str
    token: str
    actor: Actor

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def organization_id(self) -> UUID:
        return self.actor.organization_id


async def publish_test_terms() -> None:
    """Publish the operator's terms, so that organizations can become Active."""
    async with db.system_session("platform pages") as session:
        await publish_terms(session, SYSTEM, TERMS, "Be kind.")


async def latest_link(email: str) -> str:
    """The token of the newest one-time link of an address, as its mail carries it."""
    async with db.system_session("platform pages") as session:
        link_id = await session.scalar(
            text(
                "SELECT l.id FROM one_time_links l JOIN users u ON u.id = l.user_id"
                " WHERE u.email = :email ORDER BY l.id DESC LIMIT 1"
            ),
            {"email": email},
        )
    assert link_id is not None, f"no link for {email}"
    return link_token(link_id)


async def sign_up(
    api: httpx2.AsyncClient, email: str = "ada@acme.example", **organization: Any
) -> Person:
    """Register, verify, make an organization: an owner of a Pending organization, over HTTP."""
    body = {"email": email, "password": PASSWORD, "first_name": "Ada"}
    assert (await api.post("/api/public/register", json=body)).status_code == 202
    answer = await api.post("/api/public/verify-email", json={"token": await latest_link(email)})
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    details = {"name": "Acme Energie B.V.", "country": "NL", **organization}
    made = await api.post(
        "/api/public/create-organization",
        json=details,
        headers={"Authorization": f"Bearer {token}"},
    )
    assert made.status_code == 201, made.text
    return person(email, made.json()["access_token"])


async def make_owner(
    email: str = "ada@acme.example", *, active: bool = True, platform_role: str | None = None
) -> Person:
    """An owner of an organization, by use cases: quicker than `sign_up`."""
    visitor = Actor(kind="visitor")
    async with db.transaction() as session:
        await accounts.register(
            session,
            visitor,
            email=email,
            password=PASSWORD,
            first_name="Ada",
            last_name="L",
            company="",
            locale="en",
        )
    async with db.transaction() as session:
        sign_in = await accounts.verify_email(session, visitor, await latest_link(email))
    first = person(email, sign_in.access_token).actor
    async with db.transaction(user_id=first.user_id) as session:
        organization = await organizations.create(session, first, DETAILS, "EUR")
        token = organizations.access_token_for(first, organization.id)
    owner = person(email, token, platform_role)
    if active:
        await publish_test_terms()
        async with db.transaction(owner.organization_id, owner.actor.user_id) as session:
            await organizations.accept_terms(session, owner.actor, TERMS)
    if platform_role:
        async with db.system_session("platform pages") as session:
            user = await session.get(User, owner.actor.user_id)
            assert user is not None
            user.platform_role = platform_role
    return owner


def person(email: str, token: str, platform_role: str | None = None) -> Person:
    """Who an access token is."""
    claim = read_access_token(token)
    actor = Actor(
        kind="user",
        user_id=claim.user_id,
        organization_id=claim.organization_id,
        role="owner" if claim.organization_id != NIL else None,
        platform_role=platform_role,
        session_id=claim.session_id,
        email_verified=True,
    )
    return Person(email, token, actor)
