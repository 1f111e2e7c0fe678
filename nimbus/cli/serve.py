# SPDX-License-Identifier: Apache-2.0
"""`nimbus serve`: the whole system."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from nimbus import supervisor
from nimbus.base import clock
from nimbus.base.config import Settings, to_environment
from nimbus.cli.check import refuse_unsafe
from nimbus.cli.demo import LOOPBACK, how_to_sign_in, named_sets
from nimbus.cli.options import CommandError, DataDir, settings_for
from nimbus.demo import EVERY_SET, SETS, kept
from nimbus.demo.kept import Upstreams

commands = typer.Typer()


@commands.command()
def serve(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default 8000.")] = None,
    data_dir: DataDir = None,
    demo: Annotated[str | None, typer.Option(help=f"{', '.join(SETS)}, or {EVERY_SET}.")] = None,
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
    if demo is None:
        supervisor.serve(settings, instant=instant)
        return
    named_sets(demo)
    upstreams = kept.choose_upstreams(kept.read(settings.data_dir))

    def load_demo(started: Settings) -> Mapping[str, Any]:
        loaded = _loaded(started, str(demo), upstreams)
        print(how_to_sign_in(started.data_dir, started.public_url, loaded))
        return loaded | kept.given_upstreams(upstreams)

    supervisor.serve(
        settings, instant=instant, after_start=load_demo, companions=_companions(upstreams)
    )


def _companions(upstreams: Upstreams) -> Mapping[str, list[str]]:
    """The two example servers beside the system: what live keys call, and what test keys call."""
    urls = {"wind": upstreams.live, "wind-test": upstreams.test}
    server = [sys.executable, "-m", "examples.wind_api", "--port"]
    return {name: [*server, str(urlsplit(url).port)] for name, url in urls.items()}


def _loaded(settings: Settings, name: str, upstreams: Upstreams) -> dict[str, Any]:
    """Load demo sets in a process of its own, which takes the libraries that we keep clear of."""
    command = [sys.executable, "-m", "nimbus", "demo", "load", name]
    command += [f"--wind-url={upstreams.live}", f"--wind-test-url={upstreams.test}"]
    outside = {k: v for k, v in os.environ.items() if not k.startswith("NIMBUS_")}
    log_file = settings.log_dir / "demo.log"
    with log_file.open("a+b") as log:
        outcome = subprocess.run(
            [*command, f"--supervisor={os.getpid()}"],
            env=outside | to_environment(settings),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the supervisor, which then kills it
        )
    if outcome.returncode:
        last = log_file.read_text(encoding="utf-8").splitlines()[-1:]
        raise CommandError(f"The demo was not loaded. {' '.join(last)}\nMore is in {log_file}.")
    loaded: dict[str, Any] = json.loads(outcome.stdout)
    return loaded


def _instant(text: str | None) -> datetime | None:
    if text is None or text == "now":
        return None
    try:
        return clock.from_wire(text)
    except ValueError as error:
        raise typer.BadParameter(f"--test-clock {text}: {error}") from None
