"""The one task: claim a job, run it on the engine, store how it ended.

The message brings an id and nothing else; whether there is something to do the row says. Every way an attempt can
end is a value (`Outcome`), and one table maps the engine's reasons to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import stamina

from jobs import tracing
from jobs.errors import LeaseLost, QueueUnavailable, StoreRefused, StoreUnavailable
from jobs.events import Snapshot
from jobs.parameters import Parameters
from jobs.records import (
    AttemptRef,
    Cancelled,
    ClaimedJob,
    Expired,
    Failed,
    GenerationRecord,
    Interrupted,
    Outcome,
    Succeeded,
    recipe_id,
)
from jobs.reuse import fingerprint
from jobs.states import ENDED, FinishReason, JobState, Priority
from jobs.transcript import kept_of
from worker.broadcast import Broadcaster, storable
from worker.claims import Claims, ClaimWriter
from worker.company import Closed, Company
from worker.engine.engine import EngineStopped
from worker.engine.generation import (
    Completion,
    Generation,
    Prompt,
    Request,
    RowClass,
    Sampling,
    TextDelta,
    TokenLogprob,
)
from worker.leases import Lease, LeaseKeeper
from worker.metering import JobMeter
from worker.proof import ExactUnavailable, Proofs, class_for
from worker.results import ResultWriter
from worker.reuse import ROW_CLASSES, Keeps, kept, recipe_of

logger = logging.getLogger("penstock.tasks")

LEASE_LOST = "lease lost"
CLAIM_TRY_SECONDS = 5.0
"""How long a claim is tried against a database that is away. Then the message is let go: the row stays, and the
dispatcher publishes it again."""
SNAPSHOT_TRY_SECONDS = 5.0
"""How long a Redis that is away is waited for by an attempt that must know what readers have. Then it begins anew."""


class Submits(Protocol):
    """The part of the engine that takes requests. `failure` is set once it has died."""

    failure: BaseException | None

    def submit(self, request: Request) -> Generation: ...


class Encodes(Protocol):
    """The part of the vocabulary that a request needs."""

    def encode_text(self, text: str) -> Prompt: ...
    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> Prompt: ...
    def grammar(self, schema: Mapping[str, Any]) -> str: ...


class TellsState(Protocol):
    """The part of the event writer that tells states. Redis being away is its business, not ours."""

    def state(self, job_id: str, state: JobState, attempt: int) -> Any: ...
    def end(self, job_id: str, state: JobState) -> Any: ...
    def snapshot(self, job_id: str) -> Snapshot | None: ...
    def wake_dispatcher(self) -> Any: ...


class Shelf(Claims, Keeps, Protocol):
    """The part of the store that a task uses itself."""


@dataclass(slots=True)
class Desk:
    """What a task works with; one for the whole worker."""

    worker: str
    model: str
    store: Shelf
    engine: Submits
    vocabulary: Encodes
    recipe: Mapping[str, Any]
    """Without the row class, which each completion brings."""
    leases: LeaseKeeper
    claims: ClaimWriter
    results: ResultWriter
    proofs: Proofs
    broadcaster: Broadcaster
    events: TellsState
    company: Company = field(default_factory=Company)
    on_engine_failure: Callable[[], None] = field(default=lambda: None)
    meter: JobMeter = field(default_factory=JobMeter)
    owners_share: bool = False
    """Whether jobs of different owners share the beginnings of their prompts."""


def run_job(job_id: str, desk: Desk, *, at_once: bool = True) -> str:
    """Run one attempt of a job, if there is one to run. Returns a word on how it went, for Flower. `at_once`: whether
    somebody waits for it, as far as its message says."""
    with desk.leases.watch(job_id) as lease:
        try:
            with desk.company.together():
                job = _claim(lease, desk, in_company=True, at_once=at_once)
                if job is not None:
                    return _run(job, lease, desk)
            if _runs_alone(job_id, desk):
                with desk.company.alone():
                    job = _claim(lease, desk, in_company=False)
                    if job is not None:
                        return _run(job, lease, desk)
        except Closed:
            logger.debug("%s is left to another worker: this one drains.", job_id)
        return "not taken"


def _run(job: ClaimedJob, lease: Lease, desk: Desk) -> str:
    desk.meter.began(job)
    outcome = _attempt(job, lease, desk)
    said = LEASE_LOST if lease.lost else _finish(job, outcome, desk)
    if said == LEASE_LOST:
        desk.meter.lost()
    return said


def _on_demand(job: ClaimedJob) -> bool:
    """Whether the job's events go out only while somebody follows it."""
    return job.priority == Priority.BATCH


def _runs_alone(job_id: str, desk: Desk) -> bool:
    try:
        return desk.store.runs_alone(job_id)
    except StoreUnavailable:
        return False  # the dispatcher publishes it again


def _claim(lease: Lease, desk: Desk, *, in_company: bool, at_once: bool = True) -> ClaimedJob | None:
    try:
        return _claimed(lease, desk, in_company=in_company, at_once=at_once)
    except StoreUnavailable:
        return _claim_patiently(lease, desk, in_company=in_company)


def _claim_patiently(lease: Lease, desk: Desk, *, in_company: bool) -> ClaimedJob | None:
    try:
        for attempt in stamina.retry_context(on=StoreUnavailable, attempts=None, timeout=CLAIM_TRY_SECONDS, wait_max=1):
            with attempt:
                job = _claimed(lease, desk, in_company=in_company)
    except StoreUnavailable:
        logger.warning("%s cannot be claimed, the database is away; it will be published again.", lease.job_id)
        return None
    return job


def _claimed(lease: Lease, desk: Desk, *, in_company: bool, at_once: bool = True) -> ClaimedJob | None:
    asked_at = time.monotonic()
    if in_company:
        job = desk.claims.claim(lease.job_id, at_once=at_once)
    else:
        job = desk.store.claim(lease.job_id, desk.worker)
    if job is not None:
        lease.hold(job, asked_at)
    return job


def _attempt(job: ClaimedJob, lease: Lease, desk: Desk) -> Outcome:
    if job.model != desk.model:
        return Failed("model_mismatch", "The job went to a worker that holds another model.", retryable=True)
    try:
        return _answer(job, lease, desk)
    except ExactUnavailable as error:
        return Failed("exact_unavailable", str(error), retryable=True)  # another worker's machine may keep it
    except EngineStopped:
        return Interrupted()
    except ValueError as error:
        return Failed("invalid_request", _one_line(error), retryable=False)
    except Exception as error:  # its text may hold the prompt: only its kind is told
        logger.error("%s could not be run: %s", job.ref.job_id, type(error).__name__)
        return Failed("internal_error", f"The worker could not run it ({type(error).__name__}).", retryable=False)


def _answer(job: ClaimedJob, lease: Lease, desk: Desk) -> Outcome:
    """From the store where the caller allows it and the same is there; else from the engine."""
    before = _told_before(job, desk)
    realm = "" if desk.owners_share else job.owner
    request = build_request(job, desk.vocabulary, desk.proofs, before, realm=realm)
    known = kept(desk.store, job, request, knobs=_knobs(job), recipe=desk.recipe, proofs=desk.proofs)
    desk.broadcaster.open(
        request.id,
        job.ref,
        on_demand=_on_demand(job),
        recipe_of=lambda delta: _recipe_id(delta, request, desk),
        before=before,
    )
    try:
        if known is not None:
            desk.broadcaster.deltas([_told_at_once(request, known)])
            desk.meter.reused()
            return Succeeded(replace(known, continuity={**(known.continuity or {}), **_kept(before, known.completion)}))
        completion = _generate(request, lease, desk)
    finally:
        desk.broadcaster.close(request.id)
    desk.meter.completed(job, completion)
    return outcome_of(completion, request, job, desk.recipe, desk.proofs, before=before)


def _recipe_id(told: TextDelta, request: Request, desk: Desk) -> str:
    """Id of the recipe that a text will be stored with, as soon as there is some of it."""
    return recipe_id(recipe_of(desk.recipe, told.row_class, exact=_is_exact(told, request, desk.proofs)))


def _is_exact(told: TextDelta | Completion, request: Request, proofs: Proofs) -> bool:
    """Whether a text's bits are proven to depend on nothing else. Not of one that goes on behind an earlier attempt's
    tokens: their cells were prefilled."""
    return bool(proofs.get(told.row_class)) and told.isolated and not request.taken_over


def _generate(request: Request, lease: Lease, desk: Desk) -> Completion:
    generation = desk.engine.submit(request)
    lease.attach(generation)
    completion = generation.wait()
    if desk.engine.failure is not None:
        desk.on_engine_failure()
    assert completion is not None  # noqa: S101  `wait` without a timeout
    return completion


def _told_before(job: ClaimedJob, desk: Desk) -> Snapshot | None:
    """What an earlier attempt had told readers; None where nothing is known of it."""
    if job.ref.number == 1:
        return None
    try:
        return _snapshot_patiently(job.ref.job_id, desk)
    except QueueUnavailable:
        logger.warning("What readers of %s have is not known, Redis is away; they will start over.", job.ref.job_id)
        return None


@stamina.retry(on=QueueUnavailable, attempts=None, timeout=SNAPSHOT_TRY_SECONDS, wait_max=0.5)
def _snapshot_patiently(job_id: str, desk: Desk) -> Snapshot | None:
    return desk.events.snapshot(job_id)


def _finish(job: ClaimedJob, outcome: Outcome, desk: Desk) -> str:
    """Store the end, and tell it after the commit."""
    ref = job.ref
    try:
        with tracing.span("store"):
            state = _store(ref, outcome, desk, at_once=not _on_demand(job))
    except LeaseLost:
        return LEASE_LOST
    except StoreUnavailable:
        logger.error("The end of %s could not be stored before the worker stopped; it will run again.", ref.job_id)
        return "not stored"
    if state not in ENDED:
        desk.events.state(ref.job_id, state, ref.number)
        desk.events.wake_dispatcher()
    elif _on_demand(job):
        desk.broadcaster.ended(ref.job_id, state)
    else:
        desk.events.end(ref.job_id, state)
    return str(state)


def _store(ref: AttemptRef, outcome: Outcome, desk: Desk, *, at_once: bool) -> JobState:
    try:
        return desk.results.finish(ref, outcome, at_once=at_once)
    except StoreRefused as error:  # another try would make the same row
        logger.error("The end of %s cannot be stored: %s", ref.job_id, error)
        refused = Failed("store_refused", "The database refused the result.", retryable=False)
        return desk.results.finish(ref, refused)


def build_request(
    job: ClaimedJob, vocabulary: Encodes, proofs: Proofs, before: Snapshot | None = None, *, realm: str = ""
) -> Request:
    """The engine's request for a job. `before`: what an earlier attempt had told; `realm`: `Request.realm`.

    A job that is to be exact is generated again, as it was; any other goes on behind what readers have already.
    Raises ValueError, with the field's name, for what it cannot run.
    """
    knobs = _knobs(job)
    prompt = (
        vocabulary.encode_chat(job.messages) if job.messages is not None else vocabulary.encode_text(job.prompt or "")
    )
    left = job.seconds_to_deadline
    return Request(
        id=f"{job.ref.job_id}/{job.ref.number}",
        prompt=prompt,
        sampling=_sampling(knobs, job.seed, vocabulary),
        max_tokens=knobs.max_tokens,
        stop=knobs.stop,
        num_logprobs=knobs.logprobs,
        deadline=None if left is None else time.monotonic() + left,
        row_class=_row_class(job, knobs, proofs, before),
        interactive=job.priority == Priority.INTERACTIVE,
        exact=knobs.exact is not False,
        taken_over=_taken_over(job, knobs, before),
        realm=realm,
    )


def _knobs(job: ClaimedJob) -> Parameters:
    return Parameters.model_validate({**job.parameters, "seed": job.seed})


def _told_at_once(request: Request, known: GenerationRecord) -> TextDelta:
    row_class = known.recipe["row_class"]
    return TextDelta(request.id, known.completion, len(known.completion), tuple(known.completion_token_ids), row_class)


def _row_class(job: ClaimedJob, knobs: Parameters, proofs: Proofs, before: Snapshot | None) -> RowClass | None:
    """A replay runs as its original did, and an attempt as the one before whose text it is to make again. Whether
    that is exact here the comparison shows."""
    wanted = job.row_class or (before.row_class if before is not None else None)
    for row_class in ROW_CLASSES:
        if wanted == row_class and row_class in proofs:
            return row_class
    return class_for(knobs.exact, proofs)


def _taken_over(job: ClaimedJob, knobs: Parameters, before: Snapshot | None) -> tuple[int, ...]:
    """Tokens to go on behind. None for one that is to be exact (lines of batches are, unless they say otherwise), or
    whose logprobs are wanted: those of the tokens before are gone."""
    exact = knobs.exact if knobs.exact is not None else job.priority == Priority.BATCH or job.row_class is not None
    if before is None or exact or knobs.logprobs is not None:
        return ()
    return before.token_ids[: knobs.max_tokens]


def continuity_of(request: Request, completion: Completion, before: Snapshot | None) -> dict[str, Any] | None:
    """How an attempt took up what the one before had told: where it went on, or whether it said the same again; and
    how many code points of what each earlier attempt told the text begins with, for readers that come back."""
    if before is None:
        return None
    tokens = before.token_ids
    told: dict[str, Any] = {
        "from_attempt": before.attempt,
        "tokens": len(tokens),
        **_kept(before, storable(completion.text)),
    }
    if request.taken_over:
        return {"mode": "continued", **told}
    return {"mode": "regenerated", **told, "matches": completion.token_ids[: len(tokens)] == tokens}


def _kept(before: Snapshot | None, text: str) -> dict[str, Any]:
    """How much of what each earlier attempt told `text` begins with; nothing where none had told any."""
    if before is None:
        return {}
    numbers = kept_of(text, before.attempt, before.text, before.kept)
    return {"kept": {str(attempt): num for attempt, num in numbers.items()}}


def _sampling(knobs: Parameters, seed: int, vocabulary: Encodes) -> Sampling:
    schema = knobs.response_format.schema_body if knobs.response_format else None
    return Sampling(
        seed=seed,
        temperature=knobs.temperature,
        top_p=knobs.top_p,
        top_k=knobs.top_k,
        min_p=knobs.min_p,
        repeat_penalty=knobs.repeat_penalty,
        repeat_last_n=knobs.repeat_last_n,
        logit_bias={int(token): bias for token, bias in knobs.logit_bias.items()},
        grammar=None if schema is None else vocabulary.grammar(schema),
    )


_OUTCOMES: dict[str, Callable[[GenerationRecord, Completion], Outcome]] = {
    "stop": lambda record, _: Succeeded(record),
    "length": lambda record, _: Succeeded(record),
    "cancelled": lambda record, _: Cancelled(record),
    "expired": lambda record, _: Expired(record),
    "interrupted": lambda *_: Interrupted(),
    "failed": lambda _, completion: Failed("engine_failed", completion.error or "The engine failed.", retryable=True),
}


def outcome_of(
    completion: Completion,
    request: Request,
    job: ClaimedJob,
    recipe: Mapping[str, Any],
    proofs: Proofs,
    *,
    before: Snapshot | None = None,
) -> Outcome:
    """What a completion means for its job. Its recipe says whether it is exact, whoever asked."""
    reason = completion.finish_reason
    waited = {name: job.seconds_queued + completion.timings[name] for name in ("queued", "first_token", "total")}
    exact = _is_exact(completion, request, proofs)
    whole = reason in ("stop", "length")
    record = GenerationRecord(
        completion=storable(completion.text),
        finish_reason=FinishReason(reason) if whole else None,
        prompt_token_ids=request.prompt.token_ids,
        completion_token_ids=completion.token_ids,
        recipe=recipe_of(recipe, completion.row_class, exact=exact),
        fingerprint=fingerprint(request.prompt.token_ids, _knobs(job), job.seed) if whole and exact else None,
        continuity=continuity_of(request, completion, before),
        timings={**completion.timings, **waited},
        logprobs=None if completion.logprobs is None else [_logprob(entry) for entry in completion.logprobs],
    )
    return _OUTCOMES[reason](record, completion)


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [_logprob_of(*candidate) for candidate in entry.top]
    return {**_logprob_of(entry.token_id, entry.piece, entry.logprob), "top": top}


def _logprob_of(token_id: int, piece: bytes, logprob: float) -> dict[str, Any]:
    """`token` is for people; `bytes` is exact, for a token may be part of a character."""
    token = storable(piece.decode(errors="replace"))
    return {"token_id": token_id, "token": token, "bytes": list(piece), "logprob": logprob}


def _one_line(error: ValueError) -> str:
    """The message of an error about a field. pydantic's own repeats the input, so only the fields are named."""
    problems = getattr(error, "errors", None)
    if callable(problems):
        return "; ".join(".".join(map(str, problem["loc"])) + ": " + problem["msg"] for problem in problems())
    return str(error).splitlines()[0][:500] if str(error) else "The request is not valid."
