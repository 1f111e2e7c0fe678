# SPDX-License-Identifier: Apache-2.0
"""One case held to its outcomes and to all nine global rules."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nimbus.gateway.server import LINGER_BYTES
from tools.corpus import rules
from tools.corpus.accept import Seen, best_match, predicate_fault
from tools.corpus.caller import Cut
from tools.corpus.child import Fare, Gateway, Kind
from tools.corpus.form import Case
from tools.corpus.recorder import MEBIBYTE
from tools.corpus.run import OWN_TASKS, Rig, Run, UnsupportedError, canary

SCALE: Final = 20  # by which timers are divided for cases about timeouts
CANARIES: Final = 10
TRIES: Final = 4  # a process warms up once; a leak grows every time
RETURN_SECONDS: Final = 20  # rule G4 says 2, on a machine that has nothing else to do
WHOLE: Final = Cut()


@dataclass(slots=True)
class Report:
    """What came of a case: the sentences of what is broken, or the need that is missing."""

    case: Case
    broken: list[str] = field(default_factory=list)
    skipped: str = ""
    outcome: Mapping[str, Any] = field(default_factory=dict)
    statuses: list[list[int]] = field(default_factory=list)
    runs: int = 0
    seconds: float = 0
    refused_within: float | None = None  # seconds, when all it got was refusals (rule G7)
    cpu: float = 0

    @property
    def passed(self) -> bool:
        """Whether the case was run and all is well."""
        return not self.broken and not self.skipped


async def check_case(rig: Rig, case: Case, cuts: Iterable[Cut] = ()) -> Report:
    """Run a case once as it is; then split by each of `cuts` (rule G8), behind a valid request,
    and twice on its connection (rule G9), which must change nothing.
    """
    report = Report(case)
    began = time.monotonic()
    if case.unknown_needs:
        report.skipped = ", ".join(sorted(case.unknown_needs))
        return report
    fault = case.fault or predicate_fault(case)
    if fault:
        report.broken.append(fault)
        return report
    try:
        gateway = await rig.gateway(_kind(case))
        first = await _first(rig, case, gateway, report)
        if not report.broken and _repeatable(case):
            await _variants(rig, gateway, report, first, list(cuts))
    except UnsupportedError as need:
        report.skipped = str(need)
    except Exception as error:  # noqa: BLE001 - one case must not end the others
        report.broken.append(f"the run ended with {error!r}")
        gateway = await rig.renew(_kind(case))
    report.broken += rules.log_lines(gateway.log_lines(), rig.corpus.keys.values())
    report.seconds = time.monotonic() - began
    return report


def _kind(case: Case) -> Kind:
    if case.needs & {"crash", "faults"}:
        return Kind(small_journal=True)
    return Kind(scale=SCALE) if "timeouts" in case.needs else Kind()


def _repeatable(case: Case) -> bool:
    """Whether more runs are for a case: not when each takes seconds or ends the process."""
    return not case.needs & {"crash", "faults", "timeouts"} and case.connections == 1


async def _first(rig: Rig, case: Case, gateway: Gateway, report: Report) -> Seen:
    """The case as it is, under rules G1 to G7."""
    for _ in range(TRIES):
        run = Run(rig, case, gateway)
        before = await _fare(rig, gateway)
        seen = await run(WHOLE)
        report.runs += 1
        report.broken = await _judge(report, run, seen, CANARIES)
        after = await _fare(rig, gateway)
        grown = after.memory - before.memory
        report.cpu = after.cpu - before.cpu
        if gateway.alive and grown < MEBIBYTE:
            break
        if case.needs & {"crash", "faults"}:
            break
    else:
        report.broken.append(f"G4: memory grows by {grown / MEBIBYTE:.1f} MiB each time")
    report.broken += await _returned(rig, gateway, before)
    report.statuses = seen.statuses[:3]
    finals = seen.finals
    if finals and all(answer.status >= 400 for answer in finals) and not seen.requests:
        report.refused_within = seen.heard_after
    return seen


async def _variants(
    rig: Rig, gateway: Gateway, report: Report, first: Seen, cuts: Sequence[Cut]
) -> None:
    before = await _fare(rig, gateway)
    kinds = [(cut, False, False, f"G8 split {_name(cut)}") for cut in cuts]
    kinds.append((WHOLE, True, False, "G9 after a valid request"))
    if not any(step.name == "wait_status" for step in report.case.client):
        # A second interim answer can't be told from the first: the second body would not wait.
        kinds.append((WHOLE, False, True, "G9 twice on one connection"))
    for cut, warm, twice, how in kinds:
        run = Run(rig, report.case, gateway)
        seen = await run(cut, warm=warm, twice=twice)
        report.runs += 1
        broken = await _judge(report, run, seen, 1)
        if report.case.volume < LINGER_BYTES:  # above, an answer may be lost by a reset
            broken += rules.same_verdict(first, seen)
        report.broken += [f"{how}: {sentence}" for sentence in broken]
        if broken:
            return
    report.broken += await _returned(rig, gateway, before)


async def _judge(report: Report, run: Run, seen: Seen, canaries: int) -> list[str]:
    """The case's own outcomes and rules G1, G2, G3, G5 on one run."""
    case, broken = run.case, []
    used = {received.connection for received in seen.requests}
    seen.reused = False
    for _ in range(canaries):
        fault, carried = await canary(run.rig, run.gateway)
        seen.reused = seen.reused or bool(carried & used)
        if fault:
            broken.append(fault)
            break
    if seen.died != ("crash" in case.needs):
        broken.append("G4: the gateway died" if seen.died else "the gateway was not killed")
    outcome, reasons = best_match(seen, case)
    if outcome is None:
        found = f"{seen.statuses[:3]} closed {seen.closed[:3]}"
        return [f"{'; '.join(reasons)} (of {found})", *broken]
    report.outcome = outcome
    broken += rules.own_ids_and_events(seen, outcome)
    broken += rules.upstream_bytes(seen)
    broken += rules.refusals(seen, case.sent)
    return broken


async def _fare(rig: Rig, gateway: Gateway) -> Fare:
    """How the gateway fares, without the connections that it keeps to the upstream."""
    for _ in range(3):  # both sides of a closed connection come to know of it
        await gateway.ask("ping")
        await asyncio.sleep(0)
    fare = await gateway.fare()
    return Fare(fare.memory, fare.files - len(rig.recorder.sockets), fare.cpu, fare.lookups)


async def _returned(rig: Rig, gateway: Gateway, before: Fare) -> list[str]:
    """G4: whether files, connections and tasks come back to what they were."""
    deadline = time.monotonic() + RETURN_SECONDS
    while True:
        inside, fare = await gateway.ask("ping"), await _fare(rig, gateway)
        left = {
            "connections": inside["connections"],
            "tasks": inside["tasks"] - OWN_TASKS,
            "files": max(0, fare.files - before.files),
        }
        if not any(left.values()):
            return []
        if time.monotonic() > deadline:
            return [f"G4: left behind: {left}"]
        await asyncio.sleep(0.01)


def _name(cut: Cut) -> str:
    return "after every byte" if cut.every_byte else f"at {', '.join(map(str, cut.offsets))}"
