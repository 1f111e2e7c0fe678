# SPDX-License-Identifier: Apache-2.0
"""Paid by hand: once, wholly, and in the book."""

import asyncio
from datetime import date
from uuid import UUID

import pytest
from psycopg import errors

from nimbus import ledger, payments
from nimbus.base import clock, db
from nimbus.base.actors import SYSTEM
from nimbus.base.config import Settings
from nimbus.errors import Refusal
from nimbus.payments.models import Payment
from tests.support.bills import END, Sale, bill, counts, use_as_in_the_reference
from tests.support.metered import rows
from tests.support.roles import ROLES, as_role

pytestmark = pytest.mark.anyio


async def mark_paid(invoice_id: UUID, received_on: date | None = None) -> Payment:
    async with db.system_session("platform pages") as session:
        return await payments.mark_paid(
            session, SYSTEM, invoice_id, reference="statement 12", received_on=received_on
        )


async def sent_invoice(sale: Sale) -> UUID:
    await use_as_in_the_reference(sale.contract)
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    return invoice.id


async def test_a_payment_settles_the_receivable_and_says_so(sale: Sale) -> None:
    invoice_id = await sent_invoice(sale)

    payment = await mark_paid(invoice_id)

    assert (payment.amount_minor, payment.currency, payment.method) == (14097, "EUR", "manual")
    assert payment.received_on == END.date()
    [state] = await rows("SELECT state, paid_at FROM invoice_payment_states")
    assert state == {"state": "Paid", "paid_at": END}
    async with db.system_session("platform pages") as session:
        assert await ledger.balance(session, "receivable", "EUR") == 0
        assert await ledger.balance(session, "cash:manual", "EUR") == 14097
        proof = await ledger.check(session)
    assert proof.ok, proof.differences
    told = await rows(
        "SELECT name FROM outbox WHERE name IN ('invoice.paid', 'payment.succeeded') ORDER BY name"
    )
    assert [row["name"] for row in told] == ["invoice.paid", "payment.succeeded"]


async def test_marked_again_or_by_eight_at_once_it_is_one_payment_and_one_posting(
    sale: Sale,
) -> None:
    invoice_id = await sent_invoice(sale)
    before = await counts(["ledger_transfers", "audit_log", "outbox"])

    made = await asyncio.gather(*(mark_paid(invoice_id) for _ in range(8)))
    again = await mark_paid(invoice_id)

    assert {payment.id for payment in made} == {again.id}
    assert await counts(["payments"]) == {"payments": 1}
    after = await counts(["ledger_transfers", "audit_log", "outbox"])
    assert {name: after[name] - before[name] for name in after} == {
        "ledger_transfers": 1,
        "audit_log": 2,
        "outbox": 2,
    }


async def test_a_draft_can_t_be_paid(sale: Sale, settings: Settings) -> None:
    invoice_id = await sent_invoice(sale)
    with as_role(settings, "superuser") as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute(
            "UPDATE invoices SET status = 'Draft', number = NULL, seller_organization_id = NULL,"
            " seller_id = NULL, seller = NULL, issued_on = NULL, due_on = NULL,"
            " supply_from = NULL, supply_to = NULL, payment_reference = NULL, finalized_at = NULL"
        )

    with pytest.raises(Refusal) as refused:
        await mark_paid(invoice_id)

    assert refused.value.fields[0].code == "invoice_draft"


async def test_money_does_not_come_in_later_than_today(sale: Sale) -> None:
    invoice_id = await sent_invoice(sale)

    with pytest.raises(Refusal) as refused:
        await mark_paid(invoice_id, received_on=date(2026, 6, 3))

    assert refused.value.fields[0].field == "received_on"
    assert await counts(["payments"]) == {"payments": 0}


async def test_a_payment_that_breaks_off_leaves_nothing(sale: Sale) -> None:
    invoice_id = await sent_invoice(sale)
    before = await counts(["payments", "ledger_transfers", "audit_log", "outbox"])

    async def broken_off() -> None:
        async with db.system_session("platform pages") as session:
            await payments.mark_paid(session, SYSTEM, invoice_id, reference=None, received_on=None)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await broken_off()

    assert await counts(["payments", "ledger_transfers", "audit_log", "outbox"]) == before
    [state] = await rows("SELECT state FROM invoice_payment_states")
    assert state == {"state": "Pending"}


async def test_no_role_changes_a_payment(sale: Sale, settings: Settings) -> None:
    await mark_paid(await sent_invoice(sale))

    for role in ROLES:
        with as_role(settings, role, sale.customer.organization_id) as connection:
            for statement in (
                "UPDATE payments SET amount_minor = 1",
                "DELETE FROM payments",
                "TRUNCATE payments",
            ):
                with pytest.raises((errors.InsufficientPrivilege, errors.RestrictViolation)):
                    connection.execute(statement)

    assert clock.now() == END
