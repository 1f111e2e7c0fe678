# SPDX-License-Identifier: Apache-2.0
"""Billed or not: every outcome has one row in the published table, and the law agrees with it."""

import re
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimbus.rules.billable import BELOW_500, End, billable, read_statuses
from nimbus.rules.metering import Environment
from tests.architecture.tree import ROOT

ENDS = get_args(End)
STATUSES = (None, 100, 101, 200, 204, 299, 304, 400, 404, 429, 499, 500, 502, 504, 599, 999)
LISTS = {"default": BELOW_500, "2xx and 404": read_statuses(["2xx", "404"])}
ROW = re.compile(r"\| (?:`(\w+)`.*?)? ?\| ([^|]+) \| (billed|not) \| (billed|not) \|")


def published() -> list[tuple[str, str, str, str]]:
    """The rows of docs/reference/billable.md: end, kind of status, live, test."""
    rows, end = [], ""
    text = (ROOT / "docs/reference/billable.md").read_text()
    for match in ROW.finditer(text):
        end = match[1] or end
        rows.append((end, match[2], match[3], match[4]))
    return rows


def kind(status: int | None, statuses: frozenset[int]) -> str:
    if status is None:
        return "none yet"
    if status >= 500:
        return "500 and more"
    return "below 500, billable" if status in statuses else "below 500, not billable"


CELLS = [
    cell
    for cell in product(ENDS, STATUSES, get_args(Environment), LISTS)
    if cell[:2] != ("answered", None)  # what was answered has a status
]


def test_the_table_names_every_end() -> None:
    assert [row[0] for row in published() if row[1] in {"any, none", "500 and more"}] == list(ENDS)
    assert len(CELLS) >= 60


@pytest.mark.parametrize("end", ENDS)
def test_every_outcome_has_one_row_of_the_table_and_the_law_says_the_same(end: End) -> None:
    for _, status, environment, name in (cell for cell in CELLS if cell[0] == end):
        wanted = {kind(status, LISTS[name]), "any, none"}
        rows = [row for row in published() if row[0] == end and row[1] in wanted]
        assert len(rows) == 1, (end, status)
        said = rows[0][2] if environment == "Live" else rows[0][3]
        assert billable(end, status, environment, LISTS[name]) is (said == "billed"), (end, status)


@given(
    st.sampled_from(ENDS),
    st.none() | st.integers(0, 1200),
    st.sampled_from(get_args(Environment)),
    st.frozensets(st.integers(0, 999), max_size=20),
)
def test_nothing_is_billed_that_is_a_test_or_was_not_answered_below_500(
    end: End, status: int | None, environment: Environment, statuses: frozenset[int]
) -> None:
    if billable(end, status, environment, statuses):
        assert environment == "Live"
        assert status is not None
        assert status < 500
        assert status in statuses


@pytest.mark.parametrize(
    ("texts", "statuses"),
    [
        (["2xx"], set(range(200, 300))),
        (["404"], {404}),
        (["101", "200-204"], {101, 200, 201, 202, 203, 204}),
        (["1xx", "2xx", "3xx", "4xx"], set(range(100, 500))),
        (["499-499"], {499}),
        ([], set()),
    ],
)
def test_statuses_are_read_as_classes_single_ones_and_ranges(
    texts: list[str], statuses: set[int]
) -> None:
    assert read_statuses(texts) == statuses


@pytest.mark.parametrize(
    "text",
    ["", "5xx", "0xx", "2XX", "500", "200-599", "299-200", "99", "2000", "2xx ", "٢xx", "200-"],
)
def test_what_says_no_statuses_below_500_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_statuses([text])
