# SPDX-License-Identifier: Apache-2.0
"""Every row of the gateway's failure table is shown by tests that exist."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.architecture.tree import ROOT, assert_none, names_a_test

README = ROOT / "nimbus" / "gateway" / "README.md"
SHOWN = Path(__file__).with_name("failure_table.toml")
HEAD = "| what fails | what the gate does |\n| --- | --- |\n"


def rows(text: str) -> list[str]:
    """The first cells of the table."""
    table = text.partition(HEAD)[2].partition("\n\n")[0]
    return [line.split("|")[1].strip().replace("`", "") for line in table.splitlines()]


def holes(table: Sequence[str], shown: Mapping[str, Sequence[str]]) -> list[str]:
    """What is not shown, or shows nothing: a line each."""
    found = [f"no test shows: {row}" for row in table if not shown.get(row)]
    found += [f"no row of the table: {row}" for row in shown if row not in table]
    tests = [test for named in shown.values() for test in named]
    return found + [f"no such test: {test}" for test in tests if not names_a_test(test)]


def test_each_row_of_the_failure_table_is_shown_by_tests_that_exist() -> None:
    table = rows(README.read_text(encoding="utf-8"))
    assert len(table) >= 17
    assert_none(holes(table, tomllib.loads(SHOWN.read_text(encoding="utf-8"))))


def test_a_row_that_nothing_shows_is_found() -> None:
    here = "tests/rigs/test_failure_table.py::test_a_row_that_nothing_shows_is_found"
    table = rows(f"{HEAD}| the disk | a |\n| `Valkey` | b |\n| the sun | c |\n\nmore")
    assert table == ["the disk", "Valkey", "the sun"]
    shown = {"the disk": [here], "Valkey": [], "the moon": [here + "_not"]}
    assert holes(table, shown) == [
        "no test shows: Valkey",
        "no test shows: the sun",
        "no row of the table: the moon",
        f"no such test: {here}_not",
    ]
