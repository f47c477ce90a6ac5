"""One run: start a system, load it, strike it by the schedule, wait for every end, stop it, and check.

The system is stopped and its home removed whatever happens; the logs are kept when something was wrong.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cli.processes import SignalWatch
from jobs.errors import StoreUnavailable
from jobs.states import ENDED
from ops.chaos.evidence import Evidence
from ops.chaos.faults import Kind, Recovery, Scene, schedule
from ops.chaos.load import MAX_CHUNK, Load, orders
from ops.chaos.system import Plan, System
from worker.station import batch_limit

COUNT_SECONDS = 0.25
LAST_ENDS_SECONDS = 300.0
FILL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What was typed. `patience` stretches the limits of recoveries, for slow machines."""

    num_jobs: int
    num_faults: int
    seed: int
    kinds: Sequence[Kind]
    plan: Plan
    patience: float = 1.0
    mean_tokens: int = 140


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault that was made."""

    kind: Kind
    at_seconds: float
    num_ended_before: int
    recovery: Recovery


@dataclass
class Verdict:
    """All that a run showed. No problem: the promises held."""

    strikes: list[Strike] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_accepted: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    num_stored: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    num_retries: int = 0
    num_replayed: int = 0
    seconds: float = 0.0
    logs: Path | None = None


class Watcher:
    """Whom to tell how far it is."""

    def say(self, line: str) -> None:
        """A line for a person."""

    def progress(self, num_ended: int) -> None:
        """So many jobs have ended."""


class Trial:
    """One run of everything. `run` returns the verdict."""

    def __init__(self, options: Options, watcher: Watcher) -> None:
        self.options = options
        self.watcher = watcher
        self.verdict = Verdict()
        self._dice = random.Random(options.seed)
        self._faults = schedule(options.num_faults, options.kinds, self._dice)
        self._room = batch_limit(options.plan.settings(Path())) * options.plan.num_workers
        self._chunk = min(max(self._room // 8, 1), MAX_CHUNK)
        self._orders = orders(
            random.Random(options.seed),
            chunk=self._chunk,
            mean_tokens=options.mean_tokens,
        )
        self._counted_at = float("-inf")
        self._started = time.monotonic()

    def run(self) -> Verdict:
        """Raises StartFailed when the system does not start, Interrupted after ctrl-C."""
        home = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # short: sockets are in it
        try:
            with SignalWatch() as signals:
                self._run_in(home, System(self.options.plan, home, signals, lambda _: None))
        finally:
            if self.verdict.problems:
                self.verdict.logs = keep_logs(home)
            shutil.rmtree(home, ignore_errors=True)
        return self.verdict

    def _run_in(self, home: Path, system: System) -> None:
        self._system = system
        try:
            self.watcher.say(f"starting a system of our own in {home}")
            system.start()
            self._evidence = Evidence(system.database_url, system.settings)
            self._load = Load(system.url, self._orders, self.options.num_jobs)
            self._strike_all()
            self._check()
        finally:
            self.verdict.problems += system.stop()
        self.verdict.problems += system.supervisor.unasked

    # -- striking

    def _strike_all(self) -> None:
        system, load = self._system, self._load
        scene = Scene(system, self._evidence, self._dice)
        self._started = time.monotonic()
        system.on_look = self._count
        self._fill(deep=False)
        load.start()
        self.watcher.say(f"submitting at least {self.options.num_jobs} jobs, {len(self._faults)} faults to come")
        for number, kind in enumerate(self._faults):
            self._wait_turn(number, kind)
            self._strike(kind, scene)
        load.last_call()
        load.max_alive = self._room * 2
        self._wait_for_ends()

    def _fill(self, *, deep: bool) -> None:
        """How many jobs may be alive: what half the workers can hold, or twice what all can."""
        self._load.max_alive = self._room * 2 if deep else max(self._room // 2 - self._chunk, 1)

    def _wait_turn(self, number: int, kind: Kind) -> None:
        """Spread the faults over the jobs: each has its share of them to strike at. Then fill or empty the queue."""
        load, share = self._load, self.options.num_jobs / (len(self._faults) + 1)
        self._fill(deep=kind.deep)
        self._system.wait(lambda: load.num_ended >= int((number + 1) * share), LAST_ENDS_SECONDS)
        if kind.deep:
            self._system.wait(lambda: load.num_alive >= load.max_alive, FILL_SECONDS)
        else:
            self._system.wait(lambda: load.num_alive <= self._room // 2, FILL_SECONDS)

    def _strike(self, kind: Kind, scene: Scene) -> None:
        at, num_ended = time.monotonic() - self._started, self._load.num_ended
        self.watcher.say(f"{at:6.1f} s  {kind.name}")
        try:
            recovery = kind.strike(scene)
        except (LookupError, StoreUnavailable) as error:
            self.verdict.problems.append(f"{kind.name}: {error}")
            recovery = Recovery(None)
        self.verdict.strikes.append(Strike(kind, at, num_ended, recovery))
        self._judge(kind, recovery)

    def _judge(self, kind: Kind, recovery: Recovery) -> None:
        took, limit = recovery.seconds, recovery.limit_seconds
        hit = "" if recovery.num_hit is None else f" ({recovery.num_hit} jobs hit)"
        self.watcher.say(f"{'':9} {'not over' if took is None else f'{took:.2f} s until'} {kind.over_when}{hit}")
        if took is None:
            self.verdict.problems.append(f"{kind.name}: a minute later it was not so that {kind.over_when}")
        if took is not None and limit is not None and took > limit * self.options.patience:
            self.verdict.problems.append(f"{kind.name}: took {took:.2f} s, the limit is {limit:.2f} s")

    # -- counting

    def _count(self) -> None:
        """Count the ends now and then, for the load and for whoever watches."""
        if time.monotonic() - self._counted_at < COUNT_SECONDS:
            return
        self._counted_at = time.monotonic()
        with suppress(StoreUnavailable):
            counts = self._evidence.counts()
            self._load.num_ended = sum(num for state, num in counts.items() if state in ENDED)
            self.watcher.progress(self._load.num_ended)

    def _all_ended(self) -> bool:
        return self._load.done and self._load.num_ended >= self._load.num_accepted

    def _wait_for_ends(self) -> None:
        if not self._system.wait(self._all_ended, LAST_ENDS_SECONDS):
            left = self._load.num_alive
            self.verdict.problems.append(f"{left} jobs had not ended {LAST_ENDS_SECONDS:.0f} s after the last fault")
        self.verdict.seconds = time.monotonic() - self._started

    # -- checking

    def _check(self) -> None:
        verdict, load, evidence = self.verdict, self._load, self._evidence
        load.close()
        self._system.on_look = lambda: None
        self.watcher.say("stopping the roles, then checking what is stored")
        verdict.problems += self._system.stop_roles()
        verdict.problems += evidence.problems(load.job_ids, load.refused)
        verdict.num_accepted, verdict.ends = len(load.job_ids), evidence.counts()
        verdict.num_stored, verdict.attempts = evidence.num_generations(), evidence.attempts()
        verdict.num_retries, verdict.num_replayed = load.num_retries, load.num_replayed
        if verdict.num_accepted < self.options.num_jobs:
            verdict.problems.append(f"only {verdict.num_accepted} of {self.options.num_jobs} jobs were accepted")
        evidence.close()


def keep_logs(home: Path) -> Path | None:
    """Copy the logs out of the home before it goes."""
    kept = Path(tempfile.mkdtemp(prefix="penstock-chaos-logs-"))
    with suppress(OSError):
        shutil.copytree(home / "logs", kept, dirs_exist_ok=True)
        for extra in ("postgres/log",):
            if (home / extra).exists():
                shutil.copy(home / extra, kept / "postgres-server.log")
    return kept
