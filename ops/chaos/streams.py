"""`python -m ops.chaos.streams`: read many streams while workers, Redis and the API are killed, and catch every lie.

Keeps so many streams alive at a time, each with a reader that leaves and comes back at random, until the schedule of
strikes is over; then lets all of them end, and compares what each reader holds with what is stored. Starts a system
of its own in a temporary folder and touches nothing else. Exit status 1, with a list, where a stream lied.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cli.errors import CliError
from cli.processes import SignalWatch
from ops.chaos.evidence import Evidence, StoredText
from ops.chaos.faults import Recovery, Scene, calmly, kill_api, kill_worker
from ops.chaos.load import END_TOKENS, SUBJECTS
from ops.chaos.readers import READERS, Reader, Stream, Wire
from ops.chaos.system import Interrupted, Plan, System, forget_settings, pid_of
from ops.chaos.trial import keep_logs

RETRY_SECONDS = 0.2
FLOW_SECONDS = 60.0
LAST_ENDS_SECONDS = 300.0
LAST_READ_SECONDS = 60.0
MAX_SHOWN = 20
WIRES: Sequence[tuple[Wire, bool, str]] = (
    ("native", False, "interactive"),
    ("native", True, "interactive"),
    ("native", False, "batch"),
    ("response", False, "interactive"),
    ("response", True, "interactive"),
    ("chat", False, "interactive"),
)
"""Wire, whether exact on request, and priority; a batch line is exact by itself."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was typed."""

    num_streams: int = 50
    worker_kills: int = 10
    redis_kills: int = 3
    api_kills: int = 2
    seed: int = 1
    mean_tokens: int = 600
    plan: Plan = field(default_factory=Plan)


@dataclass
class Verdict:
    """All that a run showed. No problem: no stream lied."""

    strikes: list[tuple[str, float, float | None]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    logs: Path | None = None


class Crowd(threading.Thread):
    """Keeps `num_streams` streams alive, each with its reader, until `last_call`."""

    def __init__(self, url: str, options: Options) -> None:
        super().__init__(name="crowd", daemon=True)
        self.readers: list[Reader] = []
        self.refused: list[str] = []
        self._url, self._options = url, options
        self._dice = random.Random(options.seed)
        self._last_call, self._stopping = threading.Event(), threading.Event()
        self._client = httpx.Client(base_url=url, timeout=30.0, trust_env=False)

    def run(self) -> None:
        while not self._last_call.wait(0.02) and not self.refused:
            if len(self.alive) < self._options.num_streams:
                self._add(len(self.readers))

    @property
    def alive(self) -> list[Reader]:
        return [reader for reader in list(self.readers) if not reader.finished]

    @property
    def num_characters(self) -> int:
        return sum(len(reader.text) for reader in list(self.readers))

    def last_call(self) -> None:
        self._last_call.set()
        self.join(60)

    def close(self) -> None:
        self._stopping.set()
        self.last_call()
        for reader in self.readers:
            reader.join(5)
        self._client.close()

    def _add(self, number: int) -> None:
        wire, exact, priority = WIRES[number % len(WIRES)]
        seed = self._dice.randrange(2**31)
        stream = self._made(number, wire, exact, priority)
        if stream is not None:
            reader = READERS[wire](self._url, stream, random.Random(seed), self._stopping)
            self.readers.append(reader)
            reader.start()

    def _made(self, number: int, wire: Wire, exact: bool, priority: str) -> Stream | None:
        key = f"streams-{self._options.seed}-{number}"
        messages = [{"role": "user", "content": f"Write a haiku about {self._dice.choice(SUBJECTS)}"}]
        mean = self._options.mean_tokens
        length = self._dice.randint(mean // 2 + 1, mean * 3 // 2)
        knobs = {
            "seed": self._dice.randrange(2**32 - 1),
            "logit_bias": {str(token): -100 for token in END_TOKENS},
            **({"exact": True} if exact else {}),
        }
        if wire == "chat":
            body = {"messages": messages, "max_tokens": length, "stream": True, "store": True, "model": "demo", **knobs}
            return Stream(number, wire, exact, body=body, key=key)
        if wire == "response":
            asked = {"input": messages, "max_output_tokens": length, "background": True, "model": "demo", **knobs}
            made = self._submitted("/v1/responses", asked, key)
            return made and Stream(number, wire, exact, made.replace("resp_", "job_", 1))
        body = {"messages": messages, "max_tokens": length, "priority": priority, **knobs}
        made = self._submitted("/v1/jobs", body, key)
        return made and Stream(number, wire, exact or priority == "batch", made)

    def _submitted(self, path: str, body: Mapping[str, Any], key: str) -> Any:
        """The id; asked for again until there is an answer that lasts."""
        while not self._stopping.wait(0):
            try:
                reply = self._client.post(path, json=body, headers={"Idempotency-Key": key})
                if reply.status_code in (200, 202):
                    return reply.json()["id"]
                if reply.status_code not in (429, 503):
                    self.refused.append(f"{key}: refused with status {reply.status_code}")
                    return None
            except (httpx.TransportError, ValueError):
                pass
            self._stopping.wait(RETRY_SECONDS)
        return None


class Trial:
    """One run. `say` gets a line for each strike."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options, self.say = options, say
        self.verdict = Verdict()
        self._dice = random.Random(options.seed)

    def run(self) -> Verdict:
        """Raises StartFailed when the system does not start, Interrupted after ctrl-C."""
        home = Path(tempfile.mkdtemp(prefix="streams-", dir="/tmp"))  # short: sockets are in it
        try:
            with SignalWatch() as signals:
                self._run_in(System(self.options.plan, home, signals, lambda _: None))
        finally:
            if self.verdict.problems:
                self.verdict.logs = keep_logs(home)
            shutil.rmtree(home, ignore_errors=True)
        return self.verdict

    def _run_in(self, system: System) -> None:
        verdict = self.verdict
        try:
            self.say(f"starting a system of our own in {system.home}")
            system.start()
            evidence = Evidence(system.database_url, system.settings)
            crowd = Crowd(system.url, self.options)
            try:
                began = time.monotonic()
                self._strike_all(system, evidence, crowd, began)
                verdict.figures["seconds"] = round(time.monotonic() - began, 1)
            finally:
                crowd.close()
            verdict.problems += system.stop_roles()
            self._judge(evidence, crowd)
            evidence.close()
        finally:
            verdict.problems += system.stop()
        verdict.problems += system.supervisor.unasked

    # -- striking

    def _strike_all(self, system: System, evidence: Evidence, crowd: Crowd, began: float) -> None:
        options, scene = self.options, Scene(system, evidence, self._dice)
        kinds = [
            *[("worker killed", kill_worker)] * options.worker_kills,
            *[("Redis killed", _kill_redis)] * options.redis_kills,
            *[("API killed", kill_api)] * options.api_kills,
        ]
        self._dice.shuffle(kinds)
        crowd.start()
        for name, strike in kinds:
            self._let_flow(system, crowd)
            at = time.monotonic() - began
            try:
                recovery = strike(scene)
            except LookupError as error:
                self.verdict.problems.append(f"{name}: {error}")
                recovery = Recovery(None)
            self.verdict.strikes.append((name, round(at, 1), recovery.seconds))
            took = "not over in time" if recovery.seconds is None else f"over after {recovery.seconds:.2f} s"
            self.say(f"{at:6.1f} s  {name}, {took}; {len(crowd.readers)} streams so far")
        self._let_flow(system, crowd)
        crowd.last_call()
        if not system.wait(lambda: not crowd.alive, LAST_ENDS_SECONDS):
            self.verdict.problems.append(
                f"{len(crowd.alive)} readers had not come to an end {LAST_ENDS_SECONDS:.0f} s on"
            )

    def _let_flow(self, system: System, crowd: Crowd) -> None:
        """Until all streams are there, and a third of those alive have got new text since now."""
        system.wait(lambda: len(crowd.alive) >= self.options.num_streams, FLOW_SECONDS)
        before = {reader: len(reader.text) for reader in crowd.alive}

        def flows() -> bool:
            return 3 * sum(len(reader.text) != length for reader, length in before.items()) >= len(before)

        if not system.wait(flows, FLOW_SECONDS):
            self.verdict.problems.append(f"no text flowed for {FLOW_SECONDS:.0f} s")

    # -- judging

    def _judge(self, evidence: Evidence, crowd: Crowd) -> None:
        verdict, readers = self.verdict, crowd.readers
        stored = evidence.texts()
        for reader in readers:
            verdict.problems += [
                f"stream {reader.stream.number} ({reader.stream.wire}): {text}" for text in reader.problems
            ]
            verdict.problems += lies(reader, stored.get(reader.job_id))
        known = [reader.job_id for reader in readers if reader.job_id]
        verdict.problems += evidence.problems(known, crowd.refused)
        verdict.figures |= _figures(readers, stored, self.verdict.strikes)


def _kill_redis(scene: Scene) -> Recovery:
    """It answers again."""
    pid = pid_of(scene.pick("redis"))
    scene.system.strike(pid, signal.SIGKILL)
    struck = time.monotonic()
    up = calmly(lambda: bool(scene.system.redis.ping()))
    return scene.until(lambda: scene.system.is_up("redis", other_than=pid) and up(), struck)


def lies(reader: Reader, stored: StoredText | None) -> list[str]:
    """How a reader that has finished was deceived."""
    name = f"stream {reader.stream.number} ({reader.stream.wire}, {reader.job_id})"
    if stored is None:
        return [f"{name}: nothing is stored"]
    if not reader.finished:
        return [f"{name}: its reader never came to the end"]
    found = []
    if reader.text != stored.completion:
        found.append(f"{name}: {_difference(reader.text, stored.completion)}")
    if reader.told_text not in (None, stored.completion):
        found.append(f"{name}: the last frame tells another text than is stored")
    if reader.stream.exact and stored.continuity and stored.continuity.get("matches") is False:
        found.append(f"{name}: an exact job said something else in its next attempt")
    return found


def _difference(held: str, stored: str) -> str:
    """Where two texts part; no word of either."""
    same = next(
        (at for at, (a, b) in enumerate(zip(held, stored, strict=False)) if a != b), min(len(held), len(stored))
    )
    return f"the reader holds {len(held)} code points, {len(stored)} are stored; they part at {same}"


def _figures(readers: Sequence[Reader], stored: Mapping[str, StoredText], strikes: Sequence[Any]) -> dict[str, Any]:
    sums: Counter[str] = Counter()
    for reader in readers:
        sums.update(asdict(reader.counts))
    texts = list(stored.values())
    return {
        "streams": dict(Counter(reader.stream.wire for reader in readers)),
        "readers": dict(sums),
        "equal": sum(
            reader.finished and reader.job_id in stored and reader.text == stored[reader.job_id].completion
            for reader in readers
        ),
        "needless_resets": sum(
            bool(text) and reader.job_id in stored and stored[reader.job_id].completion.startswith(text)
            for reader in readers
            for text in reader.voided
        ),
        "code_points": sum(len(text.completion) for text in texts),
        "jobs_of_several_attempts": sum(text.attempt > 1 for text in texts),
        "most_attempts": max((text.attempt for text in texts), default=0),
        "taken_up": dict(Counter(str((text.continuity or {}).get("mode")) for text in texts if text.attempt > 1)),
        "matches": sum(bool((text.continuity or {}).get("matches")) for text in texts),
        "strikes": dict(Counter(name for name, *_ in strikes)),
    }


def show(verdict: Verdict, options: Options) -> str:
    """The figures in a few lines, and every problem."""
    figures = verdict.figures
    counts, taken = figures.get("readers", {}), figures.get("taken_up", {})
    num_streams = sum(figures.get("streams", {}).values())
    lines = [
        f"seed {options.seed}: {num_streams} streams, {options.num_streams} at a time {figures.get('streams', {})}; "
        f"{figures.get('strikes', {})} in {figures.get('seconds', 0):.0f} s",
        f"{figures.get('equal', 0)} of {num_streams} readers hold exactly the stored text "
        f"({figures.get('code_points', 0)} code points)",
        f"connections: {counts.get('connections', 0)}, of which {counts.get('left', 0)} left by the reader, "
        f"{counts.get('cut', 0)} cut, {counts.get('told_errors', 0)} ended with an error frame, "
        f"{counts.get('refused', 0)} refused; resets: {counts.get('resets', 0)} "
        f"({figures.get('needless_resets', 0)} of a text that was kept)",
        f"jobs of several attempts: {figures.get('jobs_of_several_attempts', 0)} (at most "
        f"{figures.get('most_attempts', 0)}); taken up: {taken}, {figures.get('matches', 0)} checked token for token",
        f"{len(verdict.problems)} problems" if verdict.problems else "no stream lied",
    ]
    lines += [f"  - {problem}" for problem in verdict.problems[:MAX_SHOWN]]
    if verdict.logs:
        lines.append(f"The logs are kept in {verdict.logs}")
    return "\n".join(lines)


def main() -> int:
    """0 when no stream lied, 1 when one did, 130 after ctrl-C."""
    typed = _parser().parse_args()
    plan = Plan(slots=typed.slots, lease_seconds=typed.lease_seconds, postgres=typed.database == "postgresql")
    options = Options(
        typed.streams, typed.worker_kills, typed.redis_kills, typed.api_kills, typed.seed, typed.tokens, plan
    )
    os.umask(0o077)
    forget_settings()
    try:
        verdict = Trial(options, lambda line: print(line, flush=True)).run()
    except Interrupted:
        print("stopped")
        return 130
    except CliError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return error.exit_status
    print(show(verdict, options))
    if typed.json:
        document = {"figures": verdict.figures, "strikes": verdict.strikes, "problems": verdict.problems}
        typed.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if verdict.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ops.chaos.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=50, help="alive at a time [50]")
    parser.add_argument("--worker-kills", type=int, default=10, help="[10]")
    parser.add_argument("--redis-kills", type=int, default=3, help="[3]")
    parser.add_argument("--api-kills", type=int, default=2, help="[2]")
    parser.add_argument("--seed", type=int, default=1, help="draws the schedule, the jobs and the readers' whims [1]")
    parser.add_argument("--tokens", type=int, default=600, help="of a completion, on average [600]")
    parser.add_argument("--slots", type=int, default=32, help="generations at a time, for each worker [32]")
    parser.add_argument("--lease-seconds", type=float, default=5.0, help="[5]")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
