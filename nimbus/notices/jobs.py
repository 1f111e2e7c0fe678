# SPDX-License-Identifier: Apache-2.0
"""What makes a notice, in the transaction of the news itself, and the job that sends it."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from babel.dates import format_date
from babel.numbers import format_currency, format_decimal
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import billing, catalog, identity, subscriptions
from nimbus.base import clock, db, jobs
from nimbus.base.actors import Actor
from nimbus.base.events import Event, on, on_all
from nimbus.base.ids import new_id
from nimbus.billing.events import InvoiceFinalized, InvoicePaid
from nimbus.identity.events import (
    MemberInvited,
    OrganizationActivated,
    PasswordResetRequested,
    RegistrationRepeated,
    UserRegistered,
    VerificationRequested,
)
from nimbus.notices import service
from nimbus.notices.rendering import Language, TemplateName
from nimbus.notices.service import Wanted
from nimbus.rules.money import major
from nimbus.rules.spending import from_micro
from nimbus.subscriptions.events import SubscriptionChangeAnnounced, SubscriptionTrialEnding
from nimbus.usage.events import UsageThresholdReached

SENDING = "send notices"
LOCALES = {"en": "en_GB", "nl": "nl_NL"}
"""How each language writes amounts and days."""


class TryAgainError(Exception):
    """The mail server was not there or said "not now"; the queue repeats the job later."""


@jobs.job("notices.send", retries=service.RETRIES)
async def send(notice_id: str) -> None:
    """Send one notice; see `service` for why it takes two transactions with SMTP."""
    async with db.system_session(SENDING) as session:
        outgoing = await service.take(session, UUID(notice_id))
    if outgoing is None:
        return
    outcome, error = await service.hand_over(outgoing)
    async with db.system_session(SENDING) as session:
        again = await service.record(session, outgoing.notice_id, outcome, error)
    if again:
        raise TryAgainError(error)


@on(UserRegistered, VerificationRequested)
async def ask_to_verify(session: AsyncSession, _: Actor, event: UserRegistered) -> None:
    """Send the verification link."""
    await _to_user(session, event, "verification", event.link_id)


@on(PasswordResetRequested)
async def offer_reset(session: AsyncSession, _: Actor, event: PasswordResetRequested) -> None:
    """Send the reset link."""
    await _to_user(session, event, "password_reset", event.link_id)


@on(RegistrationRepeated)
async def tell_owner(session: AsyncSession, _: Actor, event: RegistrationRepeated) -> None:
    """Tell the address that it has an account; each time, so the source is new."""
    await _to_user(session, event, "registration_repeated", new_id())


@on(MemberInvited)
async def invite(session: AsyncSession, _: Actor, event: MemberInvited) -> None:
    """Send the invitation's link."""
    after = event.after
    await _say(
        session,
        event,
        template="invitation",
        source_id=event.link_id,
        recipient=after["email"],
        locale=after["locale"],
        data={"organization": after["organization"], "role": after["role"]},
    )


@on(OrganizationActivated)
async def welcome(session: AsyncSession, _: Actor, event: OrganizationActivated) -> None:
    """Welcome an organization at its billing address."""
    facts = await identity.organization_facts(session, event.organization_id)
    await _say(
        session,
        event,
        template="welcome",
        source_id=facts.id,
        recipient=facts.billing_email,
        locale=facts.locale,
        data={"organization": facts.name},
    )


@on(SubscriptionChangeAnnounced)
async def tell_of_change(
    session: AsyncSession, _: Actor, event: SubscriptionChangeAnnounced
) -> None:
    """Say when a provider changes a plan, and why."""
    facts = await identity.organization_facts(session, event.organization_id)
    contract = await subscriptions.subscription_facts(session, event.entity_id)
    product = await catalog.product_facts(session, contract.product_id)
    waiting = event.after["scheduled_change"]
    day = clock.from_wire(waiting["at"]).astimezone(ZoneInfo(contract.time_zone)).date()
    data = {
        "organization": facts.name,
        "product": product.name,
        "plan": waiting["plan"],
        "on": format_date(day, "d MMMM y", locale=LOCALES[facts.locale]),
        "reason": event.reason or "",
    }
    await _say(
        session,
        event,
        template="plan_change",
        source_id=new_id(),
        recipient=facts.billing_email,
        locale=facts.locale,
        data=data,
    )


@on(SubscriptionTrialEnding)
async def tell_of_trial(session: AsyncSession, _: Actor, event: SubscriptionTrialEnding) -> None:
    """Say when a trial ends, and whether the subscription goes on then."""
    facts = await identity.organization_facts(session, event.organization_id)
    contract = await subscriptions.subscription_facts(session, event.entity_id)
    product = await catalog.product_facts(session, contract.product_id)
    ends_at = event.after["period_ends_at"].astimezone(ZoneInfo(contract.time_zone))
    data = {
        "organization": facts.name,
        "product": product.name,
        "plan": event.after["plan"],
        "on": format_date(ends_at.date(), "d MMMM y", locale=LOCALES[facts.locale]),
        "goes_on": "" if event.after["payment"] is None else "yes",
    }
    await _say(
        session,
        event,
        template="trial_ending",
        source_id=event.entity_id,
        recipient=facts.billing_email,
        locale=facts.locale,
        data=data,
    )


@on(UsageThresholdReached)
async def tell_of_threshold(session: AsyncSession, _: Actor, event: UsageThresholdReached) -> None:
    """Say how much of a quota or limit is used. Of several thresholds that one batch reached, the
    highest is said; a quota that nothing enforces is left alone.
    """
    after = event.after
    if after["threshold"] != after["reached"] or after.get("behavior") == "allow":
        return
    facts = await identity.organization_facts(session, event.organization_id)
    locale = LOCALES[facts.locale]
    data = {"organization": facts.name, "percent": str(after["threshold"])}
    if after["resets_at"] is not None:
        day = after["resets_at"].astimezone(ZoneInfo(facts.time_zone)).date()
        data["resets_on"] = format_date(day, "d MMMM y", locale=locale)
    template: TemplateName = "limit_threshold"
    used, limit = Decimal(after["used"]), Decimal(after["limit"])
    amounts = {"used": used, "limit": limit}
    if after["kind"] == "quota":
        template = "quota_threshold"
        contract = await subscriptions.subscription_facts(session, after["subscription_id"])
        product = await catalog.product_facts(session, contract.product_id)
        data |= {"product": product.name, "meter": after["meter"], "behavior": after["behavior"]}
    elif after["kind"] == "balance":
        template = "balance_threshold"
        amounts = {"left": max(Decimal(0), limit - used), "limit": limit}
    else:
        data["of"] = "organization" if after["key_id"] is None else "key"
    in_money = after["kind"] in {"organization_spend", "key_spend", "balance"}
    for name, amount in amounts.items():
        data[name] = (
            format_currency(from_micro(amount, facts.currency), facts.currency, locale=locale)
            if in_money
            else format_decimal(amount, locale=locale)
        )
    await _say(
        session,
        event,
        template=template,
        source_id=new_id(),
        recipient=facts.billing_email,
        locale=facts.locale,
        data=data,
    )


@on_all(InvoiceFinalized)
async def send_invoices(session: AsyncSession, events: Sequence[InvoiceFinalized]) -> None:
    """Send invoices, each with its PDF."""
    facts = await billing.sent_invoices(session, [event.entity_id for event in events])
    made = await service.request_all(session, [_invoice_notice(one, "invoice") for one in facts])
    await jobs.defer_all(session, send, [{"notice_id": str(one)} for one in made])


@on(InvoicePaid)
async def thank(session: AsyncSession, _: Actor, event: InvoicePaid) -> None:
    """Say that the payment came."""
    await _about_invoice(session, event, "payment_received")


async def _about_invoice(session: AsyncSession, event: Event, template: TemplateName) -> None:
    wanted = _invoice_notice(await billing.sent_invoice(session, event.entity_id), template)
    notice_id = await service.request(session, wanted)
    if notice_id is not None:
        await jobs.defer(session, send, lock=f"notice/{notice_id}", notice_id=str(notice_id))


def _invoice_notice(facts: billing.InvoiceFacts, template: TemplateName) -> Wanted:
    locale = LOCALES[facts.locale]
    return Wanted(
        organization_id=facts.organization_id,
        template=template,
        source_id=facts.id,
        recipient=facts.buyer_email,
        locale=cast("Language", facts.locale),
        data={
            "number": facts.number,
            "total": format_currency(major(facts.due), facts.due.currency, locale=locale),
            "due_on": _day(facts.due_on, locale),
            "payment_reference": facts.payment_reference,
            "seller": facts.seller_name,
            "buyer": facts.buyer_name,
        },
    )


@lru_cache(maxsize=64)
def _day(day: date, locale: str) -> str:
    return format_date(day, "d MMMM y", locale=locale)


async def _to_user(
    session: AsyncSession, event: Event, template: TemplateName, source_id: UUID
) -> None:
    after = event.after
    await _say(
        session,
        event,
        template=template,
        source_id=source_id,
        recipient=after["email"],
        locale=after["locale"],
        data={"first_name": after["first_name"]},
    )


async def _say(session: AsyncSession, event: Event, *, locale: str, **wanted: Any) -> None:
    """Write the notice and enqueue its sending, both in the session's transaction."""
    notice_id = await service.request(
        session,
        Wanted(organization_id=event.organization_id, locale=cast("Language", locale), **wanted),
    )
    if notice_id is not None:
        await jobs.defer(session, send, lock=f"notice/{notice_id}", notice_id=str(notice_id))
