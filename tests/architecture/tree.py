# SPDX-License-Identifier: Apache-2.0
"""What the architecture tests share: the repository's files, its rooms, parsed sources."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nimbus"

# Written by a tool from another file of ours, never by hand.
GENERATED = {Path("web/src/api/schema.d.ts"), Path("docs/reference/openapi.json")}

COMPOSERS = (
    "rooms",
    "app",
    "worker",
    "drain",
    "supervisor",
    "demo",
    "bench",
    "cli",
    "portal",
    "migrations",
)
SHARED = {"base", "rules", "gateway"}
ROOMS = tuple(
    sorted({door.parent.name for door in PACKAGE.glob("*/__init__.py")} - SHARED - {*COMPOSERS})
)


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that git tracks or would track, relative to the repository's root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted({name for name in listed.stdout.split("\0") if name})
    return tuple(Path(name) for name in names if (ROOT / name).is_file())


def python_files(*folders: str) -> list[Path]:
    """Python files below the given top folders (all when none is named), relative to the root."""
    return [
        path
        for path in repository_files()
        if path.suffix == ".py" and (not folders or path.parts[0] in folders)
    ]


@cache
def text_of(path: Path) -> str:
    """The file's text; bytes that are not UTF-8 become replacement characters."""
    return (ROOT / path).read_bytes().decode("utf-8", errors="replace")


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a Python file of the repository."""
    return ast.parse(text_of(path), filename=str(path))


def assert_none(offences: list[str]) -> None:
    """Fail with every offence on a line of its own."""
    assert not offences, "\n" + "\n".join(offences)


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function of a syntax tree, nested ones and methods too."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def dotted(node: ast.AST) -> str:
    """`datetime.now` for the expression of that name, an empty text for what has no name."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def tests_of(path: Path) -> set[str]:
    """The names of a test file's tests: `test_x`, and `TestClass::test_x` for methods."""
    found = set()
    for node in parsed(path).body:
        if isinstance(node, Function) and node.name.startswith("test_"):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, Function) and inner.name.startswith("test_")
            }
            found |= _state_machine_test(node)
    return found


def _state_machine_test(node: ast.ClassDef) -> set[str]:
    """Hypothesis runs `TestX = Machine.TestCase`; here the class itself is what can be named."""
    return {node.name} if node.name.startswith("Test") else set()


def names_a_test(reference: str) -> bool:
    """Whether `tests/…/test_x.py::test_name` (a parameter in brackets is allowed) exists."""
    file, _, name = reference.partition("::")
    path = Path(file)
    if not name or path not in repository_files():
        return False
    return name.partition("[")[0] in tests_of(path) | _assigned_tests(path)


def _assigned_tests(path: Path) -> set[str]:
    """Tests made by assignment: `TestBook = BookMachine.TestCase`."""
    return {
        target.id
        for node in parsed(path).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.startswith("Test")
    }
