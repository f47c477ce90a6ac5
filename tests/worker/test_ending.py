"""How a worker ends: the pool that stops in bounded time, the gate, the drain, the watchdog."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.services import wait_until
from worker import pool as pool_module
from worker.drain import Drain
from worker.gate import Gate
from worker.heartbeat import SILENCE_SECONDS, Watchdog
from worker.pool import DrainingThreadPool


class TestPool:
    @pytest.fixture
    def pool(self) -> DrainingThreadPool:
        made = DrainingThreadPool(limit=4)
        made.start()
        return made

    def test_a_stop_calls_the_running_tasks_back_and_waits_for_them(self, pool: DrainingThreadPool) -> None:
        come_back, running = threading.Event(), threading.Event()
        pool.on_interrupt = come_back.set
        ended: list[str] = []
        pool.apply_async(lambda: (running.set(), come_back.wait(20), ended.append("ran")), callback=lambda _: None)
        assert running.wait(20)
        pool.stop()
        assert ended == ["ran"]
        assert pool.num_stuck == 0

    def test_a_stop_is_bounded_by_a_task_that_does_not_come_back(
        self, pool: DrainingThreadPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_module, "STOP_SECONDS", 0.1)
        stuck, running = threading.Event(), threading.Event()
        pool.apply_async(lambda: (running.set(), stuck.wait(20)), callback=lambda _: None)
        assert running.wait(20)
        pool.stop()
        assert pool.num_stuck == 1
        stuck.set()
        wait_until(lambda: pool.num_stuck == 0)

    @pytest.mark.parametrize("how", ["stop", "terminate"])
    def test_both_ways_to_stop_may_follow_each_other(self, pool: DrainingThreadPool, how: str) -> None:
        getattr(pool, how)()
        pool.stop()

    def test_nobody_can_kill_the_worker_by_terminating_a_job(self, pool: DrainingThreadPool) -> None:
        result = pool.apply_async(lambda: None, callback=lambda _: None)
        result.terminate(15)
        pool.terminate_job(1, 15)
        pool.stop()

    def test_batch_lines_are_counted_while_they_run(self, pool: DrainingThreadPool) -> None:
        counted: list[str] = []
        pool.batch_queue = "batch"
        pool.on_batch_taken, pool.on_batch_done = lambda: counted.append("+"), lambda: counted.append("-")
        for queue in ("batch", "interactive"):
            request = {"delivery_info": {"routing_key": queue}}
            pool.apply_async(lambda *_: None, args=("task", "id", request), callback=lambda _: None)
        pool.stop()
        assert counted == ["+", "-"]


class Consumer:
    """As much of Celery's consumer as the gate sees."""

    def __init__(self) -> None:
        self.listening = {"interactive", "batch"}
        self.num_calls = 0
        self.task_consumer = self
        self.app = SimpleNamespace(amqp=SimpleNamespace(queues={"interactive": "interactive", "batch": "batch"}))

    def call_soon(self, call: Any) -> None:
        call()

    def consuming_from(self, queue: str) -> bool:
        return queue in self.listening

    def cancel_by_queue(self, queue: str) -> None:
        self.listening.discard(queue)

    def add_queue(self, queue: str) -> None:
        self.added = queue

    def consume(self) -> None:
        self.listening.add(self.added)


class TestGate:
    @pytest.fixture
    def consumer(self) -> Consumer:
        return Consumer()

    @pytest.fixture
    def gate(self, consumer: Consumer) -> Gate:
        return Gate(SimpleNamespace(consumer=consumer), ("interactive", "batch"), "batch", limit=2)

    def test_the_batch_queue_is_left_at_the_limit_and_taken_up_below_it(self, gate: Gate, consumer: Consumer) -> None:
        gate.taken()
        assert consumer.listening == {"interactive", "batch"}
        gate.taken()
        assert consumer.listening == {"interactive"}
        gate.done()
        assert consumer.listening == {"interactive", "batch"}

    def test_a_consumer_made_anew_is_put_right(self, gate: Gate, consumer: Consumer) -> None:
        gate.taken()
        gate.taken()
        consumer.listening = {"interactive", "batch"}
        gate.taken()
        assert consumer.listening == {"interactive"}

    def test_a_closed_gate_takes_nothing(self, gate: Gate, consumer: Consumer) -> None:
        gate.close()
        gate.taken()
        gate.done()
        assert consumer.listening == set()

    def test_a_gate_with_slack_opens_once_for_several_ends_and_ends_the_wait(self, consumer: Consumer) -> None:
        opened: list[object] = []
        gate = Gate(
            SimpleNamespace(consumer=consumer), ("interactive", "batch"), "batch", 4, slack=2, on_open=opened.append
        )
        for _ in range(4):
            gate.taken()
        gate.done()
        assert consumer.listening == {"interactive"}
        gate.done()
        gate.done()
        assert consumer.listening == {"interactive", "batch"}
        assert opened == [consumer]
        gate.taken()
        gate.taken()
        assert consumer.listening == {"interactive", "batch"}
        gate.taken()
        assert consumer.listening == {"interactive"}

    def test_before_the_consumer_exists_nothing_happens(self) -> None:
        gate = Gate(SimpleNamespace(), ("batch",), "batch", limit=1)
        gate.taken()
        assert gate.num_held == 1


class Worker:
    """What a drain moves: jobs that end when they are interrupted, and a record of the calls."""

    def __init__(self, drain_seconds: float) -> None:
        self.calls: list[str] = []
        self.idle = threading.Event()
        self.status: int | None = None
        self.drain = Drain(
            drain_seconds,
            close_gate=lambda: self.calls.append("closed"),
            stop_engine=lambda seconds: self.calls.append("engine now" if seconds <= 0 else "engine drains"),
            interrupt=self.interrupt,
            wait_idle=self.idle.wait,
            exit_with=self.exit,
        )

    def interrupt(self) -> None:
        self.calls.append("interrupted")
        self.idle.set()

    def exit(self, status: int) -> None:
        self.status = status


class TestDrain:
    def test_what_runs_may_finish(self) -> None:
        worker = Worker(60.0)
        worker.drain.begin()
        wait_until(lambda: "engine drains" in worker.calls)
        assert not worker.drain.over.is_set()
        worker.idle.set()
        assert worker.drain.over.wait(5)
        assert ("interrupted" in worker.calls, worker.status) == (False, 0)

    def test_when_the_time_is_over_the_rest_is_interrupted(self) -> None:
        worker = Worker(0.1)
        worker.drain.begin()
        assert worker.drain.over.wait(5)
        assert "interrupted" in worker.calls

    def test_a_second_signal_interrupts_at_once(self) -> None:
        worker = Worker(60.0)
        worker.drain.begin()
        worker.drain.begin()
        assert worker.drain.over.wait(5)
        assert "interrupted" in worker.calls

    def test_hurrying_without_a_drain_is_a_drain_at_once_and_keeps_the_status(self) -> None:
        worker = Worker(60.0)
        worker.drain.hurry(exit_status=1)
        assert worker.drain.over.wait(5)
        assert worker.status == 1
        worker.drain.hurry()
        worker.drain.finish()

    def test_celery_stopping_for_a_reason_of_its_own_drains_first(self) -> None:
        worker = Worker(60.0)
        threading.Timer(0.05, worker.idle.set).start()
        worker.drain.finish()
        assert worker.calls[0] == "closed"


class TestWatchdog:
    def test_silence_is_a_hang_only_while_redis_answers(self) -> None:
        now, notes, answers = [0.0], [], [True]
        watchdog = Watchdog(notes.append, lambda: answers[0], lambda: now[0])
        assert watchdog.check()
        notes.pop()()
        now[0] = SILENCE_SECONDS
        answers[0] = False
        assert watchdog.check(), "without Redis the consumer waits for it"
        now[0] = 2 * SILENCE_SECONDS - 1
        answers[0] = True
        assert watchdog.check(), "a minute from when Redis was last away"
        now[0] = 2 * SILENCE_SECONDS
        assert not watchdog.check()

    def test_a_note_that_is_read_starts_the_minute_again(self) -> None:
        now, notes = [0.0], []
        watchdog = Watchdog(notes.append, lambda: True, lambda: now[0])
        watchdog.check()
        now[0] = SILENCE_SECONDS - 1
        notes.pop()()
        now[0] = 2 * SILENCE_SECONDS - 2
        assert watchdog.check()
