# SPDX-License-Identifier: Apache-2.0
"""`nimbus demo`: the story, and the sets of demo data."""

import asyncio
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from nimbus.base import clock
from nimbus.cli.options import CommandError

commands = typer.Typer(no_args_is_help=True, help="The demo.")

PROOFS = (("ledger", "check"), ("audit", "verify"), ("usage", "reconcile"))


@commands.command()
def story(
    url: Annotated[
        str | None, typer.Option(help="A running installation with a test clock at its beginning.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the PDF goes.")] = Path("build/story"),
    gateways: Annotated[int, typer.Option(min=1, help="Gateways of the own system.")] = 1,
    admin: Annotated[
        str | None, typer.Option(help="With --url: EMAIL:PASSWORD of a platform admin.")
    ] = None,
) -> None:
    """The main job, from registration to the invoice marked paid, step by step on the screen."""
    from nimbus.demo import story as told  # noqa: PLC0415
    from nimbus.demo import system  # noqa: PLC0415
    from nimbus.demo.http import DemoError  # noqa: PLC0415

    started = clock.monotonic()

    def say(line: str) -> None:
        print(f"{clock.monotonic() - started:5.1f} s  {line}", flush=True)

    with ExitStack() as stack:
        try:
            wind_url = stack.enter_context(system.wind_api())
            if url is None:
                say("A throw-away system starts at " + told.STARTS_AT)
                own = stack.enter_context(system.throw_away(told.STARTS_AT, gateways))
                email, password, address = own.admin_email, own.admin_password, own.url
            else:
                email, _, password = (admin or "").partition(":")
                address = url
            stage = told.Stage(address, email, password, wind_url, out)
            ending = asyncio.run(told.tell(stage, say))
            if url is None:
                _prove(own.data_dir)
                say("Proved: the books, the trail and the counters agree")
        except DemoError as error:
            raise CommandError(str(error)) from None
        say(f"Done: {ending.answered:,} answered calls, one invoice, {ending.pdf}")


def _prove(data_dir: Path) -> None:
    from nimbus.demo.system import nimbus  # noqa: PLC0415

    for group, proof in PROOFS:
        command = nimbus(group, proof, "--data-dir", str(data_dir))
        outcome = subprocess.run(command, check=False, capture_output=True, text=True)
        if outcome.returncode:
            raise CommandError(f"nimbus {group} {proof}: {outcome.stdout}{outcome.stderr}")
