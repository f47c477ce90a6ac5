"""Fixtures that every room's tests share: one Redis and one PostgreSQL for all of them."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.support.models import demo_model_path, tiny_model_path
from tests.support.object_store import s3_server, s3_url
from tests.support.services import (
    database_url,
    empty_postgres_url,
    own_redis_server,
    postgres_server,
    postgres_template,
    postgres_url,
    redis_server,
    redis_url,
    sqlite_template,
    sqlite_url,
)

__all__ = [
    "database_url",
    "demo_model_path",
    "empty_postgres_url",
    "own_redis_server",
    "postgres_server",
    "postgres_template",
    "postgres_url",
    "redis_server",
    "redis_url",
    "s3_server",
    "s3_url",
    "sqlite_template",
    "sqlite_url",
    "tiny_model_path",
]

# No test asserts a time, not even hypothesis: on a busy machine any example may take long, or be long in the making.
settings.register_profile(
    "penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("penstock")
