"""Traces (OpenTelemetry): off unless `PENSTOCK_TRACING` says so, and then nothing of it is even imported.

A job's trace begins with the call that made it. Its W3C `traceparent` is stored in the row (a line of a file has its
batch's), the message carries it on as a header beside the job's id, and the worker's attempt continues it; so a
message that is lost and published again is found in the same trace. Where spans go, and which part of them, is said by
OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, …).

No prompt and no completion is ever an attribute: ids, names, numbers. Errors are told by their class, never by their
text; baggage and `tracestate` of a caller are not taken on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from jobs.errors import PenstockError
from jobs.settings import Settings

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int | float | bool

TRACEPARENT = "traceparent"
"""The header's name, in HTTP and in a message."""

_tracer: Any = None


class TracingUnavailable(PenstockError):
    """Traces were asked for, and the packages for them are not installed."""

    code = "tracing_unavailable"


def start_tracing(settings: Settings, role: str) -> Callable[[], None]:
    """Trace this process, if the settings say so. Returns what sends the last spans and ends it.

    Raises:
        TracingUnavailable: the extra `tracing` is not installed.
    """
    if not settings.tracing:
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingUnavailable("PENSTOCK_TRACING is set: it needs `pip install 'penstock[tracing]'`.") from error
    return trace_with(BatchSpanProcessor(OTLPSpanExporter()), role)


def trace_with(processor: Any, role: str) -> Callable[[], None]:
    """Trace with a span processor of OpenTelemetry's; returns what ends it."""
    global _tracer  # noqa: PLW0603 -- one process, one tracer
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.name": f"penstock-{role}"}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("penstock")

    def stop() -> None:
        global _tracer  # noqa: PLW0603
        _tracer = None
        provider.shutdown()

    return stop


def is_on() -> bool:
    return _tracer is not None


@contextmanager
def span(
    name: str, *, kind: Kind = "internal", parent: str | None = None, attributes: Mapping[str, Value] | None = None
) -> Iterator[None]:
    """Time a piece of work. `parent`: a `traceparent` to continue; none: the span around this one, if there is one."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    with _tracer.start_as_current_span(
        name,
        context=_context_of(parent),
        kind=SpanKind[kind.upper()],
        attributes=_named(attributes or {}),
        record_exception=False,  # its message may hold what must not leave
        set_status_on_exception=False,
    ):
        try:
            yield
        except Exception as error:
            failed(type(error).__name__)
            raise


def past_span(name: str, began_seconds_ago: float, ended_seconds_ago: float) -> None:
    """Tell of a piece of work that is over, within the span around this one."""
    if _tracer is not None:
        now = time.time_ns()
        made = _tracer.start_span(name, start_time=now - int(began_seconds_ago * 1e9))
        made.end(now - int(ended_seconds_ago * 1e9))


def note(**attributes: Value) -> None:
    """Add attributes to the span around this: ids, names, numbers."""
    if _tracer is not None:
        _current().set_attributes(_named(attributes))


def rename(name: str) -> None:
    """Name the span around this, once what it is about is known."""
    if _tracer is not None:
        _current().update_name(name)


def failed(error: str) -> None:
    """Mark the span around this as failed, by a class or a code of errors."""
    if _tracer is not None:
        from opentelemetry.trace import StatusCode

        _current().set_status(StatusCode.ERROR, error)


def traceparent() -> str | None:
    """The span around this as a header says it; None outside of any."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(TRACEPARENT)


def trace_id() -> str | None:
    """The trace around this, as logs name it."""
    if _tracer is None:
        return None
    context = _current().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def _current() -> Any:
    from opentelemetry.trace import get_current_span

    return get_current_span()


def _context_of(parent: str | None) -> Any:
    if parent is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({TRACEPARENT: parent}, context=Context())


def _named(attributes: Mapping[str, Value]) -> dict[str, Value]:
    """Names with a dot are OpenTelemetry's own; the others are ours."""
    return {name if "." in name else f"penstock.{name}": value for name, value in attributes.items()}
