# SPDX-License-Identifier: Apache-2.0
"""Traces by OpenTelemetry, to where `NIMBUS_OTLP_URL` says; without it nothing of it is loaded.

A trace has the id of its request, the one in `X-Request-Id` and in every problem document: who has
the one finds the other. Attributes are names of routes and jobs and numbers, as metrics' labels
are; never a key, an address or a query.
"""

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING
from uuid import UUID

from nimbus.base.config import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

Attributes = dict[str, str | int]

_provider: "TracerProvider | None" = None
_tracer: "Tracer | None" = None
_wanted_id: ContextVar[int | None] = ContextVar("wanted_id", default=None)
_OFF: AbstractContextManager[Attributes] = nullcontext({})


def begin(settings: Settings, role: str) -> None:
    """Trace this process as `role` from now on, if it is wanted."""
    global _provider, _tracer  # noqa: PLW0603 - one tracer a process
    if settings.otlp_url is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Ids at random, but for traces that are to have a certain one."""

        def generate_trace_id(self) -> int:
            """The wanted id, or a new one."""
            return _wanted_id.get() or super().generate_trace_id()

    resource = Resource.create({"service.name": f"nimbus-{role}", "service.namespace": "nimbus"})
    _provider = TracerProvider(resource=resource, id_generator=Ids())
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_url.rstrip('/')}/v1/traces", timeout=5)
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("nimbus")


def end() -> None:
    """Send what is left and trace no more."""
    global _provider, _tracer  # noqa: PLW0603 - as above
    if _provider is not None:
        _provider.shutdown()
        _provider = _tracer = None


def is_on() -> bool:
    """Whether this process traces."""
    return _tracer is not None


def span(name: str, request_id: str | None = None) -> AbstractContextManager[Attributes]:
    """A span around the block; what is put into the given mapping becomes its attributes.

    The name may be said later, as attribute `name`. Without tracing nothing happens.
    """
    return _OFF if _tracer is None else _span(_tracer, name, request_id)


def call(
    name: str,
    request_id: str,
    began_ns: int,
    *,
    duration_us: int,
    upstream_us: int,
    status: int,
) -> None:
    """The spans of a call through the gateway, when it is over: the whole, and its upstream's part.

    `began_ns` nanoseconds since 1970. The upstream's part is drawn at the end, where it ended.
    """
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind, set_span_in_context

    ended_ns = began_ns + duration_us * 1000
    token = _wanted_id.set(trace_id(request_id))
    try:
        whole = _tracer.start_span(name, kind=SpanKind.SERVER, start_time=began_ns)
        whole.set_attribute("http.response.status_code", status)
        inner = _tracer.start_span(
            "upstream",
            set_span_in_context(whole),
            kind=SpanKind.CLIENT,
            start_time=ended_ns - upstream_us * 1000,
        )
        inner.end(ended_ns)
        whole.end(ended_ns)
    finally:
        _wanted_id.reset(token)


def trace_id(request_id: str) -> int:
    """The trace's id of a request: its own where that is a UUID, else one at random."""
    try:
        return UUID(request_id).int
    except ValueError:
        return random.getrandbits(128)


@contextmanager
def _span(tracer: "Tracer", name: str, request_id: str | None) -> Iterator[Attributes]:
    attributes: Attributes = {}
    token = _wanted_id.set(None if request_id is None else trace_id(request_id))
    try:
        with tracer.start_as_current_span(name) as current:
            try:
                yield attributes
            finally:
                current.update_name(str(attributes.pop("name", name)))
                current.set_attributes(attributes)
    finally:
        _wanted_id.reset(token)
