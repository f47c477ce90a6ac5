"""A batch's row as the object of the wire: its status and its times. Shapes only; reads nothing."""

from __future__ import annotations

from datetime import datetime

from api.shapes import unix
from api.wire import BatchFault, BatchFaults, BatchObject, BatchStatus, BatchUsage, EtaSeconds, RequestCounts
from jobs.records import BatchCounts, Rates
from jobs.states import JobState
from jobs.tables import Batch

FINAL: frozenset[BatchStatus] = frozenset({"failed", "completed", "expired", "cancelled"})
"""Nothing more happens to a batch, unless somebody retries it or adds to it."""

UNKNOWN = Rates()


def batch_status(batch: Batch) -> BatchStatus:
    """Where a batch stands. One made from a file has ended when its files are whole; any other with its last job."""
    if batch.failed_at is not None:
        return "failed"
    if batch.cancel_requested_at is not None:
        return "cancelling" if _closed_at(batch) is None else "cancelled"
    if batch.ended_at is None:
        untouched = batch.input_file_id is not None and batch.taken_at is None and batch.num_taken == 0
        return "validating" if untouched else "in_progress"
    if _closed_at(batch) is None:
        return "finalizing"
    return "expired" if _ran_out(batch) else "completed"


def batch_object(batch: Batch, counts: BatchCounts, rates: Rates = UNKNOWN) -> BatchObject:
    """A batch in OpenAI's shape, and its pace as far as that is known."""
    status, closed = batch_status(batch), unix(_closed_at(batch))
    by_state = {state: counts.by_state.get(state, 0) for state in JobState}
    created = int(batch.created_at.timestamp())
    begun = status not in {"validating", "failed"}
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        status=status,
        errors=_faults(batch),
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=created,
        in_progress_at=created if begun else None,
        expires_at=unix(batch.expires_at),
        finalizing_at=unix(batch.ended_at) if begun and batch.input_file_id else None,
        completed_at=closed if status == "completed" else None,
        failed_at=unix(batch.failed_at),
        expired_at=closed if status == "expired" else None,
        cancelling_at=unix(batch.cancel_requested_at),
        cancelled_at=closed if status == "cancelled" else None,
        request_counts=_request_counts(batch.num_total, by_state),
        usage=_usage(batch),
        metadata=batch.job_metadata,
        counts=by_state,
        lines_per_second=_rounded(rates.lines_per_second),
        tokens_per_second=_rounded(rates.tokens_per_second),
        eta_seconds=_eta(rates),
        weight=batch.weight,
        events_url=f"/v1/batches/{batch.id}/events",
    )


def _eta(rates: Rates) -> EtaSeconds | None:
    p50, p90 = rates.eta_p50_seconds, rates.eta_p90_seconds
    return None if p50 is None or p90 is None else EtaSeconds(p50=round(p50, 1), p90=round(p90, 1))


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 3)


def _closed_at(batch: Batch) -> datetime | None:
    if batch.ended_at is None:
        return None
    return batch.ended_at if batch.input_file_id is None else batch.finalized_at


def _ran_out(batch: Batch) -> bool:
    """Whether the window expired lines; without one, lines with deadlines of their own make no batch expired."""
    return batch.num_expired > 0 and batch.expires_at is not None


def _request_counts(num_total: int, by_state: dict[JobState, int]) -> RequestCounts:
    return RequestCounts(
        total=num_total,
        completed=by_state[JobState.SUCCEEDED],
        failed=by_state[JobState.FAILED] + by_state[JobState.EXPIRED],
    )


def _usage(batch: Batch) -> BatchUsage:
    prompt, completion = batch.num_prompt_tokens, batch.num_completion_tokens
    return BatchUsage(input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion)


def _faults(batch: Batch) -> BatchFaults | None:
    if not batch.errors:
        return None
    return BatchFaults(data=[BatchFault.model_validate(error) for error in batch.errors])
