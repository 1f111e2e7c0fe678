# SPDX-License-Identifier: Apache-2.0
"""Budgets of size, as a ratchet: functions, files, line length."""

import re
import tomllib
from pathlib import Path

from tests.architecture.tree import (
    GENERATED,
    ROOT,
    assert_none,
    functions,
    parsed,
    python_files,
    repository_files,
    text_of,
)

FUNCTION_LINES = 70
PYTHON_LINES = 600
WEB_LINES = 250
LINE_CHARACTERS = 100
PRAGMA = re.compile(r"\s*#\s*(?:noqa|type:\s*ignore).*")  # as ruff counts
TRANSLATIONS = {"texts.ts", "words.ts"}  # a sentence stays whole, so that it can be found
WEB = {".ts", ".tsx", ".css"}
SOURCES = WEB | {".py", ".js", ".mjs", ".sql", ".sh", ".typ"}

RATCHET = tomllib.loads((ROOT / "tests/architecture/budgets.toml").read_text(encoding="utf-8"))


def over_budget(sizes: dict[str, int], limit: int, ratchet: dict[str, int]) -> list[str]:
    """What is larger than its budget, and what the ratchet still names without need."""
    found = [
        f"{name}: {size} lines, at most {ratchet.get(name, limit)}"
        for name, size in sizes.items()
        if size > ratchet.get(name, limit)
    ]
    found += [
        f"{name}: take it out of budgets.toml or lower it to {sizes.get(name, 0)}"
        for name, allowed in ratchet.items()
        if sizes.get(name, 0) < allowed
    ]
    return sorted(found)


def sources() -> list[Path]:
    return [path for path in repository_files() if path.suffix in SOURCES and path not in GENERATED]


def test_no_function_is_longer_than_its_budget() -> None:
    sizes = {
        f"{path}::{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in python_files()
        for function in functions(parsed(path))
    }

    assert_none(over_budget(sizes, FUNCTION_LINES, RATCHET["functions"]))


def test_no_file_is_longer_than_its_budget() -> None:
    sizes = {str(path): len(text_of(path).splitlines()) for path in sources()}
    python = {name: size for name, size in sizes.items() if name.endswith(".py")}
    web = {name: size for name, size in sizes.items() if Path(name).suffix in WEB}

    ratchet = RATCHET["files"]
    assert (
        over_budget(python, PYTHON_LINES, {n: s for n, s in ratchet.items() if n in python}) == []
    )
    assert over_budget(web, WEB_LINES, {n: s for n, s in ratchet.items() if n not in python}) == []


def test_no_line_is_longer_than_its_budget() -> None:
    long = [
        f"{path}:{number}"
        for path in sources()
        if path.name not in TRANSLATIONS
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if len(PRAGMA.sub("", line)) > LINE_CHARACTERS
    ]

    assert_none(long)


def test_the_ratchet_only_goes_down() -> None:
    sizes = {"grew": 90, "shrank": 75, "new": 71, "fits": 70}
    ratchet = {"grew": 80, "shrank": 80, "gone": 99}

    assert over_budget(sizes, FUNCTION_LINES, ratchet) == [
        "gone: take it out of budgets.toml or lower it to 0",
        "grew: 90 lines, at most 80",
        "new: 71 lines, at most 70",
        "shrank: take it out of budgets.toml or lower it to 75",
    ]
