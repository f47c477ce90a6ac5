"""The one task, with a stand-in engine: every way an attempt can end, and what is told in which order."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import stamina

from jobs.errors import LeaseLost, QueueUnavailable, StoreRefused, StoreUnavailable
from jobs.events import Snapshot, TextEvent
from jobs.records import (
    AttemptRef,
    Cancelled,
    ClaimedJob,
    Expired,
    Failed,
    GenerationRecord,
    Interrupted,
    Outcome,
    Renewal,
    Succeeded,
    recipe_id,
)
from jobs.states import FinishReason, JobState, Priority
from tests.support.stand_in_engine import StandInEngine, StandInVocabulary
from tests.worker.test_leases import claimed
from worker import tasks
from worker.broadcast import Broadcaster
from worker.claims import ClaimWriter
from worker.engine.generation import Completion, TokenLogprob
from worker.leases import LeaseKeeper
from worker.proof import Proofs
from worker.results import ResultWriter
from worker.tasks import Desk, build_request, outcome_of, run_job

STATES = {
    Succeeded: JobState.SUCCEEDED,
    Cancelled: JobState.CANCELLED,
    Expired: JobState.EXPIRED,
    Interrupted: JobState.QUEUED,
    Failed: JobState.FAILED,
}

PROVEN: Proofs = {"tile": True, "lone": True}


class World:
    """Store and events in one list, so that order can be seen."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.pieces: list[str] = []
        self.jobs: dict[str, ClaimedJob] = {}
        self.outcomes: list[Outcome] = []
        self.away = False
        self.shelf_away = False
        self.lost = False
        self.refused = False
        self.last_attempts: set[str] = set()
        self.snapshots: dict[str, Snapshot] = {}
        self.kept: dict[str, GenerationRecord] = {}
        """By fingerprint."""

    def runs_alone(self, job_id: str) -> bool:
        return job_id in self.last_attempts

    def claim(self, job_id: str, worker: str, *, in_company: bool = False) -> ClaimedJob | None:
        if self.away:
            raise StoreUnavailable("away")
        return None if in_company and job_id in self.last_attempts else self.jobs.pop(job_id, None)

    def claim_many(self, job_ids: Collection[str], worker: str) -> dict[str, ClaimedJob]:
        claimed = {job_id: self.claim(job_id, worker, in_company=True) for job_id in job_ids}
        return {job_id: job for job_id, job in claimed.items() if job is not None}

    def renew(self, refs: Sequence[AttemptRef], worker: str) -> Renewal:
        return Renewal(frozenset(), frozenset(refs), frozenset())

    def finish_many(self, ends: Sequence[tuple[AttemptRef, Outcome]]) -> list[JobState | LeaseLost]:
        if self.refused and isinstance(ends[0][1], Succeeded):
            raise StoreRefused("ck_generations_finish_reason")
        self.outcomes += [outcome for _, outcome in ends]
        self.told.append(("stored",))
        return [LeaseLost(ref.job_id, ref.number) if self.lost else STATES[type(outcome)] for ref, outcome in ends]

    def text(self, events: list[TextEvent]) -> bool:
        self.told += [("text", event.job_id, event.seq) for event in events]
        self.pieces += [event.delta for event in events]
        return True

    def state(self, job_id: str, state: JobState, attempt: int) -> None:
        self.told.append(("state", job_id, str(state), attempt))

    def end(self, job_id: str, state: JobState) -> None:
        self.told.append(("end", job_id, str(state)))

    def snapshot(self, job_id: str) -> Snapshot | None:
        return self.snapshots.get(job_id)

    def reusable(self, job_id: str, fingerprint: str, recipe_ids: Collection[str]) -> GenerationRecord | None:
        if self.shelf_away:
            raise StoreUnavailable("away")
        record = self.kept.get(fingerprint)
        return record if record is not None and recipe_id(record.recipe) in recipe_ids else None

    def wake_dispatcher(self) -> None:
        self.told.append(("wake",))


@dataclass
class Room:
    world: World
    engine: StandInEngine
    desk: Desk

    def run(self, job: ClaimedJob, steps: int = 3) -> str:
        """Run a job on a thread of its own, and move the engine."""
        self.world.jobs[job.ref.job_id] = job
        said: list[str] = []
        thread = threading.Thread(target=lambda: said.append(run_job(job.ref.job_id, self.desk)))
        thread.start()
        assert self.engine.submitted.acquire(timeout=20)
        for _ in range(steps):
            self.engine.step()
        thread.join(20)
        assert said, "the task did not end"
        return said[0]


@pytest.fixture
def room() -> Iterator[Room]:
    world = World()
    claims = ClaimWriter(world, "worker")
    claims.start()
    results = ResultWriter(world)
    results.start()
    broadcaster = Broadcaster(world, 0.05)
    engine = StandInEngine(["ice", "hockey"], broadcaster.deltas)
    leases = LeaseKeeper(world, "worker", 30.0)
    yield Room(
        world,
        engine,
        Desk(
            worker="worker",
            model="demo",
            store=world,
            engine=engine,
            vocabulary=StandInVocabulary(),
            recipe={"build": "x"},
            proofs=PROVEN,
            leases=leases,
            claims=claims,
            results=results,
            broadcaster=broadcaster,
            events=world,
        ),
    )
    claims.stop()
    results.close(5)
    assert leases.num_held == 0, "every stay ends"


def test_a_job_runs_to_a_stored_generation(room: Room) -> None:
    assert room.run(replace(claimed("a"), seconds_queued=2.0)) == "succeeded"
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Succeeded)
    record = outcome.generation
    assert (record.completion, record.finish_reason) == ("ice hockey ", FinishReason.STOP)
    assert (record.prompt_token_ids, record.completion_token_ids) == ((120,), (0, 1, 2))
    assert record.recipe == {"build": "x", "row_class": "lone", "exact": True}
    assert record.timings["queued"] == 2.5


def test_text_comes_before_the_commit_and_the_end_event_after_it(room: Room) -> None:
    room.run(claimed("a", 2))
    assert room.world.told == [
        ("state", "a", "running", 2),
        ("text", "a", 11),
        ("stored",),
        ("end", "a", "succeeded"),
    ]


def test_a_message_without_a_job_to_run_is_a_duplicate(room: Room) -> None:
    assert run_job("a", room.desk) == "not taken"
    assert room.world.told == []


def test_a_database_that_stays_away_lets_the_message_go(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CLAIM_TRY_SECONDS", 0.2)
    room.world.away = True
    assert run_job("a", room.desk) == "not taken"


def test_a_last_attempt_waits_until_nobody_else_runs(room: Room) -> None:
    room.world.last_attempts.add("a")
    room.world.jobs["a"] = claimed("a")
    with room.desk.company.together():
        thread = threading.Thread(target=run_job, args=("a", room.desk))
        thread.start()
        assert not room.engine.submitted.acquire(timeout=0.2)
        assert "a" in room.world.jobs, "not even claimed"
    assert room.engine.submitted.acquire(timeout=20)
    for _ in range(3):
        room.engine.step()
    thread.join(20)
    assert isinstance(room.world.outcomes[0], Succeeded)


def test_a_drain_leaves_a_waiting_last_attempt_to_another_worker(room: Room) -> None:
    room.world.last_attempts.add("a")
    room.world.jobs["a"] = claimed("a")
    room.desk.company.close()
    assert run_job("a", room.desk) == "not taken"
    assert "a" in room.world.jobs


def test_a_cancel_keeps_the_text_so_far(room: Room) -> None:
    cancels = iter([lambda: None, lambda: room.desk.leases.cancel("a"), lambda: None])
    step = room.engine.step
    room.engine.step = lambda: (next(cancels)(), step())  # type: ignore[method-assign,assign,return-value]
    assert room.run(claimed("a")) == "cancelled"
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Cancelled)
    assert outcome.generation is not None
    assert (outcome.generation.completion, outcome.generation.finish_reason) == ("ice ", None)


def test_an_interrupted_job_is_queued_again_and_the_dispatcher_woken(room: Room) -> None:
    step = room.engine.step
    room.engine.step = lambda: (room.desk.leases.interrupt_all(), step())  # type: ignore[method-assign,assign,return-value]
    assert room.run(claimed("a"), steps=1) == "queued"
    assert room.world.outcomes == [Interrupted()]
    assert room.world.told[-2:] == [("state", "a", "queued", 1), ("wake",)]


def test_a_lost_lease_drops_the_result(room: Room) -> None:
    step = room.engine.step
    room.engine.step = lambda: (room.desk.leases.renew(), step())  # type: ignore[method-assign,assign,return-value]
    assert room.run(claimed("a"), steps=1) == "lease lost"
    assert room.world.outcomes == []


def test_a_result_refused_as_stale_tells_nobody_an_end(room: Room) -> None:
    room.world.lost = True
    assert room.run(claimed("a")) == "lease lost"
    assert room.world.told[-1] == ("stored",)


def test_a_result_that_the_database_refuses_ends_the_job_as_failed(room: Room) -> None:
    room.world.refused = True
    assert room.run(claimed("a")) == "failed"
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.retryable) == ("store_refused", False)


def test_a_nul_is_streamed_and_stored_as_the_same_other_character(room: Room) -> None:
    room.engine.words = ["a\0b"]
    room.run(claimed("a"))
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Succeeded)
    assert outcome.generation.completion == "a\ufffdb "
    assert room.world.pieces == ["a\ufffdb "]


def test_a_dead_engine_fails_the_job_for_another_try_and_ends_the_worker(room: Room) -> None:
    ended: list[bool] = []
    room.desk.on_engine_failure = lambda: ended.append(True)
    room.engine.step = lambda: room.engine.fail(RuntimeError("native"))  # type: ignore[method-assign]
    room.run(claimed("a"), steps=1)
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.retryable, ended) == ("engine_failed", True, [True])


def test_a_stopped_engine_gives_the_job_back(room: Room) -> None:
    room.engine.stop()
    room.world.jobs["a"] = claimed("a")
    assert run_job("a", room.desk) == "queued"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"parameters": {"temperature": -1}}, "temperature"),
        ({"prompt": None, "messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ],
)
def test_what_cannot_run_fails_for_good_and_names_the_field(room: Room, change: dict[str, Any], named: str) -> None:
    room.world.jobs["a"] = replace(claimed("a"), **change)
    assert run_job("a", room.desk) == "failed"
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.retryable) == ("invalid_request", False)
    assert named in outcome.message


def test_an_unforeseen_error_fails_for_good_and_does_not_tell_the_prompt(
    room: Room, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_on(text: str) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(room.desk.vocabulary, "encode_text", break_on)
    room.world.jobs["a"] = replace(claimed("a"), prompt="secret")
    run_job("a", room.desk)
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.retryable) == ("internal_error", False)
    assert "secret" not in outcome.message + caplog.text


def test_a_job_for_another_model_is_not_run_on_this_one(room: Room) -> None:
    room.world.jobs["a"] = replace(claimed("a"), model="another")
    run_job("a", room.desk)
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.retryable) == ("model_mismatch", True)


def test_every_parameter_reaches_the_engine() -> None:
    parameters = {
        "temperature": 0.5,
        "max_tokens": 7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repeat_penalty": 1.3,
        "repeat_last_n": 32,
        "stop": ["\n"],
        "logit_bias": {"17": -5},
        "logprobs": 3,
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object", "title": "x"}}},
    }
    job = replace(claimed("a"), parameters=parameters, seed=11, seconds_to_deadline=5.0, priority=Priority.BATCH)
    request = build_request(job, StandInVocabulary(), PROVEN)
    sampling = request.sampling
    assert (sampling.seed, sampling.temperature, sampling.top_p, sampling.top_k) == (11, 0.5, 0.9, 40)
    assert (sampling.min_p, sampling.repeat_penalty, sampling.repeat_last_n) == (0.1, 1.3, 32)
    assert (sampling.logit_bias, sampling.grammar) == ({17: -5}, "root ::= 2")
    assert (request.max_tokens, request.stop, request.num_logprobs) == (7, ("\n",), 3)
    assert request.deadline is not None
    assert request.interactive is False


@pytest.mark.parametrize(("owners_share", "realm"), [(False, "ada"), (True, "")])
def test_beginnings_are_an_owners_unless_everyone_shares(room: Room, owners_share: bool, realm: str) -> None:
    realms: set[str] = set()
    step = room.engine.step
    room.engine.step = lambda: (realms.update(each.request.realm for each, _ in room.engine.live), step())  # type: ignore[method-assign,assign,return-value]
    room.desk.owners_share = owners_share
    room.run(replace(claimed("a"), owner="ada"))
    assert realms == {realm}


def test_logprobs_are_stored_with_exact_bytes(room: Room) -> None:
    request = build_request(claimed("a"), StandInVocabulary(), PROVEN)
    live = room.engine.submit(request)
    room.engine.end(live, "é", "expired")
    completion = live.wait(0)
    assert completion is not None
    entry = TokenLogprob(5, b"\xc3", -0.1, top=((6, b"a", -0.2),))
    outcome = outcome_of(replace(completion, logprobs=[entry]), request, claimed("a"), {}, {})
    room.engine.live.clear()
    assert isinstance(outcome, Expired)
    assert outcome.generation is not None
    assert outcome.generation.logprobs == [
        {
            "token_id": 5,
            "token": "\ufffd",
            "bytes": [195],
            "logprob": -0.1,
            "top": [{"token_id": 6, "token": "a", "bytes": [97], "logprob": -0.2}],
        }
    ]


BEFORE = Snapshot(attempt=1, text="ice ho", token_ids=(3, 4, 5), row_class="lone")


@pytest.mark.parametrize(
    ("parameters", "priority", "taken"),
    [
        ({}, Priority.INTERACTIVE, (3, 4, 5)),
        ({"max_tokens": 2}, Priority.INTERACTIVE, (3, 4)),
        ({"exact": False}, Priority.BATCH, (3, 4, 5)),
        ({"exact": True}, Priority.INTERACTIVE, ()),
        ({}, Priority.BATCH, ()),
        ({"logprobs": 0}, Priority.INTERACTIVE, ()),
    ],
)
def test_the_next_attempt_goes_on_behind_what_was_told_unless_it_is_exact(
    parameters: dict[str, Any], priority: Priority, taken: tuple[int, ...]
) -> None:
    job = replace(claimed("a", number=2), parameters=parameters, priority=priority)
    request = build_request(job, StandInVocabulary(), PROVEN, BEFORE)
    assert request.taken_over == taken
    assert request.row_class == "lone"  # as the attempt before, whatever is free


def test_a_text_whose_prompt_had_company_is_not_called_exact_where_that_is_not_proven() -> None:
    job = claimed("a")
    request = build_request(job, StandInVocabulary(), PROVEN)  # type: ignore[arg-type]
    timings = {"queued": 0.0, "first_token": 0.0, "total": 0.0}
    for isolated in (True, False):
        completion = Completion("ice", (1,), "stop", 1, "tile", timings, isolated=isolated)
        outcome = outcome_of(completion, request, job, {}, PROVEN)
        assert isinstance(outcome, Succeeded)
        assert outcome.generation.recipe["exact"] is isolated


def test_a_text_that_was_taken_up_says_so_and_is_not_called_exact(room: Room) -> None:
    room.world.snapshots["a"] = BEFORE
    room.run(claimed("a", number=2))
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Succeeded)
    told = {"mode": "continued", "from_attempt": 1, "tokens": 3, "kept": {"1": 6}}
    assert outcome.generation.continuity == told
    assert outcome.generation.recipe["exact"] is False


@pytest.mark.parametrize("same", [True, False])
def test_a_text_that_was_generated_again_says_whether_it_is_the_same(room: Room, same: bool) -> None:
    job = replace(claimed("a", number=2), parameters={"exact": True})
    request = build_request(job, StandInVocabulary(), PROVEN, BEFORE)
    live = room.engine.submit(request)
    room.engine.end(live, "ice", "stop")
    completion = live.wait(0)
    assert completion is not None
    tokens = (*BEFORE.token_ids, 9) if same else (3, 9, 5)
    outcome = outcome_of(replace(completion, token_ids=tokens), request, job, {}, PROVEN, before=BEFORE)
    room.engine.live.clear()
    assert isinstance(outcome, Succeeded)
    told = {"mode": "regenerated", "from_attempt": 1, "tokens": 3, "kept": {"1": 3}, "matches": same}
    assert outcome.generation.continuity == told
    assert outcome.generation.recipe["exact"] is True


def test_what_readers_have_is_asked_for_through_a_short_outage(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception | Snapshot] = [QueueUnavailable("away"), QueueUnavailable("away"), BEFORE]

    def snapshot(_: str) -> Snapshot:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(room.world, "snapshot", snapshot)
    room.run(claimed("a", number=2))
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Succeeded)
    assert (outcome.generation.continuity or {})["mode"] == "continued"


def test_where_redis_stays_away_the_next_attempt_begins_anew(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> Snapshot:
        raise QueueUnavailable("away")

    monkeypatch.setattr(room.world, "snapshot", away)
    with stamina.set_testing(True, attempts=2):
        room.run(claimed("a", number=2))
    (outcome,) = room.world.outcomes
    assert isinstance(outcome, Succeeded)
    assert outcome.generation.continuity is None


def reusing(room: Room, job_id: str, **parameters: Any) -> ClaimedJob:
    """What the job `first` made is on the shelf; the same job again, which allows that it is used."""
    room.run(replace(claimed("first"), **parameters))
    record = room.world.outcomes[-1].generation  # type: ignore[union-attr]
    room.world.kept[record.fingerprint] = replace(record, continuity={"mode": "reused", "of": "first"})
    room.world.told.clear()
    return replace(claimed(job_id), parameters={**claimed(job_id).parameters, "reuse": True})


def test_a_job_that_allows_it_is_answered_with_what_it_would_come_to(room: Room) -> None:
    again = reusing(room, "a")
    room.world.jobs["a"] = again
    assert run_job("a", room.desk) == "succeeded", "the engine took no step"
    first, second = (outcome.generation for outcome in room.world.outcomes if isinstance(outcome, Succeeded))
    assert (second.completion, second.completion_token_ids) == (first.completion, first.completion_token_ids)
    assert second.continuity == {"mode": "reused", "of": "first"}
    assert second.timings["decode"] == 0.0
    assert [told[0] for told in room.world.told] == ["state", "text", "stored", "end"]


@pytest.mark.parametrize(
    ("change", "proofs"),
    [
        ({"parameters": {"reuse": False}}, PROVEN),
        ({"seed": 8}, PROVEN),
        ({"row_class": "lone"}, PROVEN),
        ({}, {"tile": True, "lone": False}),
    ],
)
def test_anything_else_is_generated(room: Room, change: dict[str, Any], proofs: Proofs) -> None:
    """Another wish or seed; a replay, which is to show that it comes out the same; a class that is not proven here."""
    again = replace(reusing(room, "a"), **change)
    room.desk.proofs = proofs
    assert room.run(again) == "succeeded"
    assert room.world.outcomes[-1].generation.continuity is None  # type: ignore[union-attr]


def test_with_the_database_away_it_is_generated(room: Room) -> None:
    again = reusing(room, "a")
    room.world.shelf_away = True
    assert room.run(again) == "succeeded"
    assert room.world.outcomes[-1].generation.continuity is None  # type: ignore[union-attr]
