"""Messages, on a real Redis."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis as redis_py

from jobs.errors import QueueUnavailable
from jobs.queue import TASK, Publisher, make_app
from jobs.states import Priority
from tests.jobs.support import make_settings
from tests.support.services import RedisServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def publisher(redis_url: str) -> Publisher:
    return Publisher(make_app(make_settings(redis_url=redis_url)))


@pytest.fixture
def redis(redis_url: str) -> redis_py.Redis:
    return redis_py.Redis.from_url(redis_url)


def messages(redis: redis_py.Redis, queue: str) -> list[dict[str, object]]:
    """The messages of a queue, first to be taken first."""
    return [json.loads(raw) for raw in reversed(redis.lrange(queue, 0, -1))]


def test_a_message_carries_the_id_and_nothing_else(publisher: Publisher, redis: redis_py.Redis) -> None:
    publisher.publish(["job_1"], Priority.INTERACTIVE)
    (message,) = messages(redis, "interactive")
    body = json.loads(base64.b64decode(str(message["body"])))
    headers = message["headers"]
    assert isinstance(headers, dict)
    assert body[:2] == [["job_1"], {}]
    assert (headers["task"], headers["argsrepr"], headers["kwargsrepr"]) == (TASK, "job_1", "")


def test_messages_keep_their_order_and_their_queue(publisher: Publisher, redis: redis_py.Redis) -> None:
    ids = [f"job_{number}" for number in range(1100)]
    publisher.publish(ids, Priority.BATCH)
    assert [message["headers"]["argsrepr"] for message in messages(redis, "batch")] == ids  # type: ignore[index]
    assert redis.llen("interactive") == 0
    publisher.publish([], Priority.BATCH)


def test_an_emptied_redis_takes_messages_again(publisher: Publisher, redis: redis_py.Redis) -> None:
    publisher.publish(["job_1"], Priority.BATCH)
    redis.flushall()
    publisher.publish(["job_2"], Priority.BATCH)
    assert len(messages(redis, "batch")) == 1


def test_any_thread_may_publish(publisher: Publisher, redis: redis_py.Redis) -> None:
    threads = [
        threading.Thread(target=publisher.publish, args=([f"job_{number}"], Priority.INTERACTIVE))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert redis.llen("interactive") == 20


def test_a_redis_that_is_gone_is_said_at_once_and_one_that_is_back_is_used(own_redis_server: RedisServer) -> None:
    publisher = Publisher(make_app(make_settings(redis_url=own_redis_server.url)))
    publisher.publish(["job_1"], Priority.BATCH)
    own_redis_server.stop()
    started = time.monotonic()
    with pytest.raises(QueueUnavailable):
        publisher.publish(["job_2"], Priority.BATCH)
    assert time.monotonic() - started < 3
    own_redis_server.start()
    publisher.publish(["job_3"], Priority.BATCH)


def test_a_full_redis_is_an_outage(own_redis_server: RedisServer) -> None:
    publisher = Publisher(make_app(make_settings(redis_url=own_redis_server.url)))
    with redis_py.Redis.from_url(own_redis_server.url) as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(QueueUnavailable):
            publisher.publish(["job_1"], Priority.BATCH)
        client.config_set("maxmemory", "0")
        publisher.publish(["job_2"], Priority.BATCH)


def test_a_broker_that_never_was_there_is_an_outage(tmp_path: Path) -> None:
    publisher = Publisher(make_app(make_settings(redis_url=f"unix://{tmp_path}/none.sock?db=0")))
    with pytest.raises(QueueUnavailable):
        publisher.publish(["job_1"], Priority.BATCH)


def test_importing_the_module_reads_no_environment_and_asking_for_the_app_does(redis_url: str) -> None:
    program = (
        "import jobs.queue, os; from celery.app.utils import find_app;"
        f"os.environ['PENSTOCK_REDIS_URL'] = {redis_url!r};"
        "app = find_app('jobs.queue:app'); assert app is find_app('jobs.queue');"
        "assert app.conf.task_acks_late and not app.conf.task_create_missing_queues; print(app.conf.broker_url)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert output.startswith("redis+socket://")
