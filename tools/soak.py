# SPDX-License-Identifier: Apache-2.0
"""The long runs: every test that takes the fixture `soak` at its full count, then the fuzzers.

`python tools/soak.py [--hours H] [--part P] [--fuzz SECONDS] [WORD…]` runs those whose names hold
one of the words, or all. Each test is a process of its own, prints its seed, its progress and what
it has proved, and has a time limit; TEST_SEED repeats it. Ends with 1 when one failed.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FUZZERS = ROOT / "tests" / "fuzz"
MINUTES_MAX = 45  # for one test, without the hours of load
ENDING_SECONDS = 60


def tests() -> list[str]:
    """The ids of all tests that do more in a soak."""
    command = [sys.executable, "-m", "pytest", "--soak", "--collect-only", "-q", "-p", "no:xdist"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [line for line in listed.stdout.splitlines() if "::" in line]
    if not found:
        raise SystemExit(f"no test was found:\n{listed.stdout}{listed.stderr}")
    return found


def fuzzers(seconds: int) -> dict[str, list[str]]:
    """The command of each fuzz target: a file with `main(seconds)`."""
    return {
        f"fuzz {path.stem}": [
            sys.executable,
            "-c",
            f"from tests.fuzz.{path.stem} import main; main({seconds})",
        ]
        for path in sorted(FUZZERS.glob("*.py"))
        if "def main(" in path.read_text(encoding="utf-8")
    }


def run(name: str, command: list[str], seconds_max: float) -> str:
    """Run one thing to its end; what went wrong, or an empty text."""
    print(f"\n=== {name}", flush=True)
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            status: int | str = process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            status = f"no end after {seconds_max:.0f} s"
            _end(process)
        except KeyboardInterrupt:
            _end(process)
            raise
    print(f"=== {time.monotonic() - started:.0f} s", flush=True)
    return f"{name}: {status}" if status else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would: what it has started ends with it."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def main(arguments: list[str]) -> int:
    """Run everything that was chosen, one after the other; 1 when something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=0, help="hours of load for memory")
    parser.add_argument("--part", type=float, default=1, help="which part of the full counts")
    parser.add_argument("--fuzz", type=int, default=300, help="seconds for each fuzz target")
    parser.add_argument("words", nargs="*")
    chosen = parser.parse_args(arguments)
    options = ["--soak", f"--hours={chosen.hours}", f"--part={chosen.part}", "-q", "-s"]
    options += ["-p", "no:xdist", "-o", "faulthandler_timeout=0"]
    commands = {
        test: [sys.executable, "-m", "pytest", *options, test] for test in tests()
    } | fuzzers(chosen.fuzz)
    names = [n for n in commands if not chosen.words or any(word in n for word in chosen.words)]
    limit = MINUTES_MAX * 60 + chosen.hours * 3600
    failures = [problem for name in names if (problem := run(name, commands[name], limit))]
    print(f"\n{len(names)} long runs, {len(failures)} failed", *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
