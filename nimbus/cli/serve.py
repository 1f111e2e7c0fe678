# SPDX-License-Identifier: Apache-2.0
"""`nimbus serve`: the whole system."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from nimbus import supervisor
from nimbus.base import clock
from nimbus.base.config import Settings
from nimbus.cli.check import refuse_unsafe
from nimbus.cli.options import DataDir, settings_for

commands = typer.Typer()

LOOPBACK = "127.0.0.0/8"


@commands.command()
def serve(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default 8000.")] = None,
    data_dir: DataDir = None,
    demo: Annotated[str | None, typer.Option(help="Load a demo set, or `all`.")] = None,
    test_clock: Annotated[
        str | None,
        typer.Option(
            metavar="[INSTANT]",
            help="Simulated business time that stands still until it is advanced;"
            " it starts now, or at an instant such as 2026-05-01T00:00:00Z.",
        ),
    ] = None,
    gateways: Annotated[int | None, typer.Option(min=1, help="Gateway processes.")] = None,
) -> None:
    """Run the whole system: database, schema, gateway, API, worker and drain, until stopped."""
    instant = _instant(test_clock)
    flag = None if test_clock is None else 1
    settings = settings_for(data_dir, port=port, gateways=gateways, test_clock=flag)
    if (demo or settings.test_clock) and not settings.private_networks:
        settings = settings_for(
            data_dir, port=port, gateways=gateways, test_clock=flag, private_networks=LOOPBACK
        )
    refuse_unsafe(settings)

    def load_demo(started: Settings) -> Mapping[str, Any]:
        from nimbus import demo as demo_sets  # noqa: PLC0415

        return demo_sets.load(started, str(demo))

    supervisor.serve(settings, instant=instant, after_start=load_demo if demo else None)


def _instant(text: str | None) -> datetime | None:
    if text is None or text == "now":
        return None
    try:
        return clock.from_wire(text)
    except ValueError as error:
        raise typer.BadParameter(f"--test-clock {text}: {error}") from None
