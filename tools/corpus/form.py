# SPDX-License-Identifier: Apache-2.0
"""A corpus file: hostile HTTP cases, what each sends, and which outcomes are safe.

`read_corpus` gives the cases with their placeholders expanded and their strings as bytes. A step
or an option that is not known here is a FormatError that names it: nothing is passed over.

The corpus calls the prefix of a gateway's own header lines `X-Gw-`; ours is `X-Nimbus-`, and the
request's id is `X-Request-Id`. `_ours` translates, in the bytes sent as in what is expected.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nimbus.rules.grants import key_check

KNOWN_NEEDS: Final = frozenset(
    [
        "auth",
        "routes",
        "limits",
        "timeouts",
        "policy",
        "logs",
        "billing",
        "quota",
        "crash",
        "faults",
        "dns",
    ]
)
# The options of each step beside its own value.
CLIENT_STEPS: Final[Mapping[str, frozenset[str]]] = {
    "connections": frozenset(("send",)),
    "send": frozenset(),
    "repeat": frozenset(("count", "prefix", "suffix")),
    "drip": frozenset(("chunk", "interval_ms")),
    "sleep_ms": frozenset(),
    "half_close": frozenset(),
    "rst": frozenset(),
    "wait_status": frozenset(("max_ms",)),
    "no_read_ms": frozenset(),
    "read_bytes": frozenset(),
}
UPSTREAM_STEPS: Final[Mapping[str, frozenset[str]]] = {
    "on_accept_send": frozenset(),
    "read_request": frozenset(),
    "read_head": frozenset(),
    "send": frozenset(),
    "repeat_send": frozenset(("count", "interval_ms", "prefix", "suffix")),
    "drip": frozenset(("chunk", "interval_ms")),
    "sleep_ms": frozenset(),
    "close": frozenset(),
    "close_after_ms": frozenset(),
    "rst": frozenset(),
    "gzip_zeros_mb": frozenset(),
}
UPSTREAM_STATES: Final = frozenset(("refused", "dns_rebind"))
CONFIG: Final = frozenset(("quota_remaining", "route_weight"))

_PLACEHOLDER = re.compile(r"\{\{[A-Z0-9_]*\}\}")
_THEIR_ID = re.compile(r"(?i)x([-_])gw[-_]request([-_])id")
_THEIR_PREFIX = re.compile(r"(?i)x([-_])(gw)(?=[-_])")


class FormatError(ValueError):
    """The file asks for something that this runner does not know; the message names it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a side does: its name, its value, its options; texts are bytes."""

    name: str
    value: Any
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `upstream` is a script, a state of the upstream, or None for the recorder's own
    answers; `accept` are the safe outcomes, each a set of predicates.
    """

    id: str
    title: str
    client: tuple[Step, ...]
    upstream: tuple[Step, ...] | str | None
    accept: tuple[Mapping[str, Any], ...]
    needs: frozenset[str]
    config: Mapping[str, int]
    about: str  # what the case says of itself, for what the form does not say
    fault: str = ""  # why it can't be run: a step, a placeholder or a setting that is not known

    @property
    def scripted(self) -> tuple[Step, ...]:
        """The upstream's script; empty without one."""
        return self.upstream if isinstance(self.upstream, tuple) else ()

    @property
    def connections(self) -> int:
        """How many connections send the same at once."""
        return max((step.value for step in self.client if step.name == "connections"), default=1)

    @property
    def sent(self) -> bytes:
        """The bytes of its `send` steps, one after the other."""
        return b"".join(step.value for step in self.client if step.name == "send")

    @property
    def volume(self) -> int:
        """How many bytes it sends, about."""
        repeats = [step for step in self.client if step.name == "repeat"]
        return len(self.sent) + sum(len(s.value) * int(s.options.get("count", 1)) for s in repeats)

    @property
    def unknown_needs(self) -> frozenset[str]:
        """What it needs that nobody here can give."""
        return self.needs - KNOWN_NEEDS


@dataclass(frozen=True, slots=True)
class Corpus:
    """A file: its cases, and the names of the installation that they are written for."""

    cases: tuple[Case, ...]
    host: str = "gw.test"
    free_routes: tuple[str, ...] = ("/echo", "/big", "/heavy", "/free/*")
    paid_routes: tuple[str, ...] = ("/pro/*",)
    other_host: str = "tenant-b.test"
    keys: Mapping[str, bytes] = field(default_factory=dict)


def make_key(number: int) -> bytes:
    """A well-formed live key with a right checksum."""
    body = b"nimbus_live_%043d" % number
    return body + key_check(body)


def placeholders() -> dict[str, bytes]:
    """What each placeholder stands for."""
    key = make_key(1)
    last = b"1" if key[-1:] != b"1" else b"2"
    return {
        "{{KEY}}": key,
        "{{KEY_B}}": make_key(2),
        "{{KEY_UPPER}}": key.upper(),
        "{{KEY_BAD_CRC}}": key[:-1] + last,
        "{{KEY_WRONG_SECRET}}": make_key(3),
    }


def read_corpus(path: Path) -> Corpus:
    """The cases of a file; raises FormatError when it is none. What this runner does not know of
    a case stands in its `fault`.
    """
    document = json.loads(path.read_text("utf-8"))
    if document.get("format") != "http-hostile-corpus" or document.get("version") != 1:
        raise FormatError("the file is not an http-hostile-corpus of version 1")
    keys = placeholders()
    setup = document.get("assumed_setup", {})
    defaults = Corpus(())
    return Corpus(
        cases=tuple(_case_or_fault(entry, keys) for entry in document["cases"]),
        host=setup.get("gateway_host", defaults.host),
        free_routes=tuple(setup.get("free_plan_routes", defaults.free_routes)),
        paid_routes=tuple(setup.get("paid_routes", defaults.paid_routes)),
        other_host=setup.get("other_tenant", {}).get("host", defaults.other_host),
        keys=keys,
    )


def _case_or_fault(entry: Mapping[str, Any], keys: Mapping[str, bytes]) -> Case:
    try:
        return _case(entry, keys)
    except FormatError as error:
        title = entry.get("title", "")
        return Case(entry["id"], title, (), None, (), frozenset(), {}, title, str(error))


def _case(entry: Mapping[str, Any], keys: Mapping[str, bytes]) -> Case:
    name = entry["id"]
    upstream = entry.get("upstream")
    if isinstance(upstream, str) and upstream not in UPSTREAM_STATES:
        raise FormatError(f"{name}: the upstream's state {upstream!r} is not known")
    if isinstance(upstream, list):
        upstream = tuple(_step(name, step, UPSTREAM_STEPS, keys) for step in upstream)
    config = entry.get("config") or {}
    if unknown := config.keys() - CONFIG:
        raise FormatError(f"{name}: config {', '.join(sorted(unknown))} is not known")
    return Case(
        id=name,
        title=entry.get("title", ""),
        client=tuple(_step(name, step, CLIENT_STEPS, keys) for step in entry["client"]),
        upstream=upstream,
        accept=tuple(_expected(outcome, keys) for outcome in entry["accept"]),
        needs=frozenset(entry.get("needs") or ()),
        config=config,
        about=f"{entry.get('title', '')} {entry.get('why', '')}",
    )


def _step(
    case: str,
    entry: Mapping[str, Any],
    known: Mapping[str, frozenset[str]],
    keys: Mapping[str, bytes],
) -> Step:
    name = next((step for step in known if step in entry), None)
    if name is None or (unknown := entry.keys() - {name} - known[name]):
        what = ", ".join(sorted(entry if name is None else unknown))
        raise FormatError(f"{case}: the step {what} is not known")
    plain = {key: _bytes(value, keys) for key, value in entry.items()}
    return Step(name, plain.pop(name), plain)


def _bytes(value: Any, keys: Mapping[str, bytes]) -> Any:
    return expand(value, keys).encode("latin-1") if isinstance(value, str) else value


def expand(text: str, keys: Mapping[str, bytes]) -> str:
    """A text of the file with its placeholders filled in, still as text of single bytes."""

    def fill(match: re.Match[str]) -> str:
        if match[0] not in keys:
            raise FormatError(f"the placeholder {match[0]} is not known")
        return keys[match[0]].decode("latin-1")

    return _ours(_PLACEHOLDER.sub(fill, text))


def _ours(text: str) -> str:
    def prefix(match: re.Match[str]) -> str:
        word = {"GW": "NIMBUS", "gw": "nimbus"}.get(match[2], "Nimbus")
        return f"{match[0][0]}{match[1]}{word}"

    text = _THEIR_ID.sub(lambda match: f"{match[0][0]}{match[1]}Request{match[2]}Id", text)
    return _THEIR_PREFIX.sub(prefix, text)


def _expected(value: Any, keys: Mapping[str, bytes]) -> Any:
    """An outcome with the texts in it expanded; names of header lines in lower case."""
    if isinstance(value, str):
        return expand(value, keys)
    if isinstance(value, list):
        return [_expected(item, keys) for item in value]
    if isinstance(value, dict):
        return {expand(key, keys): _expected(item, keys) for key, item in value.items()}
    return value
