# SPDX-License-Identifier: Apache-2.0
"""`nimbus metrics`: the page that Prometheus reads, for a look and for machines without an API."""

import asyncio
import os
import sys

import typer

from nimbus.base import metrics_folder
from nimbus.base.config import Settings
from nimbus.cli.options import DataDir, settings_for

commands = typer.Typer()


@commands.command()
def metrics(data_dir: DataDir = None) -> None:
    """What is measured of this machine's processes and of the installation, as Prometheus text."""
    sys.stdout.buffer.write(asyncio.run(_page(settings_for(data_dir))))


async def _page(settings: Settings) -> bytes:
    from nimbus import rooms
    from nimbus.base import db
    from nimbus.base import metrics as measured

    assert rooms.GAUGES, "each room's gauges are there"
    if settings.metrics_dir.is_dir():  # only now: what this command itself does is not counted
        os.environ[metrics_folder.FOLDER] = str(settings.metrics_dir)
    await db.open_database(settings)
    try:
        async with db.system_session("metrics") as session:
            return await measured.page(session)
    finally:
        await db.close_database()
