# SPDX-License-Identifier: Apache-2.0
"""What a consumer's start page and onboarding need, composed of several rooms, read only."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.ids import NIL
from nimbus.base.problems import documented
from nimbus.base.web import Money, Router, Session
from nimbus.identity import Permission, allowed, has, organization_facts, signed_in
from nimbus.rules import lifecycles

router: APIRouter = Router(tags=["portal"])

StepName = Literal["email", "organization", "plan", "terms", "key"]


class OnboardingStep(BaseModel):
    """One step on the way to the first call."""

    step: StepName
    done: bool


class Onboarding(BaseModel):
    """Which steps are done, and which is next; null when all are."""

    steps: list[OnboardingStep]
    next: StepName | None


class OrganizationSummary(BaseModel):
    """The organization in the header."""

    id: UUID
    name: str
    status: str
    role: str


class SubscriptionSummary(BaseModel):
    """A subscription on the start page; status is as of now."""

    product: str
    plan: str
    status: str
    period_ends_at: str


class OpenInvoices(BaseModel):
    """What is sent and not paid."""

    count: int
    total: Money


class Dashboard(BaseModel):
    """The start page; invoices are null without their permission."""

    organization: OrganizationSummary
    subscription: SubscriptionSummary | None
    subscriptions: list[SubscriptionSummary]
    calls_this_month: int
    active_keys: int
    open_invoices: OpenInvoices | None


@router.get("/api/public/onboarding", operation_id="read_onboarding", responses=documented(401))
async def read_onboarding(actor: Annotated[Actor, signed_in()], session: Session) -> Onboarding:
    """Where the signed-in person is on the way from registration to the first key."""
    done = dict.fromkeys(("email", "organization", "plan", "terms", "key"), False)
    done["email"] = actor.email_verified
    if actor.organization_id != NIL:
        facts = await organization_facts(session, actor.organization_id)
        counts = await _one(
            session,
            """SELECT
            (SELECT count(*) FROM subscriptions WHERE organization_id = :id)
            + (SELECT count(*) FROM checkout_choices WHERE organization_id = :id) AS plans,
            (SELECT count(*) FROM api_keys WHERE organization_id = :id) AS keys""",
            actor.organization_id,
        )
        done["organization"] = True
        done["plan"] = counts.plans > 0
        done["terms"] = facts.status != "Pending"
        done["key"] = counts.keys > 0
    steps = [OnboardingStep(step=name, done=value) for name, value in done.items()]
    following = next((item.step for item in steps if not item.done), None)
    return Onboarding(steps=steps, next=following)


@router.get(
    "/api/organizations/dashboard", operation_id="read_dashboard", responses=documented(401, 403)
)
async def read_dashboard(
    actor: Annotated[Actor, allowed(Permission.SEE_DASHBOARD)], session: Session
) -> Dashboard:
    """The organization at a glance, as of now."""
    facts = await organization_facts(session, actor.organization_id)
    subscriptions = await _subscriptions(session, actor.organization_id)
    counts = await _one(
        session,
        """SELECT
        (SELECT count(*) FROM api_keys WHERE organization_id = :id AND status = 'Active'
            AND (expires_at IS NULL OR expires_at > :now)) AS keys,
        (SELECT coalesce(sum(s.used), 0) FROM quota_standings s WHERE s.organization_id = :id
            AND s.meter_key = 'api_calls' AND s.period_starts_at <= :now
            AND s.period_ends_at > :now) AS calls""",
        actor.organization_id,
    )
    sees_invoices = has(actor.role, Permission.SEE_INVOICES)
    return Dashboard(
        organization=OrganizationSummary(
            id=facts.id, name=facts.name, status=facts.status, role=actor.role or ""
        ),
        subscription=subscriptions[0] if subscriptions else None,
        subscriptions=subscriptions,
        calls_this_month=int(counts.calls),
        active_keys=counts.keys,
        open_invoices=await _open_invoices(session, facts.id, facts.currency)
        if sees_invoices
        else None,
    )


async def _subscriptions(session: AsyncSession, organization_id: UUID) -> list[SubscriptionSummary]:
    rows = await session.execute(
        text(
            """SELECT s.status, s.trial_ends_at, s.ends_at, s.period_ends_at,
                p.name AS product, l.name AS plan
            FROM subscriptions s
            JOIN products p ON p.id = s.product_id
            JOIN plan_versions v ON v.id = s.plan_version_id
            JOIN plans l ON l.id = v.plan_id
            WHERE s.organization_id = :id AND s.status <> 'Expired' ORDER BY s.started_at"""
        ),
        {"id": organization_id},
    )
    moment = clock.now()
    return [
        SubscriptionSummary(
            product=row.product,
            plan=row.plan,
            status=lifecycles.subscription_status(
                row.status, row.trial_ends_at, row.ends_at, moment
            ),
            period_ends_at=clock.to_wire(row.period_ends_at),
        )
        for row in rows
    ]


async def _open_invoices(
    session: AsyncSession, organization_id: UUID, currency: str
) -> OpenInvoices:
    row = await _one(
        session,
        """SELECT count(*) AS invoices, coalesce(sum(i.total_minor), 0) AS total
        FROM invoices i JOIN invoice_payment_states p ON p.invoice_id = i.id
        WHERE i.organization_id = :id AND i.status = 'Sent' AND p.state <> 'Paid'""",
        organization_id,
    )
    total = Money(amount_minor=int(row.total), currency=currency)
    return OpenInvoices(count=row.invoices, total=total)


async def _one(session: AsyncSession, statement: str, organization_id: UUID) -> Any:
    values = {"id": organization_id}
    if ":now" in statement:
        values["now"] = clock.now()  # type: ignore[assignment]
    return (await session.execute(text(statement), values)).one()
