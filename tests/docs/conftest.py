"""The systems that pages run against: each is started once, for all its pages."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest

from tests.docs.running import System, running

BUCKET = "penstock"
"""As the page about S3 writes it."""


@pytest.fixture(scope="module")
def plain() -> Iterator[System]:
    """`penstock up --model demo`, which may call webhooks on this machine."""
    with running("--model", "demo", PENSTOCK_WEBHOOK_ALLOW_PRIVATE="true") as system:
        yield system


@pytest.fixture(scope="module")
def keyed() -> Iterator[System]:
    """One in which keys are made, and are known at once. What it had before is nobody's."""
    with running("--model", "demo", PENSTOCK_KEY_CACHE_SECONDS="0") as system:
        yield system


@pytest.fixture(scope="module")
def elsewhere(s3_server: str) -> Iterator[System]:
    """The same with its rows in PostgreSQL and its files in an object store."""
    keys = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client(
        "s3",
        endpoint_url=s3_server,
        aws_access_key_id="an-id",
        aws_secret_access_key="a-secret",
        region_name="us-east-1",
    ).create_bucket(Bucket=BUCKET)
    with running("--model", "demo", "--postgres", PENSTOCK_FILES_URL=f"s3://{BUCKET}/files", **keys) as system:
        yield system
