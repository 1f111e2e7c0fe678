# SPDX-License-Identifier: Apache-2.0
"""`nimbus check`: what is configured, what answers, and what is wrong."""

import asyncio
import stat
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Annotated, Any

import psycopg
import typer

from nimbus import supervisor
from nimbus.base import clock, config, secrets
from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from nimbus.cli.options import CommandError, DataDir, settings_for

commands = typer.Typer()

POSTGRES_OLDEST = 15
CLOCK_SECONDS_MAX = 5.0


@commands.command()
def check(
    data_dir: DataDir = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="List every setting, its default, its meaning.")
    ] = False,
) -> None:
    """Check configuration, secrets, Valkey, database, schema, clock and seller; exit 1 if wrong."""
    if explain:
        _explain()
        return
    settings = settings_for(data_dir)
    wrong = 0
    for name, problem in _findings(settings):
        print(f"{'wrong' if problem else 'ok':5}  {name}{': ' + problem if problem else ''}")
        wrong += problem is not None
    if wrong:
        raise typer.Exit(1)


def refuse_unsafe(settings: Settings) -> None:
    """Raise `CommandError` for a configuration that must not serve."""
    problem = _configuration(settings)
    if problem is not None:
        raise CommandError(problem)


def _explain() -> None:
    width = max(len(option.name) for option in config.OPTIONS) + len("NIMBUS_")
    for option in config.OPTIONS:
        default = "" if option.default in {None, ""} else f" (default {option.default})"
        print(f"{'NIMBUS_' + option.name:{width}}  {option.meaning}{default}")
    print(f"{'NIMBUS_CONFIG':{width}}  a TOML file with the same names in lower case")
    print("Each may come from a file instead: NIMBUS_…_FILE names it.")


def _findings(settings: Settings) -> Iterator[tuple[str, str | None]]:
    yield "configuration", _configuration(settings)
    if settings.embedded_database and not settings.pg_dir.exists():
        yield "data folder", f"{settings.data_dir} has no database yet; nimbus serve makes it"
        return
    yield "secrets", _secrets(settings)
    if settings.valkey_url is not None:
        yield "valkey", asyncio.run(_valkey(settings.valkey_url))
    elif settings.embedded_valkey:
        yield "valkey", _embedded_valkey(settings)
    with supervisor.database(settings):
        problem = _database(settings)
        yield "database", problem
        if problem is not None:
            return
        problem = _schema(settings)
        yield "schema", problem
        yield "clock", _clock(settings)
        if problem is None:
            yield "seller", asyncio.run(_seller(settings))


def _configuration(settings: Settings) -> str | None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        return "NIMBUS_TLS_CERT and NIMBUS_TLS_KEY belong together"
    if settings.mode != "production":
        return None
    if settings.embedded_database:
        return "production mode needs NIMBUS_DATABASE_URL and NIMBUS_DATABASE_OWNER_URL"
    if settings.test_clock:
        return "production mode runs on real time: no test clock"
    if settings.demo_password is not None:
        return "production mode has no demo accounts: unset NIMBUS_DEMO_PASSWORD"
    plain = settings.tls_cert is None and not settings.trusted_proxies
    if plain and not _is_loopback(settings.host):
        return (
            f"production mode refuses plain HTTP from other machines on {settings.host}:"
            " set NIMBUS_TLS_CERT and NIMBUS_TLS_KEY, or NIMBUS_TRUSTED_PROXIES"
        )
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secrets(settings: Settings) -> str | None:
    for name in secrets.NAMES:
        path = settings.secrets_dir / name
        if not path.is_file():
            return f"{path} is missing"
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            return f"{path} can be read by others: chmod 600"
    return None


async def _valkey(url: str) -> str | None:
    from nimbus.gateway.valkey import GarbageError, connect, read_url

    try:
        connection = await connect(read_url(url), lambda: None)
        async with asyncio.timeout(2):
            await connection.call((b"PING",))
    except (OSError, TimeoutError, GarbageError, ValueError) as error:
        return f"it does not answer ({error!r}): limits are divided by the number of gateways"
    connection.close()
    return None


def _embedded_valkey(settings: Settings) -> str | None:
    """Our own answers while Nimbus runs; otherwise its program has to be there."""
    from nimbus.base import valkey

    try:
        valkey.program()
    except valkey.ValkeyError as error:
        return str(error)
    running = (settings.run_dir / "notify.sock").exists()
    if running and not valkey.answers(settings.valkey_socket):
        return "it does not answer: limits are divided by the number of gateways"
    return None


def _database(settings: Settings) -> str | None:
    """Both ways in: as the role that migrates and as the application."""
    return _ask(settings, "owner", _version) or _ask(settings, "app", _version)


def _version(connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
    number = connection.info.server_version // 10000
    if number < POSTGRES_OLDEST:
        return f"PostgreSQL {number} is too old: {POSTGRES_OLDEST} or later"
    return None


def _schema(settings: Settings) -> str | None:
    from nimbus import migrations

    found, needed = migrations.current_revision(settings), migrations.head_revision()
    if found != needed:
        return f"it is at {found or 'nothing'}, this version needs {needed}: run nimbus migrate"
    return None


def _clock(settings: Settings) -> str | None:
    return _ask(settings, "app", _clock_difference)


def _clock_difference(connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
    asked = clock.machine_now()
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    seconds = abs((row[0] - asked).total_seconds())  # type: ignore[operator]
    if seconds > CLOCK_SECONDS_MAX:
        return f"this machine and the database differ by {seconds:.0f} s"
    return None


def _ask(
    settings: Settings,
    role: str,
    question: Callable[[psycopg.Connection[tuple[object, ...]]], str | None],
) -> str | None:
    try:
        login: dict[str, Any] = dict(database_login(settings, role))
        with psycopg.connect(**login) as connection:
            return question(connection)
    except (psycopg.Error, secrets.SecretMissingError) as error:
        return str(error).strip()


async def _seller(settings: Settings) -> str | None:
    from sqlalchemy import text

    from nimbus.base import db

    await db.open_database(settings, pool_size=1)
    try:
        async with db.transaction() as session:
            found = await session.scalar(text("SELECT count(*) FROM sellers WHERE current"))
    finally:
        await db.close_database()
    if found == 0:
        return (
            "no legal data of the operator (name, address, VAT and company number, terms):"
            " no invoice is finalized until an operator sets it in the portal"
        )
    return None
