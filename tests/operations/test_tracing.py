# SPDX-License-Identifier: Apache-2.0
"""Traces go where the operator says, with the request's id as theirs; else nothing is loaded."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from nimbus import drain, worker
from nimbus.base import config, tracing
from nimbus.base.config import Settings
from tests.support import metered
from tests.support.metered import Contract, Gateway, contract, metered_market

__all__ = ["contract", "metered_market"]

market_settings = metered.settings


@pytest.fixture
def settings(market_settings: Settings) -> Settings:
    """Every call is traced."""
    return replace(market_settings, traced_calls=1)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Something that takes spans by OTLP over HTTP: its address, and the spans it got."""
    spans: list[Any] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(length))
            for resource in sent.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", spans
        server.shutdown()


async def test_requests_jobs_and_calls_are_traced_by_the_id_of_the_request(
    contract: Contract,
    api: httpx2.AsyncClient,
    database: Settings,
    collector: tuple[str, list[Any]],
    tmp_path: Path,
) -> None:
    url, spans = collector
    tracing.begin(replace(database, otlp_url=url), "test")
    asked, called = uuid4(), uuid4()
    gateway = Gateway(tmp_path, contract)
    try:
        await api.get("/healthz", headers={"X-Request-Id": str(asked)})
        await worker.prove.func("audit")
        gateway.call(request_id=called.hex, duration_us=9_000, upstream_us=7_000)
        journals: dict[Any, drain.Journal] = {}
        while await drain.turn(tmp_path, journals):
            pass
    finally:
        gateway.die()
        tracing.end()

    named = {span.name: span for span in spans}
    assert named.keys() == {"GET /healthz", "job proofs.nightly", "wind GET /farms", "upstream"}
    assert named["GET /healthz"].trace_id == asked.bytes
    whole, inner = named["wind GET /farms"], named["upstream"]
    assert whole.trace_id == inner.trace_id == called.bytes
    assert inner.parent_span_id == whole.span_id
    assert whole.end_time_unix_nano - whole.start_time_unix_nano == 9_000_000
    assert inner.end_time_unix_nano - inner.start_time_unix_nano == 7_000_000
    told = str(spans)
    for secret in (contract.key_id, contract.organization_id, contract.subscription_id):
        assert str(secret) not in told


def test_without_an_address_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    tracing.begin(config.load({"NIMBUS_DATA_DIR": str(tmp_path)}), "test")
    assert not tracing.is_on()
    program = (
        "import sys, nimbus.app, nimbus.worker, nimbus.drain;"
        " print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
