# SPDX-License-Identifier: Apache-2.0
"""`nimbus backup` and `nimbus restore`: one file with everything that can't be made again.

A backup is a tar file with the database (`pg_dump`), the secrets that its sealed values need, and
the journals. The journals are copied before the database is: what is drained in between is in
both, and is stored once, because the drain knows how far it came. It can be taken while Nimbus
runs. Whoever has the file can do everything: it is made readable by its owner alone.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from nimbus import supervisor
from nimbus.base import clock, postgres, secrets
from nimbus.base.config import Settings, to_environment
from nimbus.base.secrets import database_login
from nimbus.cli.options import CommandError, DataDir, settings_for

commands = typer.Typer()

PROOFS = (("ledger", "check"), ("audit", "verify"), ("usage", "reconcile"))


@commands.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    data_dir: DataDir = None,
) -> None:
    """Write the database, the secrets and the journals to one file, also while Nimbus runs."""
    settings = settings_for(data_dir)
    if settings.embedded_database and not settings.pg_dir.exists():
        raise CommandError(f"{settings.data_dir} has no database: nothing to back up.")
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandError(f"{file} can't be written: {error.strerror}.") from None
    try:
        with os.fdopen(handle, "wb") as output, tarfile.open(fileobj=output, mode="w") as archive:
            _write(archive, settings)
    except BaseException:
        file.unlink()
        raise
    print(f"Backup written: {file} ({file.stat().st_size:,} bytes). It holds secrets.")


@commands.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that nimbus backup wrote.")],
    data_dir: DataDir = None,
) -> None:
    """Bring a backup back into an empty data folder, and prove the books, the trail, the usage."""
    settings = settings_for(data_dir)
    _refuse_to_overwrite(settings)
    try:
        _bring_back(file, settings)
    except BaseException as error:
        for path in _places(settings):  # made by us just now; nothing half-restored is left
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError | tarfile.TarError):
            raise CommandError(f"{file} can't be restored: {error}") from None
        raise
    with supervisor.exclusive_database(settings):
        _prove(settings)
    print(f"Restored into {settings.data_dir}; the three proofs hold.")


def _write(archive: tarfile.TarFile, settings: Settings) -> None:
    manifest = {
        "format": 1,
        "nimbus": version("nimbus"),
        "made_at": clock.to_wire(clock.machine_now()),
    }
    _add_bytes(archive, "manifest.json", json.dumps(manifest, indent=2).encode())
    for name in secrets.NAMES:
        _add_bytes(archive, f"secrets/{name}", secrets.secret(settings, name))
    for segment in sorted(settings.journal_dir.glob("*/*.journal")):
        try:
            content = segment.read_bytes()
        except FileNotFoundError:
            continue  # drained meanwhile: it will be in the database
        _add_bytes(archive, f"journal/{segment.relative_to(settings.journal_dir)}", content)
    with supervisor.database(settings), tempfile.TemporaryDirectory() as scratch:
        dump = Path(scratch) / "database.dump"
        _run(settings, "pg_dump", "--format=custom", f"--file={dump}")
        archive.add(dump, "database.dump")


def _bring_back(file: Path, settings: Settings) -> None:
    with tarfile.open(file) as archive, tempfile.TemporaryDirectory() as scratch:
        _read_manifest(archive)
        _take_files(archive, settings)
        with supervisor.exclusive_database(settings):
            _refuse_filled_database(settings)
            dump = Path(scratch) / "database.dump"
            _copy_member(archive, "database.dump", dump)
            _restore_database(settings, dump)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))


def _refuse_to_overwrite(settings: Settings) -> None:
    for path in _places(settings):
        if path.exists():
            raise CommandError(
                f"{settings.data_dir} is not empty ({path.name} is there):"
                " restore into a new --data-dir."
            )


def _places(settings: Settings) -> tuple[Path, ...]:
    return settings.pg_dir, settings.secrets_dir, settings.journal_dir


def _read_manifest(archive: tarfile.TarFile) -> None:
    try:
        member = archive.extractfile("manifest.json")
        manifest = json.load(member) if member is not None else {}
    except (KeyError, ValueError):
        manifest = {}
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise CommandError(f"{archive.name!r} is no backup that this Nimbus can read.")


def _take_files(archive: tarfile.TarFile, settings: Settings) -> None:
    """Secrets and journals, by names that can't lead out of the data folder."""
    for member in archive.getmembers():
        top, _, rest = member.name.partition("/")
        if top not in {"secrets", "journal"}:
            continue
        if not member.isfile() or any(part in {"", "..", "."} for part in rest.split("/")):
            raise CommandError(f"The backup holds a strange name: {member.name!r}.")
        target = settings.data_dir / top / rest
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _copy_member(archive, member.name, target)


def _copy_member(archive: tarfile.TarFile, name: str, target: Path) -> None:
    source = archive.extractfile(name)
    if source is None:
        raise CommandError(f"The backup lacks {name}.")
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as output:
        while block := source.read(1 << 20):
            output.write(block)


def _refuse_filled_database(settings: Settings) -> None:
    login = database_login(settings, "owner")
    with psycopg.connect(**login) as connection:  # type: ignore[arg-type]
        row = connection.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        ).fetchone()
    if row is None or row[0] != 0:
        raise CommandError("The database is not empty: restore into a new one.")


def _restore_database(settings: Settings, dump: Path) -> None:
    """Roles first, with the passwords of the restored secrets; then tables; then newer schema."""
    from nimbus import migrations

    migrations.make_roles(settings)
    _run(settings, "pg_restore", "--exit-on-error", "--single-transaction", str(dump))
    migrations.migrate(settings)


def _prove(settings: Settings) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NIMBUS_")}
    failed = []
    for words in PROOFS:
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "nimbus", *words],
            env={**kept, **to_environment(settings)},
            check=False,
        )
        if done.returncode != 0:
            failed.append(" ".join(words))
    if failed:
        raise CommandError(f"The restored data fails: {', '.join(failed)}.")


def _run(settings: Settings, program: str, *words: str) -> None:
    """One of PostgreSQL's own programs on our database; the password is not on its command line."""
    login = dict(database_login(settings, "owner"))
    parts = {**conninfo_to_dict(login.pop("conninfo", "")), **login}
    password = str(parts.pop("password", ""))
    place = make_conninfo(**parts)  # type: ignore[arg-type]
    target = ["--dbname", place]
    done = subprocess.run(  # noqa: S603 - a program of ours
        [str(postgres.embedded_bindir() / program), *target, *words],
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "PGPASSWORD": password},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(f"{program} failed:\n{done.stderr.strip()}")
