"""How every role writes its log: one line an event, on standard error, with an instant in UTC.

What is known of the work at hand is bound to its thread or task (`bound`), and stands in each of its lines: `job`,
`attempt`, and `trace` where traces are on. Libraries that log by themselves come out in the same form.

No prompt and no completion is ever given to a logger; this module cannot check that, the tests do.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from jobs import tracing

Format = Literal["auto", "json", "console"]

bind = structlog.contextvars.bind_contextvars


@contextmanager
def bound(**ids: str | int) -> Iterator[None]:
    """Have every line that is written inside carry these, and what is bound inside; nothing of it afterwards."""
    before = structlog.contextvars.get_contextvars()
    bind(**ids)
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        bind(**before)


def configure_logs(level: str, form: Format = "auto", *, libraries: str = "warning") -> None:
    """Set logging up for this process (`debug`, `info`, `warning`, `error`).

    `form`: lines of JSON, or lines for people; `auto` is the latter on a terminal. Other people's loggers are heard
    from `libraries` on; a `level` that is higher counts for them as well.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    for_people = form == "console" or (form == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[*_facts(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(for_people=for_people))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.getLevelNamesMapping()[libraries.upper()]))
    logging.getLogger("penstock").setLevel(number)
    logging.captureWarnings(True)


def _facts() -> list[Processor]:
    """What every line says besides its event."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]


def _formatter(*, for_people: bool) -> logging.Formatter:
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if for_people
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    steps: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not for_people:
        steps.append(structlog.processors.format_exc_info)
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_facts(), processors=[*steps, renderer])


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    trace = tracing.trace_id()
    if trace is not None:
        event["trace"] = trace
    return event
