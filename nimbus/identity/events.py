# SPDX-License-Identifier: Apache-2.0
"""What identity announces. Names are webhook names, actions those of the audit trail."""

from typing import ClassVar
from uuid import UUID

from nimbus.base.events import Event


class _UserEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "user"


class _LinkEvent(_UserEvent):
    """A fact about a user that needs a mail with a link.

    `after` holds `email`, `first_name` and `locale`; `link_id` is what `identity.link_token`
    makes the link's secret from, so that no secret lies in a queue or a trail.
    """

    __slots__ = ()

    @property
    def link_id(self) -> UUID:
        """The id of the one-time link."""
        return UUID(str(self.after["link_id"]))


class UserRegistered(_LinkEvent):
    """Someone registered; the address is not verified yet."""

    name: ClassVar[str] = "user.registered"
    action: ClassVar[str] = "UserRegistered"


class RegistrationRepeated(_UserEvent):
    """Someone registered with an address that has an account: its owner is told by mail."""

    name: ClassVar[str] = "user.registration_repeated"
    action: ClassVar[str] = "RegistrationRepeated"


class VerificationRequested(_LinkEvent):
    """The verification mail was asked for again."""

    name: ClassVar[str] = "user.verification_requested"
    action: ClassVar[str] = "VerificationRequested"


class EmailVerified(_UserEvent):
    """The address is its owner's."""

    name: ClassVar[str] = "user.email_verified"
    action: ClassVar[str] = "EmailVerified"


class SignedIn(_UserEvent):
    """A session began."""

    name: ClassVar[str] = "user.signed_in"
    action: ClassVar[str] = "SignedIn"


class SignedOut(_UserEvent):
    """A session ended."""

    name: ClassVar[str] = "user.signed_out"
    action: ClassVar[str] = "SignedOut"


class SessionRefreshed(_UserEvent):
    """A refresh token was rotated."""

    name: ClassVar[str] = "user.session_refreshed"
    action: ClassVar[str] = "SessionRefreshed"


class SessionsRevoked(_UserEvent):
    """A rotated refresh token came back: its whole family is revoked."""

    name: ClassVar[str] = "user.sessions_revoked"
    action: ClassVar[str] = "SessionsRevoked"


class PasswordResetRequested(_LinkEvent):
    """A reset link was asked for."""

    name: ClassVar[str] = "user.password_reset_requested"
    action: ClassVar[str] = "PasswordResetRequested"


class PasswordChanged(_UserEvent):
    """The password is another one; other sessions ended."""

    name: ClassVar[str] = "user.password_changed"
    action: ClassVar[str] = "PasswordChanged"


class ProfileChanged(_UserEvent):
    """Names or locale changed."""

    name: ClassVar[str] = "user.profile_changed"
    action: ClassVar[str] = "ProfileChanged"


class PlatformRoleGranted(_UserEvent):
    """A user became one of the operator's people."""

    name: ClassVar[str] = "user.platform_role_granted"
    action: ClassVar[str] = "PlatformRoleGranted"


class _OrganizationEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "organization"


class OrganizationCreated(_OrganizationEvent):
    """An organization began, Pending."""

    name: ClassVar[str] = "organization.created"
    action: ClassVar[str] = "OrganizationCreated"


class OrganizationActivated(_OrganizationEvent):
    """The terms were accepted: who, when, which version, from which address."""

    name: ClassVar[str] = "organization.activated"
    action: ClassVar[str] = "TermsAccepted"


class OrganizationChanged(_OrganizationEvent):
    """Names, numbers, address, preferences or the spend limit changed."""

    name: ClassVar[str] = "organization.changed"
    action: ClassVar[str] = "OrganizationChanged"


class OrganizationSwitched(_OrganizationEvent):
    """A user now acts for this organization."""

    name: ClassVar[str] = "organization.switched"
    action: ClassVar[str] = "OrganizationSwitched"


class OrganizationSuspended(_OrganizationEvent):
    """The operator suspended the organization."""

    name: ClassVar[str] = "organization.suspended"
    action: ClassVar[str] = "OrganizationSuspended"


class OrganizationRestored(_OrganizationEvent):
    """The operator restored the organization."""

    name: ClassVar[str] = "organization.restored"
    action: ClassVar[str] = "OrganizationRestored"


class TermsPublished(Event):
    """The operator published a version of the terms."""

    __slots__ = ()
    name: ClassVar[str] = "terms.published"
    action: ClassVar[str] = "TermsPublished"
    entity_type: ClassVar[str] = "terms"


class _MemberEvent(Event):
    __slots__ = ()
    entity_type: ClassVar[str] = "member"


class MemberInvited(_MemberEvent):
    """Someone was invited; `after` holds `email`, `role`, `locale`, `organization`, `link_id`."""

    name: ClassVar[str] = "member.invited"
    action: ClassVar[str] = "UserInvited"

    @property
    def link_id(self) -> UUID:
        """The id of the one-time link."""
        return UUID(str(self.after["link_id"]))


class MemberJoined(_MemberEvent):
    """An invitation was accepted."""

    name: ClassVar[str] = "member.joined"
    action: ClassVar[str] = "MemberJoined"


class MemberChanged(_MemberEvent):
    """A member's role changed."""

    name: ClassVar[str] = "member.changed"
    action: ClassVar[str] = "MemberChanged"


class MemberRemoved(_MemberEvent):
    """A member left or was removed."""

    name: ClassVar[str] = "member.removed"
    action: ClassVar[str] = "MemberRemoved"
