# SPDX-License-Identifier: Apache-2.0
"""`nimbus serve` from start to end, as real processes; what is killed is really killed."""

import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from nimbus import migrations, supervisor
from nimbus.base import config, postgres
from tests.operations.conftest import Install
from tests.operations.processes import (
    BINDIRS,
    ORDINARY_USER,
    ROLES,
    Nimbus,
    free_port,
    nimbus,
    processes_of,
    run_file,
    serving,
    socket_folder,
    stop,
    wait_for,
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nimbus]:
    """One running system for the tests that leave it running."""
    with serving(tmp_path_factory.mktemp("serve") / "data", "--gateways=2") as started:
        yield started


def test_a_started_system_says_where_it_is_and_answers_there(system: Nimbus) -> None:
    lines = system.output.read_text().splitlines()

    assert lines[-1] == f"Nimbus is ready: http://127.0.0.1:{system.port}"
    assert system.answers("/readyz") == 200
    assert {role: len(system.pids(role)) for role in ROLES} == {
        "api": 1,
        "worker": 1,
        "drain": 1,
        "gateway": 2,
    }


def test_its_run_file_is_for_its_owner_alone(system: Nimbus) -> None:
    path = system.data_dir / "run.json"

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run_file(system.data_dir) == {
        "url": f"http://127.0.0.1:{system.port}",
        "pid": system.process.pid,
        "test_clock": False,
        "accounts": [],
        "api_keys": [],
    }
    for secret in (system.data_dir / "secrets").iterdir():
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@pytest.mark.parametrize("role", [*ROLES, "postgres"])
def test_whatever_is_killed_comes_back_and_stays(system: Nimbus, role: str) -> None:
    before = system.pids(role)

    os.kill(before[0], signal.SIGKILL)

    wait_for(
        lambda: len(system.pids(role)) == len(before) and before[0] not in system.pids(role),
        f"a new {role}",
    )
    wait_for(lambda: system.answers("/readyz") == 200, "the front door answers")
    assert system.process.poll() is None
    assert set(re.findall(r"ended with status (\S+);", system.output.read_text())) == {"-9"}


def test_a_second_one_on_the_same_data_is_refused_and_told_who_has_them(system: Nimbus) -> None:
    refused = nimbus("serve", f"--port={free_port()}", f"--data-dir={system.data_dir}")

    assert refused.returncode == 1
    assert f"process {system.process.pid}, http://127.0.0.1:{system.port}" in refused.stderr
    assert str(system.data_dir) in refused.stderr
    assert system.answers("/readyz") == 200


def test_a_port_in_use_is_named_and_nothing_is_left_running(system: Nimbus, tmp_path: Path) -> None:
    refused = nimbus("serve", f"--port={system.port}", f"--data-dir={tmp_path / 'data'}")

    assert refused.returncode == 1
    assert f"port {system.port} is in use" in refused.stderr
    assert processes_of(tmp_path / "data") == []


def test_an_ordinary_user_runs_a_second_installation_beside_it(
    system: Nimbus, tmp_path: Path
) -> None:
    with serving(tmp_path / "other", user=ORDINARY_USER) as other:
        assert other.answers("/readyz") == 200
        assert system.answers("/readyz") == 200
        theirs = processes_of(other.data_dir)
        assert not set(theirs) & set(processes_of(system.data_dir))
        owners = {Path(f"/proc/{pid}").stat().st_uid for pid in theirs}
        assert owners == {other.data_dir.stat().st_uid}
        assert 0 not in owners


def test_data_outlive_a_stop_and_a_kill_and_nothing_is_left_behind(
    install: Install, tmp_path: Path
) -> None:
    # Given an installation that was stopped
    data = install(tmp_path / "data")
    with serving(data) as first:
        secrets = {path.name: path.read_bytes() for path in (data / "secrets").iterdir()}
        assert processes_of(data)
        stop(first, signal.SIGTERM)
        assert first.process.returncode == 0
        assert processes_of(data) == []
        assert not socket_folder(data).exists()

    # When it is started again, and its supervisor is killed
    with serving(data, port=first.port) as second:
        assert second.answers("/readyz") == 200
        second.process.kill()
        second.process.wait()
        wait_for(lambda: not any(second.pids(role) for role in ROLES), "its roles are gone")

    # Then the next start takes over, with everything that was there, and stops on Ctrl-C as well
    with serving(data, port=first.port) as third:
        assert third.answers("/readyz") == 200
        assert {path.name: path.read_bytes() for path in (data / "secrets").iterdir()} == secrets
        stop(third, signal.SIGINT)
        assert third.process.returncode == 0
        assert processes_of(data) == []


def test_an_ordinary_server_takes_the_place_of_the_embedded_one(tmp_path: Path) -> None:
    ordinary = postgres.Cluster(
        BINDIRS[-1], tmp_path / "pg", tmp_path / "run", tmp_path / "pg.log", "of the owner"
    )
    server = postgres.start(ordinary)
    postgres.make_database(ordinary, "shop")
    place = f"/shop?host={ordinary.socket_dir}"
    urls = {
        "NIMBUS_DATABASE_URL": f"postgresql://{place}",
        "NIMBUS_DATABASE_OWNER_URL": f"postgresql://postgres:of%20the%20owner@{place}",
    }
    try:
        with serving(tmp_path / "data", **urls) as system:
            assert system.answers("/readyz") == 200
            assert not (system.data_dir / "pg").exists()
        assert server.poll() is None
    finally:
        postgres.stop(server)


def test_a_schema_of_a_newer_version_is_refused_and_nothing_is_left_running(
    install: Install, tmp_path: Path
) -> None:
    data = install(tmp_path / "data")
    settings = config.load({"NIMBUS_DATA_DIR": str(data)})
    with supervisor.database(settings), migrations.connect_owner(settings) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")

    refused = nimbus("serve", f"--port={free_port()}", f"--data-dir={data}")

    assert refused.returncode == 1
    assert "newer Nimbus" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert processes_of(data) == []


def test_a_process_that_can_t_start_stops_the_start_and_shows_the_end_of_its_log(
    install: Install, tmp_path: Path
) -> None:
    data = install(tmp_path / "data")
    (data / "secrets" / "pepper_1").unlink()
    (data / "secrets" / "pepper_1").mkdir()

    failed = nimbus("serve", f"--port={free_port()}", f"--data-dir={data}")

    assert failed.returncode == 1
    assert "gateway-1 ended with status 1" in failed.stderr
    assert "pepper_1" in failed.stderr
    assert processes_of(data) == []
