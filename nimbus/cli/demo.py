# SPDX-License-Identifier: Apache-2.0
"""`nimbus demo`: the story, and the sets of demo data."""

import asyncio
import json
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import typer

from nimbus import supervisor as house
from nimbus.base import clock
from nimbus.base.config import Settings
from nimbus.cli.options import CommandError, DataDir, Supervisor, settings_of_role
from nimbus.demo import EVERY_SET, SETS, kept
from nimbus.demo.kept import Upstreams

commands = typer.Typer(no_args_is_help=True, help="The demo.")

PROOFS = (("ledger", "check"), ("audit", "verify"), ("usage", "reconcile"))
LOOPBACK = "127.0.0.0/8"


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
    from nimbus.demo import story as told
    from nimbus.demo import system
    from nimbus.demo.http import DemoError

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


@commands.command()
def load(
    name: Annotated[str, typer.Argument(help=f"{', '.join(SETS)}, or {EVERY_SET}.")],
    data_dir: DataDir = None,
    wind_url: Annotated[str | None, typer.Option(hidden=True)] = None,
    wind_test_url: Annotated[str | None, typer.Option(hidden=True)] = None,
    supervisor: Supervisor = None,
) -> None:
    """Load a set of demo data, or put it back; loading what is there changes nothing."""
    names = named_sets(name)
    settings = settings_of_role(supervisor, data_dir, "demo")
    if not settings.private_networks:
        settings = replace(settings, private_networks=(ip_network(LOOPBACK),))
    known = kept.read(settings.data_dir)
    if wind_url and wind_test_url:
        print(json.dumps(_load(settings, names, known, Upstreams(wind_url, wind_test_url))))
        return
    upstreams = kept.known_upstreams(known)
    with ExitStack() as stack:
        if upstreams is None or not upstreams.answer():
            from nimbus.demo.system import wind_api

            upstreams = Upstreams(*(stack.enter_context(wind_api()) for _ in range(2)))
            print("The Wind API answers while `nimbus serve --demo` runs: start that for calls.")
        stack.enter_context(house.database(settings))
        loaded = _load(settings, names, known, upstreams)
    house.keep_run_file(settings, loaded)
    print(how_to_sign_in(settings.data_dir, str(known.get("url", settings.public_url)), loaded))


def named_sets(name: str) -> tuple[str, ...]:
    """The sets that a name on the command line means; raises `CommandError` for none."""
    if name != EVERY_SET and name not in SETS:
        raise CommandError(f"There is no demo set {name}: {', '.join(SETS)}, or {EVERY_SET}.")
    return SETS if name == EVERY_SET else (name,)


def how_to_sign_in(data_dir: Path, url: str, loaded: dict[str, Any]) -> str:
    """What a person wants to know of the loaded sets; passwords are named by where they are."""
    lines = ["", f"Sign in at {url}"]
    for one in loaded["accounts"]:
        whose = one["organization"] or "the operator"
        lines.append(f"  {one['email']:32} {one['role']:15} {whose}")
    lines.append(f"Passwords and keys are in {data_dir / 'run.json'}")
    if loaded["api_keys"]:
        # The first live key, or where no set has one a test key.
        key = min(loaded["api_keys"], key=lambda one: one["environment"] != "Live")
        lines.append(f"Call the Wind API as {key['organization']} ({key['environment']}):")
        lines.append(f'  curl {url}/api/v1/wind/farms -H "Authorization: Bearer {key["secret"]}"')
    return "\n".join([*lines, ""])


def _load(
    settings: Settings, names: tuple[str, ...], known: dict[str, Any], upstreams: Upstreams
) -> dict[str, Any]:
    """Load; answers what `run.json` is to say from now on."""
    from nimbus.demo import sets
    from nimbus.demo.http import DemoError
    from nimbus.errors import Refusal

    held = kept.Kept(known, settings.demo_password)
    try:
        asyncio.run(sets.load(settings, names, upstreams, held))
    except DemoError as error:
        raise CommandError(str(error)) from None
    except Refusal as refusal:
        fields = "; ".join(f"{field.field}: {field.message}" for field in refusal.fields)
        raise CommandError(f"The demo: {fields or refusal.detail or refusal.code}") from None
    return held.content()


def _prove(data_dir: Path) -> None:
    from nimbus.demo.system import nimbus

    for group, proof in PROOFS:
        command = nimbus(group, proof, "--data-dir", str(data_dir))
        outcome = subprocess.run(command, check=False, capture_output=True, text=True)
        if outcome.returncode:
            raise CommandError(f"nimbus {group} {proof}: {outcome.stdout}{outcome.stderr}")
