# SPDX-License-Identifier: Apache-2.0
"""What was sent never changes: not by any role, not by any verb; and numbers can't be skipped."""

import pytest
from psycopg import errors

from nimbus.base import db
from nimbus.base.config import Settings
from nimbus.billing.service import papers
from tests.support.bills import Sale, bill, use_as_in_the_reference
from tests.support.metered import rows
from tests.support.roles import ROLES, as_role

pytestmark = pytest.mark.anyio

REFUSALS = (errors.RestrictViolation, errors.InsufficientPrivilege, errors.CheckViolation)
TABLES = (
    "invoices",
    "invoice_lines",
    "invoice_taxes",
    "invoice_documents",
    "billing_periods",
)


async def test_no_role_changes_what_was_sent_by_any_verb(sale: Sale, settings: Settings) -> None:
    await use_as_in_the_reference(sale.contract)
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    async with db.system_session("bill run") as session:
        await papers.invoice_pdf(session, invoice.id)
    before = {table: await rows(f"SELECT * FROM {table}") for table in TABLES}
    columns = await rows(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_name = ANY (:tables)",
        tables=list(TABLES),
    )

    for role in ROLES:
        with as_role(settings, role, invoice.organization_id) as connection:
            for column in columns:
                table, name = column["table_name"], column["column_name"]
                with pytest.raises(REFUSALS):
                    connection.execute(f"UPDATE {table} SET {name} = {name}")
            for table in TABLES:
                for statement in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
                    with pytest.raises(REFUSALS):
                        connection.execute(statement)
            for table in ("invoice_lines", "invoice_taxes"):
                with pytest.raises(REFUSALS):
                    connection.execute(
                        f"INSERT INTO {table} SELECT (jsonb_populate_record(p,"
                        ' \'{"id": "a0000000-0000-7000-8000-000000000001", "position": 99,'
                        f' "category": "O"}}\')).* FROM {table} p LIMIT 1'
                    )

    assert {table: await rows(f"SELECT * FROM {table}") for table in TABLES} == before


async def test_a_number_is_not_skipped_taken_back_or_left_without_an_invoice(
    sale: Sale, settings: Settings
) -> None:
    await bill(sale.subscription_id)

    with as_role(settings, "nimbus_system") as system:
        for statement in (
            "UPDATE number_series SET last_number = last_number + 1",
            "UPDATE number_series SET last_number = last_number + 2",
            "UPDATE number_series SET last_number = last_number",
            "DELETE FROM number_series",
        ):
            with pytest.raises(REFUSALS):
                system.execute(statement)


async def test_a_document_whose_hash_is_another_is_not_stored(
    sale: Sale, settings: Settings
) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None

    with as_role(settings, "nimbus_system") as system, pytest.raises(errors.CheckViolation):
        system.execute(
            "INSERT INTO invoice_documents VALUES (gen_random_uuid(), %s, %s, 'pdf', 'en',"
            " 'content', sha256('other'), now())",
            (invoice.organization_id, invoice.id),
        )


async def test_an_invoice_that_does_not_add_up_is_not_sent(sale: Sale, settings: Settings) -> None:
    invoice = await bill(sale.subscription_id)
    assert invoice is not None
    copy = (
        "INSERT INTO invoices SELECT (jsonb_populate_record(i, jsonb_build_object("
        "'id', gen_random_uuid(), 'kind', 'start', 'number', 'INV-2026-000002',"
        " 'subtotal_minor', i.subtotal_minor + 1, 'total_minor', i.total_minor + 1))).*"
        " FROM invoices i"
    )

    with as_role(settings, "nimbus_system") as system:
        with pytest.raises(errors.CheckViolation):
            system.execute(copy)
        with pytest.raises(errors.CheckViolation):
            system.execute(copy.replace("i.total_minor + 1", "i.total_minor + 2"))
