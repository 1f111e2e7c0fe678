# SPDX-License-Identifier: Apache-2.0
"""The wire shapes of identity."""

from typing import Annotated, Literal
from uuid import UUID
from zoneinfo import available_timezones

from babel import Locale
from babel.numbers import list_currencies
from pydantic import AfterValidator, BaseModel, ConfigDict, EmailStr, Field, StringConstraints

from nimbus.base.web import Amount, Money

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Address = Annotated[EmailStr, StringConstraints(max_length=254)]
Language = Literal["en", "nl"]
Role = Literal["owner", "admin", "developer", "billing", "accountant", "manager", "viewer"]

_TERRITORIES = frozenset(
    code for code in map(str, Locale("en").territories) if len(code) == 2 and code.isalpha()
)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed")
    return text


def _country(code: str) -> str:
    if code not in _TERRITORIES:
        raise ValueError("an ISO 3166 country code such as NL")
    return code


def _currency(code: str) -> str:
    if code not in list_currencies():
        raise ValueError("an ISO 4217 currency code such as EUR")
    return code


def _time_zone(name: str | None) -> str | None:
    if name is not None and name not in available_timezones():
        raise ValueError("an IANA time zone such as Europe/Amsterdam")
    return name


PlainText = Annotated[Text, AfterValidator(_printable)]
PlainName = Annotated[Name, AfterValidator(_printable)]
Country = Annotated[str, AfterValidator(_country)]
Currency = Annotated[str, AfterValidator(_currency)]
TimeZone = Annotated[str | None, AfterValidator(_time_zone)]


class Body(BaseModel):
    """What comes in: unknown fields are refused, so that a typo is not silently dropped."""

    model_config = ConfigDict(extra="forbid")


class RegisterBody(Body):
    """A registration."""

    email: Address
    password: Annotated[str, Field(max_length=1000)]
    first_name: PlainText = ""
    last_name: PlainText = ""
    company: PlainText = ""
    locale: Language = "en"


class TokenBody(Body):
    """A one-time link's token."""

    token: Annotated[str, Field(max_length=500)]


class LoginBody(Body):
    """A sign-in."""

    email: Annotated[str, Field(max_length=254)]
    password: Annotated[str, Field(max_length=1000)]


class ForgotBody(Body):
    """An address whose password is forgotten."""

    email: Address


class ResetBody(TokenBody):
    """A new password by a reset link."""

    password: Annotated[str, Field(max_length=1000)]


class PasswordBody(Body):
    """A change of the own password."""

    current_password: Annotated[str, Field(max_length=1000)]
    password: Annotated[str, Field(max_length=1000)]


class ProfileBody(Body):
    """The own profile."""

    first_name: PlainText
    last_name: PlainText
    company: PlainText = ""
    locale: Language
    version: int


class MessageView(BaseModel):
    """A sentence that is the same whatever the truth, where the truth is not for strangers."""

    message: str


class UserView(BaseModel):
    """A person, as that person sees it."""

    id: UUID
    email: str
    first_name: str
    last_name: str
    company: str
    locale: str
    email_verified: bool
    platform_role: str | None
    version: int


class PostalAddress(Body):
    """A postal address."""

    street: PlainText = ""
    postal_code: PlainText = ""
    city: PlainText = ""


class OrganizationBody(Body):
    """An organization's details; `time_zone` follows from the country when it is left out."""

    name: PlainName
    country: Country
    legal_name: PlainText | None = None
    company_number: PlainText | None = None
    vat_number: PlainText | None = None
    billing_email: Address | None = None
    address: PostalAddress = Field(default_factory=PostalAddress)
    time_zone: TimeZone = None
    locale: Language = "en"


class NewOrganizationBody(OrganizationBody):
    """An organization to make; its currency stays."""

    currency: Currency = "EUR"


class OrganizationChangeBody(OrganizationBody):
    """An organization to change; `version` as it was read."""

    version: int


class BillingDetailsBody(Body):
    """What invoices say of who is billed; `version` as it was read."""

    legal_name: PlainText
    address: PostalAddress
    country: Country
    vat_number: PlainText | None = None
    company_number: PlainText | None = None
    billing_email: Address
    version: int


class BillingDetailsView(BaseModel):
    """What invoices from now on say of who is billed, and in which currency."""

    legal_name: str | None
    address: PostalAddress
    country: str
    vat_number: str | None
    company_number: str | None
    billing_email: str
    currency: str
    version: int


class SpendLimitBody(Body):
    """What calls may cost in a calendar month, null for no limit; `version` as it was read."""

    monthly_spend_limit: Amount | None
    version: int


class OrganizationView(BaseModel):
    """An organization, as its members see it."""

    id: UUID
    name: str
    slug: str
    legal_name: str | None
    company_number: str | None
    vat_number: str | None
    billing_email: str
    address: PostalAddress
    country: str
    time_zone: str
    locale: str
    currency: str
    monthly_spend_limit: Money | None
    status: str
    version: int


class OwnOrganizationView(BaseModel):
    """One of the user's organizations, with what the user may do there."""

    id: UUID
    name: str
    status: str
    time_zone: str
    role: str
    permissions: list[str]


class SignInView(BaseModel):
    """A sign-in: the access token lives 15 minutes; the refresh token is in the cookie."""

    access_token: str
    expires_in: int
    user: UserView
    organization_id: UUID | None
    organizations: list[OwnOrganizationView]


class SwitchBody(Body):
    """The organization to act for."""

    organization_id: UUID


class AccessTokenView(BaseModel):
    """An access token for another organization."""

    access_token: str
    expires_in: int


class CreatedOrganizationView(AccessTokenView):
    """The new organization, and the access token that acts for it."""

    organization: OrganizationView


class TermsView(BaseModel):
    """The operator's current terms."""

    version: str
    body: str


class InviteBody(Body):
    """An invitation."""

    email: Address
    role: Role


class RoleBody(Body):
    """Another role for a member."""

    role: Role


class MemberView(BaseModel):
    """A member of the organization."""

    user_id: UUID
    email: str
    first_name: str
    last_name: str
    role: str


class InvitationView(BaseModel):
    """An open invitation."""

    id: UUID
    email: str
    role: str
