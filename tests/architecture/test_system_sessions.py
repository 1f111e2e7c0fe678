# SPDX-License-Identifier: Apache-2.0
"""Passing row-level security is a decision: the list of callers and the code say the same."""

import tomllib
from pathlib import Path

from tests.architecture.code_rules import system_sessions
from tests.architecture.tree import ROOT, parsed, python_files

LIST = ROOT / "tests/architecture/system_sessions.toml"
FORWARDS = Path("nimbus/base/web.py")  # hands on the reason that an endpoint gave


def test_every_system_session_gives_a_listed_reason_and_every_listed_reason_is_given() -> None:
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))["reasons"]
    given: dict[str, set[str]] = {}
    for path in python_files("nimbus"):
        if path == FORWARDS:
            continue
        for _, reason in system_sessions(parsed(path)):
            given.setdefault(str(path), set()).add(reason)

    assert given == {file: set(reasons) for file, reasons in listed.items()}
