# SPDX-License-Identifier: Apache-2.0
"""The three proofs: of the books, of the trail, of the counters. Exit status 1 on a difference."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from nimbus import supervisor
from nimbus.base.config import Settings
from nimbus.cli.options import CommandError, DataDir, settings_for

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from nimbus.base.proofs import Report

    Proof = Callable[[AsyncSession], Awaitable[Report]]

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]

ledger = typer.Typer(no_args_is_help=True, help="The book of accounts.")
audit = typer.Typer(no_args_is_help=True, help="The audit trail.")
usage = typer.Typer(no_args_is_help=True, help="What was measured.")
invoices = typer.Typer()


@ledger.callback()
@audit.callback()
@usage.callback()
def _group() -> None:
    """Keep a group of one command a group."""


@ledger.command("check")
def ledger_check(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Prove that every fact is posted once, that the book balances and was never changed."""
    from nimbus import billing, payments  # noqa: F401 - they say what must be posted
    from nimbus.ledger import check

    prove(settings_for(data_dir), check, as_json=as_json)


@audit.command("verify")
def audit_verify(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Prove that no row of the audit trail was changed or removed."""
    from nimbus.base.audit import verify

    prove(settings_for(data_dir), verify, as_json=as_json)


@usage.command("reconcile")
def usage_reconcile(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Prove that events, roll-ups and quotas tell the same, and that no journal was set aside."""
    from nimbus import billing  # noqa: F401 - it holds the bills against what was measured
    from nimbus.usage import reconcile

    settings = settings_for(data_dir)
    prove(settings, lambda session: reconcile(session, settings.journal_dir), as_json=as_json)


@invoices.command("prove")
def prove_invoice(
    invoice: Annotated[str, typer.Argument(help="Its number, or its id.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Recompute an invoice from raw facts by a second reading of the law, to the cent."""
    from nimbus.billing.service.proving import prove as recompute
    from nimbus.errors import Refusal

    settings = settings_for(data_dir)
    try:
        prove(settings, lambda session: recompute(session, invoice), as_json=as_json)
    except Refusal as refusal:
        raise CommandError(refusal.detail) from refusal


def prove(settings: Settings, proof: "Proof", *, as_json: bool) -> None:
    """Run a proof over all organizations, print its outcome; exit status 1 on a difference."""
    with supervisor.database(settings):
        report = asyncio.run(_run(settings, proof))
    if as_json:
        outcome = {"ok": report.ok, "checked": report.checked, "differences": report.differences}
        if report.notes:
            outcome["notes"] = report.notes
        print(json.dumps(outcome, default=str, ensure_ascii=False))
    else:
        print(f"{report.checked} checked, {len(report.differences)} differences")
        for note in report.notes:
            print(f"  {note}")
        for difference in report.differences:
            print("  " + json.dumps(difference, default=str, ensure_ascii=False))
    if not report.ok:
        raise typer.Exit(1)


async def _run(settings: Settings, proof: "Proof") -> "Report":
    from nimbus.base import db

    await db.open_database(settings)
    try:
        async with db.system_session("proofs", snapshot=True) as session:
            return await proof(session)
    finally:
        await db.close_database()
