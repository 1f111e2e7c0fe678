# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: everything that is named anywhere is there, for the operator alone."""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families as families_of

from nimbus import drain, worker
from nimbus.base import clock, db, metrics
from nimbus.base.config import Settings
from nimbus.base.secrets import secret
from tests.operations.processes import ROOT, nimbus, serving, wait_for
from tests.support.metered import (
    Contract,
    Gateway,
    contract,
    failed,
    metered_market,
    refused,
    settings,
)

__all__ = ["contract", "metered_market", "settings"]

ALERTS = ROOT / "docs/operate/alerts.yml"
DASHBOARD = ROOT / "docs/operate/dashboard.json"
EXPRESSION = re.compile(r"^\s+expr: (.+)$", re.MULTILINE)
NAME = re.compile(r"\bnimbus_[a-z_]+(?:\{[^}]*\})?")
SUFFIXES = {"histogram": "_bucket", "counter": "_total", "gauge": ""}


@dataclass(frozen=True, slots=True)
class Family:
    """What a scrape says of a metric: its type, and the labels of its samples."""

    kind: str
    labels: frozenset[str]
    samples: list[Any]


def read(text: str) -> dict[str, Family]:
    """A scrape by the names that queries use."""
    found = {}
    for one in families_of(text):
        labels = {label for sample in one.samples for label in sample.labels}
        name = one.name + SUFFIXES.get(one.type, "")
        found[name] = Family(one.type, frozenset(labels), one.samples)
    return found


@pytest.fixture
async def scrape(
    contract: Contract,
    api: httpx2.AsyncClient,
    owner: Callable[[str], None],
    database: Settings,
    tmp_path: Path,
) -> dict[str, Family]:
    """A scrape after calls, requests, jobs and signs of abuse of every kind."""
    gateway = Gateway(tmp_path, contract)
    gateway.calls(3)
    gateway.call(**failed())
    gateway.call(**refused("rate_limited", 429))
    gateway.call(**refused("invalid_api_key", 401))
    await drained(tmp_path)
    gateway.die()
    await worker.prove.func("usage")
    with pytest.raises(KeyError):
        await worker.prove.func("nothing")
    owner(
        "INSERT INTO abuse_alerts (id, kind, network, gateway_id, count, raised_at) VALUES"
        " (gen_random_uuid(), 'path_scan', '203.0.113.0/24', gen_random_uuid(), 9, now())"
    )
    assert (await api.get("/healthz")).status_code == 200
    return read((await api.get("/metrics", headers=with_token(database))).text)


def with_token(settings: Settings) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret(settings, 'metrics_token').decode()}"}


def queries() -> Iterator[tuple[str, str, str]]:
    """Each query of the files: where it stands, what it asks, which text names its labels."""
    text = ALERTS.read_text(encoding="utf-8")
    for rule in text.split("- alert: ")[1:]:
        name, _, body = rule.partition("\n")
        yield f"alert {name}", EXPRESSION.findall(body)[0], body
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"], target["legendFormat"]


def faults(scrape: dict[str, Family]) -> list[str]:
    """What is wrong with the queries of the files."""
    found = []
    for place, query, told in queries():
        asked = NAME.findall(query)
        if not asked:
            found.append(f"{place}: asks for nothing of ours")
        labels = {"le"}
        for one in asked:
            name, _, matchers = one.partition("{")
            if name not in scrape:
                found.append(f"{place}: there is no {name}")
                continue
            family = scrape[name]
            labels |= family.labels
            wrong = set(re.findall(r"(\w+)(?:=|!)", matchers)) - family.labels
            found += [f"{place}: {name} has no label {label}" for label in wrong]
            counts = bool(re.search(rf"(?:rate|increase)\({re.escape(one)}\[", query))
            if counts != (family.kind in {"counter", "histogram"}):
                found.append(f"{place}: {name} is a {family.kind}")
        named = re.findall(r"\$labels\.(\w+)|\{\{(\w+)\}\}", told)
        named += [
            (one, "") for by in re.findall(r"by \(([^)]*)\)", query) for one in by.split(", ")
        ]
        wrong = {one or other for one, other in named} - labels
        found += [f"{place}: nothing there has a label {label}" for label in sorted(wrong)]
    return found


NAMED = {
    "nimbus_billing_subscriptions_active": ("gauge", {"product", "plan", "status"}),
    "nimbus_billing_mrr": ("gauge", {"currency", "product", "plan"}),
    "nimbus_billing_churn_rate": ("gauge", set()),
    "nimbus_devportal_api_calls_total": (
        "counter",
        {"product", "route", "plan", "environment", "status"},
    ),
    "nimbus_devportal_rate_limit_hits_total": ("counter", {"product", "route", "plan", "code"}),
    "nimbus_gateway_latency_added_seconds_bucket": ("histogram", {"le"}),
    "nimbus_gateway_upstream_seconds_bucket": ("histogram", {"product", "le"}),
    "nimbus_database_query_seconds_bucket": ("histogram", {"role", "le"}),
    "nimbus_jobs_waiting": ("gauge", {"status"}),
    "nimbus_job_failures_total": ("counter", {"job"}),
}
"""The metrics that the specification names, but for those of webhooks: type and labels."""
RULES = {
    "PaymentFailed": "error",
    "ApiErrors": "warning",
    "ChurnSpike": "warning",
    "SignsOfAbuse": "warning",
}
"""The alerts that it names, and how loud they are."""


async def test_each_named_metric_is_there_with_its_type_and_labels_and_has_a_value(
    scrape: dict[str, Family],
) -> None:
    found = {name: (scrape[name].kind, set(scrape[name].labels)) for name in NAMED}
    assert found == NAMED
    assert [name for name in NAMED if not scrape[name].samples] == []
    rules = ALERTS.read_text(encoding="utf-8").split("- alert: ")[1:]
    said = dict(re.findall(r"\A(\w+)[\s\S]*?severity: (\w+)", rule)[0] for rule in rules)
    assert said.items() >= RULES.items()


async def test_alerts_and_dashboard_ask_for_what_a_scrape_has(scrape: dict[str, Family]) -> None:
    assert faults(scrape) == []

    # That it is noticed when a metric is gone or is another one than before.
    calls = scrape.pop("nimbus_devportal_api_calls_total")
    assert any("there is no nimbus_devportal_api_calls_total" in one for one in faults(scrape))
    scrape["nimbus_devportal_api_calls_total"] = Family("gauge", calls.labels, [])
    assert any("is a gauge" in one for one in faults(scrape))
    fewer = calls.labels - {"product"}
    scrape["nimbus_devportal_api_calls_total"] = Family("counter", fewer, [])
    assert any("label product" in one for one in faults(scrape))


async def test_calls_are_counted_by_route_template_and_plan_and_tell_no_key(
    scrape: dict[str, Family], contract: Contract
) -> None:
    mine = {"product": "wind", "route": "GET /farms", "plan": "starter"}
    calls = {
        sample.labels["status"]: sample.value
        for sample in scrape["nimbus_devportal_api_calls_total"].samples
        if sample.labels.items() >= mine.items()
    }
    hits = scrape["nimbus_devportal_rate_limit_hits_total"].samples
    every = [value for one in scrape.values() for s in one.samples for value in s.labels.values()]

    assert calls.keys() >= {"2xx", "5xx"}  # and what other tests of this process have counted
    assert {"code": "rate_limited", **mine} in [sample.labels for sample in hits]
    for told in (contract.key_id, contract.organization_id, contract.subscription_id):
        assert not [value for value in every if str(told) in value]
    assert not [value for value in every if "://" in value or _is_id(value)]


def _is_id(value: str) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return True


async def test_the_page_is_for_who_has_the_token(
    api: httpx2.AsyncClient, database: Settings
) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}):
        assert (await api.get("/metrics", headers=headers)).status_code == 401
    answer = await api.get("/metrics", headers=with_token(database))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_the_age_of_the_oldest_call_that_is_not_stored_is_seen(
    contract: Contract, database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "journal_dir", tmp_path)
    gateway = Gateway(tmp_path, contract)
    gateway.calls(2, clock.now() - timedelta(hours=2))
    before = await age()
    await drained(tmp_path)
    after = await age()
    gateway.die()

    assert 7200 <= before < 7200 + 300
    assert after == 0


async def age() -> float:
    async with db.system_session("metrics") as session:
        page = read((await metrics.page(session)).decode())
    [sample] = page["nimbus_usage_undrained_age_seconds"].samples
    return float(sample.value)


async def drained(journal_dir: Path) -> None:
    journals: dict[Any, drain.Journal] = {}
    while await drain.turn(journal_dir, journals):
        pass


def test_many_values_at_once_are_counted_as_one_by_one() -> None:
    values = [0, 1, 99, 100, 101, 250, 999, 25_000, 2_500_000, 2_500_001, 10**9]
    one = Histogram("one", "one", buckets=metrics.SHORT, registry=None)
    other = Histogram("one", "one", buckets=metrics.SHORT, registry=None)
    for value in values:
        one.observe(value / 1_000_000)
    metrics.observe(other, values)

    [mine], [theirs] = one.collect(), other.collect()
    wanted = {(s.name, s.labels.get("le")): s.value for s in mine.samples}
    got = {(s.name, s.labels.get("le")): s.value for s in theirs.samples}
    told = {key for key in wanted if not key[0].endswith("_created")}
    assert {key: got[key] for key in told} == pytest.approx({key: wanted[key] for key in told})


def test_one_page_has_the_counts_of_all_processes_of_the_machine(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as system:
        token = (system.data_dir / "secrets/metrics_token").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{system.port}/metrics", headers={"Authorization": f"Bearer {token}"}
        )

        def scraped() -> dict[str, Family] | None:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - ours
                page = read(answer.read().decode())
            wanted = {"nimbus_job_seconds_bucket", "nimbus_http_requests_total"}
            return page if page.keys() >= wanted else None

        page = wait_for(scraped, "the worker's jobs and the API's requests on one page")
        assert page is not None
        printed = read(nimbus("metrics", "--data-dir", str(system.data_dir)).stdout)

    assert [sample.value for sample in page["nimbus_database_up"].samples] == [1]
    assert [sample.value for sample in page["nimbus_gateways"].samples] == [1]
    roles = {s.labels["role"] for s in page["nimbus_database_query_seconds_bucket"].samples}
    assert roles == {"app", "system"}
    assert printed.keys() >= page.keys()
