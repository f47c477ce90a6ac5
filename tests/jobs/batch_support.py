"""What the tests of batches made from files make them with: a checked file in memory, and a clerk's intake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.checked import CheckedLine, dump_invalid, dump_valid, read
from jobs.records import AttemptRef, Failed, NewBatch, NewFile, NewSegment, Outcome
from jobs.states import ENDED
from jobs.store import Store
from jobs.tables import Batch
from tests.jobs.support import claim, success

CHAT = "/v1/chat/completions"


def job_fields(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": "demo", "parameters": {"temperature": 1.0}, "num_prompt_tokens": 3}
    return {**fields, "prompt": "a prompt", "metadata": {}, **changes}


def valid(number: int, **changes: Any) -> bytes:
    return dump_valid(number, f"line-{number}", CHAT, job_fields(**changes), number)


def invalid(number: int) -> bytes:
    return dump_invalid(number, None, "invalid_json", f"line {number}: not JSON", None)


def make_file(store: Store, num_lines: int, num_invalid: int = 0, *, owner: str = "", **changes: Any) -> str:
    fields: dict[str, Any] = {
        "purpose": "batch",
        "filename": "in.jsonl",
        "num_bytes": 100,
        "segments": [("inputs/one.jsonl", 100)],
        "num_lines": num_lines,
        "num_invalid": num_invalid,
        "urls": {CHAT: num_lines - num_invalid},
        "checked_object": "checked/one.jsonl",
    }
    return store.create_file(NewFile(**{**fields, **changes}), owner=owner).id


def new_batch(file_id: str, **changes: Any) -> NewBatch:
    fields: dict[str, Any] = {"completion_window": "1h", "window_seconds": 3600.0, "model": "demo"}
    return NewBatch(**{**fields, "input_file_id": file_id, "endpoint": CHAT, **changes})


def make_batch(store: Store, num_lines: int, num_invalid: int = 0, *, owner: str = "", **changes: Any) -> Batch:
    file_id = make_file(store, num_lines, num_invalid, owner=owner)
    return store.create_batch(new_batch(file_id, **changes), owner=owner)[0]


def checked_lines(num_lines: int, num_invalid: int = 0) -> list[CheckedLine]:
    """The lines of a checked file whose first ones cannot run."""
    written = [invalid(n) if n <= num_invalid else valid(n) for n in range(1, num_lines + 1)]
    return list(read([b"".join(written)]))


def take_in(store: Store, batch: Batch, lines: Sequence[CheckedLine]) -> None:
    """Take in lines, of which the last is the batch's last."""
    assert store.take_in(batch.id, lines, lines[-1].end, done=True)


def taken_batch(store: Store, num_lines: int, num_invalid: int = 0, **changes: Any) -> Batch:
    """A batch of a file, with all its lines taken in."""
    batch = make_batch(store, num_lines, num_invalid, **changes)
    take_in(store, batch, checked_lines(num_lines, num_invalid))
    return batch


def line_ids(store: Store, batch_id: str) -> list[str]:
    """The batch's jobs in the order of its lines."""
    return [job.id for job in store.list_jobs(batch_id=batch_id, limit=10_000)[0]][::-1]


def end_all(store: Store, batch_id: str, outcome: Outcome | None = None) -> None:
    """Run every line that waits to the same end."""
    waiting, _ = store.list_jobs(batch_id=batch_id, limit=10_000)
    refs = [claim(store, job.id).ref for job in waiting[::-1] if job.state not in ENDED]
    store.finish_many([(ref, outcome or success()) for ref in refs])


def write_files(store: Store, batch_id: str) -> None:
    """What the clerk does with ended lines: a segment for each sort that has any, then both cursors moved."""
    for kind in ("output", "error"):
        batch = store.get_batch(batch_id)[0]
        after = batch.output_cursor if kind == "output" else batch.error_cursor
        found = store.ended_lines(batch_id, after, 10_000, kind == "output")
        known = batch.output_file_id if kind == "output" else batch.error_file_id
        segment = None
        if found:
            start = store.get_file(known).num_bytes if known else 0
            file_id = known or f"file-{kind}-{batch_id[-12:]}-{batch.num_ends}"
            segment = NewSegment(file_id, start, 10 * len(found), len(found), f"outputs/{file_id}/{start}")
        assert store.append_output(batch_id, kind, segment, after=after, cursor=batch.num_ends)  # type: ignore[arg-type]


def failed(*, retryable: bool = False) -> Failed:
    return Failed("bad", "never", retryable)


def ref_of(store: Store, job_id: str) -> AttemptRef:
    return AttemptRef(job_id, store.get(job_id).attempt)
