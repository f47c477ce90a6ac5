"""`python -m ops.fuzz` (or `make fuzz`): a real system, and everything that hostile callers send.

First the cases that schemathesis makes from the OpenAPI document, then hostile requests from a seed, on real processes.
Exit status 0 means: no server error, each answer as the document says, every role alive, the hostile texts kept apart
from control tokens, and a clean audit.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field

import httpx
from rich.console import Console

from jobs.states import JobState
from ops.bench.stage import Stage, num_alive, staged, wait_for
from ops.fuzz.conformance import Findings, examine_url
from ops.fuzz.hostile import CONTROL_MARKS, attacks
from ops.fuzz.wire import Attack, fault_of, send

ROLES = ("api", "dispatcher", "worker")
CALM_CHAT = "ice"
SETTLE_SECONDS = 120.0


@dataclass
class Siege:
    """What the attacks came to. `faults`: one attack each, by kind and what was wrong."""

    num_attacks: int = 0
    statuses: Counter[int | None] = field(default_factory=Counter)
    faults: dict[str, Attack] = field(default_factory=dict)


def besiege(url: str, seed: int, number: int) -> Siege:
    """Send so many attacks, one after another."""
    siege = Siege()
    for attack in attacks(seed, number):
        siege.num_attacks += 1
        try:
            answer = send(url, attack)
        except (TimeoutError, ConnectionRefusedError) as error:
            siege.faults[f"{attack.kind}: {type(error).__name__}"] = attack
            continue
        siege.statuses[None if answer is None else answer.status] += 1
        fault = fault_of(attack, answer)
        if fault is not None:
            siege.faults.setdefault(f"{attack.kind}, {attack.method} {attack.path[:60]}: {fault}", attack)
    return siege


def after_the_siege(stage: Stage) -> list[str]:
    """What is broken now; nothing, if all is well."""
    broken = [f"{role} has ended" for role in ROLES if not stage.is_running(role)]
    ready = httpx.get(f"{stage.url}/health/ready").json()
    if ready["status"] != "ok":
        broken.append(f"the API says {ready}")
    chat = {"messages": [{"role": "user", "content": CALM_CHAT}], "max_tokens": 2}
    calm = httpx.post(f"{stage.url}/v1/jobs", json=chat).json()["id"]
    wait_for("the ends of all jobs", lambda: num_alive(stage.store) == 0, SETTLE_SECONDS)
    broken += [f"{job_id} holds a control token that its text wrote" for job_id in _forged(stage, calm)]
    return broken + stage.store.audit()


def _forged(stage: Stage, calm: str) -> list[str]:
    """Chats that spelt control tokens and got one: their prompts have other tokens than a calm chat's frame."""
    frame = _controls(stage, calm)
    rows, has_more = stage.store.list_jobs(limit=1000)
    while has_more:
        more, has_more = stage.store.list_jobs(limit=1000, after=rows[-1].id)
        rows += more
    hostile = [job for job in rows if job.messages and any(mark in str(job.messages) for mark in CONTROL_MARKS)]
    succeeded = [job.id for job in hostile if job.state == JobState.SUCCEEDED and len(job.messages or ()) == 1]
    return [job_id for job_id in succeeded if _controls(stage, job_id) != frame]


def _controls(stage: Stage, job_id: str) -> list[int]:
    """The control tokens of a job's prompt, in their order."""
    generation = stage.store.get_generation(job_id)
    if generation is None:
        raise RuntimeError(f"{job_id} has no generation")
    return [token for token in generation.prompt_token_ids if token <= 2 or token >= 32_000]


def main() -> int:
    """Print what was found; 1 if that is anything."""
    options = _arguments()
    console = Console(soft_wrap=True)
    with staged(slots=4) as stage:
        stage.start("api", "dispatcher", *(["worker"] if options.real_worker else []))
        if not options.real_worker:
            stage.start_instant_worker()
        before = stage.resident_bytes("api")
        findings = examine_url(stage.url, seed=options.seed, num_cases=options.cases) if options.cases else Findings()
        siege = besiege(stage.url, options.seed, options.hostile)
        broken = after_the_siege(stage)
        grown = stage.resident_bytes("api") - before
    _print(console, findings, siege, broken)
    console.print(f"Memory of the API grew by {grown / 2**20:.0f} MiB.")
    return 1 if findings.failures or findings.num_server_errors or siege.faults or broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="of schemathesis, at least")
    parser.add_argument("--hostile", type=int, default=1000, help="hostile requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--real-worker", action="store_true", help="with the demo model, not an engine that answers at once"
    )
    return parser.parse_args()


def _print(console: Console, findings: Findings, siege: Siege, broken: list[str]) -> None:
    console.print(f"{findings.num_cases} cases from the document: {findings.num_server_errors} server errors, ", end="")
    console.print(f"{len(findings.failures)} answers that it does not describe. {_counted(findings.statuses)}")
    console.print(f"{siege.num_attacks} hostile requests: {len(siege.faults)} faults. {_counted(siege.statuses)}")
    console.print("Afterwards: " + ("every role alive, audit clean." if not broken else "; ".join(broken)))
    for name, sample in findings.failures.items():
        console.print(f"[red]{name}[/red]\n  {sample}", markup=False)
    for name, attack in siege.faults.items():
        console.print(f"{name}\n  {attack.as_bytes('host')[:400]!r}", markup=False)


def _counted(statuses: Counter[int] | Counter[int | None]) -> str:
    return ", ".join(f"{number} × {status or 'hung up'}" for status, number in statuses.most_common())


if __name__ == "__main__":
    sys.exit(main())
