# SPDX-License-Identifier: Apache-2.0
"""The bench of the gateway: its parts in order, its record, and what is missing for it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nimbus.base import clock
from nimbus.bench import certificate, crowd, latency, machine, market, memory, parts, profile
from nimbus.bench import ground as grounds
from nimbus.bench.ground import Ground
from nimbus.bench.report import RECORD
from nimbus.bench.rounds import Plan, interleave
from nimbus.bench.targets import NGINX, NIMBUS, TARGETS, Running, Target

PARTS = ("speed", "large", "tls", "latency", "memory", "profile")
NEEDED = (parts.WRK, parts.NGINX)
SMALL, LARGE = market.PREFIX + market.SMALL, market.PREFIX + market.LARGE
# Where others win is measured against the one that wins.
AGAINST_NGINX = (NGINX, NIMBUS)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be measured: the targets and the parts by name, in their order."""

    plan: Plan
    targets: tuple[Target, ...]
    parts: tuple[str, ...]


def present(targets: Sequence[Target], say: Say) -> tuple[Target, ...]:
    """The targets whose programs are there; names what the others lack."""
    there = []
    for target in targets:
        lacking = parts.missing(target.needs)
        for part in lacking:
            say(f"{target.name} is left out: there is no {part.program}. Get it: {part.how}")
        if not lacking:
            there.append(target)
    return tuple(there)


def run(wish: Wish, say: Say) -> dict[str, Any]:
    """Measure; answers the record, which is also written to `build/bench/gateway.json`."""
    record: dict[str, Any] = {
        "date": clock.machine_now().date().isoformat(),
        "machine": machine.describe(),
        "plan": {"rounds": wish.plan.rounds, "seconds": wish.plan.seconds},
        "does": {target.name: target.does for target in TARGETS},
        "versions": {Path(one.program).name: parts.version_of(one) for one in parts.ALL},
    }
    with grounds.made() as ground:
        say(f"Targets run on core {ground.cores.gateway}, all else on core {ground.cores.load}.")
        for name in wish.parts:
            record[name] = _MEASURES[name](ground, wish, say)
    noises = [
        row["noise"] for name in ("speed", "large", "tls") for row in record.get(name, {}).values()
    ]
    record["noise"] = max(noises, default=0.0)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


@contextmanager
def _started(ground: Ground, targets: Sequence[Target]) -> Iterator[dict[str, Running]]:
    with ExitStack() as stack:
        yield {target.name: stack.enter_context(target.start(ground)) for target in targets}


def _speed(ground: Ground, wish: Wish, say: Say) -> dict[str, Any]:
    say("Requests as fast as they are answered, 207 bytes")
    with _started(ground, wish.targets) as running:
        return _facts(interleave(ground, running, SMALL, wish.plan, say))


def _large(ground: Ground, wish: Wish, say: Say) -> dict[str, Any]:
    say("The same, 100 KB")
    with _started(ground, _chosen(wish, AGAINST_NGINX)) as running:
        return _facts(interleave(ground, running, LARGE, wish.plan, say))


def _tls(ground: Ground, wish: Wish, say: Say) -> dict[str, Any]:
    say("The same, 207 bytes, TLS on the listener")
    secured = replace(ground, certificate=certificate.make(ground.folder))
    with _started(secured, _chosen(wish, AGAINST_NGINX)) as running:
        return _facts(interleave(secured, running, SMALL, replace(wish.plan, tls=True), say))


def _latency(ground: Ground, wish: Wish, say: Say) -> dict[str, Any]:
    say(f"Requests at a constant {latency.PER_SECOND:,}/s")
    with _started(ground, wish.targets) as running:
        return _facts(latency.measure(ground, running, SMALL, wish.plan, say))


def _memory(ground: Ground, wish: Wish, say: Say) -> dict[str, Any] | None:
    if NIMBUS not in wish.targets:
        return None
    say(f"Memory, with {memory.GRANTS:,} customers more")
    crowd.gather(ground.settings, memory.GRANTS)
    with NIMBUS.start(ground) as running:
        return memory.measure(ground, running, memory.GRANTS, say).facts()


def _profile(ground: Ground, wish: Wish, say: Say) -> dict[str, Any] | None:
    if NIMBUS not in wish.targets:
        return None
    say("Where the gateway's own time goes")
    return profile.measure(ground, SMALL, wish.plan, say)


_MEASURES: Mapping[str, Callable[[Ground, Wish, Say], dict[str, Any] | None]] = {
    "speed": _speed,
    "large": _large,
    "tls": _tls,
    "latency": _latency,
    "memory": _memory,
    "profile": _profile,
}


def _chosen(wish: Wish, targets: Sequence[Target]) -> list[Target]:
    return [target for target in targets if target in wish.targets]


def _facts(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.facts() for name, row in rows.items()}
