# SPDX-License-Identifier: Apache-2.0
"""The command `nimbus`. A command imports what it needs when it runs: the gateway stays light."""

import sys

import typer

from nimbus.base.config import ConfigError
from nimbus.base.postgres import PostgresError
from nimbus.base.secrets import SecretMissingError
from nimbus.cli import backup, bench, bill, check, demo, metrics, people, proofs, roles, serve
from nimbus.cli.options import CommandError
from nimbus.supervisor import SupervisorError

# None: its commands stand at the top; a name: a group of its own, such as `nimbus user create`.
COMMANDS: tuple[tuple[str | None, typer.Typer], ...] = (
    (None, serve.commands),
    (None, roles.commands),
    (None, check.commands),
    (None, metrics.commands),
    (None, backup.commands),
    (None, bill.commands),
    (None, proofs.invoices),
    ("user", people.user),
    ("key", people.key),
    ("demo", demo.commands),
    ("bench", bench.commands),
    ("ledger", proofs.ledger),
    ("audit", proofs.audit),
    ("usage", proofs.usage),
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sell an API: registration, plans, keys, a metering gateway, invoices, a portal.",
)
for name, commands in COMMANDS:
    app.add_typer(commands, name=name)


def main() -> None:
    """Run the command line; what an operator can put right is one message and exit status 1."""
    try:
        app(args=_with_values(sys.argv[1:]), prog_name="nimbus")
    except (ConfigError, PostgresError, SecretMissingError, SupervisorError, CommandError) as error:
        sys.exit(f"nimbus: {error}")
    except PermissionError as error:
        sys.exit(f"nimbus: {error.filename}: {error.strerror}")


def _with_values(words: list[str]) -> list[str]:
    """`--test-clock` may stand without its instant, which the option parser can't express."""
    result = list(words)
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else "-"
        if word == "--test-clock" and following.startswith("-"):
            result[position] = "--test-clock=now"
    return result
