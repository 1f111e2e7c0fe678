# SPDX-License-Identifier: Apache-2.0
"""The wallet: money that is there before a bill is; drawn on by invoices, and by calls at the gate.

Entries bring money in: a top-up that was paid, a grant by hand, a credit note kept as credit.
Others draw on them, or let what is left expire. Calls of a prepaid organization are held against
the same money by `usage`: what an invoice draws is settled there, so it is spent once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import ledger, usage
from nimbus.base import clock
from nimbus.base.actors import Actor
from nimbus.base.db import insert_all
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.billing import queries_wallets as queries
from nimbus.billing.events import BalanceCredited, CreditExpired, TopUpRequested
from nimbus.billing.models import TopUp, WalletEntry
from nimbus.billing.service.proposals import Proposal
from nimbus.billing.texts import payment_reference
from nimbus.errors import Refusal, field_error
from nimbus.identity import organization_facts
from nimbus.ledger import Posting
from nimbus.rules import credits as prepaid
from nimbus.rules.ledger import balance_credited, balance_expired, balance_used
from nimbus.rules.money import Money


@dataclass(frozen=True, slots=True)
class Draw:
    """What an entry (`id`) takes out of a credit note's credit, or of money that was paid ahead."""

    id: UUID
    credit: bool
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What an invoice took."""

    organization_id: UUID
    currency: str
    draws: tuple[Draw, ...]

    @property
    def credit_minor(self) -> int:
        """From credit notes."""
        return sum(draw.amount_minor for draw in self.draws if draw.credit)

    @property
    def wallet_minor(self) -> int:
        """From money that was paid ahead."""
        return sum(draw.amount_minor for draw in self.draws if not draw.credit)


async def draw(
    session: AsyncSession,
    invoices: Sequence[tuple[UUID, UUID, Proposal]],
    moment: datetime,
) -> dict[UUID, Drawn]:
    """Pay invoices (id, organization, proposal) out of their organizations' open entries.

    In their order, from what is there at `moment`: credit from credit notes, then what was paid
    ahead. The entries stay locked until commit. At the gate the calls that are billed now are not
    held against the balance any more, what was drawn is.
    """
    opened = await queries.lock_open(session, {owner for _, owner, _ in invoices})
    found: dict[UUID, Drawn] = {}
    rows = []
    for invoice_id, owner, proposal in invoices:
        purse = opened.get((owner, proposal.currency))
        draws = []
        rest = max(0, proposal.totals.total_minor)
        for credit in (True, False):
            grants = purse.of(credit=credit) if purse else []
            for taken in prepaid.draw(grants, rest, moment):
                row = _out("draw", owner, Money(taken.amount_minor, proposal.currency), moment)
                rows.append(row | {"source_entry_id": taken.key, "invoice_id": invoice_id})
                draws.append(Draw(row["id"], credit, taken.amount_minor))
                rest -= taken.amount_minor
                opened[owner, proposal.currency].take(taken)
        found[invoice_id] = Drawn(owner, proposal.currency, tuple(draws))
        if purse:
            await usage.settle_balance(
                session,
                owner,
                billed_minor=_usage_minor(proposal),
                spent_minor=found[invoice_id].wallet_minor,
                left_minor=prepaid.balance(purse.of(credit=False), moment),
            )
    await insert_all(session, "wallet_entries", rows)
    return found


def postings(drawn: Mapping[UUID, Drawn], moment: datetime) -> list[Posting]:
    """What the draws post."""
    return [
        Posting(
            organization_id=one.organization_id,
            source_kind="wallet_draw",
            source_id=draw.id,
            occurred_at=moment,
            transfers=balance_used(draw.amount_minor, one.currency),
        )
        for one in drawn.values()
        for draw in one.draws
    ]


async def grant(
    session: AsyncSession,
    actor: Actor,
    organization_id: UUID,
    amount: Money,
    *,
    reason: str,
    expires_at: datetime | None = None,
    priority: int = 0,
    top_up_id: UUID | None = None,
) -> WalletEntry:
    """Put money into the wallet of an organization: it came in by hand. A system session.

    The first money makes the organization prepaid: its calls need a balance from then on. Raises
    404 for an unknown organization, 422 for another currency than its own or an end that is past.
    """
    organization = await organization_facts(session, organization_id)
    moment = clock.now()
    if amount.currency != organization.currency:
        text = f"The organization's currency is {organization.currency}."
        raise field_error("amount.currency", "other_currency", text)
    if expires_at is not None and expires_at <= moment:
        raise field_error("expires_at", "in_the_past", "That is past already.")
    entry = WalletEntry(
        id=new_id(),
        organization_id=organization_id,
        kind="grant" if top_up_id is None else "top_up",
        amount_minor=amount.amount_minor,
        currency=amount.currency,
        top_up_id=top_up_id,
        priority=priority,
        expires_at=expires_at,
        reason=reason,
        made_by=actor.user_id,
        created_at=moment,
    )
    session.add(entry)
    await session.flush()
    await usage.credit_balance(session, organization_id, amount)
    after = {"amount_minor": amount.amount_minor, "currency": amount.currency, "kind": entry.kind}
    announce(
        session,
        actor,
        BalanceCredited(
            organization_id=organization_id, entity_id=entry.id, after=after, reason=reason
        ),
    )
    posting = Posting(
        organization_id=organization_id,
        source_kind="balance_credit",
        source_id=entry.id,
        occurred_at=moment,
        transfers=balance_credited(amount.amount_minor, amount.currency),
    )
    await ledger.post(session, [posting])
    return entry


async def request_top_up(session: AsyncSession, actor: Actor, amount: Money) -> TopUp:
    """Ask to put money into the wallet of the actor's organization; it counts once it came in.

    Raises 422 for another currency than the organization's.
    """
    organization = await organization_facts(session, actor.organization_id)
    if amount.currency != organization.currency:
        text = f"The organization's currency is {organization.currency}."
        raise field_error("amount.currency", "other_currency", text)
    top_up_id = new_id()
    top_up = TopUp(
        id=top_up_id,
        organization_id=organization.id,
        amount_minor=amount.amount_minor,
        currency=amount.currency,
        payment_reference=payment_reference(f"TU{top_up_id.hex[-12:].upper()}"),
        requested_by=actor.user_id,
        created_at=clock.now(),
    )
    session.add(top_up)
    after = {
        "id": str(top_up.id),
        "amount_minor": amount.amount_minor,
        "currency": amount.currency,
        "payment_reference": top_up.payment_reference,
    }
    event = TopUpRequested(organization_id=organization.id, entity_id=top_up.id, after=after)
    announce(session, actor, event)
    return top_up


async def confirm_top_up(session: AsyncSession, actor: Actor, top_up_id: UUID) -> WalletEntry:
    """The money of a top-up came in; again answers the same entry. A system session; 404."""
    top_up = await queries.lock_top_up(session, top_up_id)
    if top_up is None:
        raise Refusal("not_found")
    known = await queries.entry_of_top_up(session, top_up_id)
    if known is not None:
        return known
    amount = Money(top_up.amount_minor, top_up.currency)
    reason = f"Top-up {top_up.payment_reference}"
    return await grant(
        session, actor, top_up.organization_id, amount, reason=reason, top_up_id=top_up.id
    )


async def expire(session: AsyncSession, actor: Actor, entry_id: UUID, as_of: datetime) -> None:
    """What is left of an entry whose end has come by `as_of` is money no more; again does nothing.

    A system session.
    """
    entry = await queries.lock_entry(session, entry_id)
    left = await queries.left_of(session, entry_id)
    if entry.expires_at is None or entry.expires_at > as_of or not left:
        return
    moment = clock.now()
    row = _out("expiry", entry.organization_id, Money(left, entry.currency), moment)
    await insert_all(session, "wallet_entries", [row | {"source_entry_id": entry.id}])
    if entry.kind != "credit_note":
        opened = await queries.lock_open(session, {entry.organization_id})
        purse = opened.get((entry.organization_id, entry.currency))
        await usage.settle_balance(
            session,
            entry.organization_id,
            billed_minor=0,
            spent_minor=left,
            left_minor=prepaid.balance(purse.of(credit=False), moment) if purse else 0,
        )
    posting = Posting(
        organization_id=entry.organization_id,
        source_kind="wallet_expiry",
        source_id=row["id"],
        occurred_at=moment,
        transfers=balance_expired(left, entry.currency),
    )
    after = {"amount_minor": left, "currency": entry.currency}
    event = CreditExpired(organization_id=entry.organization_id, entity_id=entry.id, after=after)
    announce(session, actor, event)
    await ledger.post(session, [posting])


def _out(kind: str, owner: UUID, amount: Money, moment: datetime) -> dict[str, Any]:
    """An entry that takes money out, without where from."""
    return {
        "id": new_id(),
        "organization_id": owner,
        "kind": kind,
        "amount_minor": -amount.amount_minor,
        "currency": amount.currency,
        "priority": 0,
        "created_at": moment,
    }


def _usage_minor(proposal: Proposal) -> int:
    """What the invoice asks for calls, which the gate had held against the balance."""
    return sum(line.amount_minor for line in proposal.bill.lines if line.text == "usage")
