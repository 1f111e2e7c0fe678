# SPDX-License-Identifier: Apache-2.0
"""The main job from registration to a paid invoice, on real processes, also while they die."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from pypdf import PdfReader

from nimbus.base import config
from nimbus.base.secrets import database_login
from nimbus.demo import story
from nimbus.demo.system import ADMIN, make_admin, wind_api
from tests.operations.processes import (
    ROOT,
    Nimbus,
    environment,
    free_port,
    nimbus,
    processes_of,
    serving,
    wait_for,
)

SEED = int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(1 << 32))
PROOFS = (("ledger", "check"), ("audit", "verify"), ("usage", "reconcile"))
VICTIMS = ("gateway", "drain", "api", "worker", "postgres", "supervisor")
CALLS_WHILE_DYING = 15_000
INVOICE_WHILE_DYING = ([49_00, 10_00, 22_50, 20_00], 122_82)
"""5,000 calls over × 0.002, 15 assets over × 1.50, 8 reports × 2.50; 101.50 + 21 %."""


@pytest.mark.parametrize("gateways", [1, 2])
def test_the_story_ends_with_the_reference_invoice(gateways: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nimbus", "demo", "story", "--out", str(tmp_path)]
    told = subprocess.run(
        [*command, "--gateways", str(gateways)],
        cwd=ROOT,
        env={**environment(), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    print(told.stdout)
    assert told.returncode == 0, told.stdout + told.stderr
    for amount in ("49.00", "25.00", "22.50", "20.00", "116.50", "24.47", "140.97"):
        assert amount in told.stdout
    (pdf,) = tmp_path.glob("*.pdf")
    page = PdfReader(pdf).pages[0].extract_text()
    for text in ("INV-2026-000001", "Windpark Noord B.V.", "12,500", "€140.97"):
        assert text in page
    assert [pid for pid in processes_of(tmp_path) if pid != os.getpid()] == []


@dataclass
class Killing:
    """Kills each part once while calls run, and starts the system again after its supervisor."""

    stack: ExitStack
    system: Nimbus
    chance: random.Random
    start_again: Callable[[], Nimbus]
    killed: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """One victim after the other, each once all parts are back at work."""
        victims = list(VICTIMS)
        self.chance.shuffle(victims)
        for victim in victims:
            await asyncio.to_thread(self._wait_until_whole)
            await asyncio.sleep(self.chance.uniform(0.2, 1.2))
            await asyncio.to_thread(self._kill, victim)
            self.killed.append(victim)

    def _wait_until_whole(self) -> None:
        wait_for(lambda: self.system.answers() == 200, "the API behind the gateway")
        for role in ("gateway", "drain", "worker", "postgres"):
            wait_for(lambda role=role: self.system.pids(role), role)

    def _kill(self, victim: str) -> None:
        if victim == "supervisor":
            self.system.process.kill()
            self.system.process.wait()
            self.system = self.start_again()
            return
        for pid in self.system.pids(victim):
            os.kill(pid, signal.SIGKILL)


async def _tell_while_dying(stage: story.Stage, killing: Killing) -> story.Ending:
    calling = asyncio.Event()

    def say(line: str) -> None:
        print(line)
        if line.startswith(story.CALLING):
            calling.set()

    async def kill() -> None:
        await calling.wait()
        await killing.run()

    async with asyncio.TaskGroup() as group:
        group.create_task(kill())
        told = group.create_task(story.tell(stage, say))
    return told.result()


def test_whatever_is_killed_nothing_answered_is_lost_or_counted_twice(tmp_path: Path) -> None:
    print(f"TEST_SEED={SEED}")
    data_dir, port = tmp_path / "data", free_port()
    words = ("--test-clock", story.STARTS_AT)
    with ExitStack() as stack:
        wind_url = stack.enter_context(wind_api())

        def start() -> Nimbus:
            return stack.enter_context(serving(data_dir, *words, port=port))

        killing = Killing(stack, start(), random.Random(SEED), start)
        url = f"http://127.0.0.1:{port}"
        password = make_admin(data_dir)
        stage = story.Stage(url, ADMIN, password, wind_url, tmp_path, CALLS_WHILE_DYING)
        ending = asyncio.run(_tell_while_dying(stage, killing))
        print("killed:", ", ".join(killing.killed))

        amounts = [line["amount"]["amount_minor"] for line in ending.invoice["lines"]]
        total = ending.invoice["total"]["amount_minor"]
        assert (amounts, total) == INVOICE_WHILE_DYING
        assert sorted(killing.killed) == sorted(VICTIMS)
        assert len(ending.request_ids) == len(set(ending.request_ids))
        stored, standing = _stored(data_dir)
        assert set(ending.request_ids) <= set(stored)
        assert len(stored) == len(set(stored)) == CALLS_WHILE_DYING == standing
        for group, proof in PROOFS:
            outcome = nimbus(group, proof, "--json", "--data-dir", str(data_dir))
            assert outcome.returncode == 0, outcome.stdout + outcome.stderr
            assert json.loads(outcome.stdout)["ok"]


def _stored(data_dir: Path) -> tuple[list[str], int]:
    """The request ids of all usage events, and what the quota's counter of May says."""
    settings = config.load({"NIMBUS_DATA_DIR": str(data_dir)})
    with psycopg.connect(**database_login(settings, "owner")) as connection:
        ids = connection.execute("SELECT request_id FROM usage_events").fetchall()
        used = connection.execute(
            "SELECT used FROM quota_standings WHERE meter_key = 'api_calls'"
            " AND period_starts_at = %s AND limit_units = 10000",
            (story.STARTS_AT,),
        ).fetchone()
    assert used is not None
    return [row[0] for row in ids], int(used[0])
