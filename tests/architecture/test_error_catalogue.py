# SPDX-License-Identifier: Apache-2.0
"""The catalogue of refusals: each code once, known, tested, and on its reference page."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from nimbus.errors import CATALOGUE
from tests.architecture.tree import (
    assert_none,
    dotted,
    parsed,
    python_files,
    repository_files,
    text_of,
)
from tools.generate_docs import ERRORS, errors_page

# Codes of the specification that nothing answers yet, and the planned work that brings them.
AWAITED = {
    "payment_failed": "Payment providers",
}


def raised(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and code of each `Refusal("code", …)`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        code = node.args[0]
        if dotted(node.func).rpartition(".")[2] == "Refusal" and isinstance(code, ast.Constant):
            yield node.lineno, str(code.value)


def codes_in_tests() -> set[str]:
    """The codes that a test or its data spells out."""
    texts = [
        text_of(path)
        for path in repository_files()
        if path.parts[0] == "tests" and path.parts[1] not in {"architecture", "bite"}
    ]
    return {
        code
        for code in CATALOGUE
        if any(f'"{code}"' in text or f"'{code}'" in text for text in texts)
    }


def test_each_code_is_in_the_catalogue_once() -> None:
    entries = [
        str(key.value)
        for node in ast.walk(parsed(Path("nimbus/errors.py")))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    ]

    assert sorted(entries) == sorted(CATALOGUE)


def test_the_package_raises_only_codes_of_the_catalogue() -> None:
    assert_none(
        [
            f"{path}:{line}: {code}"
            for path in python_files("nimbus")
            for line, code in raised(parsed(path))
            if code not in CATALOGUE
        ]
    )


def test_each_code_is_met_by_a_test_or_awaited() -> None:
    tested = codes_in_tests()

    assert_none([f"{code}: no test" for code in CATALOGUE if code not in tested | AWAITED.keys()])
    assert_none([f"{code}: no longer awaited" for code in AWAITED if code in tested])


def test_the_reference_page_is_up_to_date() -> None:
    assert ERRORS.read_text(encoding="utf-8") == errors_page(), "run python -m tools.generate_docs"


@pytest.mark.parametrize("planted", ["raise Refusal('no_such')", "errors.Refusal('no_such')"])
def test_a_planted_code_is_found(planted: str) -> None:
    assert list(raised(ast.parse(planted))) == [(1, "no_such")]
