# SPDX-License-Identifier: Apache-2.0
"""The whole system on one machine: the database server and the processes around it.

`serve()` starts them in order, waits until each does its work, starts again what dies, and stops
all in order. It stays small: the schema is brought up by a child, and no framework is imported.
"""

import errno
import fcntl
import http.client
import json
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import urlsplit

import psycopg

from nimbus.base import clock, metrics_folder, postgres, process, secrets, valkey
from nimbus.base.config import Settings, to_environment

READY_SECONDS = 180  # a busy machine takes its time; a child that ends is noticed at once
PROBE_SECONDS = 0.02
TICK_MILLISECONDS = 1000
BACKOFF_SECONDS_MAX = 30.0
STEADY_SECONDS = 60.0  # a child that lived this long failed for a new reason
# In this order: the front door first, so that nothing new comes; the drain stores what was served.
STOP_SECONDS = {"gateway": 20, "valkey": 10, "drain": 60, "worker": 30, "api": 20, "companion": 10}
LOG_BYTES_MAX = 16 * 1024 * 1024

AfterStart = Callable[[Settings], Mapping[str, Any]]


class SupervisorError(Exception):
    """The system can't start; the message says what is wrong and what to do."""


class _StopRequested(BaseException):
    """SIGTERM, SIGINT or SIGHUP came; raised wherever the supervisor then waited."""


@dataclass(slots=True)
class Child:
    """One process of the system; `role` is the command, `name` tells gateways apart.

    A companion is a program beside Nimbus, by its own command `words`; so is Valkey.
    """

    role: str
    name: str
    words: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    start_at: float | None = None


@dataclass(slots=True)
class System:
    """What `serve()` has started so far; machine time in monotonic seconds."""

    settings: Settings
    notices: socket.socket
    server: subprocess.Popen[bytes] | None = None
    children: list[Child] = field(default_factory=list)
    ready_pids: set[int] = field(default_factory=set)


def serve(
    settings: Settings,
    *,
    instant: datetime | None = None,
    after_start: AfterStart | None = None,
    companions: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Run the whole system until SIGTERM, SIGINT or SIGHUP, then stop it in order.

    `instant` (UTC) is where a new test clock stands. `after_start` runs once everything answers
    and gives what `run.json` says about accounts and keys. `companions` are programs to run
    beside Nimbus, as command lines by name: the demo's upstreams. Raises `SupervisorError` or
    `postgres.PostgresError` with a message for the operator; nothing is left running then.
    """
    with _one_of_a_kind(settings), _port_held(settings), closing(_notices(settings)) as notices:
        system = System(settings, notices)
        system.children = [Child("companion", name, words) for name, words in companions.items()]
        try:
            _handle_stop_signals(_request_stop)
            _start(system, instant)
            given = after_start(settings) if after_start else {}
            running = {"url": settings.public_url, "pid": os.getpid()}
            running["test_clock"] = settings.test_clock
            keep_run_file(settings, {**given, **running})
            print(f"Nimbus is ready: {settings.public_url}", flush=True)
            process.announce_ready()
            _watch(system)
        except _StopRequested:
            pass
        finally:
            _handle_stop_signals(signal.SIG_IGN)
            _stop(system)
            _remove_socket_folder(settings)


@contextmanager
def database(settings: Settings) -> Iterator[None]:
    """A reachable database for one command: the running one, else the embedded one, started."""
    if not settings.embedded_database:
        yield
        return
    try:
        lock = _lock(settings)
    except SupervisorError:
        yield  # a running Nimbus holds the lock, and its database answers
        return
    with lock, _own_database(settings):
        yield


@contextmanager
def exclusive_database(settings: Settings) -> Iterator[None]:
    """As `database`, but raises `SupervisorError` when a Nimbus runs on this data folder."""
    with _one_of_a_kind(settings), _own_database(settings):
        yield


def cluster(settings: Settings) -> postgres.Cluster:
    """The embedded server of this installation."""
    return postgres.Cluster(
        bindir=postgres.embedded_bindir(),
        data=settings.pg_dir,
        socket_dir=settings.run_dir,
        log_file=settings.log_dir / "postgres.log",
        password=secrets.secret(settings, "db_owner").decode(),
    )


def _start(system: System, instant: datetime | None) -> None:
    settings = system.settings
    _prepare(settings)
    metrics_folder.begin_anew(settings)
    if settings.embedded_database:
        system.server = _start_database(settings)
    _bring_up_schema(system)
    if settings.test_clock:
        _set_test_clock(settings, instant)
    gateways = [Child("gateway", f"gateway-{n + 1}") for n in range(settings.gateways)]
    if settings.embedded_valkey:
        system.children.append(Child("valkey", "valkey", _valkey_words(settings)))
    system.children += [Child("api", "api"), Child("worker", "worker"), Child("drain", "drain")]
    system.children += gateways
    for child in system.children:
        _spawn(system, child)
    for child in system.children:
        _wait_until_ready(system, child)


def _valkey_words(settings: Settings) -> list[str]:
    try:
        return valkey.command(settings.valkey_socket)
    except valkey.ValkeyError as error:
        raise SupervisorError(str(error)) from None


def _prepare(settings: Settings) -> None:
    for folder in (settings.data_dir, settings.log_dir, settings.journal_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.mode == "embedded":
        secrets.make_missing(settings)


@contextmanager
def _own_database(settings: Settings) -> Iterator[None]:
    _prepare(settings)
    server = _start_database(settings) if settings.embedded_database else None
    try:
        yield
    finally:
        if server is not None:
            postgres.stop(server)
        _remove_socket_folder(settings)


def _start_database(settings: Settings) -> subprocess.Popen[bytes]:
    embedded = cluster(settings)
    server = postgres.start(embedded)
    postgres.make_database(embedded, "nimbus")
    return server


def _bring_up_schema(system: System) -> None:
    """In a process of its own: the supervisor keeps clear of the libraries that it takes."""
    child = Child("migrate", "migrate")
    _spawn(system, child)
    assert child.process is not None
    with child.process as running:
        try:
            status = running.wait()
        except BaseException:
            running.kill()
            raise
    if status != 0:
        raise SupervisorError(f"The schema did not come up:\n{_log_tail(system.settings, child)}")


def _set_test_clock(settings: Settings, instant: datetime | None) -> None:
    """A new clock stands at `instant`, or now; a known one stays where it was."""
    login: dict[str, Any] = dict(secrets.database_login(settings, "owner"))
    with psycopg.connect(**login) as connection:
        connection.execute(
            "INSERT INTO test_clock (instant) VALUES (%s) ON CONFLICT DO NOTHING",
            (instant or clock.machine_now().replace(microsecond=0),),
        )
        row = connection.execute("SELECT instant FROM test_clock").fetchone()
    assert row is not None
    if instant is not None and row[0] != instant:
        print(f"The test clock of this data folder stands at {clock.to_wire(row[0])} already.")


def _spawn(system: System, child: Child) -> None:
    settings = system.settings
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NIMBUS_")}
    environment |= to_environment(settings)
    environment["NOTIFY_SOCKET"] = str(_notice_path(settings))
    command = [sys.executable, "-m", "nimbus", child.role, f"--supervisor={os.getpid()}"]
    launcher = [sys.executable, "-m", "nimbus.base.process", str(os.getpid())]
    if child.words:
        command = [*launcher, *child.words]
    elif child.role == "gateway":  # past the command line, which would only become this
        command = [*launcher, sys.executable, "-m", "nimbus.gateway"]
    with _open_log(_log_file(settings, child)) as log:
        child.process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
        )
    child.started_at = clock.monotonic()
    child.start_at = None


def _wait_until_ready(system: System, child: Child) -> None:
    deadline = clock.monotonic() + READY_SECONDS
    while not _is_ready(system, child):
        assert child.process is not None
        status = child.process.poll()
        if status is not None or clock.monotonic() > deadline:
            how = "was not ready in time" if status is None else f"ended with status {status}"
            tail = _log_tail(system.settings, child)
            raise SupervisorError(f"{child.name} {how}. The end of its log:\n{tail}")
        time.sleep(PROBE_SECONDS)


def _is_ready(system: System, child: Child) -> bool:
    """The API and the gateway have to answer; every other role says it itself."""
    if child.role == "companion":
        return True  # whoever needs it waits for it
    if child.role == "valkey":
        return valkey.answers(system.settings.valkey_socket)
    _read_notices(system)
    assert child.process is not None
    if child.role == "api":
        return _status(_UnixConnection(system.settings.api_socket), "/readyz") == 200
    if child.process.pid not in system.ready_pids:
        return False
    return child.role != "gateway" or _front_door_answers(system.settings)


def _front_door_answers(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    connection: http.client.HTTPConnection
    if settings.tls_cert is None:
        connection = http.client.HTTPConnection(host, settings.port, timeout=5)
    else:
        # It is our own listener on this machine; its certificate is for the world's name.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection(host, settings.port, timeout=5, context=context)
    status = _status(connection, "/readyz", urlsplit(settings.public_url).netloc)
    return status is not None and status < 500


def _status(
    connection: http.client.HTTPConnection, path: str, host: str = "localhost"
) -> int | None:
    """The status of GET `path`, None while nobody answers."""
    with closing(connection):
        try:
            connection.request("GET", path, headers={"Host": host, "Connection": "close"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _watch(system: System) -> None:
    """Start again what dies, at once the first time, then with growing pauses; never returns."""
    while True:
        poller = select.poll()
        with _pidfds(system) as descriptors:
            for descriptor in descriptors:
                poller.register(descriptor, select.POLLIN)
            poller.register(system.notices, select.POLLIN)
            poller.poll(_pause_milliseconds(system))
        _read_notices(system)
        if system.server is not None and system.server.poll() is not None:
            _restart_database(system)
        for child in system.children:
            _tend(system, child)


def _tend(system: System, child: Child) -> None:
    now = clock.monotonic()
    if child.process is not None and (status := child.process.poll()) is not None:
        system.ready_pids.discard(child.process.pid)
        steady = now - child.started_at > STEADY_SECONDS
        child.failures = 1 if steady else child.failures + 1
        pause = _backoff_seconds(child.failures)
        child.process, child.start_at = None, now + pause
        _say(f"{child.name} ended with status {status}; it starts again in {pause:.1f} s")
    if child.start_at is not None and child.start_at <= now:
        _spawn(system, child)


def _restart_database(system: System) -> None:
    assert system.server is not None
    _say(f"PostgreSQL ended with status {system.server.returncode}; it starts again")
    try:
        system.server = postgres.start(cluster(system.settings))
    except postgres.PostgresError as error:
        _say(f"{error}\nThe next attempt is in {BACKOFF_SECONDS_MAX:.0f} s")
        time.sleep(BACKOFF_SECONDS_MAX)


def _backoff_seconds(failures: int) -> float:
    """0 s after the first failure, then 0.5, 1, 2 … 30 s."""
    return 0.0 if failures == 1 else min(0.25 * 2.0 ** (failures - 1), BACKOFF_SECONDS_MAX)


def _pause_milliseconds(system: System) -> int:
    now = clock.monotonic()
    waits = [child.start_at - now for child in system.children if child.start_at is not None]
    return max(0, min([TICK_MILLISECONDS, *(int(wait * 1000) + 1 for wait in waits)]))


@contextmanager
def _pidfds(system: System) -> Iterator[list[int]]:
    running = [child.process for child in system.children if child.process is not None]
    if system.server is not None:
        running.append(system.server)
    descriptors = [os.pidfd_open(item.pid) for item in running if item.returncode is None]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _stop(system: System) -> None:
    for role in STOP_SECONDS:
        _stop_role(system, role)
    if system.server is not None:
        postgres.stop(system.server)


def _stop_role(system: System, role: str) -> None:
    running = [
        (child, child.process)
        for child in system.children
        if child.role == role and child.process is not None
    ]
    for _, running_process in running:
        running_process.terminate()
    deadline = clock.monotonic() + STOP_SECONDS[role]
    for child, running_process in running:
        try:
            running_process.wait(max(0.0, deadline - clock.monotonic()))
        except subprocess.TimeoutExpired:
            _say(f"{child.name} did not stop in {STOP_SECONDS[role]} s and is killed")
            running_process.kill()
            running_process.wait()


def keep_run_file(settings: Settings, given: Mapping[str, Any]) -> None:
    """Write into `run.json` what programs need to find and enter this installation.

    What is not given stays as it is.
    """
    path = settings.data_dir / "run.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = {"accounts": [], "api_keys": [], **known, **given}
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    new.replace(path)


@contextmanager
def _one_of_a_kind(settings: Settings) -> Iterator[None]:
    with _lock(settings) as lock:
        lock.truncate(0)
        lock.write(f"{os.getpid()} {settings.public_url}\n".encode())
        lock.flush()
        yield


def _lock(settings: Settings) -> IO[bytes]:
    """The open, locked file `lock`; the kernel lets it go when this process ends in any way."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.data_dir / "lock"
    lock = path.open("a+b")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        pid, _, url = path.read_text(encoding="utf-8").strip().partition(" ")
        raise SupervisorError(
            f"Another Nimbus (process {pid or 'unknown'}{', ' + url if url else ''})"
            f" uses the data folder {settings.data_dir}. Stop it, or choose another --data-dir."
        ) from None
    return lock


@contextmanager
def _port_held(settings: Settings) -> Iterator[None]:
    """Refuse a port in use; hold a free one, unused, so that only our gateways can share it.

    Gateways bind with SO_REUSEPORT, with which two installations would share a port unnoticed.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as holder:
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((settings.host, settings.port))
                probe.listen(1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((settings.host, settings.port))
        except OSError as error:
            place = f"{settings.host}, port {settings.port}"
            if error.errno == errno.EADDRINUSE:
                raise SupervisorError(f"{place} is in use. Choose another --port.") from None
            raise SupervisorError(f"{place} can't be listened on: {error.strerror}.") from None
        yield


def _notices(settings: Settings) -> socket.socket:
    postgres.make_socket_folder(settings.run_dir, settings.pg_dir)
    path = _notice_path(settings)
    path.unlink(missing_ok=True)
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    notices.bind(str(path))
    notices.setblocking(False)
    return notices


def _remove_socket_folder(settings: Settings) -> None:
    """Everyone who listened there has stopped; a folder with something else in it stays."""
    for path in (_notice_path(settings), settings.api_socket, settings.valkey_socket):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        settings.run_dir.rmdir()


def _notice_path(settings: Settings) -> Path:
    return settings.run_dir / "notify.sock"


def _read_notices(system: System) -> None:
    """Note who is ready; the kernel, not the message, says which process sent it."""
    with suppress(BlockingIOError):
        while True:
            message, extra, _, _ = system.notices.recvmsg(4096, socket.CMSG_SPACE(12))
            for level, kind, content in extra:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    pid = struct.unpack("iii", content)[0]
                    if b"READY=1" in message.split(b"\n"):
                        system.ready_pids.add(pid)


def _log_file(settings: Settings, child: Child) -> Path:
    return settings.log_dir / f"{child.name}.log"


def _open_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def _log_tail(settings: Settings, child: Child, lines: int = 12) -> str:
    text = _log_file(settings, child).read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _handle_stop_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


def _request_stop(_number: int, _frame: object) -> None:
    _handle_stop_signals(signal.SIG_IGN)  # one request is enough; a second must not cut it short
    raise _StopRequested
