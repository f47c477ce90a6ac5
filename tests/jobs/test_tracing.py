"""Traces, with OpenTelemetry's exporter to memory: on, off, and what they never say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from jobs import tracing
from jobs.store import Store
from tests.jobs.support import make_job, make_line

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    stop = tracing.trace_with(SimpleSpanProcessor(exporter), "test")
    yield exporter
    stop()


def only(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in spans.get_finished_spans() if span.name == name]
    return found


def test_off_it_does_nothing_and_imports_nothing() -> None:
    script = (
        "import sys; from jobs import tracing\n"
        "with tracing.span('x', parent='y', attributes={'a': 1}): tracing.note(b=2); tracing.failed('z')\n"
        "assert tracing.traceparent() is None and tracing.trace_id() is None and not tracing.is_on()\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_a_span_continues_the_trace_it_is_given(spans: InMemorySpanExporter) -> None:
    with tracing.span("outer", kind="server", parent=TRACE, attributes={"job": "job_1", "http.route": "/"}):
        inside = tracing.traceparent()
        with tracing.span("inner"):
            tracing.note(number=3)
        tracing.past_span("before", 2.0, 1.0)
    outer, inner, before = only(spans, "outer"), only(spans, "inner"), only(spans, "before")
    assert outer.attributes == {"penstock.job": "job_1", "http.route": "/"}
    assert inner.attributes == {"penstock.number": 3}
    assert outer.context is not None
    assert outer.parent is not None
    assert f"{outer.parent.span_id:016x}" == TRACE.split("-")[2]
    assert inside == f"00-{outer.context.trace_id:032x}-{outer.context.span_id:016x}-01"
    assert inner.parent == before.parent == outer.context
    assert before.end_time is not None
    assert before.start_time is not None
    assert before.end_time - before.start_time == pytest.approx(1e9, abs=1000)


def test_an_error_is_told_by_its_class_and_not_by_its_text(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="zanzibar"), tracing.span("broken"):
        raise ValueError("zanzibar")
    broken = only(spans, "broken")
    assert "zanzibar" not in broken.to_json()
    assert broken.status.description == "ValueError"
    assert broken.events == ()


@pytest.mark.parametrize("parent", ["", "nonsense", "00-0-0-0", "zanzibar" * 100])
def test_a_header_that_is_none_begins_a_trace(spans: InMemorySpanExporter, parent: str) -> None:
    with tracing.span("outer", parent=parent):
        assert tracing.trace_id()
    assert only(spans, "outer").parent is None


def test_a_job_remembers_the_trace_it_was_asked_for_in(store: Store, spans: InMemorySpanExporter) -> None:
    with tracing.span("ask"):
        trace = tracing.traceparent()
        (single,) = store.submit([make_job()]).ids
        lines = store.submit([make_line()] * 2, new_batch=True).ids
    assert store.traces_of([single, *lines]) == dict.fromkeys([single, *lines], trace)


def test_without_traces_a_row_has_none(store: Store) -> None:
    (job_id,) = store.submit([make_job()]).ids
    assert store.get(job_id).traceparent is None
    assert store.traces_of([job_id]) == {}
