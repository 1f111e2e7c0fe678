# SPDX-License-Identifier: Apache-2.0
"""The hostile HTTP corpus against a gateway process: every case, its splits and its repetition.

`make corpus` runs the same with more to say; see tools/corpus/.
"""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.soak import Soak, a_seed
from tools.corpus.__main__ import SHIPPED, cuts_of
from tools.corpus.accept import check_predicates
from tools.corpus.check import check_case
from tools.corpus.form import Case, read_corpus
from tools.corpus.run import Rig, open_rig

CORPUS = read_corpus(SHIPPED)
SPLITS = 2  # offsets a case, beside byte by byte
WHOLLY_SPLIT = 2  # cases split at every offset; all of them in `make soak`


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with open_rig(CORPUS, tmp_path_factory.mktemp("corpus")) as opened:
        yield opened


@pytest.mark.parametrize("case", CORPUS.cases, ids=lambda case: case.id)
async def test_a_hostile_case_ends_safely(rig: Rig, case: Case) -> None:
    check_predicates(case)
    seed = a_seed()
    print(f"TEST_SEED={seed}")
    report = await check_case(rig, case, cuts_of(case, SPLITS, random.Random(seed)))
    assert not report.skipped
    assert not report.broken, " | ".join(report.broken)


async def test_a_case_split_at_every_offset_ends_the_same(rig: Rig, soak: Soak) -> None:
    for case in soak.random.sample(CORPUS.cases, soak.count(WHOLLY_SPLIT, len(CORPUS.cases))):
        report = await check_case(rig, case, cuts_of(case, None, soak.random))
        soak.say(f"{case.id}: {report.runs} runs in {report.seconds:.1f} s")
        assert not report.broken, f"{case.id}: " + " | ".join(report.broken)
