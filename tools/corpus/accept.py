# SPDX-License-Identifier: Apache-2.0
"""What happened in a case, and whether an outcome of its accept grammar matches it completely.

Each predicate is a function of what happened and the value in the file; it gives "" when it
holds, else what was found. `predicate_fault` names one that is not known here.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from json import JSONDecodeError, loads
from typing import Any, Final

from nimbus.rules.metering import UsageEvent
from tools.corpus.form import Case, FormatError
from tools.corpus.recorder import Received
from tools.corpus.wire import Message

MEBIBYTE: Final = 1 << 20


@dataclass(slots=True)
class Seen:
    """What happened in one run of a case, on all its connections."""

    answers: list[list[Message]] = field(default_factory=list)  # by connection, in order
    raw: list[bytes] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    streams: dict[int, bytes] = field(default_factory=dict)
    events: list[UsageEvent] | None = None  # None until the journal was read
    reused: bool | None = None  # whether the upstream connection served another request later
    peers: list[str] = field(default_factory=list)  # the callers' own addresses
    seconds: float = 0  # from the first byte sent to the last one heard
    heard_after: float = 0  # from the last byte sent to the last one heard
    memory_growth: int = 0
    died: bool = False  # the gateway's process
    lookups: int = 0

    @property
    def statuses(self) -> list[list[int]]:
        """Every answer's status, interim ones too."""
        return [[answer.status for answer in answers] for answers in self.answers]

    @property
    def finals(self) -> list[Message]:
        """The final answers of all connections."""
        return [answer for answers in self.answers for answer in answers if answer.status >= 200]

    @property
    def counts(self) -> Counter[int]:
        """How often each status came."""
        return Counter(answer.status for answers in self.answers for answer in answers)

    @property
    def verdict(self) -> tuple[Any, ...]:
        """What must be the same however the bytes come: final statuses, and who closed."""
        finals = [[status for status in each if status >= 200] for each in self.statuses]
        return sorted(map(str, finals)), sorted(self.closed)


Predicate = Callable[[Seen, Any], str]


def mismatches(seen: Seen, outcome: Mapping[str, Any]) -> list[str]:
    """Everything by which what happened differs from this outcome; empty when it matches."""
    found = []
    for name, value in outcome.items():
        reason = predicate(name)(seen, value)
        if reason:
            found.append(f"{name}: {reason}")
    return found


def best_match(seen: Seen, case: Case) -> tuple[Mapping[str, Any] | None, list[str]]:
    """The outcome that matches, preferring accepted ones; without one, what came closest."""
    ranked = sorted(case.accept, key=lambda outcome: outcome.get("grade") != "accepted")
    reasons = [mismatches(seen, outcome) for outcome in ranked]
    for outcome, reason in zip(ranked, reasons, strict=True):
        if not reason:
            return outcome, []
    return None, min(reasons, key=len, default=["no outcome is given"])


def predicate_fault(case: Case) -> str:
    """Names the first predicate that is not known; "" without one."""
    for outcome in case.accept:
        for name in outcome:
            try:
                predicate(name)
            except KeyError:
                return f"the predicate {name} is not known"
    return ""


def predicate(name: str) -> Predicate:
    """The function behind a predicate's name; KeyError when there is none."""
    if name in PREDICATES:
        return PREDICATES[name]
    side, _, rest = name.partition("_")
    if side not in {"upstream", "client"}:
        raise KeyError(name)
    of_message = OF_MESSAGE[rest.removeprefix("header_")]

    def judge(seen: Seen, value: Any) -> str:
        message = _first(seen, side)
        return f"no {side} message" if message is None else of_message(message, value)

    return judge


def within(found: float, wanted: Any) -> bool:
    """Whether a number is the wanted one, or between the wanted two."""
    low, high = wanted if isinstance(wanted, list) else (wanted, wanted)
    return bool(low <= found <= high)


def _first(seen: Seen, side: str) -> Message | None:
    if side == "upstream":
        return seen.requests[0].message if seen.requests else None
    return seen.finals[0] if seen.finals else None


# Predicates on the whole case.


def _responses(seen: Seen, wanted: Any) -> str:
    if wanted == "any":
        return ""
    for statuses in seen.statuses:
        same = len(statuses) == len(wanted)
        if not same or any(s not in w for s, w in zip(statuses, wanted, strict=True)):
            return f"{statuses}"
    return ""


def _then(seen: Seen, wanted: str) -> str:
    if wanted not in {"close", "keep", "any"}:
        raise FormatError(f"then: {wanted} is not known")
    fits = wanted == "any" or all(closed == (wanted == "close") for closed in seen.closed)
    return "" if fits else f"closed: {seen.closed[:3]}"


def _number(found: int | None, wanted: Any, seen: Seen) -> str:
    if found is None:
        return ""
    if isinstance(wanted, str):
        if not (wanted.startswith("=count(") and wanted.endswith(")")):
            raise FormatError(f"the number {wanted} is not known")
        wanted = seen.counts[int(wanted[7:-1])]
    return "" if within(found, wanted) else f"{found}, not {wanted}"


def _status_counts(seen: Seen, wanted: Mapping[str, Any]) -> str:
    found = {str(status): count for status, count in seen.counts.items()}
    fits = all(within(found.get(status, 0), count) for status, count in wanted.items())
    fits = fits and not any(found[status] for status in found.keys() - wanted.keys())
    return "" if fits else f"{found}"


def _status_counts_in(seen: Seen, wanted: Mapping[str, Any]) -> str:
    return _status_counts(seen, wanted)


def _truncated(seen: Seen, wanted: bool) -> str:
    last = seen.finals[-1] if seen.finals else None
    # A body that only the end of the connection ends can't be told from a cut one.
    cut = last is not None and not last.whole
    return "" if cut == wanted else ("cut" if cut else "not cut")


def _pool_reuse(seen: Seen, wanted: bool) -> str:
    return "" if seen.reused is None or seen.reused == wanted else f"{seen.reused}"


def _memory(seen: Seen, most: float) -> str:
    grown = seen.memory_growth / MEBIBYTE
    return "" if grown <= most else f"{grown:.2f} MiB"


def _origin(seen: Seen, wanted: str) -> str:
    """Who an answer is from: what the gateway says by itself is a problem document with its own
    request id, and carries no mark; what it passes on says so.
    """
    for answer in seen.finals:
        origin = "gateway" if _is_problem(answer) else "upstream"
        if origin != wanted:
            return origin
    return ""


def _peer_ip_used(seen: Seen, wanted: Any) -> str:
    """Whether the calls are of the connection's own address, whatever their header lines say."""
    expected = set(seen.peers) if isinstance(wanted, bool) else {str(wanted)}
    said = {
        value.rpartition(",")[2].strip()
        for received in seen.requests
        for value in received.message.values("x-forwarded-for")
    }
    found = said | {str(event.ip) for event in seen.events or ()}
    used = found <= expected
    return "" if used == (wanted is not False) else f"{sorted(found)}"


def _order(seen: Seen, wanted: Any) -> str:
    """Whether the answers are in the order of the requests, or echo these targets."""
    echoed = [_echoed(answer) for answer in seen.finals]
    if isinstance(wanted, list):
        return "" if echoed == wanted else f"{echoed}"
    asked = [received.message.target for received in seen.requests]
    return "" if ([target for target in echoed if target] == asked) == wanted else f"{echoed}"


def _echoed(answer: Message) -> str | None:
    try:
        target = loads(answer.body).get("target")
    except (JSONDecodeError, UnicodeDecodeError, AttributeError):
        return None
    return None if target is None else str(target)


def _is_problem(answer: Message) -> bool:
    if answer.values("content-type") != ["application/problem+json"]:
        return False
    try:
        return [loads(answer.body)["request_id"]] == answer.values("x-request-id")
    except (JSONDecodeError, KeyError):
        return not answer.body


def _paths(seen: Seen, wanted: list[str]) -> str:
    found = [received.message.target for received in seen.requests]
    return "" if found == wanted else f"{found}"


PREDICATES: Final[Mapping[str, Predicate]] = {
    "grade": lambda _, __: "",
    "responses": _responses,
    "status_counts": _status_counts,
    "status_counts_in": _status_counts_in,
    "then": _then,
    "upstream_requests": lambda seen, value: _number(len(seen.requests), value, seen),
    "upstream_complete": lambda seen, value: _number(
        sum(received.message.whole for received in seen.requests), value, seen
    ),
    "upstream_paths": _paths,
    "usage_events": lambda seen, value: _number(
        None if seen.events is None else len(seen.events), value, seen
    ),
    "pool_reuse": _pool_reuse,
    "truncated": _truncated,
    "max_ms": lambda seen, value: (
        "" if seen.seconds * 1000 <= value else f"{seen.seconds * 1000:.0f} ms"
    ),
    "rss_growth_mb_max": _memory,
    "store_lookups": lambda seen, value: _number(seen.lookups, value, seen),
    "peer_ip_used": _peer_ip_used,
    "origin_marked": _origin,
    "order": _order,
}


# Predicates on the first upstream request or the first final answer.


def _body(message: Message, wanted: str) -> str:
    return "" if message.body == wanted.encode("latin-1") else f"{message.body[:80]!r}"


def _absent(message: Message, names: list[str]) -> str:
    found = [name for name in names if message.values(name)]
    return ", ".join(found)


def _present(message: Message, names: list[str]) -> str:
    return ", ".join(name for name in names if not message.values(name))


def _value(message: Message, wanted: Mapping[str, str]) -> str:
    wrong = [name for name, value in wanted.items() if message.values(name) != [value]]
    return ", ".join(f"{name} {message.values(name)}" for name in wrong)


def _not_value(message: Message, wanted: Mapping[str, Any]) -> str:
    wrong = []
    for name, unwanted in wanted.items():
        values = unwanted if isinstance(unwanted, list) else [unwanted]
        wrong += [f"{name} {value}" for value in message.values(name) if value in values]
    return ", ".join(wrong)


def _count(message: Message, wanted: Mapping[str, Any]) -> str:
    found = {name: len(message.values(name)) for name in wanted}
    return "" if all(within(found[name], wanted[name]) for name in wanted) else f"{found}"


def _raw_absent(message: Message, wanted: list[str]) -> str:
    return ", ".join(repr(text) for text in wanted if text.encode("latin-1") in message.raw)


def _raw_present(message: Message, wanted: list[str]) -> str:
    return ", ".join(repr(text) for text in wanted if text.encode("latin-1") not in message.raw)


def _path_in(message: Message, wanted: list[str]) -> str:
    return "" if message.target in wanted else message.target


OF_MESSAGE: Final[Mapping[str, Callable[[Message, Any], str]]] = {
    "body": _body,
    "body_length": lambda message, value: (
        "" if within(len(message.body), value) else f"{len(message.body)}"
    ),
    "absent": _absent,
    "present": _present,
    "value": _value,
    "absent_value": _not_value,
    "not": _not_value,
    "raw": _value,
    "count": _count,
    "raw_absent": _raw_absent,
    "raw_present": _raw_present,
    "path_in": _path_in,
}
