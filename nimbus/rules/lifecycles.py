# SPDX-License-Identifier: Apache-2.0
"""Life cycles: which action is possible in which state, and what follows from facts and a moment.

Each table lists every (state, action) pair, either with the next state or with the name of the
refusal; a test proves that none is missing. What dates decide (a trial that is over, an invoice
that is overdue) is derived, never stored, so no job can forget to flip it (spec 09, I-21).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal, TypeVar, get_args

from nimbus.errors import Refusal, field_error
from nimbus.rules.periods import Period

State = TypeVar("State", bound=str)

SubscriptionState = Literal[
    "Trial", "Active", "PastDue", "Suspended", "Cancelled", "Paused", "Expired"
]
SubscriptionAction = Literal[
    "convert",  # a trial becomes paid
    "fall_behind",  # a payment is overdue
    "catch_up",  # what was overdue is paid
    "suspend",
    "pause",
    "resume",
    "cancel",  # served until its end date
    "reactivate",  # takes a cancellation back before that date
    "expire",  # the end date has passed
    "lapse",  # the end of one that does not renew by itself has passed
    "change_plan",  # or what is had beside it
    "choose_renewal",  # by itself or by hand
    "renew",  # the next period begins
]
OrganizationState = Literal["Pending", "Active", "Suspended", "Cancelled"]
OrganizationAction = Literal["activate", "suspend", "restore", "cancel"]
KeyState = Literal["Active", "Revoked"]
KeyAction = Literal["edit", "rotate", "revoke"]
DocumentState = Literal["Draft", "Sent", "Cancelled"]
InvoiceStatus = Literal["Draft", "Sent", "Paid", "Overdue", "Cancelled"]
InvoiceAction = Literal[
    "edit",  # also regenerate: only a draft may change
    "discard",
    "finalize",
    "pay",
    "credit",  # wholly, by a credit note
    "write_off",
]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a pair is not allowed: `name` is the stable code, `text` the sentence for people.

    `code` is the problem's code in `errors.CATALOGUE`.
    """

    name: str
    text: str
    code: str = "validation_failed"


_CANCELLED = Refused("subscription_cancelled", "The subscription is cancelled.")
_EXPIRED = Refused("subscription_expired", "The subscription has ended.")
_SUSPENDED = Refused("subscription_suspended", "The subscription is suspended.")
_PAUSED = Refused("subscription_paused", "The subscription is paused.")
_NOT_PAUSED = Refused("not_paused", "The subscription is not paused.")
_NOT_TRIAL = Refused("not_a_trial", "The subscription is not on trial.")
_IN_TRIAL = Refused("in_trial", "The subscription is on trial: nothing is owed yet.")
_NOT_OVERDUE = Refused("nothing_overdue", "No payment is overdue.")
_OVERDUE = Refused("payment_overdue", "A payment is overdue.")
_NOT_CANCELLED = Refused("not_cancelled", "The subscription is not cancelled.")
_NOT_ENDED = Refused("not_ended", "The subscription has not ended.")

SUBSCRIPTION: Mapping[SubscriptionState, Mapping[SubscriptionAction, SubscriptionState | Refused]]
SUBSCRIPTION = {
    "Trial": {
        "convert": "Active",
        "fall_behind": _IN_TRIAL,
        "catch_up": _NOT_OVERDUE,
        "suspend": "Suspended",
        "pause": _IN_TRIAL,
        "resume": _NOT_PAUSED,
        "cancel": "Cancelled",
        "reactivate": _NOT_CANCELLED,
        "expire": "Expired",
        "lapse": _NOT_ENDED,
        "change_plan": "Trial",
        "choose_renewal": _IN_TRIAL,
        "renew": _IN_TRIAL,
    },
    "Active": {
        "convert": _NOT_TRIAL,
        "fall_behind": "PastDue",
        "catch_up": _NOT_OVERDUE,
        "suspend": "Suspended",
        "pause": "Paused",
        "resume": _NOT_PAUSED,
        "cancel": "Cancelled",
        "reactivate": _NOT_CANCELLED,
        "expire": _NOT_ENDED,
        "lapse": "Expired",
        "change_plan": "Active",
        "choose_renewal": "Active",
        "renew": "Active",
    },
    "PastDue": {
        "convert": _NOT_TRIAL,
        "fall_behind": "PastDue",
        "catch_up": "Active",
        "suspend": "Suspended",
        "pause": _OVERDUE,
        "resume": _NOT_PAUSED,
        "cancel": "Cancelled",
        "reactivate": _NOT_CANCELLED,
        "expire": _NOT_ENDED,
        "lapse": "Expired",
        "change_plan": _OVERDUE,
        "choose_renewal": _OVERDUE,
        "renew": "PastDue",
    },
    "Suspended": {
        "convert": _SUSPENDED,
        "fall_behind": "Suspended",
        "catch_up": "Active",
        "suspend": "Suspended",
        "pause": _SUSPENDED,
        "resume": _SUSPENDED,
        "cancel": "Cancelled",
        "reactivate": _NOT_CANCELLED,
        "expire": _NOT_ENDED,
        "lapse": "Expired",
        "change_plan": _SUSPENDED,
        "choose_renewal": _SUSPENDED,
        "renew": _SUSPENDED,
    },
    "Cancelled": {
        "convert": _CANCELLED,
        "fall_behind": _CANCELLED,
        "catch_up": _CANCELLED,
        "suspend": _CANCELLED,
        "pause": _CANCELLED,
        "resume": _CANCELLED,
        "cancel": _CANCELLED,
        "reactivate": "Active",
        "expire": "Expired",
        "lapse": _CANCELLED,
        "change_plan": _CANCELLED,
        "choose_renewal": _CANCELLED,
        "renew": "Cancelled",
    },
    "Paused": {
        "convert": _NOT_TRIAL,
        "fall_behind": _PAUSED,
        "catch_up": _NOT_OVERDUE,
        "suspend": "Suspended",
        "pause": _PAUSED,
        "resume": "Active",
        "cancel": "Cancelled",
        "reactivate": _NOT_CANCELLED,
        "expire": _NOT_ENDED,
        "lapse": "Expired",
        "change_plan": _PAUSED,
        "choose_renewal": _PAUSED,
        "renew": "Paused",
    },
    "Expired": dict.fromkeys(get_args(SubscriptionAction), _EXPIRED),
}

_ORGANIZATION_PENDING = Refused("organization_pending", "The organization is not active yet.")
_ORGANIZATION_ACTIVE = Refused("organization_active", "The organization is active already.")
_ORGANIZATION_SUSPENDED = Refused("organization_suspended", "The organization is suspended.")
_ORGANIZATION_CANCELLED = Refused("organization_cancelled", "The organization is cancelled.")

ORGANIZATION: Mapping[OrganizationState, Mapping[OrganizationAction, OrganizationState | Refused]]
ORGANIZATION = {
    "Pending": {
        "activate": "Active",
        "suspend": _ORGANIZATION_PENDING,
        "restore": _ORGANIZATION_PENDING,
        "cancel": "Cancelled",
    },
    "Active": {
        "activate": _ORGANIZATION_ACTIVE,
        "suspend": "Suspended",
        "restore": _ORGANIZATION_ACTIVE,
        "cancel": "Cancelled",
    },
    "Suspended": {
        "activate": _ORGANIZATION_SUSPENDED,
        "suspend": _ORGANIZATION_SUSPENDED,
        "restore": "Active",
        "cancel": "Cancelled",
    },
    "Cancelled": dict.fromkeys(get_args(OrganizationAction), _ORGANIZATION_CANCELLED),
}

_REVOKED = Refused("api_key_revoked", "The key is revoked; that is for ever.")

KEY: Mapping[KeyState, Mapping[KeyAction, KeyState | Refused]]
KEY = {
    "Active": {"edit": "Active", "rotate": "Active", "revoke": "Revoked"},
    "Revoked": dict.fromkeys(get_args(KeyAction), _REVOKED),
}

_FINALIZED = Refused("invoice_finalized", "A finalized invoice never changes.", "invoice_finalized")
_DRAFT = Refused("invoice_draft", "The invoice is still a draft.")
_PAID = Refused("invoice_paid", "The invoice is paid already.")
_GONE = Refused("invoice_cancelled", "The invoice is cancelled.")
_ISSUED: Mapping[InvoiceAction, InvoiceStatus | Refused] = {
    "edit": _FINALIZED,
    "discard": _FINALIZED,
    "finalize": _FINALIZED,
    "pay": "Paid",
    "credit": "Cancelled",
    "write_off": "Sent",  # the document stands; what is due of it is given up
}

INVOICE: Mapping[InvoiceStatus, Mapping[InvoiceAction, InvoiceStatus | Refused]]
INVOICE = {
    "Draft": {
        "edit": "Draft",
        "discard": "Cancelled",
        "finalize": "Sent",
        "pay": _DRAFT,
        "credit": _DRAFT,
        "write_off": _DRAFT,
    },
    "Sent": _ISSUED,
    "Overdue": _ISSUED,
    "Paid": {**_ISSUED, "pay": _PAID, "write_off": _PAID},
    "Cancelled": dict.fromkeys(get_args(InvoiceAction), _GONE),
}


def subscription(state: SubscriptionState, action: SubscriptionAction) -> SubscriptionState:
    """The state after `action`, or a 422 on `status` whose code names the refusal.

    `state` is the derived one of `subscription_status`. ("Active", "cancel") → "Cancelled";
    ("Expired", anything) → `subscription_expired`. Source: spec 04 "Subscription".
    """
    return _next(SUBSCRIPTION[state][action])


def reactivated(
    state: SubscriptionState, trial_ends_at: datetime | None, as_of: datetime
) -> SubscriptionState:
    """The state after "reactivate": a trial that was cancelled is a trial again until its end.

    Cancelled on day 3 of a trial of 14 days, taken back on day 5 → "Trial"; without a trial, or
    after it, → "Active". Refusals as those of `subscription`.
    """
    state = subscription(state, "reactivate")
    return "Trial" if trial_ends_at is not None and as_of < trial_ends_at else state


TRIAL_NOTICE = timedelta(days=3)


def trial_notice_at(started_at: datetime, trial_ends_at: datetime) -> datetime:
    """When people are told that a trial comes to its end: three days before; half-way through one
    of less than six days.

    14 days from 1 May → 12 May; 4 days from 1 May → 3 May. Source: spec 07, which names the event
    and leaves its time to us; three days are what other billing systems use.
    """
    return trial_ends_at - min(TRIAL_NOTICE, (trial_ends_at - started_at) / 2)


def organization(state: OrganizationState, action: OrganizationAction) -> OrganizationState:
    """The state after `action`, or a 422 on `status` whose code names the refusal.

    ("Pending", "activate") → "Active"; ("Cancelled", "restore") → `organization_cancelled`.
    """
    return _next(ORGANIZATION[state][action])


def key(state: KeyState, action: KeyAction) -> KeyState:
    """The state after `action`, or a 422 on `status`: ("Revoked", "rotate") → `api_key_revoked`."""
    return _next(KEY[state][action])


def invoice(status: InvoiceStatus, action: InvoiceAction) -> InvoiceStatus:
    """The status after `action`, or its refusal.

    ("Draft", "finalize") → "Sent"; ("Overdue", "pay") → "Paid"; ("Sent", "edit") → 400 "Invoice
    already finalized"; ("Paid", "pay") → 422 on `status`, `invoice_paid`.
    """
    return _next(INVOICE[status][action])


def invoice_status(
    document: DocumentState, paid: bool, due_on: date | None, as_of: date
) -> InvoiceStatus:
    """What an invoice is on the day `as_of`, from its document, its payment and its due date.

    A draft and a cancelled document stay that. Sent, unpaid and due on 15 June: "Sent" on 15 June,
    "Overdue" from 16 June on, "Paid" as soon as it is paid. `due_on` and `as_of` are dates in the
    seller's time zone; a draft has no due date.
    """
    if document != "Sent":
        return document
    if paid:
        return "Paid"
    return "Overdue" if due_on is not None and due_on < as_of else "Sent"


def subscription_status(
    stored: SubscriptionState,
    trial_ends_at: datetime | None,
    ends_at: datetime | None,
    as_of: datetime,
) -> SubscriptionState:
    """What a subscription is at the instant `as_of`: stored state and dates together.

    A trial is "Expired" from `trial_ends_at` on, one that was cancelled or does not renew by itself
    from `ends_at` on, to the microsecond and with no job having run (spec 09, I-21). Everything
    else is as stored.
    """
    if stored == "Trial" and trial_ends_at is not None and trial_ends_at <= as_of:
        return "Expired"
    if ends_at is not None and ends_at <= as_of:
        return "Expired"
    return stored


def serves(status: SubscriptionState) -> bool:
    """Whether a subscription in this derived status gives access.

    Trial, Active, PastDue (its grace) and Cancelled (until its end) do; Suspended, Paused and
    Expired do not.
    """
    return status in ("Trial", "Active", "PastDue", "Cancelled")


def cancellation_end(
    status: SubscriptionState, current: Period, as_of: datetime, at_once: bool
) -> datetime:
    """When a cancelled subscription stops being served.

    At the end of the current period; now, if asked at once or out of Suspended (spec 04), and out
    of Paused: what gives no access gets none by being cancelled. Cancelled on 10 May in the period
    of May → 1 June 00:00 local.
    """
    return as_of if at_once or status in ("Suspended", "Paused") else current.ends_at


def _next(outcome: State | Refused) -> State:
    if isinstance(outcome, Refused):
        if outcome.code != "validation_failed":
            raise Refusal(outcome.code, outcome.text)
        raise field_error("status", outcome.name, outcome.text)
    return outcome
