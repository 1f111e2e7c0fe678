# SPDX-License-Identifier: Apache-2.0
"""A real gateway process, started as the supervisor would, stopped and killed."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nimbus.base import config, secrets
from nimbus.base.config import Settings, to_environment
from nimbus.gateway.last_state import pieces
from nimbus.gateway.link import state_file
from nimbus.gateway.state import State
from nimbus.rules.metering import SlotState
from tests.gateway.house import (
    KEY,
    ORGANIZATION,
    PLAN,
    PRODUCT,
    SUBSCRIPTION,
    Caller,
    Upstream,
    count_slots,
    digest_of,
    key_record,
    plan_record,
    product_record,
    read_journal,
    request,
    subscription_record,
    until,
)

pytestmark = pytest.mark.anyio

GET = request(b"GET", b"/echo", host=b"localhost")


@pytest.fixture
def installed(tmp_path: Path, upstream: Upstream) -> Settings:
    """A data folder with secrets and the last good state, and no database anywhere."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = config.load(
        {
            "NIMBUS_DATA_DIR": str(tmp_path / "data"),
            "NIMBUS_PORT": str(port),
            "NIMBUS_PRIVATE_NETWORKS": "127.0.0.0/8",
            "NIMBUS_GATEWAYS": "2",
        }
    )
    settings.data_dir.mkdir()
    secrets.make_missing(settings)
    pepper = secrets.secret(settings, "pepper_1")
    key = {**key_record(KEY), "hash": digest_of(pepper, KEY).hex()}
    rows = [
        (1, "organization", str(ORGANIZATION), {"id": str(ORGANIZATION), "status": "Active"}),
        (2, "product", str(PRODUCT), product_record(upstream.port)),
        (3, "plan", str(PLAN), plan_record()),
        (4, "subscription", str(SUBSCRIPTION), subscription_record()),
        (5, "key", key["id"], key),
    ]
    state_file(settings).parent.mkdir()
    state = State(lambda sealed: sealed)
    state.replace(rows)
    state_file(settings).write_bytes(b"".join(pieces(state, {})))
    return settings


@asynccontextmanager
async def started(settings: Settings, *words: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A gateway process that has said it is ready."""
    with notice_socket(settings) as notices:
        process = subprocess.Popen(
            [sys.executable, *(words or ("-m", "nimbus.gateway"))],
            env={**os.environ, **to_environment(settings), "NOTIFY_SOCKET": notices.getsockname()},
        )
        try:
            await until(lambda: ready(notices) or process.poll() is not None, 30)
            assert process.poll() is None
            yield process
        finally:
            process.kill()
            process.wait()


class notice_socket:  # noqa: N801 - used as a context manager function
    def __init__(self, settings: Settings) -> None:
        self.path = settings.data_dir / "n"

    def __enter__(self) -> socket.socket:
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(self.path))
        return self.socket

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def ready(notices: socket.socket) -> bool:
    try:
        return notices.recv(64) == b"READY=1"
    except BlockingIOError:
        return False


def journals(settings: Settings) -> Iterator[Path]:
    return settings.journal_dir.iterdir()


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_without_the_database_it_starts_from_its_last_state_and_stops_with_status_0(
    installed: Settings, upstream: Upstream, number: signal.Signals
) -> None:
    async with started(installed) as process, connected(installed) as caller:
        await caller.send(GET)
        assert (await caller.answer()).status == 200
        await caller.send(
            request(b"GET", b"/readyz", host=b"127.0.0.1").replace(b"/api/v1/demo", b"")
        )
        assert (await caller.answer()).code == "unavailable"
        process.send_signal(signal.SIGHUP)
        await caller.send(GET)
        assert (await caller.answer()).status == 200, "a reload ends nothing"
        process.send_signal(number)
        assert await caller.closed()
        await until(lambda: process.poll() is not None, 15)
        assert process.returncode == 0
    [journal] = journals(installed)
    assert len(read_journal(journal)) == 2


@pytest.mark.parametrize(
    "words", [("-m", "nimbus", "gateway"), ("-m", "nimbus.gateway")], ids=" ".join
)
async def test_a_gateway_process_carries_nothing_of_the_command_line_or_the_control_plane(
    installed: Settings, words: tuple[str, ...]
) -> None:
    async with started(installed, *words) as process:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert command[1:3] == [b"-m", b"nimbus.gateway"]
    assert "_psycopg" in maps, "what is loaded can be seen"
    for heavy in ("pydantic", "sqlalchemy", "cryptography", "greenlet", "granian", "_argon2"):
        assert heavy not in maps


def test_what_a_gateway_imports_is_what_it_needs() -> None:
    program = "import sys, nimbus.gateway.__main__; print(*sys.modules)"
    outcome = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    imported = {name.partition(".")[0] for name in outcome.stdout.split()}
    heavy = {"typer", "click", "rich", "pygments", "attr", "pydantic", "sqlalchemy", "greenlet"}
    heavy |= {"cryptography", "fastapi", "starlette", "anyio", "httpx2", "alembic", "granian"}
    assert not imported & heavy
    ours = {name.split(".")[1] for name in outcome.stdout.split() if name.startswith("nimbus.")}
    assert ours == {"base", "errors", "gateway", "rules"}


async def test_two_gateways_share_the_port_and_each_has_its_journal(
    installed: Settings, upstream: Upstream
) -> None:
    async with started(installed), started(installed):
        for _ in range(40):
            async with connected(installed) as caller:
                await caller.send(GET)
                assert (await caller.answer()).status == 200
        folders = list(journals(installed))
        assert len(folders) == 2
        assert sum(len(read_journal(folder)) for folder in folders) == 40


@pytest.mark.parametrize("seed", range(3))
async def test_a_kill_loses_no_answered_call_and_leaves_those_in_flight_visible(
    installed: Settings, upstream: Upstream, seed: int
) -> None:
    print(f"seed {seed}")
    answered: list[str] = []

    async def call_on() -> None:
        try:
            async with connected(installed) as caller:
                while True:
                    await caller.send(GET)
                    answer = await caller.answer()
                    if answer.body is not None:  # else the kill cut it: it was not answered
                        answered.append(answer["x-request-id"])
        except (OSError, asyncio.IncompleteReadError):
            return

    enough = random.Random(seed).randrange(300, 1500)
    async with started(installed) as process:
        calls = [asyncio.ensure_future(call_on()) for _ in range(16)]
        await until(lambda: len(answered) > enough, 30)
        process.kill()
        await asyncio.gather(*calls)
    [journal] = journals(installed)
    written = [event.request_id for event in read_journal(journal)]
    assert set(answered) <= set(written)
    assert len(set(written)) == len(written)
    in_flight = count_slots(journal, SlotState.RESERVED)
    assert in_flight <= 16
    assert len(written) + in_flight >= len(upstream.seen)
    assert count_slots(journal, SlotState.CORRUPT) == 0
