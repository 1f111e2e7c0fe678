# SPDX-License-Identifier: Apache-2.0
"""`nimbus bill`: a bill run by hand, or what it would make."""

import asyncio
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from nimbus import supervisor
from nimbus.base import clock
from nimbus.base.config import Settings
from nimbus.cli.options import CommandError, DataDir, settings_for
from nimbus.errors import Refusal
from nimbus.rules.money import format_money

if TYPE_CHECKING:
    from nimbus.billing.jobs import Outcome

commands = typer.Typer()

PROGRESS_EACH = 1_000
"""Subscriptions between two lines that say how far a run is."""


@commands.command()
def bill(
    as_of: Annotated[str, typer.Option(help="Bill what is due by this instant (RFC 3339).")],
    preview: Annotated[bool, typer.Option("--preview", help="Show it, save nothing.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Close every period that has ended by an instant; exit 1 if a subscription can't be billed."""
    try:
        moment = clock.from_wire(as_of)
    except ValueError:
        raise CommandError("--as-of takes an instant such as 2026-06-01T00:00:00Z") from None
    settings = settings_for(data_dir)
    with supervisor.database(settings):
        failed = asyncio.run(_run(settings, moment, preview=preview))
    if failed:
        raise typer.Exit(1)


async def _run(settings: Settings, as_of: datetime, *, preview: bool) -> int:
    from nimbus import rooms  # noqa: F401 - every reaction is in force
    from nimbus.base import db
    from nimbus.base.garbage import collect_rarely
    from nimbus.billing import jobs
    from nimbus.worker import GARBAGE

    collect_rarely(GARBAGE)
    await db.open_database(settings)
    failed = billed = 0
    try:
        async for outcome in jobs.run(as_of, preview=preview):
            failed += outcome.error is not None
            billed += outcome.error is None
            print(f"{outcome.subscription_id}  {_told(outcome)}")
            if not (billed + failed) % PROGRESS_EACH:
                print(f"{billed + failed:,} done, {failed} failed", file=sys.stderr, flush=True)
    except Refusal as refusal:
        raise CommandError(refusal.detail) from refusal
    finally:
        await db.close_database()
    print(f"{billed} {'to bill' if preview else 'billed'}, {failed} failed")
    return failed


def _told(outcome: "Outcome") -> str:
    if outcome.error is not None:
        return f"failed: {outcome.error}"
    if outcome.total is None:
        return outcome.status
    total = f"{format_money(outcome.total)} {outcome.total.currency}"
    return f"{outcome.number or outcome.status}  {total}"
