# SPDX-License-Identifier: Apache-2.0
"""The state of the invariants: which are proved by tests, which wait for an issue, what is wrong.

`python -m tools.invariants` prints it and ends with 1 when an id is unmapped or an entry broken;
with `candidates` it also lists tests that name an id in their text but are not entered for it.
"""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.architecture.tree import ROOT, functions, names_a_test, parsed, python_files, text_of

INDEX = ROOT / "tests" / "architecture" / "invariants.toml"
IDS = ROOT / "tests" / "cases" / "invariant_ids.txt"
ISSUES = frozenset(
    {
        "The gateway",
        "Usage",
        "The billing engine",
        "Payment providers",
        "Marketplace",
        "Portal",
        "Webhooks and notices",
        "Security",
        "Operations",
    }
)
ID = re.compile(r"\b(?:[A-Z]|BIL-INV|BIL-ERR|BIL-AC)-\d\d\b")


@dataclass(frozen=True, slots=True)
class Invariant:
    """One entry of the index."""

    guards: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    issue: str = ""
    same_as: list[str] = field(default_factory=list)


def all_ids() -> list[str]:
    """Every id there is."""
    return IDS.read_text(encoding="utf-8").split()


def index(text: str) -> dict[str, Invariant]:
    """Read the index; raises TypeError for a member that an entry does not have."""
    return {name: Invariant(**entry) for name, entry in tomllib.loads(text).items()}


def problems(ids: list[str], entries: dict[str, Invariant]) -> list[str]:
    """What is wrong with the index, a line each: unmapped ids first, then broken entries."""
    found = [f"{name}: not mapped" for name in ids if name not in entries]
    for name, entry in entries.items():
        if name not in ids:
            found.append(f"{name}: not an id")
        if not (entry.tests or entry.issue or entry.same_as):
            found.append(f"{name}: neither a test nor an issue")
        if entry.tests and not entry.guards:
            found.append(f"{name}: tested, but nothing is said to guard it")
        if entry.issue and entry.issue not in ISSUES:
            found.append(f"{name}: {entry.issue!r} is not a planned issue")
        found += [f"{name}: {other} is not an id" for other in entry.same_as if other not in ids]
        found += [f"{name}: no test {test}" for test in entry.tests if not names_a_test(test)]
    return found


def candidates(entries: dict[str, Invariant]) -> Iterator[str]:
    """Tests whose text names an id that does not list them."""
    for path in python_files("tests"):
        if path.is_relative_to("tests/architecture"):
            continue
        for test in functions(parsed(path)):
            if not test.name.startswith("test_"):
                continue
            for name in sorted(set(ID.findall(_own_text(path, test)))):
                reference = f"{path}::{test.name}"
                listed = entries[name].tests if name in entries else []
                if not any(item.endswith(test.name) for item in listed):
                    yield f"{name}: {reference}"


def _own_text(path: Path, test: ast.AST) -> str:
    return ast.get_source_segment(text_of(path), test) or ""


def main(arguments: list[str]) -> int:
    """Print the state; 1 when something is unmapped or broken."""
    entries = index(INDEX.read_text(encoding="utf-8"))
    found = problems(all_ids(), entries)
    waiting = Counter(entry.issue for entry in entries.values() if entry.issue)
    proved = sum(bool(entry.tests) for entry in entries.values())
    if "candidates" in arguments:
        print("\n".join(candidates(entries)))
    for issue, count in waiting.most_common():
        print(f"{count:4} wait for {issue}")
    print(f"{proved:4} of {len(entries)} have tests")
    print("\n".join(found) or "nothing unmapped, nothing broken")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
