# SPDX-License-Identifier: Apache-2.0
"""What several commands share: where the data is, and how a command says that it can't."""

import os
from pathlib import Path
from typing import Annotated

import typer

from nimbus.base import config, process
from nimbus.base.config import Settings


class CommandError(Exception):
    """A command can't do what it was asked; the message says why and what to do."""


DataDir = Annotated[
    Path | None,
    # Whether it can be read is found out by reading, not by asking for permissions beforehand.
    typer.Option(readable=False, help="The data folder; default NIMBUS_DATA_DIR, or .nimbus."),
]
Supervisor = Annotated[int | None, typer.Option(hidden=True, help="Die with this process.")]


def settings_for(data_dir: Path | None = None, **overrides: object) -> Settings:
    """The settings of the environment, with options of the command line over them.

    `overrides` are names of settings in lower case; None leaves what the environment says.
    """
    given = {"data_dir": data_dir, **overrides}
    over = {f"NIMBUS_{k.upper()}": str(v) for k, v in given.items() if v is not None}
    kept = {k: v for k, v in os.environ.items() if k.removesuffix("_FILE") not in over}
    return config.load({**kept, **over})


def settings_of_role(supervisor: int | None, data_dir: Path | None, role: str) -> Settings:
    """What every role does first: live no longer than its supervisor, read settings, log, count."""
    from nimbus.base import log, metrics_folder, tracing

    if supervisor is not None:
        process.die_with(supervisor)
    settings = settings_for(data_dir)
    log.configure(settings.log_level, role)
    metrics_folder.use(settings)
    tracing.begin(settings, role)
    return settings
