# SPDX-License-Identifier: Apache-2.0
"""The hostile HTTP corpus against a gateway process: every case, its splits and its repetition.

`make corpus` runs the same with more to say; see tools/corpus/.
"""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.soak import Soak, a_seed
from tools.corpus import run
from tools.corpus.__main__ import LARGE, SHIPPED, cuts_of
from tools.corpus.check import check_case
from tools.corpus.form import Case, read_corpus
from tools.corpus.run import Rig, open_rig

CORPUS = read_corpus(SHIPPED)
SPLITS = 1  # offsets a case, beside after every byte
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
    seed = a_seed()
    print(f"TEST_SEED={seed}")
    report = await check_case(rig, case, cuts_of(case, SPLITS, random.Random(seed)))
    assert not report.skipped
    assert not report.broken, " | ".join(report.broken)


GET = "GET %s HTTP/1.1\r\nHost: gw.test\r\nX-Api-Key: {{KEY}}\r\n\r\n"
EXPECT = GET.replace("GET", "POST").replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n") % "/echo"
OTHER_CASES: tuple[dict[str, Any], ...] = (
    {
        "client": [
            {"send": EXPECT + "Content-Length: 5\r\n\r\n"},
            {"wait_status": 100, "max_ms": 30000},
            {"send": "hello"},
        ],
        "accept": [{"responses": [[100], [200]], "upstream_body": "hello", "then": "keep"}],
    },
    {
        "client": [{"send": GET % "/big?mb=1"}, {"read_bytes": 1000}, {"no_read_ms": 5}],
        "accept": [{"responses": [[200]], "client_body_length": 1 << 20, "truncated": False}],
    },
    {
        "client": [{"drip": GET % "/echo", "chunk": 9, "interval_ms": 1}],
        "upstream": [
            {"read_request": True},
            {"send": "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"},
            {"drip": "hello", "chunk": 2, "interval_ms": 1},
            {"close_after_ms": 1},
        ],
        "accept": [{"client_body": "hello", "client_header_value": {"x-a": "b"}, "then": "any"}],
    },
    {
        "client": [{"send": GET % "/echo?1" + GET % "/echo?2"}],
        "accept": [
            {
                "responses": [[200], [200]],
                "order": True,
                "peer_ip_used": True,
                "upstream_paths": ["/echo?1", "/echo?2"],
                "max_ms": 60000,
                "usage_events": "=count(200)",
            }
        ],
    },
    {
        "client": [{"connections": 3, "send": GET % "/echo"}],
        "accept": [{"status_counts": {"200": 3}, "upstream_requests": 3, "usage_events": 3}],
    },
    {
        "client": [{"send": GET % "/echo?1"}, {"send": GET % "/echo?2"}],
        "upstream": [
            {"read_request": True},
            {"send": "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"},
        ],
        "accept": [{"responses": [[401], [200]], "origin_marked": "upstream"}],
    },
    {
        "client": [{"send": GET % "/pro/x"}],
        "accept": [{"responses": [[403]], "origin_marked": "gateway", "store_lookups": 0}],
    },
    {
        "client": [{"send": GET % "/echo"}],
        "upstream": [{"read_request": True}],
        "needs": ["timeouts"],
        "accept": [{"responses": [[504]], "upstream_requests": 1}],
    },
)


@pytest.mark.parametrize("entry", OTHER_CASES, ids=range(len(OTHER_CASES)))
async def test_cases_of_another_file_run_as_well(
    rig: Rig, tmp_path: Path, entry: dict[str, Any]
) -> None:
    report = await check_case(rig, case_of(tmp_path, entry))
    assert not report.skipped
    assert not report.broken, " | ".join(report.broken)


@pytest.mark.parametrize(
    "wrong",
    [
        {"responses": [[400]]},
        {"responses": [[200], [200]]},
        {"responses": [[200]], "then": "close"},
        {"upstream_requests": 0},
        {"usage_events": 2},
        {"upstream_present": ["x-nothing"]},
        {"client_body": "no"},
    ],
    ids=str,
)
async def test_an_outcome_that_does_not_come_is_told(
    rig: Rig, tmp_path: Path, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PATIENCE", 0.2)
    entry = {"client": [{"send": GET % "/echo"}], "accept": [wrong]}
    report = await check_case(rig, case_of(tmp_path, entry))
    assert report.broken


async def test_a_need_that_cannot_be_met_is_skipped_by_its_name(rig: Rig, tmp_path: Path) -> None:
    entry = {"client": [{"send": GET % "/echo"}], "accept": [], "needs": ["moon"]}
    assert (await check_case(rig, case_of(tmp_path, entry))).skipped == "moon"


def case_of(folder: Path, entry: dict[str, Any]) -> Case:
    """The one case of a file that holds only this."""
    document = {"format": "http-hostile-corpus", "version": 1, "cases": [{"id": "X", **entry}]}
    path = folder / "corpus.json"
    path.write_text(json.dumps(document), "utf-8")
    (case,) = read_corpus(path).cases
    return case


async def test_a_case_split_at_every_offset_ends_the_same(rig: Rig, soak: Soak) -> None:
    cases = [case for case in CORPUS.cases if soak.full or case.volume < LARGE]
    for case in soak.random.sample(cases, soak.count(WHOLLY_SPLIT, len(cases))):
        report = await check_case(rig, case, cuts_of(case, None, soak.random))
        soak.say(f"{case.id}: {report.runs} runs in {report.seconds:.1f} s")
        assert not report.broken, f"{case.id}: " + " | ".join(report.broken)
