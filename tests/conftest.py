# SPDX-License-Identifier: Apache-2.0
"""What tests stand on: one PostgreSQL server a run, one freshly migrated database a test.

`--postgres ordinary` runs the same tests on the machine's own PostgreSQL (15 or later).
"""

import secrets as randomness
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
import pytest
from fastapi import FastAPI
from psycopg import sql

from nimbus import migrations
from nimbus.app import create_app
from nimbus.base import clock, config, db, log, postgres, secrets
from nimbus.base.config import Settings
from tests.support.soak import Soak

TEMPLATE = "template_nimbus"
ORDINARY = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", choices=("embedded", "ordinary"), default="embedded")
    parser.addoption("--soak", action="store_true", help="rigs at their full counts")
    parser.addoption("--hours", type=float, default=0, help="hours of load in the rig of memory")
    parser.addoption("--part", type=float, default=1, help="which part of the full counts")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --soak run those tests only that have more to do then."""
    if config.getoption("--soak"):
        items[:] = [item for item in items if "soak" in getattr(item, "fixturenames", ())]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> Soak:
    """How far this run goes; prints the seed."""
    option = request.config.getoption
    chosen = Soak(full=option("--soak"), hours=option("--hours"), part=option("--part"))
    print(f"TEST_SEED={chosen.seed}")
    return chosen


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    log.configure("error", "test")


@dataclass(frozen=True)
class Server:
    """A running server and the data folder whose secrets its roles have."""

    cluster: postgres.Cluster
    data_dir: Path
    processes: "list[subprocess.Popen[bytes]]"  # the last one runs

    def stop_hard_and_start(self) -> None:
        """End the server as `pg_ctl stop -m immediate` does, and start it again."""
        self.processes[-1].send_signal(signal.SIGQUIT)
        self.processes[-1].wait()
        self.processes.append(postgres.start(self.cluster))

    def settings(self, name: str, **environ: str) -> Settings:
        """Settings that use the database `name`."""
        place = f"host={self.cluster.socket_dir} dbname={name}"
        owner = f"{place} user=postgres password={self.cluster.password}"
        return config.load(
            {
                "NIMBUS_DATA_DIR": str(self.data_dir),
                "NIMBUS_DATABASE_URL": place,
                "NIMBUS_DATABASE_OWNER_URL": owner,
                **environ,
            }
        )

    def execute(self, statement: sql.Composed) -> None:
        """Run a statement on databases, outside a transaction."""
        login = {"host": str(self.cluster.socket_dir), "dbname": "postgres", "user": "postgres"}
        with psycopg.connect(
            **login, password=self.cluster.password, autocommit=True
        ) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The run's server, with the roles and a migrated template."""
    bindir = postgres.embedded_bindir()
    if request.config.getoption("--postgres") == "ordinary":
        assert ORDINARY, "this machine has no ordinary PostgreSQL"
        bindir = ORDINARY[-1]
    with tempfile.TemporaryDirectory(prefix="nimbus-test-") as folder:
        place = Path(folder)
        cluster = postgres.Cluster(
            bindir=bindir,
            data=place / "pg",
            socket_dir=place / "s",
            log_file=place / "postgres.log",
            password=randomness.token_hex(8),
        )
        processes = [postgres.start(cluster)]
        try:
            running = Server(cluster, place, processes)
            # No power cut happens in a test, and one server is thrown away a run.
            running.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier("fsync")))
            running.execute(sql.SQL("SELECT {}()").format(sql.Identifier("pg_reload_conf")))
            postgres.make_database(cluster, TEMPLATE)
            settings = running.settings(TEMPLATE)
            secrets.make_missing(settings)
            migrations.make_roles(settings)
            migrations.migrate(settings)
            yield running
        finally:
            postgres.stop(processes[-1])


@pytest.fixture
def settings(server: Server) -> Iterator[Settings]:
    """Settings of a fresh, migrated database of this test's own."""
    name = f"test_{randomness.token_hex(6)}"
    database = sql.Identifier(name)
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    server.execute(copy.format(database, sql.Identifier(TEMPLATE)))
    yield server.settings(name)
    server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.fixture
def owner(settings: Settings) -> Callable[[str], None]:
    """Run a statement as the superuser, behind every rule: what an intruder could do."""

    def execute(statement: str) -> None:
        with psycopg.connect(str(settings.database_owner_url)) as connection:
            connection.execute(statement.encode())

    return execute


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Settings]:
    """The same, opened as this process's database."""
    await db.open_database(settings)
    yield settings
    await db.close_database()
    clock.set_instant(None)


@pytest.fixture
def app(database: Settings) -> FastAPI:
    """The management API on the test's database."""
    return create_app(database)


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the management API, as the gateway would call it."""
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(
        transport=transport,
        base_url="http://nimbus.test",
        headers={"X-Forwarded-For": "198.51.100.7"},
    ) as client:
        yield client
