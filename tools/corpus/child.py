# SPDX-License-Identifier: Apache-2.0
"""The gateway process from outside: starting it, asking it, reading its journal and its log.

What is measured is the process itself, by /proc: its memory, its open files. What it did is read
from the journal's files, as the drain reads them.
"""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from nimbus.rules.metering import (
    HEADER_SIZE,
    SLOT_SIZE,
    Slot,
    SlotState,
    UsageEvent,
    decode_header,
    decode_slot,
    slot_offset,
)
from tests.gateway import house
from tools.corpus.form import Corpus, make_key
from tools.corpus.gateway import REBIND_NAME

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
HEAVY: Final = 5  # what /heavy weighs when a case does not say
# The assumed limits of an upstream; where no timer is meant, the house's shorter ones.
CONNECT_MS, ANSWER_MS = 5_000, 60_000
SECOND_ROUTE: Final = "/second"  # where cases send what is pipelined behind the first request
OTHER_PRODUCT, OTHER_SUBSCRIPTION = UUID(int=20), UUID(int=22)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is special about a gateway process: divided timers, a journal of small segments."""

    scale: float = 1
    small_journal: bool = False


@dataclass(frozen=True, slots=True)
class Fare:
    """How the process fares: bytes of memory of its own, open files, CPU seconds, look-ups."""

    memory: int
    files: int
    cpu: float
    lookups: int


class Gateway:
    """A gateway process in a folder of its own, made for one corpus file."""

    def __init__(self, corpus: Corpus, folder: Path, upstream_port: int, kind: Kind) -> None:
        self.kind = kind
        self.port = 0
        self.pid = 0
        self._corpus = corpus
        self._folder = folder
        self._upstream_port = upstream_port
        self._starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._read_until: dict[str, int] = {}  # by producer: the last sequence taken
        self._read_first: dict[str, int] = {}  # the same as it was when a case began
        self._log_read = 0
        self._config: tuple[int | None, int] = (None, HEAVY)

    async def start(self) -> None:
        """Start the process, anew after it was killed; returns once it listens."""
        self._hang_up()
        self._starts += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        control = str(self._folder / f"control-{self._starts}")
        setup = {
            **asdict(self.kind),
            "folder": str(self._folder),
            "upstream_port": self._upstream_port,
            "control": control,
            "records": self._records(),
        }
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tools.corpus.gateway",
                json.dumps(setup),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        self.pid = self._process.pid
        line = await self._process.stdout.readline()
        if not line:
            raise AssertionError(f"no gateway: {self._log_path.read_bytes()[-2000:]!r}")
        self.port = json.loads(line)["port"]
        self._reader, self._writer = await asyncio.open_unix_connection(control)
        self._config = (None, HEAVY)

    async def stop(self) -> None:
        """End the process."""
        self._hang_up()
        if self.alive and self._process is not None:
            self._process.terminate()
            await self._process.wait()

    async def kill(self) -> None:
        """Kill -9."""
        if self.alive and self._process is not None:
            self._process.kill()
            await self._process.wait()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def died(self, seconds: float) -> bool:
        """Whether it dies by itself within this time."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        return not self.alive

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    async def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """One question to the process; an empty answer when it is dead."""
        assert self._reader is not None
        assert self._writer is not None
        try:
            self._writer.write(json.dumps({"do": do, **options}).encode() + b"\n")
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line and self._process is not None:
            await self._process.wait()
        answer: dict[str, Any] = json.loads(line or b"{}")
        return answer

    async def fare(self) -> Fare:
        """How the process fares now."""
        inside = await self.ask("fare")
        return Fare(
            memory=_own_memory(self.pid),
            files=len(os.listdir(f"/proc/{self.pid}/fd")),  # noqa: PTH208 - the names suffice
            cpu=inside["cpu"],
            lookups=inside["lookups"],
        )

    @property
    def memory(self) -> int:
        """Bytes of memory that are its own, without mapped files such as the journal's."""
        return _own_memory(self.pid)

    async def configure(self, quota: int | None, heavy: int) -> None:
        """What a case wants of the subscription: units left (None: no limit), a route's weight."""
        if quota is not None or self._config[0] != quota:
            standings = [] if quota is None else [house.standing_record(quota)]
            await self.ask("units", left=quota or 0)
            record = house.subscription_record(standings=standings)
            await self.ask("feed", kind="subscription", record=record)
        if self._config[1] != heavy:
            await self.ask("feed", kind="product", record=self._product(heavy))
        self._config = quota, heavy

    async def move_upstream(self, host: str | None) -> None:
        """Let the product's upstream be at another name, None: where it was."""
        record = self._product(self._config[1])
        if host is not None:
            for upstream in record["upstreams"].values():
                upstream["base_url"] = f"http://{host}:{self._upstream_port}"
        await self.ask("feed", kind="product", record=record)

    async def rebind_upstream(self) -> None:
        """Let the upstream have a name that was fine when it was saved, and is private now."""
        await self.move_upstream(REBIND_NAME)
        await self.ask("rebind")

    def events(self) -> tuple[list[UsageEvent], list[UsageEvent], int]:
        """What the journal says since the last time: served, refused, and how many slots are
        only reserved. A slot that is still reserved is looked at again the next time.
        """
        served: list[UsageEvent] = []
        refused: list[UsageEvent] = []
        reserved = 0
        for path in sorted(self._folder.glob("journal/*/*.journal")):
            producer = path.parent.name
            for slot in _used_slots(path, self._read_until.get(producer, 0)):
                if slot.record is None:
                    reserved += 1
                    continue
                if not reserved:
                    self._read_until[producer] = slot.sequence
                if not slot.record.continued:  # a further part of a long stream is no call
                    (refused if slot.record.refusal else served).append(slot.record)
        return served, refused, reserved

    def forget_events(self) -> None:
        """Take no notice of what the journal holds by now, reserved slots of the dead included."""
        for path in sorted(self._folder.glob("journal/*/*.journal")):
            producer = path.parent.name
            for slot in _used_slots(path, self._read_until.get(producer, 0)):
                self._read_until[producer] = slot.sequence
        self._read_first = dict(self._read_until)

    def replay_events(self) -> None:
        """Read once more what came since `forget_events`."""
        self._read_until = dict(self._read_first)

    def log_lines(self) -> list[bytes]:
        """What was logged since the last time."""
        data = self._log_path.read_bytes()
        lines = data[self._log_read :].splitlines(keepends=True)
        self._log_read = len(data)
        return lines

    @property
    def _log_path(self) -> Path:
        return self._folder / "gateway.log"

    def _records(self) -> list[tuple[str, dict[str, Any]]]:
        """The feed: the product with its routes, tenant B, and the keys."""
        other = str(house.OTHER_ORGANIZATION)
        product = house.product_record(
            self._upstream_port,
            id=str(OTHER_PRODUCT),
            slug="tenant-b",
            hosts=[self._corpus.other_host],
            routes=[house.route(method, "/echo") for method in METHODS],
        )
        plan = house.plan_record(id=str(UUID(int=21)), product_id=str(OTHER_PRODUCT))
        subscription = house.subscription_record(
            id=str(OTHER_SUBSCRIPTION),
            organization_id=other,
            product_id=str(OTHER_PRODUCT),
            plan_version_id=plan["id"],
        )
        return [
            ("product", self._product(HEAVY)),
            ("organization", {"id": other, "status": "Active"}),
            ("product", product),
            ("plan", plan),
            ("subscription", subscription),
            ("key", house.key_record(make_key(1))),
            ("key", house.key_record(make_key(2), organization_id=other)),
        ]

    def _product(self, heavy: int) -> dict[str, Any]:
        routes = [
            house.route(method, path, weight=heavy if path == "/heavy" else 1)
            for path in (*self._corpus.free_routes, "/echo/*", SECOND_ROUTE)
            for method in METHODS
        ]
        routes += [
            house.route(method, path, minimum_rank=2, minimum_plan="Professional")
            for path in self._corpus.paid_routes
            for method in METHODS
        ]
        hosts = [self._corpus.host]
        record = house.product_record(self._upstream_port, routes=routes, hosts=hosts)
        if self.kind.scale != 1:
            for upstream in record["upstreams"].values():
                upstream["connect_timeout_ms"] = int(CONNECT_MS / self.kind.scale)
                upstream["answer_timeout_ms"] = int(ANSWER_MS / self.kind.scale)
        return record


def _used_slots(path: Path, after: int) -> list[Slot]:
    """A segment's slots above `after`; raises AssertionError for a corrupt one."""
    found = []
    with path.open("rb") as file:
        header = decode_header(file.read(HEADER_SIZE))
        first = max(after + 1, header.first_sequence)
        if first > header.last_sequence:
            return []
        file.seek(slot_offset(header, first))
        for sequence in range(first, header.last_sequence + 1):
            slot = decode_slot(file.read(SLOT_SIZE), sequence, header.producer)
            if slot.state is SlotState.EMPTY:
                break
            if slot.state is SlotState.CORRUPT:
                raise AssertionError(f"a corrupt slot in {path.name}")
            found.append(slot)
    return found


def _own_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the process has no memory of its own")
