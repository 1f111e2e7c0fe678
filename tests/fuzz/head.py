# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: heads of requests."""

from tests.fuzz.engine import client_seeds, run
from tests.fuzz.oracles import head_is_read_the_same


def main(seconds: int) -> None:
    """Fuzz for this long; see engine.py."""
    run(head_is_read_the_same, client_seeds(), seconds)
