# SPDX-License-Identifier: Apache-2.0
"""One role each, for larger installations; `nimbus serve` starts them the same way."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import typer

from nimbus import supervisor as system
from nimbus.base import postgres
from nimbus.base.config import Settings, to_environment
from nimbus.cli.options import (
    CommandError,
    DataDir,
    Supervisor,
    settings_for,
    settings_of_role,
)

commands = typer.Typer()


@commands.command()
def gateway(data_dir: DataDir = None, supervisor: Supervisor = None) -> None:
    """The gateway: authenticates, limits, meters and forwards the calls."""
    settings = settings_of_role(supervisor, data_dir, "gateway")
    # Not here: a gateway process carries nothing of the command line.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("NIMBUS_")}
    command = [sys.executable, "-m", "nimbus.gateway"]
    os.execve(command[0], command, outside | to_environment(settings))  # noqa: S606 - our own


@commands.command()
def api(data_dir: DataDir = None, supervisor: Supervisor = None) -> None:
    """The management API and the portal, on a Unix socket behind the gateway."""
    settings = settings_of_role(supervisor, data_dir, "api")
    import uvloop

    if _somebody_listens(settings.api_socket):
        raise CommandError(f"An API listens on {settings.api_socket} already.")
    postgres.make_socket_folder(settings.run_dir, settings.pg_dir)
    settings.api_socket.unlink(missing_ok=True)
    uvloop.run(_serve_api(settings))


@commands.command()
def worker(data_dir: DataDir = None, supervisor: Supervisor = None) -> None:
    """The worker: jobs, and what falls due."""
    settings = settings_of_role(supervisor, data_dir, "worker")
    from nimbus import worker as role

    role.run(settings)


@commands.command()
def drain(data_dir: DataDir = None, supervisor: Supervisor = None) -> None:
    """The drain: from the gateways' journals into the database; one on each machine."""
    settings = settings_of_role(supervisor, data_dir, "drain")
    from nimbus import drain as role

    role.run(settings)


@commands.command()
def migrate(data_dir: DataDir = None, supervisor: Supervisor = None) -> None:
    """Make the database roles and bring the schema up to what this version needs."""
    settings = settings_of_role(supervisor, data_dir, "migrate")
    from alembic.util import CommandError as UnknownSchemaError

    from nimbus import migrations

    with system.database(settings):
        migrations.make_roles(settings)
        try:
            migrations.migrate(settings)
        except UnknownSchemaError as error:
            raise CommandError(
                f"The schema can't be brought up ({error}). Did a newer Nimbus use this database?"
            ) from None


@commands.command()
def openapi(data_dir: DataDir = None) -> None:
    """Write the API document (OpenAPI 3.1, JSON) to standard output."""
    from nimbus.app import create_app

    print(json.dumps(create_app(settings_for(data_dir)).openapi(), indent=2, ensure_ascii=False))


async def _serve_api(settings: Settings) -> None:
    """One process without a watcher of its own: a kill -9 leaves no orphan on the socket."""
    from granian.constants import HTTPModes, Interfaces
    from granian.server.embed import Server

    from nimbus.app import create_app

    server = Server(
        create_app(settings),
        uds=settings.api_socket,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.serve()
    if server.interrupt_children:
        raise CommandError("The API did not start; its log says why.")


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
