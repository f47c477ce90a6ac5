"""Progress of batches: samples of how far they have come, their rates, and the time they still need.

The dispatcher takes the samples; the reckoning is in `jobs.store.pace`. What one answer costs does not depend on how
many lines a batch has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from jobs.errors import NotFound
from jobs.records import Rates
from jobs.states import JobState
from jobs.store import pace
from jobs.store.pace import Sample, Share
from jobs.store.scope import AnyRow, AnySelect, Scope
from jobs.tables import Batch, BatchSample, Job

SAMPLE_SECONDS = 5.0
"""How often the dispatcher asks for samples."""
MAX_SAMPLES = 120
"""Samples of a batch that are kept, the newest."""
MAX_SAMPLED = 500
"""Batches that one call samples: those that moved, longest unsampled first."""
MAX_BESIDE = 50
"""Batches beside one whose ends are reckoned with."""
LATELY_SECONDS = 60.0

NUM_ENDED: sa.ColumnElement[int] = Batch.num_succeeded + Batch.num_failed + Batch.num_cancelled + Batch.num_expired
_OPEN = sa.text("batches.ended_at IS NULL")


def sample(scope: Scope) -> int:
    """Note how far each open batch has come, where that changed since its newest sample; how many were noted.

    A batch that stands still makes no rows. When it moves again, a second row says how long it stood.
    """
    moved = _moved(scope)
    rows = [row for batch in moved for row in _samples_of(batch, scope.now)]
    if rows:
        scope.connection.execute(scope.insert(BatchSample).on_conflict_do_nothing(), rows)
        scope.connection.execute(_TRIM, [{"the_batch": batch.id} for batch in moved])
    return len(moved)


def _newest(column: Any) -> sa.ScalarSelect[Any]:
    query = sa.select(column).where(BatchSample.batch_id == Batch.id).order_by(BatchSample.at.desc()).limit(1)
    return query.correlate(Batch).scalar_subquery()


def _moved(scope: Scope) -> Sequence[AnyRow]:
    latest = (
        sa.select(
            Batch.id,
            NUM_ENDED.label("num_ended"),
            Batch.num_completion_tokens.label("num_tokens"),
            _newest(BatchSample.at).label("last_at"),
            _newest(BatchSample.num_ended).label("last_ended"),
            _newest(BatchSample.num_completion_tokens).label("last_tokens"),
        )
        .where(_OPEN, Batch.served_at.is_not(None))
        .subquery()
    )
    query = (
        sa.select(latest)
        .where(sa.or_(latest.c.last_at.is_(None), latest.c.last_ended != latest.c.num_ended))
        .order_by(latest.c.last_at.is_not(None), latest.c.last_at, latest.c.id)
    )
    return scope.connection.execute(query.limit(MAX_SAMPLED)).all()


def _samples_of(batch: AnyRow, now: datetime) -> list[dict[str, Any]]:
    rows = [_row(batch.id, now, batch.num_ended, batch.num_tokens)]
    before = now - timedelta(seconds=SAMPLE_SECONDS)
    if batch.last_at is not None and batch.last_at < before - timedelta(seconds=SAMPLE_SECONDS):
        rows.append(_row(batch.id, before, batch.last_ended, batch.last_tokens))
    return rows


def _row(batch_id: str, at: datetime, num_ended: int, num_tokens: int) -> dict[str, Any]:
    return {"batch_id": batch_id, "at": at, "num_ended": num_ended, "num_completion_tokens": num_tokens}


_OLDEST_KEPT = (
    sa.select(sa.literal_column("kept.at"))
    .select_from(sa.alias(BatchSample.__table__, "kept"))
    .where(sa.literal_column("kept.batch_id") == sa.bindparam("the_batch"))
    .order_by(sa.literal_column("kept.at").desc())
    .limit(1)
    .offset(MAX_SAMPLES - 1)
    .scalar_subquery()
)
_TRIM = sa.delete(BatchSample).where(BatchSample.batch_id == sa.bindparam("the_batch"), BatchSample.at < _OLDEST_KEPT)


def rates(scope: Scope, batch_id: str) -> Rates:
    """Rates and time left. Raises NotFound."""
    batch = scope.connection.execute(_batch_columns().where(Batch.id == batch_id)).one_or_none()
    if batch is None:
        raise NotFound("batch", batch_id)
    samples = _read_samples(scope, batch_id)
    if batch.ended_at is not None:
        return _whole_run(batch, samples)
    now = _seconds(scope.now)
    samples.append(Sample(max([now, *(sample.at for sample in samples)]), batch.num_ended, batch.num_tokens))
    present = pace.pace(samples)
    if present is None:
        return Rates()
    likely, late = pace.seconds_left(
        present,
        batch.num_total - batch.num_ended,
        _num_running(scope, batch_id),
        _relief(scope, batch, present.lines_per_second),
    )
    if batch.expires_at is not None:  # What has not run by then ends as expired.
        at_most = max(0.0, (batch.expires_at - scope.now).total_seconds())
        likely, late = min(likely, at_most), min(late, at_most)
    return Rates(present.lines_per_second, present.tokens_per_second, likely, late)


def _batch_columns() -> AnySelect:
    return sa.select(
        Batch.id,
        Batch.owner,
        Batch.weight,
        Batch.num_total,
        NUM_ENDED.label("num_ended"),
        Batch.num_completion_tokens.label("num_tokens"),
        Batch.created_at,
        Batch.ended_at,
        Batch.expires_at,
    )


def _seconds(instant: datetime) -> float:
    return instant.timestamp()


def _read_samples(scope: Scope, batch_id: str) -> list[Sample]:
    query = sa.select(BatchSample.at, BatchSample.num_ended, BatchSample.num_completion_tokens)
    query = query.where(BatchSample.batch_id == batch_id).order_by(BatchSample.at.desc()).limit(MAX_SAMPLES)
    found = [
        Sample(_seconds(row.at), row.num_ended, row.num_completion_tokens) for row in scope.connection.execute(query)
    ]
    return found[::-1]


def _whole_run(batch: AnyRow, samples: Sequence[Sample]) -> Rates:
    """From the first sample that is kept, where one was taken before anything ended; else from the beginning."""
    start = samples[0] if samples and samples[0].num_ended < batch.num_ended else None
    begun, num, tokens = (start.at, start.num_ended, start.num_tokens) if start else (_seconds(batch.created_at), 0, 0)
    seconds = _seconds(batch.ended_at) - begun
    if seconds <= 0:
        return Rates(eta_p50_seconds=0.0, eta_p90_seconds=0.0)
    return Rates((batch.num_ended - num) / seconds, max(0, batch.num_tokens - tokens) / seconds, 0.0, 0.0)


def _num_running(scope: Scope, batch_id: str) -> int:
    query = sa.select(sa.func.count()).where(Job.batch_id == batch_id, Job.state == JobState.RUNNING)
    return scope.connection.scalar(query) or 0


def _relief(scope: Scope, own: AnyRow, lines_per_second: float) -> float:
    """The part of the time that is left when the batches beside this one are done and leave it their shares."""
    weights = scope.settings.key_weights
    beside = [_share(row, _rate_of(row, scope.now), weights) for row in _beside(scope, own.id)]
    return pace.relief(_share(own, lines_per_second, weights), [share for share in beside if share.num_left > 0])


def _share(batch: AnyRow, lines_per_second: float, weights: Mapping[str, float]) -> Share:
    num_left = batch.num_total - batch.num_ended
    return Share(num_left, lines_per_second, batch.owner, weights.get(batch.owner, 1.0), batch.weight)


def _beside(scope: Scope, batch_id: str) -> Sequence[AnyRow]:
    """Other batches that were served lately, those with the least left first, each with a sample of a while ago."""
    lately = scope.now - timedelta(seconds=LATELY_SECONDS)

    def earlier(column: Any) -> Any:
        query = sa.select(column).where(BatchSample.batch_id == Batch.id, BatchSample.at >= lately)
        return query.order_by(BatchSample.at).limit(1).correlate(Batch).scalar_subquery()

    query = _batch_columns().add_columns(
        earlier(BatchSample.at).label("sampled_at"), earlier(BatchSample.num_ended).label("num_ended_then")
    )
    query = query.where(_OPEN, Batch.id != batch_id, Batch.served_at >= lately)
    return scope.connection.execute(query.order_by(Batch.num_total - NUM_ENDED, Batch.id).limit(MAX_BESIDE)).all()


def _rate_of(batch: AnyRow, now: datetime) -> float:
    if batch.sampled_at is None or now <= batch.sampled_at:
        return 0.0
    num = max(0, batch.num_ended - batch.num_ended_then)
    return float(num / (now - batch.sampled_at).total_seconds())
