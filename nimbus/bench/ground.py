# SPDX-License-Identifier: Apache-2.0
"""What the targets stand on: the upstream, Redis, the database with customers and keys."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nimbus.base.config import Settings
from nimbus.bench import machine, market, parts
from nimbus.bench.load import CONFIGS
from nimbus.bench.machine import Cores
from nimbus.bench.processes import LOOPBACK, free_port, program, wait_until_answers
from nimbus.bench.redis import load_script, wait_until_ready

LARGE_BYTES = 100_000
HUGE_BYTES = 8_000_000  # more than the buffers of two sockets take
ANSWER_BYTES = 207


@dataclass(frozen=True, slots=True)
class Ground:
    """What all targets share. `beside` are the processes that work for a target: Redis, database.

    `certificate` are the files of a certificate and its key for rounds with TLS.
    """

    folder: Path
    cores: Cores
    upstream_port: int
    keys: tuple[str, ...]
    keys_file: Path
    settings: Settings
    redis_port: int | None
    beside: tuple[int, ...]
    certificate: tuple[Path, Path] | None = None

    def header(self) -> dict[str, str]:
        """The header fields of a call that every target serves."""
        return {"Authorization": f"Bearer {self.keys[0]}"}

    def write(self, name: str, **values: object) -> Path:
        """Fill in a configuration of `configs/`; answers the file."""
        return _write(self.folder, name, UPSTREAM=self.upstream_port, **values)


@contextmanager
def made() -> Iterator[Ground]:
    """Everything but the targets, in a folder that goes away with the block.

    From here on this process and all it starts run on the load's core, but for the targets.
    """
    cores = machine.choose_cores()
    usable = os.sched_getaffinity(0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nimbus-bench-")))
        folder.chmod(0o711)  # the database server of root runs as another user
        stack.callback(os.sched_setaffinity, 0, usable)
        os.sched_setaffinity(0, {cores.load})
        upstream_port = stack.enter_context(_upstream(folder, cores.load))
        settings = stack.enter_context(market.database(folder))
        keys = market.open_market(settings, f"http://{LOOPBACK}:{upstream_port}{market.PREFIX}")
        keys_file = folder / "keys"
        keys_file.write_text("\n".join(keys) + "\n", encoding="ascii")
        beside = [market.database_pid(settings)]
        redis_port = None
        if parts.found(parts.REDIS) is not None:
            redis_pid, redis_port = stack.enter_context(_redis(folder, cores.load))
            beside.append(redis_pid)
        yield Ground(
            folder,
            cores,
            upstream_port,
            tuple(keys),
            keys_file,
            settings,
            redis_port,
            tuple(beside),
        )


@contextmanager
def _upstream(folder: Path, core: int) -> Iterator[int]:
    port = free_port()
    for name, size in (("blob", LARGE_BYTES), ("huge", HUGE_BYTES)):
        (folder / name).write_bytes(os.urandom(size))
        (folder / name).chmod(0o644)
    path = _write(folder, "upstream.conf", PORT=port, BODY=_answer())
    log = folder / "upstream.out"
    words = [parts.found(parts.NGINX) or "", "-c", str(path), "-p", str(folder)]
    with program(words, core, log) as process:
        wait_until_answers(process, log, port, "/", {})
        yield port


@contextmanager
def _redis(folder: Path, core: int) -> Iterator[tuple[int, int]]:
    """Redis without persistence; its process and port. It knows the script of the Lua gateway."""
    port = free_port()
    words = [
        *(parts.found(parts.REDIS) or "", "--port", str(port), "--bind", LOOPBACK),
        *("--save", "", "--appendonly", "no", "--dir", str(folder)),
    ]
    with program(words, core, folder / "redis.log") as process:
        wait_until_ready(port)
        lua = (CONFIGS / "gate.lua").read_text(encoding="utf-8")
        script = lua.partition("[[\n")[2].partition("]]")[0]
        (folder / "script.sha1").write_text(load_script(port, script), encoding="ascii")
        yield process.pid, port


def _write(folder: Path, name: str, **values: object) -> Path:
    text = (CONFIGS / name).read_text(encoding="utf-8")
    for key, value in {"FOLDER": folder, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _answer() -> str:
    """207 bytes of JSON."""
    content = {"id": 1, "name": "Noordzee", "turbines": [3, 1, 4, 1, 5, 9, 2, 6], "note": ""}
    missing = ANSWER_BYTES - len(json.dumps(content))
    return json.dumps({**content, "note": "x" * missing})
