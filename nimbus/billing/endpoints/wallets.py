# SPDX-License-Identifier: Apache-2.0
"""HTTP of the wallet: what is in it, top-ups, and what the operator puts into it."""

from typing import Annotated
from uuid import UUID

from fastapi import Request

from nimbus.base import clock, web
from nimbus.base.actors import Actor
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import Cursor, Limit, Money, Page, Router, Session, mutates, unit_of
from nimbus.billing import queries_sets, schemas
from nimbus.billing import queries_wallets as queries
from nimbus.billing.events import BalanceCredited, TopUpRequested
from nimbus.billing.models import TopUp, WalletEntry
from nimbus.billing.service import wallets
from nimbus.identity import Permission, allowed, organization_facts, platform_admin
from nimbus.rules import money as rules

router = Router(tags=["billing"])
Reader = Annotated[Actor, allowed(Permission.SEE_INVOICES, scope="billing.read")]
Payer = Annotated[Actor, allowed(Permission.MANAGE_PAYMENT_METHODS)]
OPERATIONS_A_MINUTE = 50
SHOWN = 50
"""The latest entries and top-ups that the wallet shows."""


@router.get("/api/billing/wallet", operation_id="get_wallet", responses=documented(401, 403))
async def get_wallet(actor: Reader, session: Session) -> schemas.WalletView:
    """What the next invoices are paid out of, and what went in and out last."""
    organization = await organization_facts(session, actor.organization_id)
    currency = organization.currency
    left = await queries_sets.open_money(session, [organization.id], clock.now())
    credit, balance = left.get((organization.id, currency), (0, 0))
    entries = queries.entries_of(organization.id).order_by(WalletEntry.id.desc()).limit(SHOWN)
    asked = queries.top_ups_of(organization.id).order_by(TopUp.id.desc()).limit(SHOWN)
    top_ups = list(await session.scalars(asked))
    paid = await queries.paid_top_ups(session, [one.id for one in top_ups])
    return schemas.WalletView(
        balance=Money(amount_minor=balance, currency=currency),
        credit=Money(amount_minor=credit, currency=currency),
        entries=[_entry(row) for row in await session.scalars(entries)],
        top_ups=[_top_up(row, paid=row.id in paid) for row in top_ups],
    )


@router.post(
    "/api/billing/wallet/top-up",
    operation_id="top_up_wallet",
    status_code=201,
    responses=documented(401, 403, 409, 415, 422, 429),
    **mutates(
        permission=Permission.MANAGE_PAYMENT_METHODS, events=[TopUpRequested], idempotency="key"
    ),
)
async def top_up_wallet(
    body: schemas.TopUpBody, actor: Payer, session: Session
) -> schemas.TopUpView:
    """Ask to put money into the wallet: transfer it quoting the payment reference. It counts when
    it came in.
    """
    await throttle(f"billing/{actor.organization_id}", OPERATIONS_A_MINUTE, 60)
    amount = rules.Money(body.amount.amount_minor, body.amount.currency)
    return _top_up(await wallets.request_top_up(session, actor, amount), paid=False)


@router.post(
    "/api/admin/billing/top-ups/{top_up_id}/mark-paid",
    operation_id="admin_mark_top_up_paid",
    responses=documented(401, 403, 404, 422),
    **mutates(permission="platform_admin", events=[BalanceCredited], idempotency="natural"),
)
async def mark_top_up_paid(
    top_up_id: UUID, request: Request, actor: Annotated[Actor, platform_admin()]
) -> schemas.WalletEntryView:
    """Record that the money of a top-up came in; again answers the same."""
    session = await unit_of(request).open_system("platform pages")
    return _entry(await wallets.confirm_top_up(session, actor, top_up_id))


@router.get(
    "/api/billing/balance-credits",
    operation_id="list_balance_credits",
    responses=documented(401, 403, 422),
)
async def list_balance_credits(
    actor: Reader, session: Session, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.CreditView]:
    """What was put on the organization's prepaid balance, newest first."""
    statement = queries.grants_of(actor.organization_id)
    rows, following = await web.paginate(session, statement, WalletEntry.id, limit, cursor)
    return Page(data=[_credit(row) for row in rows], next_cursor=following)


@router.post(
    "/api/admin/organizations/{organization_id}/balance-credits",
    operation_id="admin_credit_balance",
    status_code=201,
    responses=documented(401, 403, 404, 409, 415, 422),
    **mutates(permission="platform_admin", events=[BalanceCredited], idempotency="key"),
)
async def credit_balance(
    organization_id: UUID,
    body: schemas.CreditBody,
    request: Request,
    actor: Annotated[Actor, platform_admin()],
) -> schemas.CreditView:
    """Put money on an organization's prepaid balance. With the first credit it is prepaid: its
    calls need a balance from then on.
    """
    session = await unit_of(request).open_system("platform pages")
    entry = await wallets.grant(
        session,
        actor,
        organization_id,
        rules.Money(body.amount.amount_minor, body.amount.currency),
        reason=body.reason,
        expires_at=body.expires_at,
        priority=body.priority,
    )
    return _credit(entry)


def _credit(row: WalletEntry) -> schemas.CreditView:
    return schemas.CreditView(
        id=row.id,
        organization_id=row.organization_id,
        amount=Money(amount_minor=row.amount_minor, currency=row.currency),
        reason=row.reason or "",
        expires_at=row.expires_at and clock.to_wire(row.expires_at),
        created_at=clock.to_wire(row.created_at),
    )


def _entry(row: WalletEntry) -> schemas.WalletEntryView:
    return schemas.WalletEntryView(
        id=row.id,
        kind=row.kind,
        amount=Money(amount_minor=row.amount_minor, currency=row.currency),
        invoice_id=row.invoice_id,
        credit_note_id=row.credit_note_id,
        expires_at=row.expires_at and clock.to_wire(row.expires_at),
        reason=row.reason,
        created_at=clock.to_wire(row.created_at),
    )


def _top_up(row: TopUp, *, paid: bool) -> schemas.TopUpView:
    return schemas.TopUpView(
        id=row.id,
        amount=Money(amount_minor=row.amount_minor, currency=row.currency),
        payment_reference=row.payment_reference,
        status="Paid" if paid else "Pending",
        created_at=clock.to_wire(row.created_at),
    )
