# SPDX-License-Identifier: Apache-2.0
"""What every file of the repository must carry, and what none may."""

import re
from pathlib import Path

import pytest

from tests.architecture.tree import GENERATED, assert_none, repository_files, text_of

LICENSED = {".py", ".ts", ".tsx", ".js", ".mjs", ".css", ".sh", ".sql", ".typ"}
LICENSED_NAMES = {Path("Makefile"), Path(".ci/run")}
LICENSE_LINE = "SPDX-License-Identifier: Apache-2.0"
THIS = Path("tests/architecture/test_files.py")  # it spells out options that it looks for

# Bracketed letters: a pattern that does not name what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:work|root|home/\w+|Users/\w+)/\w")
REGISTRY = re.compile(
    r"registry\.npmj[s]\.|registry\.yarnpk[g]\.|pythonhos[t]ed|pyp[i]\.org"
    r"|--(?:extra-)?index-url|_authToken|[\"']resolved[\"']\s*:"
)


def offences(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {found.group()}"
        for path in repository_files()
        if path != THIS
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if (found := pattern.search(line))
    ]


def test_every_source_file_names_its_licence() -> None:
    without = [
        str(path)
        for path in repository_files()
        if (path.suffix in LICENSED or path in LICENSED_NAMES)
        and path not in GENERATED
        and LICENSE_LINE not in "\n".join(text_of(path).splitlines()[:3])
    ]

    assert_none(without)


def test_no_file_names_a_path_of_one_machine() -> None:
    assert_none(offences(MACHINE_PATH))


def test_no_file_names_a_package_registry() -> None:
    assert_none(offences(REGISTRY))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "cd /{}/anna/nimbus".format("home")),
        (MACHINE_PATH, "'/{}/x'".format("root")),
        (REGISTRY, "--index-url https://mirror.example"),
        (REGISTRY, '"resolved": "https://mirror.example/react.tgz"'),
    ],
)
def test_a_planted_text_is_found(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


@pytest.mark.parametrize("text", ["GET /api/works/items", "https://a.example/roots/x", "/roots/"])
def test_an_address_is_not_a_machine_path(text: str) -> None:
    assert not MACHINE_PATH.search(text)
