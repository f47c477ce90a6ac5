"""Proven reuse: a job that allows it is answered with a stored generation that this worker would make again, bit for
bit. Same owner, prompt, parameters and seed, and the very recipe of this worker with a row class that is exact here.

Knows fingerprints and recipes; no statement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol, get_args

from jobs.errors import StoreUnavailable
from jobs.parameters import Parameters
from jobs.records import ClaimedJob, GenerationRecord, recipe_id
from jobs.reuse import fingerprint
from worker.engine.generation import Request, RowClass
from worker.proof import Proofs

ROW_CLASSES: tuple[RowClass, ...] = get_args(RowClass)


class Keeps(Protocol):
    """The part of the store that finds stored generations."""

    def reusable(self, job_id: str, fingerprint: str, recipe_ids: Collection[str]) -> GenerationRecord | None: ...


def recipe_of(recipe: Mapping[str, Any], row_class: RowClass, *, exact: bool) -> dict[str, Any]:
    """The whole recipe of a generation: the worker's, and how its rows ran."""
    return {**recipe, "row_class": row_class, "exact": exact}


def kept(
    store: Keeps, job: ClaimedJob, request: Request, *, knobs: Parameters, recipe: Mapping[str, Any], proofs: Proofs
) -> GenerationRecord | None:
    """A generation to answer with; None where the caller wants none, nothing is exact, or there is none."""
    if not knobs.reuse or job.row_class is not None:
        return None
    classes = [request.row_class] if request.row_class is not None else ROW_CLASSES
    exact = [recipe_id(recipe_of(recipe, row_class, exact=True)) for row_class in classes if proofs.get(row_class)]
    if not exact:
        return None
    try:
        found = store.reusable(job.ref.job_id, fingerprint(request.prompt.token_ids, knobs, job.seed), exact)
    except StoreUnavailable:
        return None  # generating needs no database until its end
    if found is None:
        return None
    waited = job.seconds_queued
    timings = {"queued": waited, "prefill": 0.0, "first_token": waited, "decode": 0.0, "total": waited}
    return replace(found, timings=timings)
