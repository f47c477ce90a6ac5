"""An ended line of a batch, as its rows say it. Apart from `jobs.records`, which knows no table."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.tables import Generation, Job


@dataclass(frozen=True, slots=True)
class EndedLine:
    """An ended line of a batch, with all that its line in a file of results says.

    The generation's token ids are not loaded. `worker`: whose attempt was the last; none when it never ran.
    """

    job: Job
    generation: Generation | None
    worker: str | None
    end_number: int
    exact: bool | None = None
    """Whether its text depends on nothing else that ran; none without a text."""
