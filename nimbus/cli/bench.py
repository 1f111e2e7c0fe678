# SPDX-License-Identifier: Apache-2.0
"""`nimbus bench`: the gateway beside others on this machine."""

from typing import Annotated

import typer

commands = typer.Typer(no_args_is_help=True, help="Measure the gateway beside others.")


@commands.command()
def gateway(
    rounds: Annotated[int, typer.Option(min=1, help="How often each target is measured.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="How long a round is.")] = 3,
    only: Annotated[str, typer.Option(help="Names of targets with commas between; or all.")] = "",
) -> None:
    """Compare, print a table and what the goals ask for, keep it in build/bench/gateway.json."""
    from nimbus.bench import gateway as bench
    from nimbus.bench.rounds import Plan

    names = tuple(name for name in only.split(",") if name)
    bench.run(Plan(rounds, seconds), names, lambda line: print(line, flush=True))


@commands.callback()
def _bench() -> None:
    """Keep `gateway` a word of its own."""
