# SPDX-License-Identifier: Apache-2.0
"""Every invariant has a test that exists, or the issue that will bring it."""

from tests.architecture.tree import assert_none
from tools.invariants import INDEX, Invariant, all_ids, index, problems


def test_every_invariant_has_a_test_or_an_issue_and_each_named_test_exists() -> None:
    assert_none(problems(all_ids(), index(INDEX.read_text(encoding="utf-8"))))


def test_a_hole_in_the_index_is_found() -> None:
    here = "tests/architecture/test_invariants.py::test_a_hole_in_the_index_is_found"
    entries = {
        "M-01": Invariant(tests=[here], guards=["types"]),
        "M-02": Invariant(tests=[here.replace("hole", "gap")], guards=["types"]),
        "M-03": Invariant(tests=[here]),
        "M-04": Invariant(),
        "M-05": Invariant(issue="Some day"),
        "M-06": Invariant(same_as=["M-99"]),
        "M-99": Invariant(issue="Usage"),
    }

    assert [line[:4] for line in problems([f"M-0{n}" for n in range(1, 8)], entries)] == [
        "M-07",
        "M-02",
        "M-03",
        "M-04",
        "M-05",
        "M-06",
        "M-99",
    ]
