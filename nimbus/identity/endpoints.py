# SPDX-License-Identifier: Apache-2.0
"""HTTP of accounts and organizations: parse, call one use case, present."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import db
from nimbus.base.actors import Actor
from nimbus.base.ids import NIL
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import CurrentActor, Money, Router, Session, mutates
from nimbus.errors import Refusal
from nimbus.identity import events as facts
from nimbus.identity import queries, schemas
from nimbus.identity.asking import allowed, signed_in
from nimbus.identity.models import Membership, Organization, User
from nimbus.identity.permissions import MATRIX, Permission, has
from nimbus.identity.service import accounts, members, organizations
from nimbus.identity.service.accounts import SignIn
from nimbus.identity.service.organizations import OrganizationDetails
from nimbus.identity.tokens import ACCESS_SECONDS
from nimbus.rules import money as rules

REFRESH_COOKIE = "nimbus_refresh"
REFRESH_PATH = "/api/user/auth"
REFRESH_DAYS = 30
SENT = "If this is possible, a message is on its way."

router = Router(tags=["identity"])
SignedIn = Annotated[Actor, signed_in()]


REGISTER = mutates(
    permission="public",
    events=[facts.UserRegistered, facts.RegistrationRepeated],
    idempotency="natural",
)


@router.post(
    "/api/public/register",
    operation_id="register",
    status_code=202,
    responses=documented(415, 422, 429),
    **REGISTER,
)
@router.post("/api/user/auth/register", status_code=202, include_in_schema=False, **REGISTER)
async def register(
    body: schemas.RegisterBody, actor: CurrentActor, session: Session
) -> schemas.MessageView:
    """Register; the answer never tells whether the address has an account."""
    await throttle(f"register-ip/{actor.ip}", 60, 600)
    await throttle(f"register/{body.email.lower()}", 5, 600)
    await accounts.register(session, actor, **body.model_dump())
    return schemas.MessageView(message=SENT)


VERIFY = mutates(permission="public", events=[facts.EmailVerified], idempotency="token")


@router.post(
    "/api/public/verify-email",
    operation_id="verify_email",
    response_model=schemas.SignInView,
    responses=documented(415, 422, 429),
    **VERIFY,
)
@router.post(
    "/api/user/auth/verify-email",
    response_model=schemas.SignInView,
    include_in_schema=False,
    **VERIFY,
)
async def verify_email(
    body: schemas.TokenBody, request: Request, actor: CurrentActor, session: Session
) -> Response:
    """Use the link of the verification mail, and be signed in."""
    await throttle(f"verify-ip/{actor.ip}", 60, 600)
    sign_in = await accounts.verify_email(session, actor, body.token)
    return await _signed_in(request, session, sign_in)


@router.post(
    "/api/user/auth/resend-verification",
    operation_id="resend_verification",
    status_code=202,
    responses=documented(401, 429),
    **mutates(permission="signed_in", events=[facts.VerificationRequested], idempotency="natural"),
)
async def resend_verification(actor: SignedIn, session: Session) -> schemas.MessageView:
    """Send the verification mail again."""
    await throttle(f"resend/{actor.user_id}", 3, 600)
    await accounts.request_verification(session, actor)
    return schemas.MessageView(message=SENT)


@router.post(
    "/api/user/auth/login",
    operation_id="login",
    response_model=schemas.SignInView,
    responses=documented(401, 415, 422, 429),
    **mutates(permission="public", events=[facts.SignedIn], idempotency="natural"),
)
async def login(
    body: schemas.LoginBody, request: Request, actor: CurrentActor, session: Session
) -> Response:
    """Sign in with e-mail address and password."""
    await throttle(f"login-ip/{actor.ip}", 120, 60)
    await throttle(f"login/{body.email.lower()}", 20, 600)
    sign_in = await accounts.login(session, actor, email=body.email, password=body.password)
    return await _signed_in(request, session, sign_in)


@router.post(
    "/api/user/auth/refresh",
    operation_id="refresh",
    response_model=schemas.SignInView,
    responses=documented(401, 403),
    **mutates(
        permission="public",
        events=[facts.SessionRefreshed, facts.SessionsRevoked],
        idempotency="token",
    ),
)
async def refresh(request: Request, actor: CurrentActor, session: Session) -> Response:
    """A new access token for the refresh cookie, which is rotated."""
    _refuse_cross_site(request)
    sign_in = await accounts.refresh(session, actor, request.cookies.get(REFRESH_COOKIE, ""))
    if sign_in is None:
        # What this request found out (a reused token revokes its family) must be committed.
        await db.commit(session)
        raise Refusal("unauthenticated", "Sign in again.")
    return await _signed_in(request, session, sign_in)


@router.post(
    "/api/user/auth/logout",
    operation_id="logout",
    status_code=204,
    responses=documented(401, 403),
    **mutates(permission="signed_in", events=[facts.SignedOut], idempotency="natural"),
)
async def logout(request: Request, actor: SignedIn, session: Session) -> Response:
    """End this session."""
    _refuse_cross_site(request)
    await accounts.logout(session, actor)
    response = Response(status_code=204)
    response.delete_cookie(REFRESH_COOKIE, path=REFRESH_PATH)
    return response


@router.post(
    "/api/user/auth/forgot-password",
    operation_id="forgot_password",
    status_code=202,
    responses=documented(415, 422, 429),
    **mutates(permission="public", events=[facts.PasswordResetRequested], idempotency="natural"),
)
async def forgot_password(
    body: schemas.ForgotBody, actor: CurrentActor, session: Session
) -> schemas.MessageView:
    """Send a reset link, if the address has an account."""
    await throttle(f"forgot-ip/{actor.ip}", 30, 600)
    await throttle(f"forgot/{body.email.lower()}", 3, 600)
    await accounts.request_reset(session, actor, body.email)
    return schemas.MessageView(message=SENT)


@router.post(
    "/api/user/auth/reset-password",
    operation_id="reset_password",
    status_code=204,
    responses=documented(415, 422, 429),
    **mutates(permission="public", events=[facts.PasswordChanged], idempotency="token"),
)
async def reset_password(body: schemas.ResetBody, actor: CurrentActor, session: Session) -> None:
    """Set a new password by a reset link; every session ends."""
    await throttle(f"reset-ip/{actor.ip}", 30, 600)
    await accounts.reset_password(session, actor, body.token, body.password)


@router.get("/api/user/account/profile", operation_id="read_profile", responses=documented(401))
async def read_profile(actor: SignedIn, session: Session) -> schemas.UserView:
    """The own profile."""
    return _user_view(await queries.lock_user(session, actor.user_id))


@router.put(
    "/api/user/account/profile",
    operation_id="change_profile",
    responses=documented(401, 409, 415, 422),
    **mutates(permission="signed_in", events=[facts.ProfileChanged], idempotency="version"),
)
async def change_profile(
    body: schemas.ProfileBody, actor: SignedIn, session: Session
) -> schemas.UserView:
    """Change the own profile."""
    user = await accounts.change_profile(session, actor, **body.model_dump())
    return _user_view(user)


@router.put(
    "/api/user/account/password",
    operation_id="change_password",
    status_code=204,
    responses=documented(401, 415, 422, 429),
    **mutates(permission="signed_in", events=[facts.PasswordChanged], idempotency="natural"),
)
async def change_password(body: schemas.PasswordBody, actor: SignedIn, session: Session) -> None:
    """Change the own password; other sessions end."""
    await throttle(f"password/{actor.user_id}", 10, 600)
    await accounts.change_password(session, actor, body.current_password, body.password)


CREATE = mutates(permission="signed_in", events=[facts.OrganizationCreated], idempotency="key")


@router.post(
    "/api/public/create-organization",
    operation_id="create_organization",
    status_code=201,
    responses=documented(401, 403, 409, 415, 422),
    **CREATE,
)
@router.post("/api/organizations", status_code=201, include_in_schema=False, **CREATE)
async def create_organization(
    body: schemas.NewOrganizationBody, actor: SignedIn, session: Session
) -> schemas.CreatedOrganizationView:
    """Make an organization with oneself as its owner, and act for it."""
    user = await queries.lock_user(session, actor.user_id)
    details = _details(body, user.email)
    organization = await organizations.create(session, actor, details, body.currency)
    return schemas.CreatedOrganizationView(
        organization=_organization_view(organization),
        access_token=organizations.access_token_for(actor, organization.id),
        expires_in=ACCESS_SECONDS,
    )


@router.get("/api/organizations", operation_id="list_organizations", responses=documented(401))
async def list_organizations(
    actor: SignedIn, session: Session
) -> dict[Literal["data"], list[schemas.OwnOrganizationView]]:
    """The user's organizations."""
    return {"data": await _organizations(session, actor.user_id)}


@router.get("/api/organizations/me", operation_id="read_organization", responses=documented(401))
async def read_organization(
    actor: Annotated[Actor, allowed(Permission.SEE_DASHBOARD)], session: Session
) -> schemas.OrganizationView:
    """The organization that the token acts for."""
    row = await queries.organization(session, actor.organization_id)
    return _organization_view(row)


@router.put(
    "/api/organizations/me",
    operation_id="change_organization",
    responses=documented(401, 403, 409, 415, 422),
    **mutates(
        permission=Permission.CHANGE_ORGANIZATION,
        events=[facts.OrganizationChanged],
        idempotency="version",
    ),
)
async def change_organization(
    body: schemas.OrganizationChangeBody,
    actor: Annotated[Actor, allowed(Permission.CHANGE_ORGANIZATION)],
    session: Session,
) -> schemas.OrganizationView:
    """Change the organization."""
    known = await queries.organization(session, actor.organization_id)
    details = _details(body, known.billing_email)
    row: Organization = await organizations.change(session, actor, details, body.version)
    return _organization_view(row)


@router.get(
    "/api/billing/details", operation_id="read_billing_details", responses=documented(401, 403)
)
async def read_billing_details(
    actor: Annotated[Actor, allowed(Permission.SEE_INVOICES)], session: Session
) -> schemas.BillingDetailsView:
    """What the organization's invoices say of it."""
    return _billing_details(await queries.organization(session, actor.organization_id))


@router.put(
    "/api/billing/details",
    operation_id="change_billing_details",
    responses=documented(401, 403, 409, 415, 422),
    **mutates(
        permission=Permission.MANAGE_PAYMENT_METHODS,
        events=[facts.OrganizationChanged],
        idempotency="version",
    ),
)
async def change_billing_details(
    body: schemas.BillingDetailsBody,
    actor: Annotated[Actor, allowed(Permission.MANAGE_PAYMENT_METHODS)],
    session: Session,
) -> schemas.BillingDetailsView:
    """Change what the organization's next invoices say of it; those that were sent stay."""
    known = await queries.organization(session, actor.organization_id)
    details = OrganizationDetails(
        name=known.name,
        country=body.country,
        legal_name=body.legal_name,
        company_number=body.company_number,
        vat_number=body.vat_number,
        billing_email=body.billing_email,
        address=body.address.model_dump(),
        time_zone=known.time_zone,
        locale=known.locale,
    )
    return _billing_details(await organizations.change(session, actor, details, body.version))


@router.put(
    "/api/billing/spend-limit",
    operation_id="change_spend_limit",
    responses=documented(401, 403, 409, 415, 422),
    **mutates(
        permission=Permission.MANAGE_PAYMENT_METHODS,
        events=[facts.OrganizationChanged],
        idempotency="version",
    ),
)
async def change_spend_limit(
    body: schemas.SpendLimitBody,
    actor: Annotated[Actor, allowed(Permission.MANAGE_PAYMENT_METHODS)],
    session: Session,
) -> schemas.OrganizationView:
    """Limit what the organization's calls may cost in a calendar month; in force at every gateway
    within a second. Calls stop before the amount is passed.
    """
    asked = body.monthly_spend_limit
    limit = None if asked is None else rules.Money(asked.amount_minor, asked.currency)
    row = await organizations.change_spend_limit(session, actor, limit, body.version)
    return _organization_view(row)


@router.post(
    "/api/organizations/switch",
    operation_id="switch_organization",
    responses=documented(401, 404, 415, 422),
    **mutates(permission="signed_in", events=[facts.OrganizationSwitched], idempotency="natural"),
)
async def switch_organization(
    body: schemas.SwitchBody, actor: SignedIn, session: Session
) -> schemas.AccessTokenView:
    """Act for another of the own organizations."""
    token = await organizations.switch(session, actor, body.organization_id)
    return schemas.AccessTokenView(access_token=token, expires_in=ACCESS_SECONDS)


@router.get("/api/public/terms", operation_id="read_terms", responses=documented(404))
async def read_terms(session: Session) -> schemas.TermsView:
    """The operator's current terms; 404 while there are none."""
    terms = await queries.current_terms(session)
    if terms is None:
        raise Refusal("not_found", "The operator has published no terms yet.")
    return schemas.TermsView(version=terms.version, body=terms.body)


MANAGERS = Annotated[Actor, allowed(Permission.MANAGE_MEMBERS)]


@router.get("/api/organizations/users", operation_id="list_members", responses=documented(401, 403))
async def list_members(
    actor: MANAGERS, session: Session
) -> dict[Literal["data"], list[schemas.MemberView]]:
    """The members of the organization."""
    rows = await queries.members_of(session, actor.organization_id)
    return {"data": [_member_view(membership, user) for membership, user in rows]}


@router.post(
    "/api/organizations/users/invite",
    operation_id="invite_member",
    status_code=201,
    responses=documented(401, 403, 409, 415, 422),
    **mutates(
        permission=Permission.MANAGE_MEMBERS, events=[facts.MemberInvited], idempotency="key"
    ),
)
async def invite_member(
    body: schemas.InviteBody, actor: MANAGERS, session: Session
) -> schemas.InvitationView:
    """Invite an address; the mail's link is valid for seven days."""
    invitation = await members.invite(session, actor, email=body.email, role=body.role)
    return schemas.InvitationView(id=invitation.id, email=invitation.email, role=invitation.role)


@router.post(
    "/api/public/invitations/accept",
    operation_id="accept_invitation",
    status_code=204,
    responses=documented(401, 415, 422),
    **mutates(permission="signed_in", events=[facts.MemberJoined], idempotency="token"),
)
async def accept_invitation(body: schemas.TokenBody, actor: SignedIn, session: Session) -> None:
    """Join by an invitation's link, signed in with the invited address."""
    await members.accept_invitation(session, actor, body.token)


@router.put(
    "/api/organizations/users/{user_id}",
    operation_id="change_member",
    status_code=204,
    responses=documented(401, 403, 404, 415, 422),
    **mutates(
        permission=Permission.MANAGE_MEMBERS, events=[facts.MemberChanged], idempotency="natural"
    ),
)
async def change_member(
    user_id: UUID, body: schemas.RoleBody, actor: MANAGERS, session: Session
) -> None:
    """Give a member another role."""
    await members.change_role(session, actor, user_id, body.role)


@router.delete(
    "/api/organizations/users/{user_id}",
    operation_id="remove_member",
    status_code=204,
    responses=documented(401, 403, 404, 422),
    **mutates(
        permission=Permission.MANAGE_MEMBERS, events=[facts.MemberRemoved], idempotency="natural"
    ),
)
async def remove_member(user_id: UUID, actor: MANAGERS, session: Session) -> None:
    """Remove a member."""
    await members.remove(session, actor, user_id)


def _details(body: schemas.OrganizationBody, fallback_email: str) -> OrganizationDetails:
    return OrganizationDetails(
        name=body.name,
        country=body.country,
        legal_name=body.legal_name,
        company_number=body.company_number,
        vat_number=body.vat_number,
        billing_email=body.billing_email or fallback_email,
        address=body.address.model_dump(),
        time_zone=body.time_zone,
        locale=body.locale,
    )


def _billing_details(row: Organization) -> schemas.BillingDetailsView:
    return schemas.BillingDetailsView(
        legal_name=row.legal_name,
        address=schemas.PostalAddress(**row.address),
        country=row.country,
        vat_number=row.vat_number,
        company_number=row.company_number,
        billing_email=row.billing_email,
        currency=row.currency,
        version=row.version,
    )


def _user_view(user: User) -> schemas.UserView:
    return schemas.UserView(
        id=user.id,
        email=user.email,
        first_name=user.first_name,
        last_name=user.last_name,
        company=user.company,
        locale=user.locale,
        email_verified=user.email_verified_at is not None,
        platform_role=user.platform_role,
        version=user.version,
    )


def _organization_view(row: Organization) -> schemas.OrganizationView:
    names = schemas.OrganizationView.model_fields.keys() - {"address", "monthly_spend_limit"}
    minor = row.monthly_spend_limit_minor
    return schemas.OrganizationView(
        address=schemas.PostalAddress(**row.address),
        monthly_spend_limit=None
        if minor is None
        else Money(amount_minor=minor, currency=row.currency),
        **{name: getattr(row, name) for name in names},
    )


def _own_organization_view(
    membership: Membership, organization: Organization
) -> schemas.OwnOrganizationView:
    return schemas.OwnOrganizationView(
        id=organization.id,
        name=organization.name,
        status=organization.status,
        time_zone=organization.time_zone,
        role=membership.role,
        permissions=[str(item) for item in MATRIX if has(membership.role, item)],
    )


def _member_view(membership: Membership, user: User) -> schemas.MemberView:
    return schemas.MemberView(
        user_id=user.id,
        email=user.email,
        first_name=user.first_name,
        last_name=user.last_name,
        role=membership.role,
    )


async def _organizations(session: AsyncSession, user_id: Any) -> list[schemas.OwnOrganizationView]:
    rows = await queries.memberships_of(session, user_id)
    return [_own_organization_view(membership, row) for membership, row in rows]


async def _signed_in(request: Request, session: AsyncSession, sign_in: SignIn) -> Response:
    await session.flush()
    known = None if sign_in.organization_id == NIL else sign_in.organization_id
    view = schemas.SignInView(
        access_token=sign_in.access_token,
        expires_in=ACCESS_SECONDS,
        user=_user_view(sign_in.user),
        organization_id=known,
        organizations=await _organizations(session, sign_in.user.id),
    )
    response = JSONResponse(view.model_dump(mode="json"), headers={"Cache-Control": "no-store"})
    response.set_cookie(
        REFRESH_COOKIE,
        sign_in.refresh_token,
        max_age=REFRESH_DAYS * 24 * 3600,
        path=REFRESH_PATH,
        secure=request.headers.get("x-forwarded-proto") == "https",
        httponly=True,
        samesite="lax",
    )
    return response


def _refuse_cross_site(request: Request) -> None:
    """Cookie routes want a header that no foreign form can send, and no foreign origin."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    if request.headers.get("x-nimbus-csrf") != "1" or site not in {"same-origin", "none"}:
        raise Refusal("forbidden", "Send the header X-Nimbus-CSRF: 1 from the portal's own pages.")
