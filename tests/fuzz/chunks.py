# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: chunked bodies."""

from tests.fuzz.engine import chunk_seeds, run
from tests.fuzz.oracles import chunks_are_read_the_same


def main(seconds: int) -> None:
    """Fuzz for this long; see engine.py."""
    run(chunks_are_read_the_same, chunk_seeds(), seconds)
