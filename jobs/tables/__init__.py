"""The tables. What must never happen is a constraint here, not only a rule in code.

A job is one row in `jobs`. Each try is a row in `attempts`; the finished text is the one row in `generations`
(its primary key is the job: a second one cannot be stored). Instants are aware UTC; counts start with `num_`.

Lock order, for PostgreSQL: batch, job, attempt, generation.

Everybody imports tables from here, so that all of them are known to whoever asks `Base` for its tables.
"""

from jobs.tables.base import JSON, Base, Id, Instant
from jobs.tables.batches import Batch, BatchSample, File, FileSegment
from jobs.tables.jobs import Attempt, Generation, Job, Recipe
from jobs.tables.system import ApiKey, IdempotencyKey, Model, Office, Worker
from jobs.tables.webhooks import Delivery, Webhook

__all__ = [
    "JSON",
    "ApiKey",
    "Attempt",
    "Base",
    "Batch",
    "BatchSample",
    "Delivery",
    "File",
    "FileSegment",
    "Generation",
    "Id",
    "IdempotencyKey",
    "Instant",
    "Job",
    "Model",
    "Office",
    "Recipe",
    "Webhook",
    "Worker",
]
