# SPDX-License-Identifier: Apache-2.0
"""Installations for the tests of the command: made once, copied as often as needed."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.operations.processes import nimbus

Install = Callable[[Path], Path]


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Put a stopped installation, with its schema, at a path that does not exist yet."""
    made = tmp_path_factory.mktemp("made") / "data"
    done = nimbus("migrate", f"--data-dir={made}")
    assert done.returncode == 0, done.stderr

    def copy(target: Path) -> Path:
        subprocess.run(["cp", "-a", str(made), str(target)], check=True)
        return target

    return copy
