# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: request targets."""

from tests.fuzz.engine import run, target_seeds
from tests.fuzz.oracles import target_is_normal


def main(seconds: int) -> None:
    """Fuzz for this long; see engine.py."""
    run(target_is_normal, target_seeds(), seconds)
