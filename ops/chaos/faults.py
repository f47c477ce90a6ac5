"""The kinds of faults: how each one strikes, and by what its damage is known to be over.

A recovery is timed from the moment of the strike (of the end of a pause, where only the pause keeps work back). Its
limit is a promise of the system; a fault without one shows a figure only.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from redis.exceptions import RedisError

from cli.supervisor import Running
from jobs.errors import StoreUnavailable
from jobs.events import SENTINEL_KEY
from jobs.queue import Publisher, make_app
from jobs.states import Priority
from ops.chaos.evidence import Evidence, Held
from ops.chaos.system import System, pid_of

GIVE_UP_SECONDS = 60.0
FIND_SECONDS = 30.0
REDIS_PAUSE_SECONDS = 3.0
NUM_DOUBLED, TIMES_DOUBLED = 60, 10
MARGIN_SECONDS = 2.0
"""What a requeue may take beyond the lease, a takeover beyond the leader's term, a lost message beyond its patience."""
REFILL_SECONDS = 3.0
FULL_SECONDS = 2.0
RENEWAL_SECONDS = 3.0
"""Within this a leader and a worker renew what they hold, so that the next stop finds it fresh."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long it took; None: not within `GIVE_UP_SECONDS`. `num_hit`: the jobs that were hit."""

    seconds: float | None
    limit_seconds: float | None = None
    num_hit: int | None = None


class Scene:
    """What a fault works with."""

    def __init__(self, system: System, evidence: Evidence, dice: random.Random) -> None:
        self.system = system
        self.evidence = evidence
        self.dice = dice
        self.settings = system.settings
        self._publisher = Publisher(make_app(self.settings))

    def pick(self, prefix: str) -> Running:
        """One process of a kind."""
        self.find(lambda: bool(self.system.running(prefix)), f"no {prefix} runs")
        return self.dice.choice(self.system.running(prefix))

    def pick_worker(self) -> tuple[int, str]:
        """A worker that is at work: its process and its name."""
        found: list[tuple[int, str]] = []

        def busy() -> bool:
            found[:] = [
                (pid_of(entry), name)
                for entry in self.system.running("worker")
                if self.evidence.held_by(name := self.worker_name(pid_of(entry)))
            ]
            return bool(found)

        self.find(busy, "no worker is at work")
        return self.dice.choice(found)

    @staticmethod
    def worker_name(pid: int) -> str:
        from worker.station import worker_name

        return worker_name().rpartition("-")[0] + f"-{pid}"

    def leading_pid(self) -> int:
        """Process of the dispatcher that leads."""
        found: list[int] = []

        def leads() -> bool:
            holder = self.evidence.leader() or ""
            found[:] = [pid_of(entry) for entry in self.system.running("dispatcher") if f"-{pid_of(entry)}-" in holder]
            return bool(found)

        self.find(leads, "no dispatcher leads")
        return found[0]

    def find(self, condition: Callable[[], bool], failure: str) -> None:
        """Wait until there is something to strike."""
        if not self.system.wait(calmly(condition), FIND_SECONDS):
            raise LookupError(failure)

    def until(self, over: Callable[[], bool], since: float, limit_seconds: float | None = None) -> Recovery:
        """Time it from `since` (monotonic)."""
        seen = self.system.wait(calmly(over), GIVE_UP_SECONDS)
        return Recovery(time.monotonic() - since if seen else None, limit_seconds)

    def held_by(self, worker: str) -> list[Held]:
        """What a worker was running; asked until the database answers."""
        held: list[Held] = []

        def asked() -> bool:
            held[:] = self.evidence.held_by(worker)
            return True

        self.find(asked, "the database does not say what a worker held")
        return held

    def publish(self, ids: Sequence[str], priority: Priority) -> None:
        self._publisher.publish(ids, priority)


def calmly(question: Callable[[], bool]) -> Callable[[], bool]:
    """The question; what cannot be asked just now has not happened yet."""

    def ask() -> bool:
        try:
            return question()
        except (StoreUnavailable, RedisError, OSError):
            return False

    return ask


def _now() -> datetime:
    return datetime.now(UTC)


# -- workers


def kill_worker(scene: Scene) -> Recovery:
    """Its jobs run again, or have ended."""
    pid, name = scene.pick_worker()
    scene.system.strike(pid, signal.SIGKILL)
    struck = time.monotonic()
    held = scene.held_by(name)
    return _hit(held, scene.until(lambda: scene.evidence.moved_on(held), struck, _lease_limit(scene)))


def kill_all_workers(scene: Scene) -> Recovery:
    """All of them at once; their jobs run again."""
    victims = [pid_of(entry) for entry in scene.system.running("worker")]
    for pid in victims:
        scene.system.strike(pid, signal.SIGKILL)
    struck = time.monotonic()
    held = [each for pid in victims for each in scene.held_by(scene.worker_name(pid))]
    return _hit(held, scene.until(lambda: scene.evidence.moved_on(held), struck))


def pause_worker(scene: Scene) -> Recovery:
    """Stopped past its lease: its jobs run elsewhere. Then it goes on, and must not store what it no longer holds."""
    pid, name = scene.pick_worker()
    struck = _stop_between_writes(scene, pid)
    held = scene.held_by(name)
    recovery = scene.until(lambda: scene.evidence.moved_on(held), struck, _lease_limit(scene))
    scene.system.pause(max(0.0, scene.settings.lease_seconds + 1.0 - (time.monotonic() - struck)))
    scene.system.strike(pid, signal.SIGCONT)
    woken = _now()
    scene.find(lambda: scene.evidence.heard_of_after(name, woken), "a worker that was paused is not heard of again")
    return _hit(held, recovery)


def drain_worker(scene: Scene) -> Recovery:
    """Told to stop: what it cannot finish in its time it gives back, and that runs elsewhere."""
    pid, name = scene.pick_worker()
    held = scene.held_by(name)
    scene.system.strike(pid, signal.SIGTERM)
    return _hit(held, scene.until(lambda: scene.evidence.moved_on(held), time.monotonic()))


def _hit(held: Sequence[Held], recovery: Recovery) -> Recovery:
    return replace(recovery, num_hit=len(held))


def _lease_limit(scene: Scene) -> float:
    return scene.settings.lease_seconds + MARGIN_SECONDS


def _stop_between_writes(scene: Scene, pid: int) -> float:
    """Stop a process, but not inside a transaction: what that does is the database's affair (SQLite waits for its
    one writer; PostgreSQL ends the session after a while), and would hide what is looked for here."""
    while True:
        scene.system.strike(pid, signal.SIGSTOP)
        struck = time.monotonic()
        scene.system.pause(0.3)
        if not scene.evidence.inside_a_write():
            return struck
        scene.system.strike(pid, signal.SIGCONT)
        scene.system.pause(RENEWAL_SECONDS)


# -- API and dispatchers


def kill_api(scene: Scene) -> Recovery:
    """It answers again, and says that jobs can be accepted."""
    pid = pid_of(scene.pick("api"))
    scene.system.strike(pid, signal.SIGKILL)
    struck = time.monotonic()
    return scene.until(lambda: scene.system.is_up("api", other_than=pid) and scene.system.api_answers(), struck)


def kill_dispatcher(scene: Scene) -> Recovery:
    """The one that leads: the other one does."""
    pid = scene.leading_pid()
    scene.system.strike(pid, signal.SIGKILL)
    return _takeover(scene, pid, time.monotonic())


def pause_dispatcher(scene: Scene) -> Recovery:
    """The one that leads, past its term: the other one leads, and the woken one does no harm."""
    pid = scene.leading_pid()
    recovery = _takeover(scene, pid, _stop_between_writes(scene, pid))
    scene.system.strike(pid, signal.SIGCONT)
    return recovery


def _takeover(scene: Scene, pid: int, struck: float) -> Recovery:
    def taken() -> bool:
        holder = scene.evidence.leader()
        return holder is not None and f"-{pid}-" not in holder

    return scene.until(taken, struck, scene.settings.leader_seconds + MARGIN_SECONDS)


# -- Redis


def kill_redis(scene: Scene) -> Recovery:
    """It is back, and jobs begin."""
    pid = pid_of(scene.pick("redis"))
    scene.system.strike(pid, signal.SIGKILL)
    struck = time.monotonic()
    scene.find(lambda: bool(scene.system.redis.ping()), "Redis does not come back")
    return _begins_after(scene, struck)


def pause_redis(scene: Scene) -> Recovery:
    """Stopped for a while. Timed from its going on: jobs begin."""
    pid = pid_of(scene.pick("redis"))
    scene.system.strike(pid, signal.SIGSTOP)
    scene.system.pause(REDIS_PAUSE_SECONDS)
    scene.system.strike(pid, signal.SIGCONT)
    return _begins_after(scene, time.monotonic())


def empty_redis(scene: Scene) -> Recovery:
    """FLUSHALL: the dispatcher has noticed, and jobs begin that it published anew."""
    waiting = scene.evidence.waiting_for_message()
    scene.system.redis.flushall()
    struck = time.monotonic()
    scene.find(lambda: bool(scene.system.redis.exists(SENTINEL_KEY)), "nobody noticed that Redis was emptied")
    return _hit(waiting, replace(_begins_after(scene, struck), limit_seconds=REFILL_SECONDS))


def fill_redis(scene: Scene) -> Recovery:
    """Redis refuses every write for a while. Timed from the end of that: jobs begin."""
    scene.system.redis.config_set("maxmemory", 1)
    scene.system.pause(FULL_SECONDS)
    scene.system.redis.config_set("maxmemory", 0)
    return _begins_after(scene, time.monotonic())


def drop_messages(scene: Scene) -> Recovery:
    """Every queued message is deleted: their jobs are published again (or have begun)."""
    scene.find(lambda: bool(scene.evidence.waiting_for_message()), "no message waits")
    scene.system.redis.delete(*(priority.value for priority in Priority))
    struck, instant = time.monotonic(), _now()
    lost = scene.evidence.waiting_for_message()
    limit = scene.settings.republish_after_seconds + MARGIN_SECONDS
    return _hit(lost, scene.until(lambda: scene.evidence.published_after(instant, lost), struck, limit))


def double_messages(scene: Scene) -> Recovery:
    """The same jobs are published many times: nothing runs twice (the checks at the end say), and jobs go on ending."""
    chosen = scene.evidence.some_jobs(NUM_DOUBLED)
    for priority, ids in chosen.items():
        scene.publish(ids * TIMES_DOUBLED, priority)
    struck, instant = time.monotonic(), _now()
    recovery = scene.until(lambda: scene.evidence.ended_after(instant), struck)
    return replace(recovery, num_hit=sum(map(len, chosen.values())))


def _begins_after(scene: Scene, struck: float) -> Recovery:
    instant = _now()
    return scene.until(lambda: scene.evidence.claimed_after(instant), struck)


# -- PostgreSQL


def kill_postgres(scene: Scene) -> Recovery:
    """SIGKILL: it recovers from its log; results that were held meanwhile are stored."""
    return _end_postgres(scene, signal.SIGKILL)


def stop_postgres_at_once(scene: Scene) -> Recovery:
    """An immediate shutdown, as a power cut: the same."""
    return _end_postgres(scene, signal.SIGQUIT)


def _end_postgres(scene: Scene, number: signal.Signals) -> Recovery:
    pid = scene.system.postmaster()
    scene.system.expect_end("postgres")
    scene.system.strike(pid, number)
    struck = time.monotonic()
    scene.find(lambda: scene.system.postmaster() != pid, "PostgreSQL does not come back")
    instant = _now()
    return scene.until(lambda: scene.evidence.ended_after(instant), struck)


# -- all of them


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `deep`: it needs messages that wait, so the queue is filled beyond what the workers hold.
    Before the others the workers have room, so that nothing is timed but the recovery."""

    name: str
    strike: Callable[[Scene], Recovery]
    over_when: str
    deep: bool = False
    needs_postgres: bool = False


KINDS: Sequence[Kind] = (
    Kind("worker killed", kill_worker, "its jobs run again"),
    Kind("all workers killed", kill_all_workers, "their jobs run again"),
    Kind("worker paused", pause_worker, "its jobs run again"),
    Kind("worker drained", drain_worker, "its jobs ended or run again"),
    Kind("API killed", kill_api, "it accepts jobs"),
    Kind("dispatcher killed", kill_dispatcher, "the other one leads"),
    Kind("dispatcher paused", pause_dispatcher, "the other one leads"),
    Kind("Redis killed", kill_redis, "it is back and jobs begin", deep=True),
    Kind("Redis paused", pause_redis, "jobs begin", deep=True),
    Kind("Redis emptied", empty_redis, "jobs begin", deep=True),
    Kind("Redis full", fill_redis, "jobs begin", deep=True),
    Kind("messages dropped", drop_messages, "all are published again", deep=True),
    Kind("messages doubled", double_messages, "a job ends"),
    Kind("PostgreSQL killed", kill_postgres, "it is back and a job ends", needs_postgres=True),
    Kind("PostgreSQL cut off", stop_postgres_at_once, "it is back and a job ends", needs_postgres=True),
)


def schedule(num_faults: int, kinds: Sequence[Kind], dice: random.Random) -> list[Kind]:
    """Deal the kinds in shuffled rounds: each comes up as often as any other, give or take one."""
    dealt: list[Kind] = []
    while len(dealt) < num_faults:
        dealt += dice.sample(kinds, len(kinds))
    return dealt[:num_faults]
