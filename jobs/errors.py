"""What can go wrong in the domain.

    PenstockError
    ├── InvalidRequest          bad input; names the field and the limit         (never retry)
    ├── NotFound                no such object, or not yours                     (never retry)
    │   └── Deleted             there was one, and its owner deleted it          (never retry)
    ├── NotEnded                the job is queued or running                     (retry helps, later)
    ├── IdempotencyConflict     the key was used with another body               (never retry)
    ├── LimitExceeded           an owner has as much open as it may              (retry helps, unless alone)
    ├── LeaseLost               the attempt no longer holds its job              (never retry)
    ├── QueueUnavailable        Redis cannot be reached or is full               (retry helps)
    ├── StoreUnavailable        the database cannot be reached, or is full       (retry helps)
    ├── StorageUnavailable      the disk or object store of files cannot serve   (retry helps)
    ├── StoreRefused            a rule of the database refused: a defect of ours (never retry)
    └── ModelUnknown            no worker has announced the model yet            (retry helps)

No message holds a prompt or a completion.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Root of the tree. `retryable`: whether the same call can succeed later."""

    retryable = False
    code = "internal_error"


class InvalidRequest(PenstockError):
    """A request that can never run. `param`: the field, dotted (`parameters.top_p`, `messages[0].role`)."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class NotFound(PenstockError):
    """`kind` is the sort of object (`job`, `batch`), `id` what was asked for."""

    code = "not_found"

    def __init__(self, kind: str, id: str) -> None:  # noqa: A002
        super().__init__(f"No {kind} with the id {id!r}.")
        self.kind = kind
        self.id = id


class Deleted(NotFound):
    """Said to those only who could see the object while it was there."""

    code = "deleted"

    def __init__(self, kind: str, id: str) -> None:  # noqa: A002
        super().__init__(kind, id)
        self.args = (f"The {kind} {id!r} was deleted.",)


class NotEnded(PenstockError):
    """What was asked for can only be done to a job that has ended; `job_id` is `state`."""

    retryable = True
    code = "job_not_ended"

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"The job {job_id!r} is {state}; only one that has ended can be deleted. Cancel it first.")
        self.job_id = job_id
        self.state = state


class IdempotencyConflict(PenstockError):
    """The idempotency key `key` already made something from another body."""

    code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(f"The idempotency key {key!r} was already used with a different request body.")
        self.key = key


class LimitExceeded(PenstockError):
    """`limit` names what an API key may not go beyond, `allowed` is its number, `held` what is open already and
    `asked` what this call would add. A call that is over it alone can never succeed; another may, later.
    """

    code = "rate_limit_exceeded"

    def __init__(self, limit: str, *, allowed: int, held: int, asked: int, retry_after_seconds: int) -> None:
        alone = " This request is over it by itself." if asked > allowed else ""
        super().__init__(
            f"{limit}: the limit of this API key is {allowed}; {held} are open and this request adds {asked}.{alone}"
        )
        self.limit = limit
        self.allowed = allowed
        self.held = held
        self.retryable = asked <= allowed
        self.retry_after_seconds = retry_after_seconds


class LeaseLost(PenstockError):
    """Attempt `attempt` of `job_id` no longer holds the job: its result is refused and must be dropped."""

    code = "lease_lost"

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"Attempt {attempt} of {job_id} no longer holds its lease.")
        self.job_id = job_id
        self.attempt = attempt


class QueueUnavailable(PenstockError):
    """Redis cannot be reached, or refuses writes."""

    retryable = True
    code = "queue_unavailable"


class StoreUnavailable(PenstockError):
    """The database cannot be reached, is locked, or its disk is full."""

    retryable = True
    code = "store_unavailable"


class StorageUnavailable(PenstockError):
    """Where the bytes of files are kept cannot be reached, or is full."""

    retryable = True
    code = "storage_unavailable"


class StoreRefused(PenstockError):
    """A rule of the database refused a statement. `rule` names it (a constraint, or the driver's error class).

    The driver's own message is left out on purpose: PostgreSQL puts the whole row into it, the prompt included.
    """

    def __init__(self, rule: str) -> None:
        super().__init__(f"The database refused a statement: {rule}.")
        self.rule = rule


class ModelUnknown(PenstockError):
    """No worker has announced `model`, so its vocabulary and context are not known yet."""

    retryable = True
    code = "model_unknown"

    def __init__(self, model: str) -> None:
        super().__init__(f"No worker has announced the model {model!r} yet; start one, or ask again in a moment.")
        self.model = model
