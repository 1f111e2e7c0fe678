# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets on a seeded sample; `make soak` gives them minutes and atheris."""

from collections.abc import Callable

import pytest

from tests.fuzz.engine import (
    Target,
    chunk_seeds,
    client_seeds,
    sample,
    target_seeds,
    upstream_seeds,
)
from tests.fuzz.oracles import (
    answer_is_read_the_same,
    chunks_are_read_the_same,
    head_is_read_the_same,
    target_is_normal,
)
from tests.support.soak import a_seed

ROUNDS = 3_000


@pytest.mark.parametrize(
    ("target", "seeds"),
    [
        (head_is_read_the_same, client_seeds),
        (target_is_normal, target_seeds),
        (chunks_are_read_the_same, chunk_seeds),
        (answer_is_read_the_same, upstream_seeds),
    ],
    ids=["heads", "targets", "chunks", "answers"],
)
def test_mutated_bytes_of_the_corpus_are_read_the_same_however_they_come(
    target: Target, seeds: Callable[[], list[bytes]]
) -> None:
    seed = a_seed()
    print(f"TEST_SEED={seed}")
    sample(target, seeds(), ROUNDS, seed)
