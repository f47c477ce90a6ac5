"""The store's methods for batches, those made from files above all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from jobs.checked import CheckedLine
from jobs.ends import EndedLine
from jobs.keys import Quota
from jobs.records import BatchCounts, NewBatch, NewSegment
from jobs.states import JobState
from jobs.store import batches, cancelling, numbering, quotas, reading, retrying, taking
from jobs.store.door import Door
from jobs.store.idempotency import Call
from jobs.store.scope import AnyRow, Scope
from jobs.tables import Batch

MAX_BATCHES = 100
"""Batches that one sweep looks after, of each kind of work."""
CANCEL_CHUNKS = 4
"""Chunks of waiting lines that one sweep cancels, of all batches together."""


class BatchDoor(Door):
    """Batches. `owner=None` means anybody's; another owner's batches are NotFound."""

    def create_batch(
        self,
        new: NewBatch,
        *,
        owner: str = "",
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        silent_retry: bool = False,
        quota: Quota | None = None,
    ) -> tuple[Batch, bool]:
        """Make a batch of a file's lines; the clerk takes them in. True: an earlier call had made it.

        A file of which no line can run, or (`on_invalid` `reject`) not every line, makes a batch that has failed
        already, with one error that gives the numbers; `fail_batch` may list the lines then.

        Raises:
            NotFound: no such file of this owner.
            InvalidRequest: the file is no input, or the metadata cannot be stored.
            IdempotencyConflict: the key was used with another body.
            LimitExceeded: more than the owner's `quota`.
        """
        call = Call(idempotency_key, body_sha256, silent_retry)
        with self._writing() as scope:
            batch_id, replayed = batches.create(scope, new, owner=owner, call=call, quota=quota)
            return reading.get_batch(scope, batch_id, owner)[0], replayed

    def fail_batch(self, batch_id: str, errors: Sequence[Mapping[str, Any]]) -> bool:
        """Refuse a batch as a whole, or list why it was refused; False when lines of it were taken in."""
        with self._writing() as scope:
            return batches.refuse(scope, batch_id, errors)

    def get_batch(self, batch_id: str, owner: str | None = None) -> tuple[Batch, BatchCounts]:
        """A batch and its jobs by state. Raises NotFound."""
        with self._reading() as scope:
            return reading.get_batch(scope, batch_id, owner)

    def list_batches(
        self, owner: str | None = None, limit: int = 20, after: str | None = None
    ) -> tuple[list[Batch], bool]:
        """A page of batches, newest first, and whether more follow. Raises NotFound for a cursor of nobody's."""
        with self._reading() as scope:
            return batches.page(scope, owner=owner, limit=limit, after=after)

    def counts_of(self, page: Collection[Batch]) -> dict[str, BatchCounts]:
        """The jobs by state of each batch of a page, in one query."""
        with self._reading() as scope:
            return reading.counts_of(scope, page)

    # What the clerk does

    def unfinished_batches(self) -> list[Batch]:
        """Batches made from files that have lines to take in, to run, or to write out; the oldest first."""
        with self._reading() as scope:
            return batches.unfinished(scope)

    def take_in(self, batch_id: str, lines: Sequence[CheckedLine], next_byte: int, *, done: bool) -> bool:
        """Make rows of the next lines (`taking.CHUNK` of them is a good number), durable with the progress they make.

        `next_byte` is the end of the last line, `done` says that the file has no more. Lines that cannot run are
        born as failed jobs; those of a batch that was cancelled or is over are born cancelled or expired. False: it
        is not the batch's next chunk, another clerk was faster, or the batch has failed.

        Raises:
            InvalidRequest: the file has another number of lines than were counted; nothing was taken.
        """
        with self._reading() as scope:
            chunk = taking.prepare(scope, batch_id, lines)
        # A commit that SQLite loses with the power takes the batch's place in the file along: it is done again.
        with self._writing(durable=False) as scope:
            return taking.take_in(scope, batch_id, chunk, next_byte, done=done)

    def ended_lines(
        self, batch_id: str, after: int = 0, limit: int = 100, succeeded: bool | None = None
    ) -> list[EndedLine]:
        """Ended lines past the end numbered `after`, in the order of their ends; of one sort, or all."""
        with self._reading() as scope:
            return batches.ended_lines(scope, batch_id, after=after, limit=limit, succeeded=succeeded)

    def lines_in_order(
        self, batch_id: str, after_line: int = -1, limit: int = 100, succeeded: bool | None = None
    ) -> list[EndedLine]:
        """Ended lines past the line `after_line`, in the order of the input."""
        with self._reading() as scope:
            return batches.lines_in_order(scope, batch_id, after_line=after_line, limit=limit, succeeded=succeeded)

    def append_output(
        self,
        batch_id: str,
        kind: Literal["output", "error"],
        segment: NewSegment | None,
        *,
        after: int,
        cursor: int,
    ) -> bool:
        """Move the file's cursor from `after` to `cursor`, and add the stored segment that covers the ends between,
        if they made any line. The first segment makes the file, with the id that the segment names.

        False: the cursor or the file is not where the caller thinks; nothing was changed, the segment is nobody's.
        """
        with self._writing() as scope:
            return batches.append(scope, batch_id, kind, segment, after=after, cursor=cursor)

    def finalize(self, batch_id: str) -> bool:
        """Close a batch whose lines have all ended and whose files cover every end. False: it is not so far, or was
        closed already."""
        with self._writing() as scope:
            return batches.finalize(scope, batch_id)

    # What people ask for

    def cancel_batch(self, batch_id: str, owner: str | None = None) -> BatchCounts:
        """Mark the batch, so that nothing of it is dispatched; end its lines with a message out and a chunk of the
        others, ask its running ones to end. The sweep ends the rest. The counts after that."""
        with self._writing() as scope:
            cancelling.check_owner(scope, Batch, batch_id, owner)
            cancelling.request_batch(scope, batch_id)
        self._cancel_chunk(batch_id)
        return self.get_batch(batch_id, owner)[1]

    def _cancel_chunk(self, batch_id: str) -> list[AnyRow]:
        with self._writing() as scope:
            return cancelling.cancel_lines(scope, batch_id) if cancelling.marked(scope, batch_id) else []

    def _cancel_marked(self) -> list[AnyRow]:
        """Go on with the batches that somebody cancelled: a bounded number of chunks, the oldest batch first."""
        with self._reading() as scope:
            marked = cancelling.batches_half_cancelled(scope, MAX_BATCHES)
        cancelled: list[AnyRow] = []
        num_chunks = 0
        for batch_id in marked:
            while num_chunks < CANCEL_CHUNKS:
                chunk = self._cancel_chunk(batch_id)
                if not chunk:
                    break
                cancelled += chunk
                num_chunks += 1
        return cancelled

    def retry_batch(self, batch_id: str, owner: str | None = None, *, quota: Quota | None = None) -> int:
        """Queue the batch's failed and expired lines again, with a whole budget and a new window; how many.

        Lines that were not valid stay failed. The batch is open again; it gets another error file. May be called
        again when it was interrupted.

        Raises:
            NotFound: no such batch of this owner.
            InvalidRequest: it was cancelled, or refused as a whole.
            LimitExceeded: more than its owner's `quota`.
        """
        with self._writing() as scope:
            cancelling.check_owner(scope, Batch, batch_id, owner)
            quotas.admit_again(scope, batch_id, quota)
            retrying.begin(scope, batch_id)
        num_retried = sum(self._retry(batch_id, state) for state in (JobState.FAILED, JobState.EXPIRED))
        after: int | None = -1
        while after is not None:
            with self._writing() as scope:
                after = retrying.extend_deadlines(scope, batch_id, after)
        return num_retried

    def _retry(self, batch_id: str, state: JobState) -> int:
        num_retried, after = 0, -1
        while True:
            with self._writing() as scope:
                number, last = retrying.retry_lines(scope, batch_id, state, after)
            num_retried += number
            if last is None:
                return num_retried
            after = last

    # Repair

    def _number_ends(self, find: Callable[[Scope, int], Sequence[str]] = numbering.behind) -> None:
        """Number the ends that older code left without, a chunk of each such batch."""
        with self._reading() as scope:
            behind = find(scope, MAX_BATCHES)
        for batch_id in behind:
            with self._writing() as scope:
                scope.lock_batches([batch_id])
                numbering.number_some(scope, batch_id)
