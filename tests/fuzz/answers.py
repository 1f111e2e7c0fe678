# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: heads of answers."""

from tests.fuzz.engine import run, upstream_seeds
from tests.fuzz.oracles import answer_is_read_the_same


def main(seconds: int) -> None:
    """Fuzz for this long; see engine.py."""
    run(answer_is_read_the_same, upstream_seeds(), seconds)
