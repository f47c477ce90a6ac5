"""Samples, rates and time left of batches, in the databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from jobs.errors import NotFound
from jobs.records import Rates, Succeeded
from jobs.store import Store, progress
from jobs.tables import Batch, BatchSample
from tests.jobs.support import Clock, make_line, make_record, make_settings


def submit(store: Store, num: int, **changes: object) -> str:
    return str(store.submit([make_line() for _ in range(num)], new_batch=True, **changes).batch_id)  # type: ignore[arg-type]


def run_lines(store: Store, batch_id: str, num: int) -> None:
    """Dispatch and end the next lines of one batch."""
    ids = [job.id for job in store.list_jobs(batch_id=batch_id, limit=10_000)[0] if job.state == "queued"]
    chosen = ids[::-1][:num]
    store.mark_published(chosen)
    refs = [claimed.ref for job_id in chosen if (claimed := store.claim(job_id, "worker-1"))]
    store.finish_many([(ref, Succeeded(make_record())) for ref in refs])


def go_on(store: Store, clock: Clock, rounds: int, *paces: tuple[str, int]) -> None:
    """Rounds of five seconds, each ending so many lines of each batch."""
    for _ in range(rounds):
        clock.move(5)
        for batch_id, num in paces:
            run_lines(store, batch_id, num)
        store.sample_batches()


def samples(store: Store, batch_id: str) -> list[tuple[float, int, int]]:
    query = sa.select(BatchSample.at, BatchSample.num_ended, BatchSample.num_completion_tokens)
    with store.engine.begin() as connection:
        rows = connection.execute(query.where(BatchSample.batch_id == batch_id).order_by(BatchSample.at)).all()
    return [((row.at - rows[0].at).total_seconds(), row.num_ended, row.num_completion_tokens) for row in rows]


def begin(store: Store, batch_id: str) -> None:
    """Dispatch its first lines, and note that nothing has ended."""
    store.mark_published(store.to_publish().batch)
    store.sample_batches()


def test_a_batch_is_sampled_from_its_first_dispatch_on(store: Store, clock: Clock) -> None:
    batch_id = submit(store, 50)
    assert store.sample_batches() == 0
    begin(store, batch_id)
    go_on(store, clock, 2, (batch_id, 3))
    assert samples(store, batch_id) == [(0, 0, 0), (5, 3, 6), (10, 6, 12)]


def test_a_batch_that_stands_still_makes_no_rows_and_says_later_how_long_it_stood(store: Store, clock: Clock) -> None:
    batch_id = submit(store, 50)
    begin(store, batch_id)
    go_on(store, clock, 1, (batch_id, 3))
    go_on(store, clock, 100)
    assert len(samples(store, batch_id)) == 2
    go_on(store, clock, 1, (batch_id, 2))
    assert samples(store, batch_id) == [(0, 0, 0), (5, 3, 6), (505, 3, 6), (510, 5, 10)]


def test_only_the_newest_samples_are_kept(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = submit(store, 300)
    begin(store, batch_id)
    go_on(store, clock, 130, (batch_id, 1))
    kept = samples(store, batch_id)
    assert len(kept) == progress.MAX_SAMPLES
    assert kept[-1][1] == 130


def test_of_very_many_batches_each_is_sampled_in_its_turn(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MAX_SAMPLED", 2)
    batches = [submit(store, 20) for _ in range(5)]
    store.mark_published(store.to_publish().batch)
    go_on(store, clock, 2, *((batch_id, 1) for batch_id in batches))
    assert sum(bool(samples(store, batch_id)) for batch_id in batches) == 4
    go_on(store, clock, 4, *((batch_id, 1) for batch_id in batches))
    assert {samples(store, batch_id)[-1][1] > 2 for batch_id in batches} == {True}


def test_two_samples_of_one_instant_are_one(store: Store) -> None:
    batch_id = submit(store, 5)
    begin(store, batch_id)
    run_lines(store, batch_id, 1)
    store.sample_batches()
    assert len(samples(store, batch_id)) == 1


def test_rates_and_time_left_come_from_what_was_measured(store: Store, clock: Clock) -> None:
    batch_id = submit(store, 400)
    assert store.batch_rates(batch_id) == Rates()
    begin(store, batch_id)
    go_on(store, clock, 20, (batch_id, 10))
    rates = store.batch_rates(batch_id)
    assert rates.lines_per_second == pytest.approx(2.0)
    assert rates.tokens_per_second == pytest.approx(4.0)
    assert rates.eta_p50_seconds == pytest.approx(100, rel=0.05)
    assert rates.eta_p90_seconds is not None
    assert 105 < rates.eta_p90_seconds < 140


def test_an_estimate_is_of_now_and_not_of_the_last_sample(store: Store, clock: Clock) -> None:
    batch_id = submit(store, 400)
    begin(store, batch_id)
    go_on(store, clock, 20, (batch_id, 10))
    clock.move(4)
    run_lines(store, batch_id, 8)
    rates = store.batch_rates(batch_id)
    assert rates.lines_per_second == pytest.approx(2.0)
    assert rates.eta_p50_seconds == pytest.approx(96, rel=0.05)


def test_a_batch_that_nobody_works_on_has_no_end_in_sight(store: Store, clock: Clock) -> None:
    batch_id = submit(store, 400)
    begin(store, batch_id)
    go_on(store, clock, 20, (batch_id, 10))
    clock.move(600)
    assert store.batch_rates(batch_id) == Rates()
    go_on(store, clock, 6, (batch_id, 10))
    assert store.batch_rates(batch_id).lines_per_second == pytest.approx(2.0)


def test_a_window_that_ends_sooner_ends_the_batch(store: Store, clock: Clock) -> None:
    batch_id = submit(store, 400)
    begin(store, batch_id)
    go_on(store, clock, 10, (batch_id, 10))
    with store.engine.begin() as connection:
        ends = clock.now.replace(minute=clock.now.minute + 1)
        connection.execute(sa.update(Batch).where(Batch.id == batch_id).values(expires_at=ends))
    rates = store.batch_rates(batch_id)
    assert (rates.eta_p50_seconds, rates.eta_p90_seconds) == (60.0, 60.0)


def test_a_batch_that_will_be_done_before_leaves_its_share(store: Store, clock: Clock) -> None:
    """Both at two lines a second; in 25 seconds the short one is done, and 250 of the long one go at four."""
    long, short = submit(store, 400), submit(store, 150)
    begin(store, long)
    go_on(store, clock, 10, (long, 10), (short, 10))
    rates = store.batch_rates(long)
    assert rates.eta_p50_seconds == pytest.approx(25 + 250 / 4, rel=0.05)
    assert rates.eta_p90_seconds is not None
    assert rates.eta_p90_seconds > 150  # which counts on nobody


def test_the_weights_of_keys_say_who_gets_a_share_that_is_left(store: Store, clock: Clock) -> None:
    store.settings = make_settings(key_weights={"a": 3.0})
    long, short = submit(store, 400, owner="b"), submit(store, 350, owner="a")
    begin(store, long)
    go_on(store, clock, 10, (long, 5), (short, 15))
    rates = store.batch_rates(long)
    assert rates.eta_p50_seconds == pytest.approx(200 / 3 + (350 - 200 / 3) / 4, rel=0.05)


def test_an_ended_batch_has_the_rates_of_its_run(store: Store, clock: Clock) -> None:
    batch_id = submit(store, 40)
    clock.move(1000)
    begin(store, batch_id)
    go_on(store, clock, 4, (batch_id, 10))
    clock.move(1000)
    assert store.batch_rates(batch_id) == Rates(2.0, 4.0, 0.0, 0.0)


def test_rates_of_a_batch_that_ended_before_it_was_sampled(store: Store, clock: Clock) -> None:
    batch_id = submit(store, 4)
    clock.move(2)
    run_lines(store, batch_id, 4)
    assert store.batch_rates(batch_id) == Rates(2.0, 4.0, 0.0, 0.0)


def test_a_batch_that_ended_the_moment_it_was_made_has_no_rate(store: Store) -> None:
    batch_id = submit(store, 1)
    run_lines(store, batch_id, 1)
    assert store.batch_rates(batch_id) == Rates(None, None, 0.0, 0.0)


def test_no_batch_no_rates(store: Store) -> None:
    with pytest.raises(NotFound):
        store.batch_rates("batch_none")
