# SPDX-License-Identifier: Apache-2.0
"""The server of our own: real ones, from the wheel and from the machine when it has one."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from nimbus.base import postgres
from nimbus.base.postgres import Cluster, PostgresError
from tests.operations.processes import BINDIRS, IS_ROOT, NOBODY, ORDINARY_USER, ROOT, wait_for

MakeCluster = Callable[..., Cluster]
Server = subprocess.Popen[bytes]


@pytest.fixture
def make_cluster(tmp_path: Path) -> MakeCluster:
    def make(name: str = "one", bindir: Path = BINDIRS[0]) -> Cluster:
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        return Cluster(bindir, folder / "pg", folder / "run", folder / "pg.log", "it's secret")

    return make


@pytest.fixture
def start() -> Iterator[Callable[[Cluster], Server]]:
    """Start servers that are stopped when the test ends, however it ends."""
    started: list[Server] = []

    def run(cluster: Cluster) -> Server:
        started.append(postgres.start(cluster))
        return started[-1]

    yield run
    for server in started:
        postgres.stop(server)


def connect(cluster: Cluster, dbname: str = "postgres", **more: object) -> psycopg.Connection:
    given = {"user": "postgres", "password": cluster.password, "dbname": dbname, **more}
    return psycopg.connect(host=str(cluster.socket_dir), autocommit=True, **given)


def ask(cluster: Cluster, query: str) -> object:
    with connect(cluster) as connection:
        return connection.execute(query).fetchone()[0]


@pytest.mark.parametrize("bindir", BINDIRS, ids=str)
def test_a_new_server_has_checksums_and_a_socket_and_nothing_open_to_others(
    bindir: Path, make_cluster: MakeCluster, start: Callable[[Cluster], Server]
) -> None:
    cluster = make_cluster(bindir=bindir)

    start(cluster)

    assert ask(cluster, "SHOW data_checksums") == "on"
    assert ask(cluster, "SHOW fsync") == "on"
    assert ask(cluster, "SHOW listen_addresses") == ""
    assert ask(cluster, "SHOW server_encoding") == "UTF8"
    assert ask(
        cluster, "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolcanlogin"
    )
    assert stat.S_IMODE(cluster.socket_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700
    with pytest.raises(psycopg.OperationalError, match="password"):
        connect(cluster, password="wrong")


@pytest.mark.parametrize("bindir", BINDIRS, ids=str)
def test_a_second_start_finds_what_the_first_one_stored(
    bindir: Path, make_cluster: MakeCluster, start: Callable[[Cluster], Server]
) -> None:
    cluster = make_cluster(bindir=bindir)
    first = start(cluster)
    postgres.make_database(cluster, "kept")
    postgres.make_database(cluster, "kept")
    with connect(cluster, "kept") as connection:
        connection.execute("CREATE TABLE notes AS SELECT 'here' AS note")

    postgres.stop(first)
    start(cluster)

    assert first.returncode == 0
    with connect(cluster, "kept") as connection:
        assert connection.execute("SELECT note FROM notes").fetchone() == ("here",)


def test_two_servers_run_side_by_side(
    make_cluster: MakeCluster, start: Callable[[Cluster], Server]
) -> None:
    one, two = make_cluster("one"), make_cluster("two")

    start(one)
    start(two)

    assert ask(one, "SHOW data_directory") == str(one.data)
    assert ask(two, "SHOW data_directory") == str(two.data)


def test_a_left_over_server_is_stopped_and_its_data_are_kept(
    make_cluster: MakeCluster, start: Callable[[Cluster], Server]
) -> None:
    cluster = make_cluster()
    left_over = start(cluster)
    with connect(cluster) as connection:
        connection.execute("CREATE TABLE notes AS SELECT 'here' AS note")

    server = start(cluster)

    assert left_over.wait(10) == 0
    assert server.poll() is None
    assert ask(cluster, "SELECT note FROM notes") == "here"


def test_busy_children_of_a_killed_server_do_not_keep_the_next_from_starting(
    make_cluster: MakeCluster, start: Callable[[Cluster], Server]
) -> None:
    cluster = make_cluster()
    killed = start(cluster)
    connection = connect(cluster)
    backend = connection.info.backend_pid
    busy = threading.Thread(target=_loop_for_ever, args=(connection,))
    busy.start()
    wait_for(
        lambda: ask(cluster, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO%'"),
        "the endless statement runs",
    )
    killed.kill()
    killed.wait()
    assert Path(f"/proc/{backend}").exists()

    start(cluster)

    busy.join(10)
    assert not busy.is_alive()
    assert ask(cluster, "SELECT 1") == 1


def _loop_for_ever(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.OperationalError), connection:
        connection.execute("DO $$ BEGIN LOOP END LOOP; END $$")


def test_a_pid_file_that_names_a_stranger_is_cleaned_and_the_stranger_lives(
    make_cluster: MakeCluster, start: Callable[[Cluster], Server]
) -> None:
    cluster = make_cluster()
    postgres.stop(start(cluster))
    owner = cluster.data.stat().st_uid
    with subprocess.Popen(
        ["sleep", "1000"], cwd="/", user=owner if IS_ROOT else None, stdin=subprocess.DEVNULL
    ) as stranger:
        stale = cluster.data / "postmaster.pid"
        stale.write_text(f"{stranger.pid}\n{cluster.data}\n1700000000\n5432\n/tmp\n\n0 0\nready\n")
        os.chown(stale, owner, -1)

        start(cluster)

        assert ask(cluster, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_first_start_that_was_cut_off_is_done_again(
    make_cluster: MakeCluster, start: Callable[[Cluster], Server]
) -> None:
    cluster = make_cluster()
    half_made = cluster.data.with_name("pg.new")
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18")
    cluster.data.with_name("pg.password").write_text("old")

    start(cluster)

    assert ask(cluster, "SELECT 1") == 1
    assert not half_made.exists()
    assert not cluster.data.with_name("pg.password").exists()


def test_data_of_another_version_are_refused_with_what_to_do(
    make_cluster: MakeCluster, start: Callable[[Cluster], Server]
) -> None:
    cluster = make_cluster()
    postgres.stop(start(cluster))
    (cluster.data / "PG_VERSION").write_text("14\n")

    with pytest.raises(PostgresError, match=r"PostgreSQL 14; .* 18\.\n.*nimbus backup"):
        postgres.start(cluster)


def test_a_folder_that_is_no_data_folder_is_refused(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.data.mkdir()
    (cluster.data / "holiday.jpg").touch()

    with pytest.raises(PostgresError, match="not a data folder"):
        postgres.start(cluster)


def test_a_socket_folder_that_somebody_planted_is_refused(
    make_cluster: MakeCluster, start: Callable[[Cluster], Server], tmp_path: Path
) -> None:
    cluster = make_cluster()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cluster.socket_dir.symlink_to(elsewhere)

    with pytest.raises(PostgresError, match="not to this installation"):
        start(cluster)


def test_a_server_that_can_t_start_says_why(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    postgres.stop(postgres.start(cluster))
    (cluster.data / "global" / "pg_control").unlink()

    with pytest.raises(PostgresError, match=r"(?s)ended with status \d+.*pg_control"):
        postgres.start(cluster)


def test_an_ordinary_user_may_run_it(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    home = cluster.data.parent
    if IS_ROOT:
        os.chown(home, NOBODY, NOBODY)
    script = (
        "import sys; from pathlib import Path; from nimbus.base import postgres as p\n"
        "home = Path(sys.argv[1])\n"
        "c = p.Cluster(p.embedded_bindir(), home/'pg', home/'run', home/'pg.log', 'secret')\n"
        "p.stop(p.start(c)); server = p.start(c); p.make_database(c, 'nimbus'); p.stop(server)\n"
        "print(server.returncode)"
    )

    done = subprocess.run(
        [*ORDINARY_USER, sys.executable, "-c", script, str(home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("0\n", "")
    assert cluster.data.stat().st_uid == home.stat().st_uid != 0


def test_the_server_ends_in_good_order_when_its_owner_is_killed(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    script = (
        "import sys, time; from pathlib import Path; from nimbus.base import postgres as p\n"
        "home = Path(sys.argv[1])\n"
        "c = p.Cluster(p.embedded_bindir(), home/'pg', home/'run', home/'pg.log', 'secret')\n"
        "print(p.start(c).pid, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(cluster.data.parent)], cwd=ROOT, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())

        os.kill(owner.pid, signal.SIGKILL)

        wait_for(lambda: not Path(f"/proc/{server}").exists(), "the server is gone")
    assert not (cluster.data / "postmaster.pid").exists()
    assert "database system is shut down" in cluster.log_file.read_text()
