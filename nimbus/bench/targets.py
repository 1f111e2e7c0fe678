# SPDX-License-Identifier: Apache-2.0
"""What is compared: each target's programs, and how it is started on the gateway's core.

Every one runs as a single process or with a single worker, forwards to the same upstream over
connections that are kept, and is set up as its own documentation advises.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nimbus.bench import market, parts
from nimbus.bench.ground import Ground
from nimbus.bench.load import CONFIGS
from nimbus.bench.parts import Part
from nimbus.bench.processes import LOOPBACK, free_port, program, wait_until_answers


@dataclass(frozen=True, slots=True)
class Running:
    """A started target: the process whose tree is measured, and its port."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """One row: its name, what it does for a call, what it needs, how it starts."""

    name: str
    does: str
    needs: tuple[Part, ...]
    start: Callable[[Ground], AbstractContextManager[Running]]


@contextmanager
def _running(
    ground: Ground,
    name: str,
    words: list[str],
    port: int,
    environment: dict[str, str] | None = None,
) -> Iterator[Running]:
    """A target's program, once it serves the bench's call."""
    log = ground.folder / f"{name}.log"
    with program(words, ground.cores.gateway, log, environment) as process:
        path = market.PREFIX + market.SMALL
        tls = ground.certificate is not None
        wait_until_answers(process, log, port, path, ground.header(), tls=tls)
        yield Running(process.pid, port)


@contextmanager
def _nginx(ground: Ground) -> Iterator[Running]:
    port = free_port()
    tls, lines = "", ""
    if ground.certificate is not None:
        certificate, key = ground.certificate
        tls, lines = "ssl", f"ssl_certificate {certificate}; ssl_certificate_key {key};"
    path = ground.write("nginx.conf", PORT=port, SSL=tls, CERTIFICATE=lines)
    with _running(ground, "nginx", _nginx_words(ground, path), port) as it:
        yield it


@contextmanager
def _nginx_lua(ground: Ground) -> Iterator[Running]:
    port = free_port()
    path = ground.write(
        "lua.conf",
        PORT=port,
        MODULES=Path(parts.LUA_MODULE).parent,
        CONFIGS=CONFIGS,
        KEYS=ground.keys_file,
        PER_CUSTOMER=market.KEYS_PER_CUSTOMER,
        REDIS=ground.redis_port,
    )
    with _running(ground, "nginx-lua-redis", _nginx_words(ground, path), port) as it:
        yield it


@contextmanager
def _haproxy(ground: Ground) -> Iterator[Running]:
    port = free_port()
    clients = "".join(f"{key} c{number}\n" for number, key in enumerate(ground.keys))
    (ground.folder / "haproxy.map").write_text(clients, encoding="ascii")
    path = ground.write("haproxy.cfg", PORT=port)
    words = [parts.found(parts.HAPROXY) or "", "-db", "-f", str(path)]
    with _running(ground, "haproxy", words, port) as it:
        yield it


@contextmanager
def _envoy(ground: Ground) -> Iterator[Running]:
    port = free_port()
    indent = " " * 24
    credentials = "\n".join(
        f"{indent}- {{key: {key}, client: c{number}}}" for number, key in enumerate(ground.keys)
    )
    path = ground.write("envoy.yaml", PORT=port, CREDENTIALS=credentials)
    words = [parts.found(parts.ENVOY) or "", "-c", str(path), "--concurrency", "1"]
    words += ["--use-dynamic-base-id", "--log-level", "error"]
    with _running(ground, "envoy", words, port) as it:
        yield it


@contextmanager
def _traefik(ground: Ground) -> Iterator[Running]:
    port = free_port()
    ground.write("traefik-routes.yaml", REDIS=ground.redis_port)
    path = ground.write("traefik.yaml", PORT=port)
    words = [parts.found(parts.TRAEFIK) or "", f"--configFile={path}"]
    with _running(ground, "traefik-redis", words, port) as it:
        yield it


@contextmanager
def _asgi(ground: Ground) -> Iterator[Running]:
    port = free_port()
    words = [
        *(parts.found(parts.GRANIAN) or "", "--interface", "asgi", "--workers", "1"),
        *("--host", LOOPBACK, "--port", str(port), "--http", "1", "--no-ws", "--loop", "uvloop"),
        *("--backlog", "4096", "--log-level", "error", "asgi_gateway:app"),
    ]
    environment = {
        "PYTHONPATH": str(CONFIGS),
        "BENCH_PER_CUSTOMER": str(market.KEYS_PER_CUSTOMER),
        "BENCH_UPSTREAM": f"http://{LOOPBACK}:{ground.upstream_port}",
        "BENCH_KEYS": str(ground.keys_file),
        "BENCH_REDIS": str(ground.redis_port),
        "BENCH_LOG": str(ground.folder / "asgi-usage.log"),
    }
    with _running(ground, "asgi-aiohttp", words, port, environment) as it:
        yield it


@contextmanager
def nimbus(ground: Ground, words: list[str]) -> Iterator[Running]:
    """The gateway, by a command that may put something around it."""
    port = free_port()
    scheme = "http" if ground.certificate is None else "https"
    settings = replace(ground.settings, port=port, public_url=f"{scheme}://{LOOPBACK}:{port}")
    if ground.certificate is not None:
        certificate, key = ground.certificate
        settings = replace(settings, tls_cert=certificate, tls_key=key)
    with _running(ground, "nimbus", words, port, market.environment(settings)) as it:
        yield it


def _nimbus(ground: Ground) -> AbstractContextManager[Running]:
    return nimbus(ground, [sys.executable, "-m", "nimbus", "gateway"])


def _nginx_words(ground: Ground, path: Path) -> list[str]:
    return [parts.found(parts.NGINX) or "", "-c", str(path), "-p", str(ground.folder)]


NGINX = Target("nginx", "nothing", (parts.NGINX,), _nginx)
NIMBUS = Target("nimbus", "all of its policy, quota, journal", (), _nimbus)
TARGETS = (
    NGINX,
    Target("haproxy", "key map, local rate", (parts.HAPROXY,), _haproxy),
    Target(
        "nginx-lua-redis",
        "key hash, shared rate and quota, log",
        (parts.NGINX, parts.LUA, parts.REDIS),
        _nginx_lua,
    ),
    Target("envoy", "key, local rate", (parts.ENVOY,), _envoy),
    Target("traefik-redis", "shared rate", (parts.TRAEFIK, parts.REDIS), _traefik),
    Target(
        "asgi-aiohttp",
        "key hash, leased rate and quota, log",
        (parts.GRANIAN, parts.REDIS),
        _asgi,
    ),
    NIMBUS,
)
