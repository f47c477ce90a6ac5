"""What tests of batches make them from: a checked input in the vault, its rows, and ends of its lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from jobs.checked import dump_invalid, dump_valid
from jobs.files import Vault, checked_name, input_name
from jobs.ids import new_file_id
from jobs.records import Cancelled, Expired, Failed, NewBatch, NewFile, Outcome
from jobs.states import JobState
from jobs.store import Store
from jobs.tables import Batch
from tests.jobs.support import claim, make_record, success

CHAT = "/v1/chat/completions"


def valid(number: int, **job: Any) -> bytes:
    fields = {"model": "demo", "parameters": {"temperature": 1.0}, "num_prompt_tokens": 3, "prompt": f"prompt {number}"}
    return dump_valid(number, f"line-{number}", CHAT, {**fields, **job}, number)


def invalid(number: int) -> bytes:
    return dump_invalid(number, f"line-{number}", "invalid_json", f"line {number}: no JSON", None)


def make_file(store: Store, vault: Vault, lines: Iterable[bytes], **changes: Any) -> str:
    """An input file of these checked lines. Its own bytes are of no interest here."""
    file_id = new_file_id()
    checked, num_lines, num_invalid = checked_name(file_id), 0, 0
    with vault.writer(checked) as out:
        for line in lines:
            out.write(line)
            num_lines += 1
            num_invalid += b'"error":' in line
    with vault.writer(input_name(file_id)) as out:
        out.write(b"as it came\n")
    new = NewFile(
        purpose="batch",
        filename="input.jsonl",
        num_bytes=11,
        segments=[(input_name(file_id), 11)],
        num_lines=num_lines,
        num_invalid=num_invalid,
        urls={CHAT: num_lines - num_invalid},
        checked_object=checked,
        checked_model="a" * 64,
        **changes,
    )
    store.create_file(new, file_id=file_id)
    return file_id


def make_batch(store: Store, vault: Vault, lines: Iterable[bytes], **changes: Any) -> str:
    fields: dict[str, Any] = {
        "input_file_id": make_file(store, vault, lines),
        "endpoint": CHAT,
        "completion_window": "24h",
        "window_seconds": 86400.0,
        "model": "demo",
    }
    return store.create_batch(NewBatch(**{**fields, **changes}))[0].id


def batch_of(store: Store, batch_id: str) -> Batch:
    return store.get_batch(batch_id)[0]


def ids_in(store: Store, batch_id: str, *states: JobState) -> list[str]:
    """Ids of the batch's jobs in these states, in the order of its lines."""
    found: list[str] = []
    for state in states or JobState:
        jobs, more = store.list_jobs(state=state, batch_id=batch_id, limit=10_000)
        assert not more
        found += [job.id for job in jobs]
    return sorted(found)


def queued(store: Store, batch_id: str) -> list[str]:
    return ids_in(store, batch_id, JobState.QUEUED)


def end(store: Store, job_ids: Iterable[str], outcome: Outcome | None = None) -> None:
    """Run these jobs to their end."""
    for number, job_id in enumerate(job_ids):
        store.finish(claim(store, job_id).ref, outcome or success(f"text {number} of {job_id}\u2028"))


FAILED = Failed("engine_failed", "The engine failed.", retryable=False)
CUT_SHORT = Expired(make_record("as far as it c", finish_reason=None))
STOPPED = Cancelled(make_record("as far as", finish_reason=None))


def content(store: Store, vault: Vault, file_id: str | None) -> bytes:
    """A file's bytes, as a reader gets them. Fails if its segments leave a gap or overlap."""
    if file_id is None:
        return b""
    pieces: list[bytes] = []
    position = 0
    for segment in store.segments(file_id):
        assert segment.start_byte == position
        pieces.append(b"".join(vault.read(segment.object_name, 0, segment.num_bytes)))
        assert len(pieces[-1]) == segment.num_bytes
        position += segment.num_bytes
    data = b"".join(pieces)
    assert store.get_file(file_id).num_bytes == len(data)
    return data


def documents(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def check_files(store: Store, vault: Vault, batch_id: str) -> tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]:
    """Exactly one line for each ended job, in the right file, that says what the row says. Answers both files."""
    batch = batch_of(store, batch_id)
    output = documents(content(store, vault, batch.output_file_id))
    errors = documents(content(store, vault, batch.error_file_id))
    for documents_, states in (
        (output, (JobState.SUCCEEDED,)),
        (errors, (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)),
    ):
        told = [document["penstock"]["job_id"] for document in documents_]
        assert sorted(told) == ids_in(store, batch_id, *states)
    for document in output:
        text = document["response"]["body"]["choices"][0]["message"]["content"]
        generation = store.get_generation(document["penstock"]["job_id"])
        assert generation is not None
        assert text == generation.completion
    for file_id, found in ((batch.output_file_id, output), (batch.error_file_id, errors)):
        assert file_id is None or store.get_file(file_id).num_lines == len(found)
    assert store.audit() == []
    return output, errors
