# SPDX-License-Identifier: Apache-2.0
"""`make corpus`: every case of a corpus file against a gateway process. See `--help`."""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import uvloop

from tools.corpus.caller import Cut
from tools.corpus.check import Report, check_case
from tools.corpus.form import Case, Corpus, FormatError, read_corpus
from tools.corpus.run import open_rig

SHIPPED: Final = Path("tests/cases/http_corpus.json")
RESULT: Final = Path("build/corpus.json")
LARGE: Final = 262_144  # a case that sends more than this is split less often
LARGE_SPLITS: Final = 8  # offsets of such a case when the others are split at all of theirs
REFUSAL_SECONDS, REFUSAL_CPU = 0.05, 0.005  # rule G7


def cuts_of(case: Case, splits: int | None, chance: random.Random) -> Iterator[Cut]:
    """Byte by byte, and at offsets into the case's bytes: all of them with `splits` None, else
    that many.
    """
    length = len(case.sent)
    if length < 2:
        return
    offsets = list(range(1, length))
    wanted = len(offsets) if splits is None else splits
    if case.volume >= LARGE:
        wanted = min(wanted, LARGE_SPLITS if splits is None else 1)
    offsets = sorted(chance.sample(offsets, min(wanted, len(offsets))))
    if case.volume < LARGE and (splits is None or splits):
        yield Cut(every_byte=True)
    for offset in offsets:
        yield Cut((offset,))


async def run_corpus(corpus: Corpus, splits: int | None, seed: int) -> list[Report]:
    """All cases, one after the other; a failed one is told at once."""
    reports = []
    with tempfile.TemporaryDirectory(prefix="nimbus-corpus-") as folder:
        async with open_rig(corpus, Path(folder)) as rig:
            for case in corpus.cases:
                chance = random.Random(f"{seed}/{case.id}")  # noqa: S311 - repeatable, no secret
                report = await check_case(rig, case, cuts_of(case, splits, chance))
                reports.append(report)
                if report.broken:
                    print(f"{case.id} {case.title}: {' | '.join(report.broken)}", flush=True)
    return reports


def main() -> None:
    """Run the file; exit 1 when a case fails, 2 when the file can't be understood."""
    parser = argparse.ArgumentParser(prog="make corpus", description=__doc__)
    parser.add_argument("--file", type=Path, default=SHIPPED)
    parser.add_argument("--only", help="the id of one case")
    parser.add_argument("--splits", default="3", help="how many offsets a case is split at, or all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    try:
        corpus = _chosen(read_corpus(given.file), given.only)
    except (FormatError, OSError, ValueError) as error:
        sys.exit(f"{given.file}: {error}")
    splits = None if given.splits == "all" else int(given.splits)
    began = time.monotonic()
    reports = uvloop.run(run_corpus(corpus, splits, given.seed))
    _write(given, reports, time.monotonic() - began)
    _tell(reports)


def _chosen(corpus: Corpus, only: str | None) -> Corpus:
    cases = [case for case in corpus.cases if only in {None, "", case.id}]
    if not cases:
        raise FormatError(f"there is no case {only}")
    return Corpus(
        tuple(cases),
        corpus.host,
        corpus.free_routes,
        corpus.paid_routes,
        corpus.other_host,
        corpus.keys,
    )


def _write(given: argparse.Namespace, reports: list[Report], seconds: float) -> None:
    RESULT.parent.mkdir(exist_ok=True)
    document: dict[str, Any] = {
        "file": str(given.file),
        "seed": given.seed,
        "splits": given.splits,
        "seconds": round(seconds, 1),
        "cases": [
            {
                "id": report.case.id,
                "result": _result(report),
                "grade": report.outcome.get("grade"),
                "statuses": report.statuses,
                "broken": report.broken,
                "needs": report.skipped,
                "runs": report.runs,
                "seconds": round(report.seconds, 2),
                "refused_within_ms": _milliseconds(report.refused_within),
                "cpu_ms": _milliseconds(report.cpu),
            }
            for report in reports
        ],
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _tell(reports: list[Report]) -> None:
    for report in reports:
        if report.skipped:
            print(f"{report.case.id} skipped: needs {report.skipped}")
    slow = [r for r in reports if (r.refused_within or 0) > REFUSAL_SECONDS]
    for report in slow:
        print(f"{report.case.id}: refused after {_milliseconds(report.refused_within)} ms")
    results = [_result(report) for report in reports]
    counts = {name: results.count(name) for name in ("passed", "failed", "skipped")}
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    sys.exit(1 if counts["failed"] else 0)


def _result(report: Report) -> str:
    if report.broken:
        return "failed"
    return "skipped" if report.skipped else "passed"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


if __name__ == "__main__":
    main()
