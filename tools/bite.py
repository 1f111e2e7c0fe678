# SPDX-License-Identifier: Apache-2.0
"""Plant each known bug in a copy of the repository and see that its test finds it.

A bug is `tests/bite/NAME.patch`: above the diff stand two lines, `Test: path::name` (the test that
has to fail) and `Why: …` (what would go wrong for whom). A test that lets its bug live is itself
a failure. Run all with `python tools/bite.py`, or some by a part of their names.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATCHES = ROOT / "tests" / "bite"
SECONDS_MAX = 300
AT_ONCE = 2
TESTS_FAILED = 1  # pytest: tests ran and some failed; higher numbers mean that none could run


@dataclass(frozen=True, slots=True)
class Bite:
    """One planted bug: its patch, the test that must fail, and why it matters."""

    patch: Path
    test: str
    why: str


class BiteError(Exception):
    """A patch that is not in form; the message names it."""


def read(patch: Path) -> Bite:
    """Read a patch's two header lines; raises `BiteError` when one is missing."""
    head = patch.read_text(encoding="utf-8").partition("\ndiff ")[0]
    fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    if not fields.get("Test") or not fields.get("Why"):
        raise BiteError(f"{patch.name}: its first lines are `Test: path::name` and `Why: …`")
    return Bite(patch, fields["Test"].strip(), fields["Why"].strip())


def bites(wanted: list[str]) -> list[Bite]:
    """All planted bugs, or those with one of `wanted` in their names; raises `BiteError`."""
    patches = sorted(PATCHES.glob("*.patch"))
    return [read(p) for p in patches if not wanted or any(part in p.name for part in wanted)]


def copy_repository(target: Path) -> None:
    """Copy what git tracks or would track, as a repository of its own."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    subprocess.run(["git", "add", "-A"], cwd=target, check=True)


def run_tests(folder: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy in `folder` with this interpreter and the copy's own package."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def survives(bite: Bite) -> str:
    """Plant one bug; an empty text when its test finds it, else what went wrong."""
    with tempfile.TemporaryDirectory(prefix="nimbus-bite-") as name:
        folder = Path(name)
        copy_repository(folder)
        applied = subprocess.run(
            ["git", "apply", str(bite.patch)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if applied.returncode:
            return f"does not apply: {applied.stderr.strip()}"
        result = run_tests(folder, [bite.test])
    if result.returncode == TESTS_FAILED:
        return ""
    if result.returncode == 0:
        return f"lives: {bite.test} passes with it ({bite.why})"
    return f"its test can't run: {bite.test}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"


def unbroken(tests: list[str]) -> str:
    """Run the named tests without a bug; an empty text when all pass, else their output."""
    with tempfile.TemporaryDirectory(prefix="nimbus-bite-") as name:
        copy_repository(Path(name))
        result = run_tests(Path(name), tests)
    return "" if result.returncode == 0 else result.stdout[-4000:] + result.stderr[-2000:]


def main(wanted: list[str]) -> int:
    """Report each bug on a line and the counts at the end; 1 when a bug lives."""
    chosen = bites(wanted)
    trouble = unbroken(sorted({bite.test for bite in chosen})) if chosen else "no such patch"
    if trouble:
        print(f"without a planted bug the tests do not pass:\n{trouble}")
        return 1
    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for bite, problem in zip(chosen, pool.map(survives, chosen), strict=True):
            failed += bool(problem)
            print(f"{'FAILED' if problem else 'found '} {bite.patch.stem} {problem}".rstrip())
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
