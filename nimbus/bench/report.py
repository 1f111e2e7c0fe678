# SPDX-License-Identifier: Apache-2.0
"""A run in words: tables for the terminal, and the parts of the reference that are generated."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimbus.bench import bills, usage
from nimbus.bench.goals import Goal, judge
from nimbus.bench.processes import BenchError

RECORD = Path("build/bench/gateway.json")
REFERENCE = Path("docs/reference/performance.md")

Facts = Mapping[str, Any]
Table = Sequence[Sequence[str]]

SPEED = ("target", "does", "req/s", "p50 ms", "p99 ms", "CPU µs/req", "of it user", "beside µs")
LARGE = ("target", "req/s", "MB/s", "p50 ms", "p99 ms", "CPU µs/req")
LATENCY = ("target", "p50 µs", "p99 µs", "added p50 µs", "added p99 µs")
STORING = ("from full journals", "calls/s", "drain µs/call", "database µs/call", "deltas folded/s")
GOALS = ("what", "measured", "goal", "floor", "")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the reference: between the marks of its name stands what its record says."""

    name: str
    record: Path
    shown: Callable[[Facts], str]

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: begin -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}: end -->"


def tables(record: Facts) -> list[tuple[str, Table]]:
    """The tables of a run with their titles; the first line of each is its head."""
    found: list[tuple[str, Table]] = []
    does = record["does"]
    if rows := record.get("speed"):
        lines = [_speed_line(name, does[name], row) for name, row in rows.items()]
        found.append(("207 bytes, 64 connections", [SPEED, *lines]))
    for kind, title in (("large", "100 KB answers"), ("tls", "TLS on the listener")):
        if rows := record.get(kind):
            lines = [_large_line(name, row) for name, row in rows.items()]
            found.append((f"{title}, 64 connections", [LARGE, *lines]))
    if rows := record.get("latency"):
        lines = [_latency_line(name, row) for name, row in rows.items()]
        found.append(("Latency at a constant 5,000 requests/s", [LATENCY, *lines]))
    if memory := record.get("memory"):
        found.append(("Memory of a gateway process", [("what", "KiB"), *_memory_lines(memory)]))
    if shares := record.get("profile"):
        lines = [(f"`{name}`", f"{share:.1%}") for name, share in shares.items()]
        found.append(("Where the gateway's own time goes", [("function", "share"), *lines]))
    if goals := judge(record):
        found.append(_against(goals))
    return found


def _against(goals: Iterable[Goal]) -> tuple[str, Table]:
    lines = [
        (one.what, one.shown(one.value), one.shown(one.goal), one.shown(one.floor), one.verdict)
        for one in goals
    ]
    return "Against the goals", [GOALS, *lines]


def for_terminal(record: Facts) -> str:
    """All tables in columns."""
    parts = []
    for title, table in tables(record):
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        lines = [
            "  ".join(
                word.rjust(width) if _is_number(table, column) else word.ljust(width)
                for column, (word, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        parts.append("\n".join([title, *(f"  {line}" for line in lines)]))
    return "\n\n".join(parts)


def of_gateway(record: Facts) -> str:
    """The same in Markdown, with the machine, the date and the programs."""
    plan = record["plan"]
    about = (
        f"{_about(record)}; {plan['rounds']} rounds of {plan['seconds']:g} s, medians."
        f" The noisiest round that counts had {record['noise']:.0%} of a core used by others."
    )
    programs = (f"- {name}: {version}" for name, version in record["versions"].items() if version)
    return f"{about}\n\n" + "\n".join(programs) + _markdown(tables(record))


def of_usage(record: Facts) -> str:
    """A run of `nimbus bench usage` in Markdown."""
    fields = ("per_second", "drain_us", "database_us", "folded_per_second")
    lines = [
        (name, *(f"{row[field]:,}" for field in fields)) for name, row in record["storing"].items()
    ]
    return (
        _about(record)
        + "."
        + _markdown([("Storing", [STORING, *lines]), _against(usage.judge(dict(record)))])
    )


def of_bills(record: Facts) -> str:
    """A run of `nimbus bench bill` in Markdown."""
    about = (
        f"{_about(record)}; {record['subscriptions']:,} subscriptions with {record['cells']} rows"
        f" of the roll-up each, {record['processes']} bill runs at once:"
        f" {record['seconds']:,.1f} s."
    )
    return about + _markdown([_against(bills.judge(dict(record)))])


SECTIONS = (
    Section("gateway", RECORD, of_gateway),
    Section("usage", usage.RECORD, of_usage),
    Section("bills", bills.RECORD, of_bills),
)


def write_reference(path: Path = REFERENCE, folder: Path = Path()) -> list[Path]:
    """Put the last runs' tables into the reference, each between its marks; answers the records
    that were there, below `folder`. What has no record stays as it is.
    """
    found = [one for one in SECTIONS if (folder / one.record).exists()]
    if not found:
        raise BenchError(f"There is no {RECORD} yet: `make bench` makes it.")
    text = path.read_text(encoding="utf-8")
    for one in found:
        facts = json.loads((folder / one.record).read_text(encoding="utf-8"))
        before, begin, rest = text.partition(one.begin)
        _, end, after = rest.partition(one.end)
        if not begin or not end:
            raise BenchError(f"{path} has lost the marks {one.begin} and {one.end}.")
        text = f"{before}{begin}\n{one.shown(facts)}\n{end}{after}"
    path.write_text(text, encoding="utf-8")
    return [one.record for one in found]


def _about(record: Facts) -> str:
    machine = record["machine"]
    return (
        f"Measured on {record['date']}: {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory']}, {machine['system']}, Linux {machine['kernel']}, CPython"
        f" {machine['python']}"
    )


def _markdown(found: Iterable[tuple[str, Table]]) -> str:
    text = ""
    for title, table in found:
        align = ["---:" if _is_number(table, column) else "---" for column in range(len(table[0]))]
        rows = [table[0], align, *table[1:]]
        text += f"\n\n### {title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return text


def _is_number(table: Table, column: int) -> bool:
    return any(line[column][:1].isdecimal() or line[column][:1] == "-" for line in table[1:])


def _speed_line(name: str, does: str, row: Facts) -> tuple[str, ...]:
    return (
        name,
        does,
        f"{row['per_second']:,.0f}",
        f"{row['p50_us'] / 1000:.2f}",
        f"{row['p99_us'] / 1000:.2f}",
        f"{row['cpu_us']:.1f}",
        f"{row['cpu_user_us']:.1f}",
        f"{row['beside_us']:.1f}",
    )


def _large_line(name: str, row: Facts) -> tuple[str, ...]:
    return (
        name,
        f"{row['per_second']:,.0f}",
        f"{row['megabytes_per_second']:,.0f}",
        f"{row['p50_us'] / 1000:.2f}",
        f"{row['p99_us'] / 1000:.2f}",
        f"{row['cpu_us']:.1f}",
    )


def _latency_line(name: str, row: Facts) -> tuple[str, ...]:
    fields = ("p50_us", "p99_us", "added_p50_us", "added_p99_us")
    return (name, *(f"{row[field]:,.0f}" for field in fields))


def _memory_lines(memory: Facts) -> list[tuple[str, str]]:
    grants, seconds = memory["grants"], memory["load_seconds"]
    calls = memory["load_calls"]
    lines = (
        (f"at rest with {grants:,.0f} grants, resident", "rest_kib"),
        ("of it the process's own pages", "rest_own_kib"),
        ("for each caller that asked for 8 MB and reads nothing", "stalled_reading_kib"),
        ("for each caller that stopped in the middle of a head", "stalled_sending_kib"),
        (f"growth over {calls:,.0f} calls in {seconds:.0f} s", "load_growth_kib"),
    )
    return [(title, f"{memory[field]:,.0f}") for title, field in lines]
