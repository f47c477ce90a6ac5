"""The line of a result file, shown by rendering lines: what `jobs.lines` writes is what the page says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from jobs.ends import EndedLine
from jobs.lines import render
from jobs.states import FinishReason, JobState, Priority
from jobs.tables import Generation, Job
from ops.docs.markdown import code, table

CHAT = "/v1/chat/completions"
MEANINGS = {
    "job_id": "The job that the line became: `penstock status` and `penstock replay` take it.",
    "line": "Its number in the file, from 1.",
    "state": "How the job ended.",
    "seed": "The line's, or the one that was drawn.",
    "attempt": "Number of the attempt that ended it; 0 where none was made.",
    "worker": "Who made that attempt.",
    "recipe": "Id of all else that decides the text; null where there is none.",
    "exact": "Whether its row class was proven; null where it has no text.",
    "timings": "Seconds by phase; null where it did not run.",
    "retryable": "Of a failed line: whether `penstock batch retry` can help.",
    "completion": "Of a cancelled or expired line: the text it had.",
    "usage": "Of a cancelled or expired line: its tokens.",
}
_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def penstock_fields() -> str:
    """What stands under `penstock` in a line."""
    return table(["field", "meaning"], [[code(name), text] for name, text in MEANINGS.items()])


def succeeded_line() -> str:
    """A line of the output file."""
    return _shown(_line(JobState.SUCCEEDED))


def failed_line() -> str:
    """A line of the error file."""
    return _shown(_line(JobState.FAILED))


def rendered(state: JobState) -> dict[str, Any]:
    """A line that ended so, as it is written."""
    value: dict[str, Any] = json.loads(_line(state))
    return value


def _shown(line: bytes) -> str:
    return f"```json\n{json.dumps(json.loads(line), indent=2, ensure_ascii=False)}\n```\n"


def _line(state: JobState) -> bytes:
    job = Job(
        id="job_0199c2a4a1b27e0f9d3c5b6a79881234",
        state=state,
        model="phi-3-mini",
        priority=Priority.BATCH,
        custom_id="line-1",
        line_number=1,
        messages=[{"role": "user", "content": "Write a haiku about ice hockey"}],
        parameters={},
        seed=2718281828,
        attempt=1,
        job_metadata={},
        created_at=_AT,
        ended_at=_AT,
        error={
            "code": "attempts_spent",
            "message": "Every attempt lost its worker before it finished.",
            "retryable": True,
        },
    )
    return render(
        EndedLine(job, _generation(state), "worker@host", 1, True if state is JobState.SUCCEEDED else None), CHAT
    )


def _generation(state: JobState) -> Generation | None:
    if state is JobState.FAILED:
        return None
    return Generation(
        completion="Skates carve silent ice",
        finish_reason=FinishReason.STOP if state is JobState.SUCCEEDED else None,
        num_prompt_tokens=14,
        num_completion_tokens=9,
        recipe_id="fp_5f2c0c8e7f3b4a19",
        timings={"queued": 0.8, "prefill": 0.1, "first_token": 0.1, "decode": 0.6, "total": 1.6},
    )
