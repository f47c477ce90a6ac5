"""Jobs and batches read whole, for one caller: the rows that make an object, fetched together. Calls block."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from api.batch_shapes import FINAL, UNKNOWN, batch_object
from api.checking import Submission
from api.shapes import accepted_row, excerpt_of, job_object
from api.wire import BatchObject, BatchPage, JobObject, JobPage, ReplayObject
from jobs.errors import Deleted, InvalidRequest, NotFound, StoreUnavailable
from jobs.states import ENDED, JobState
from jobs.store import Store
from jobs.store.waiting import seconds_to_poll_batch
from jobs.tables import Job

_IDS = {
    "job": re.compile("job_[0-9a-f]{32}"),
    "batch": re.compile("batch_[0-9a-f]{32}"),
    "file": re.compile("file-[0-9a-f]{32}"),
    "webhook": re.compile("webhook_[0-9a-f]{32}"),
    "delivery": re.compile("delivery_[0-9a-f]{32}"),
}
_BEGINNING = re.compile("(job_[0-9a-f]{0,32})?")
MAX_SHOWN_ID = 64
FINALIZING_SECONDS = 1
"""When to ask again for a batch whose lines have all ended: its files are as good as whole."""


def check_id(kind: str, id: str) -> str:  # noqa: A002
    """An id of the right form; any other names nothing, and some (a NUL) would trip the database."""
    if not _IDS[kind].fullmatch(id):
        raise NotFound(kind, id[:MAX_SHOWN_ID].encode("ascii", "replace").decode())
    return id


def read_job(store: Store, job_id: str, owner: str | None) -> JobObject:
    """The whole job, its attempts and its place in the queue. Raises NotFound, StoreUnavailable."""
    return _whole(store, store.get(check_id("job", job_id), owner=owner))


def poll_job(store: Store, job_id: str, owner: str | None) -> tuple[JobObject, int | None]:
    """The same, and in how many seconds it pays to ask again; None: it has ended. Raises the same."""
    job = store.get(check_id("job", job_id), owner=owner)
    return _whole(store, job), store.poll_after_seconds(job)


def _whole(store: Store, job: Job) -> JobObject:
    generation = store.get_generation(job.id) if job.state in ENDED else None
    position = store.queue_position(job) if job.state == JobState.QUEUED else None
    found = job_object(job, generation, store.attempts(job.id), position)
    found.replay = _replay(store, job)
    return found


def _replay(store: Store, job: Job) -> ReplayObject | None:
    verdict = store.replay_verdict(job)
    return None if verdict is None else ReplayObject.model_validate(verdict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs a page lists; `excerpt`: code points of a text at most, None: all of it."""

    state: JobState | None = None
    batch_id: str | None = None
    id_prefix: str = ""
    limit: int = 20
    after: str | None = None
    excerpt: int | None = None


def read_page(store: Store, owner: str | None, wanted: Wanted) -> JobPage:
    """One page, newest first. Attempts and queue positions are left out."""
    if wanted.batch_id is not None:
        store.get_batch(check_id("batch", wanted.batch_id), owner)
    if not _BEGINNING.fullmatch(wanted.id_prefix):
        raise InvalidRequest("id_prefix: must be 'job_' and hexadecimal digits.", param="id_prefix")
    _check_cursor(store, wanted.after, wanted.batch_id, owner)
    rows, has_more = store.list_jobs(
        state=wanted.state,
        batch_id=wanted.batch_id,
        limit=wanted.limit,
        after=wanted.after,
        owner=owner,
        id_prefix=wanted.id_prefix,
    )
    data = [excerpt_of(job, wanted.excerpt) for job in _listed(store, rows)]
    ids = [job.id for job in rows]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return JobPage(data=data, first_id=first, last_id=last, has_more=has_more)


def _check_cursor(store: Store, after: str | None, batch_id: str | None, owner: str | None) -> None:
    if after is None:
        return
    try:
        job = store.get(check_id("job", after), owner=owner)
    except Deleted:
        return  # by whoever goes from page to page and deletes what they show
    except NotFound:
        raise InvalidRequest("after: no job has this id.", param="after") from None
    if batch_id not in (None, job.batch_id):
        raise InvalidRequest("after: this job is not in the batch.", param="after")


def _listed(store: Store, rows: Sequence[Job]) -> list[JobObject]:
    """Jobs with the text of those that have ended: two queries, however many they are."""
    texts = store.generations([job.id for job in rows if job.state in ENDED])
    return [job_object(job, texts.get(job.id)) for job in rows]


@contextmanager
def cursor_of(kind: str, after: str | None) -> Iterator[str | None]:
    """A listing's cursor: what it finds wrong with it is a wrong parameter, not a missing object."""
    try:
        yield None if after is None else check_id(kind, after)
    except NotFound:
        raise InvalidRequest(f"after: no {kind} has this id.", param="after") from None


def read_batch(store: Store, batch_id: str, owner: str | None) -> BatchObject:
    """A batch, its counts, and what is known of its pace. Raises NotFound, StoreUnavailable."""
    batch, counts = store.get_batch(check_id("batch", batch_id), owner=owner)
    return batch_object(batch, counts, store.batch_rates(batch.id))


def poll_batch(store: Store, batch_id: str, owner: str | None) -> tuple[BatchObject, int | None]:
    """The same, and in how many seconds it pays to ask again; None: nothing more happens. Raises the same."""
    batch, counts = store.get_batch(check_id("batch", batch_id), owner=owner)
    rates = store.batch_rates(batch.id)
    seen = batch_object(batch, counts, rates)
    return seen, None if seen.status in FINAL else seconds_to_poll_batch(batch, rates) or FINALIZING_SECONDS


def read_batches(
    store: Store, owner: str | None, limit: int, after: str | None, *, with_rates: bool = False
) -> BatchPage:
    """A page of batches, newest first; `with_rates` reckons the pace of those that have not ended. Raises NotFound for
    a cursor that names none."""
    rows, has_more = store.list_batches(owner, limit, after)
    counts = store.counts_of(rows)
    rates = {row.id: store.batch_rates(row.id) for row in rows if with_rates and row.ended_at is None}
    data = [batch_object(row, counts[row.id], rates.get(row.id, UNKNOWN)) for row in rows]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return BatchPage(data=data, first_id=first, last_id=last, has_more=has_more)


def accepted(store: Store, ids: Sequence[str], submission: Submission, batch_id: str | None) -> list[JobObject]:
    """The jobs that a submit has stored, in its order.

    They are accepted whether or not they can be read back: with the database gone since, the answer is made from the
    request, because an error would make the caller send them again.
    """
    try:
        return _read_back(store, ids, batch_id)
    except StoreUnavailable:
        now = datetime.now(UTC)
        rows = (accepted_row(job_id, job, batch_id, now) for job_id, job in zip(ids, submission.jobs, strict=True))
        return [job_object(row) for row in rows]


def _read_back(store: Store, ids: Sequence[str], batch_id: str | None) -> list[JobObject]:
    """A fresh batch is one query; what that has not found is read one by one."""
    found: dict[str, Job] = {}
    if batch_id is not None:
        rows, _ = store.list_jobs(batch_id=batch_id, limit=len(ids))
        found = {job.id: job for job in rows}
    return _listed(store, [found.get(job_id) or store.get(job_id) for job_id in ids])
