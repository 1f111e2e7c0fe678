# SPDX-License-Identifier: Apache-2.0
"""What is compared: each target's programs, and how it is started on the gateway's core."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nimbus.base.config import Settings
from nimbus.bench import market, parts
from nimbus.bench.load import CONFIGS
from nimbus.bench.machine import Cores
from nimbus.bench.parts import Part
from nimbus.bench.processes import free_port, program, wait_until_answers


@dataclass(frozen=True, slots=True)
class Ground:
    """What all targets share: a folder, the cores, the upstream, the keys, Redis, Nimbus' house.

    `certificate` and `certificate_key` are files for the rounds with TLS.
    """

    folder: Path
    cores: Cores
    upstream_port: int
    keys: tuple[str, ...]
    keys_file: Path
    settings: Settings
    redis_port: int | None = None

    def header(self) -> dict[str, str]:
        """The header fields of a call that every target serves."""
        return {"Authorization": f"Bearer {self.keys[0]}"}


@dataclass(frozen=True, slots=True)
class Running:
    """A started target: the process whose tree is measured, and its port."""

    pid: int
    port: int


Start = Callable[[Ground, "Target"], AbstractContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Target:
    """One row: its name, what it does for a call, what it needs, how it starts."""

    name: str
    does: str
    needs: tuple[Part, ...]
    start: Start


def write_config(ground: Ground, name: str, **values: object) -> Path:
    """Fill in a configuration of `configs/`; answers the file in the bench's folder."""
    text = (CONFIGS / name).read_text(encoding="utf-8")
    for key, value in {"FOLDER": ground.folder, "UPSTREAM": ground.upstream_port, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    path = ground.folder / name
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def running(
    ground: Ground,
    name: str,
    words: list[str],
    port: int,
    environment: dict[str, str] | None = None,
) -> Iterator[Running]:
    """A target's program, once it serves the bench's call."""
    log = ground.folder / f"{name}.log"
    with program(words, ground.cores.gateway, log, environment) as process:
        wait_until_answers(process, log, port, market.PREFIX + market.SMALL, ground.header())
        yield Running(process.pid, port)


@contextmanager
def _nginx(ground: Ground, _: Target) -> Iterator[Running]:
    port = free_port()
    path = write_config(ground, "nginx.conf", PORT=port, TLS="")
    with running(ground, "nginx", ["nginx", "-c", str(path), "-p", str(ground.folder)], port) as it:
        yield it


@contextmanager
def _nimbus(ground: Ground, _: Target) -> Iterator[Running]:
    port = free_port()
    settings = replace(ground.settings, port=port, public_url=f"http://127.0.0.1:{port}")
    with running(
        ground, "nimbus", parts.nimbus("gateway"), port, market.environment(settings)
    ) as it:
        yield it


TARGETS = (
    Target("nginx", "nothing", (parts.NGINX,), _nginx),
    Target("nimbus", "everything", (), _nimbus),
)
