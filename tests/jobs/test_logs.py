"""How a process logs: in a process of its own, as each role does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.worker.site import ROOT

SCRIPT = """
import logging, structlog
from jobs.logs import bind, bound, configure_logs
configure_logs("info", {form!r})
log = structlog.get_logger("penstock.test")
log.debug("unheard")
with bound(job="job_1"):
    bind(attempt=2)
    log.info("inside", number=1)
    logging.getLogger("penstock.other").info("%s of ours", "one")
    logging.getLogger("library").info("unheard")
    logging.getLogger("library").warning("of a library")
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("broken")
log.info("outside")
"""


def said(form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(form=form)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("form", ["json", "auto"])
def test_a_line_of_json_an_event_with_what_is_bound(form: str) -> None:
    events = [json.loads(line) for line in said(form)]
    assert [event["event"] for event in events] == ["inside", "one of ours", "of a library", "broken", "outside"]
    assert [event["level"] for event in events] == ["info", "info", "warning", "error", "info"]
    assert [(event.get("job"), event.get("attempt")) for event in events] == [("job_1", 2)] * 4 + [(None, None)]
    assert [event["logger"] for event in events][:3] == ["penstock.test", "penstock.other", "library"]
    assert "ZeroDivisionError" in events[3]["exception"]
    assert all(event["timestamp"].endswith("Z") for event in events)


def test_lines_for_people_say_the_same() -> None:
    lines = said("console")
    assert "inside" in lines[0]
    assert "job=job_1" in lines[0]
    assert "attempt=2" in lines[0]
    assert not any(line.startswith("{") for line in lines)
