"""A worker's part, played over the real store and the real events: it claims what is queued and says what it is told.

The script of a prompt is a list of steps: a text is streamed, `end` stores all of it, `fail` fails the job, `lose`
drops the attempt and the next one begins, `wait` holds still until `go` is set or somebody cancels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from jobs.events import EventWriter
from jobs.records import AttemptRef, Cancelled, Failed, GenerationRecord, Succeeded
from jobs.states import FinishReason, JobState
from jobs.store import Store
from jobs.tables import Job
from tests.api.stage import RECIPE

END, FAIL, LOSE, WAIT = "end", "fail", "lose", "wait"
LOOK_SECONDS = 0.01
Script = Sequence[str]


class Player:
    """Plays until stopped. `script(job)` says what happens to a job."""

    def __init__(self, store: Store, writer: EventWriter, script: Callable[[Job], Script]) -> None:
        self._store, self._writer, self._script = store, writer, script
        self.go = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self.go.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for job in self._store.list_jobs(state=JobState.QUEUED)[0]:
                claimed = self._store.claim(job.id, "player")
                if claimed is not None:
                    self._play(claimed.ref, self._store.get(job.id))

    def _play(self, ref: AttemptRef, job: Job) -> None:
        self._writer.state(job.id, JobState.RUNNING, ref.number)
        text = ""
        for step in self._script(job):
            if step == WAIT:
                self._hold(job.id)
            elif step in (END, FAIL, LOSE):
                self._end(ref, step, text)
                return
            else:
                text += step
                self._writer.text([(job.id, ref.number, len(text), step, text)])
            if self._store.get(job.id).cancel_requested_at is not None:
                self._store.finish(ref, Cancelled(record(text)))
                self._writer.end(job.id, JobState.CANCELLED)
                return

    def _hold(self, job_id: str) -> None:
        while not self.go.wait(LOOK_SECONDS) and self._store.get(job_id).cancel_requested_at is None:
            pass

    def _end(self, ref: AttemptRef, step: str, text: str) -> None:
        if step == END:
            self._store.finish(ref, Succeeded(record(text)))
            self._writer.end(ref.job_id, JobState.SUCCEEDED)
        elif step == FAIL:
            self._store.finish(ref, Failed("engine_failed", "The engine failed.", retryable=False))
            self._writer.end(ref.job_id, JobState.FAILED)
        else:
            self._store.finish(ref, Failed("worker_lost", "The worker was lost.", retryable=True))
            self._writer.state(ref.job_id, JobState.QUEUED, ref.number)


def record(text: str) -> GenerationRecord:
    """The stored text, a token a character, with logprobs."""
    entries: list[dict[str, Any]] = [
        {"token_id": ord(character), "token": character, "bytes": list(character.encode()), "logprob": -0.5, "top": []}
        for character in text
    ]
    return GenerationRecord(
        completion=text,
        finish_reason=FinishReason.STOP,
        prompt_token_ids=[1, 2, 3],
        completion_token_ids=[ord(character) for character in text],
        recipe=RECIPE,
        timings={"total": 0.1},
        logprobs=entries,
    )
