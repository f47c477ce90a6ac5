"""From the body of `POST /v1/batches` to a batch: its request read, its file checked for the model that is served now.

A file is checked while it is uploaded; where another model is served since, its lines are checked once more. Calls
block; of a very long file for a while.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from api.checking import validated
from api.contents import Span, read_span
from api.errors import Refusal
from api.idempotency import CallTerms
from api.intake.checked_lines import CheckedLines
from api.key_ring import Identity
from api.models import ServedModel
from api.reading import check_id
from api.services import Services
from api.wire import BatchRequest
from jobs.checked import CheckedLine, read
from jobs.errors import InvalidRequest, NotFound
from jobs.files import Vault, checked_name
from jobs.records import NewBatch
from jobs.settings import Settings
from jobs.store import Store
from jobs.tables import Batch, File
from jobs.windows import window_seconds

MIN_WEIGHT, MAX_WEIGHT = 0.1, 10.0
MAX_LISTED = 1000
"""Lines whose error a batch that failed as a whole lists."""
INPUT = "batch"


def read_request(body: dict[str, Any], settings: Settings) -> NewBatch:
    """Check the body's form. Raises InvalidRequest."""
    request = validated(BatchRequest, body)
    window = request.completion_window
    seconds = None if window is None else window_seconds(window, settings.max_completion_window_seconds)
    metadata = request.metadata or {}
    return NewBatch(
        input_file_id=request.input_file_id,
        endpoint=request.endpoint,
        completion_window=window,
        window_seconds=seconds,
        metadata=metadata,
        weight=_weight(metadata),
        on_invalid=_on_invalid(metadata),
        output_order=_output_order(metadata),
        output_expires_after_seconds=request.output_expires_after.seconds if request.output_expires_after else None,
        model=settings.model_name,
    )


def make_batch(parts: Services, new: NewBatch, maker: Identity, terms: CallTerms) -> tuple[Batch, bool]:
    """Make the batch; True: an earlier call had made it.

    Raises InvalidRequest, NotFound, IdempotencyConflict, ModelUnknown, StorageUnavailable.
    """
    file = _input_file(parts.store, new.input_file_id, maker.sees)
    model = parts.catalog.served()
    if file.checked_model != model.fingerprint:
        check_again(parts, file, model)
    batch, replayed = parts.store.create_batch(new, owner=maker.owner, quota=maker.quota, **terms)
    if batch.failed_at is not None and not replayed:
        parts.store.fail_batch(batch.id, [*(batch.errors or ()), *_faults(parts, file.id, new.endpoint)])
    return batch, replayed


def _input_file(store: Store, file_id: str, owner: str | None) -> File:
    try:
        file = store.get_file(check_id("file", file_id), owner)
    except NotFound as error:
        message = f"input_file_id: no file has this id: {error.id!r}."
        raise Refusal(404, message, code="not_found", param="input_file_id") from None
    if file.purpose != INPUT:
        message = "input_file_id: the file's purpose is not 'batch'."
        raise InvalidRequest(message, param="input_file_id")
    return file


def check_again(parts: Services, file: File, model: ServedModel) -> None:
    """Check a stored file's lines for `model`, and note what that finds. The old findings are left to the sweep."""
    store, name = parts.store, checked_name(file.id)
    with parts.vault.writer(name) as checked:
        lines = CheckedLines(checked.write, model, parts.settings)
        for piece in read_span(Span(0, file.num_bytes), lambda: store.segments(file.id), parts.vault):
            lines.feed(piece)
        tally = lines.finish()
    store.set_checked(
        file.id,
        checked_object=name,
        checked_model=model.fingerprint,
        num_lines=tally.num_lines,
        num_invalid=tally.num_invalid,
        urls=tally.urls,
        tokens=tally.tokens,
    )


def _faults(parts: Services, file_id: str, endpoint: str) -> list[dict[str, Any]]:
    """The first lines that cannot run at the endpoint, and why."""
    name = parts.store.get_file(file_id).checked_object
    listed: list[dict[str, Any]] = []
    for line in _checked(parts.vault, name) if name else ():
        error = _fault(line, endpoint)
        if error is not None:
            listed.append({**error, "line": line.number})
        if len(listed) == MAX_LISTED:
            break
    return listed


def _checked(vault: Vault, name: str) -> Iterator[CheckedLine]:
    return read(vault.read(name))


def _fault(line: CheckedLine, endpoint: str) -> Mapping[str, Any] | None:
    if line.error is not None or line.url == endpoint:
        return line.error
    message = f"line {line.number}: url is {line.url}, the batch's endpoint is {endpoint}"
    return {"code": "url_mismatch", "message": message, "param": "url"}


def _weight(metadata: Mapping[str, str]) -> float:
    try:
        weight = float(metadata.get("weight", "1"))
    except ValueError:
        weight = math.nan
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        message = f"metadata.weight: must be a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}."
        raise InvalidRequest(message, param="metadata.weight")
    return weight


def _on_invalid(metadata: Mapping[str, str]) -> Literal["continue", "reject"]:
    match metadata.get("on_invalid", "continue"):
        case "continue":
            return "continue"
        case "reject":
            return "reject"
    raise InvalidRequest("metadata.on_invalid: must be 'reject' or 'continue'.", param="metadata.on_invalid")


def _output_order(metadata: Mapping[str, str]) -> Literal["completion", "input"]:
    match metadata.get("output_order", "completion"):
        case "completion":
            return "completion"
        case "input":
            return "input"
    raise InvalidRequest("metadata.output_order: must be 'input' or 'completion'.", param="metadata.output_order")
