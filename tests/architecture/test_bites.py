# SPDX-License-Identifier: Apache-2.0
"""Each planted bug still fits the code and names a test that exists; `make bite` runs them."""

import subprocess
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, names_a_test
from tools.bite import PATCHES, BiteError, read

ALL = sorted(PATCHES.glob("*.patch"))


@pytest.mark.parametrize("patch", ALL, ids=lambda patch: patch.stem)
def test_a_planted_bug_fits_the_code_and_names_its_test(patch: Path) -> None:
    bite = read(patch)
    applies = subprocess.run(
        ["git", "apply", "--check", str(patch)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert names_a_test(bite.test), f"{bite.test} does not exist"
    assert applies.returncode == 0, applies.stderr


def test_there_are_planted_bugs() -> None:
    assert ALL


def test_a_patch_without_its_test_is_refused(tmp_path: Path) -> None:
    patch = tmp_path / "x.patch"
    patch.write_text("Why: no test\ndiff --git a/x b/x\n", encoding="utf-8")

    with pytest.raises(BiteError):
        read(patch)
