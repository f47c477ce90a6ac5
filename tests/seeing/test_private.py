"""Prompts and completions are in the database and on the job's own channel, and nowhere else: every sink is read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator

import httpx
import pytest

from jobs.states import JobState
from tests.seeing.system import Watched
from tests.support.services import wait_until

PROMPT = "zanzibar quicksilver marmalade"
LINE = "obsidian periwinkle tarantella"
"""Words that nothing else says."""


class Run:
    """What was asked for, and what came of it."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.ids = [self._single(), self._streamed(), *self._cancelled(), *self._batch()]
        self._refused()
        wait_until(lambda: all(watched.store.get(job_id).ended_at for job_id in self.ids), 60)
        self.texts = [text for job_id in self.ids if (text := self._completion(job_id))]
        assert len(self.texts) > 3
        self.pages = list(_pages(watched))

    def _single(self) -> str:
        return self.watched.post(f"Write a haiku about {PROMPT}", max_tokens=40)

    def _streamed(self) -> str:
        job_id = self.watched.post(f"Write a haiku about {PROMPT}", max_tokens=40, metadata={"about": PROMPT})
        with self.watched.follow(job_id) as frames:
            assert list(frames)[-1].event == "end"
        return job_id

    def _cancelled(self) -> list[str]:
        ids = [self.watched.post(f"{PROMPT} {number}", max_tokens=300) for number in range(3)]
        for job_id in ids:
            assert self.watched.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
        return ids

    def _batch(self) -> list[str]:
        bodies = [{"messages": [{"role": "user", "content": f"{LINE} {n}"}], "max_tokens": 12} for n in range(4)]
        lines = [
            {"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            for n, body in enumerate(bodies)
        ] + [{"custom_id": LINE, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": LINE}}]
        content = "\n".join(json.dumps(line) for line in lines).encode()
        http = self.watched.http
        file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": (f"{LINE}.jsonl", content)})
        asked = {"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=asked).json()["id"]
        wait_until(lambda: http.get(f"/v1/batches/{batch}").json()["status"] == "completed", 60)
        return [job.id for job in self.watched.store.list_jobs(batch_id=batch, limit=50)[0]]

    def _refused(self) -> None:
        for body in (
            {"prompt": PROMPT, "temperature": PROMPT},
            {"prompt": PROMPT, PROMPT: 1},
            {"prompt": PROMPT * 5000},
        ):
            assert self.watched.http.post("/v1/jobs", json=body).status_code == 400
        assert self.watched.http.post("/v1/jobs", content=f'{{"prompt": "{PROMPT}'.encode()).status_code in {400, 415}
        assert self.watched.http.get("/v1/jobs", params={"after": PROMPT}).status_code in {400, 404}

    def _completion(self, job_id: str) -> str:
        stored = self.watched.store.get_generation(job_id)
        return stored.completion.strip() if stored is not None else ""


@pytest.fixture(scope="module")
def run(watched: Watched) -> Run:
    return Run(watched)


def _pages(watched: Watched) -> Iterator[str]:
    (worker,) = watched.store.list_workers(30)
    for path in ("/", "/workers", "/tasks", "/broker", f"/worker/{worker.name}", "/metrics"):
        yield watched.flower(path).text
    yield watched.flower("/api/workers", refresh=1, workername=worker.name).text
    tasks = watched.flower("/api/tasks", limit=1000)
    yield tasks.text
    for task in tasks.json():
        yield watched.flower(f"/task/{task}").text
        yield watched.flower(f"/api/task/info/{task}").text


def found_in(run: Run, *texts: str) -> set[str]:
    """Which of the planted and the generated words are there, as they are or as JSON writes them."""
    needles = {"zanzibar", "quicksilver", "marmalade", "obsidian", "periwinkle", "tarantella"}
    for completion in run.texts:
        needles |= {part for part in re.split(r"[\n]", completion) if len(part) > 12}
    needles |= {json.dumps(needle)[1:-1] for needle in needles}
    return {needle for needle in needles for text in texts if needle.lower() in text.lower()}


def test_the_words_are_where_they_belong(run: Run) -> None:
    """The search finds them: in the database, and in the answers to their owner."""
    answers = [run.watched.http.get(f"/v1/jobs/{job_id}").text for job_id in run.ids]
    assert {"zanzibar", "obsidian"} <= found_in(run, *answers) | found_in(
        run,
        *(
            str(run.watched.store.get(job_id).prompt) + str(run.watched.store.get(job_id).messages)
            for job_id in run.ids
        ),
    )
    assert len(found_in(run, *answers)) > 3


def test_no_log_holds_them(run: Run) -> None:
    for role in run.watched.roles:
        said = role.said()
        assert said
        assert found_in(run, said) == set(), role.words


def test_no_page_of_flower_holds_them(run: Run) -> None:
    assert found_in(run, *run.pages) == set()


def test_no_metric_holds_them(run: Run) -> None:
    said = [run.watched.scrape(role) for role in ("api", "dispatcher", "worker")]
    assert found_in(run, *said) == set()
    assert not any(job_id in text for job_id in run.ids for text in said), "a label would be a series for each job"


def test_no_trace_holds_them(run: Run) -> None:
    wait_until(lambda: {span.service for span in run.watched.spans.spans} >= {"penstock-api", "penstock-worker"})
    assert found_in(run, *(body.decode("utf-8", "replace") for body in run.watched.spans.raw)) == set()


def test_redis_hears_them_on_the_channel_and_the_key_of_their_own_job_only(run: Run) -> None:
    commands = run.watched.tap.commands
    own = re.compile(
        r"(PUBLISH|SET|SETEX|PSETEX|EVALSHA|EVAL) .*?penstock:job:job_[0-9a-z]+(:snapshot|:end)? ", re.IGNORECASE
    )
    others = [command for command in commands if not own.match(command)]
    assert any(own.match(command) for command in commands)
    assert found_in(run, *others) == set()


def test_a_message_carries_the_id_and_the_trace_and_nothing_else(run: Run) -> None:
    messages = [
        command
        for command in run.watched.tap.commands
        if command.upper().startswith(("LPUSH INTERACTIVE", "LPUSH BATCH"))
    ]
    assert messages
    told = [json.loads(_unescaped(command)) for command in messages]
    bodies = [json.loads(base64.b64decode(message["body"])) for message in told]
    assert {body[0][0] for body in bodies} <= set(run.ids) | {
        job.id for job in run.watched.store.list_jobs(limit=200)[0]
    }
    assert all(len(body[0]) == 1 and body[1] == {} for body in bodies)
    assert all(message["headers"]["argsrepr"] == body[0][0] for message, body in zip(told, bodies, strict=True))
    assert all(
        re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", message["headers"]["traceparent"]) for message in told
    )
    assert found_in(run, json.dumps(told), json.dumps(bodies)) == set()


def _unescaped(command: str) -> str:
    """The last word of a command as MONITOR shows it."""
    start = command.index("{")
    return command[start:].encode().decode("unicode_escape") if '\\"' in command[start:] else command[start:]


def test_the_history_of_flower_does_not_hold_them(run: Run) -> None:
    run.watched.flower_role.process.terminate()
    run.watched.flower_role.wait(20)
    saved = list((run.watched.settings.home / "flower").glob("history*"))
    assert saved
    assert found_in(run, *(file.read_bytes().decode("utf-8", "replace") for file in saved)) == set()
    run.watched.flower_role.restart()
    wait_until(lambda: run.watched.flower_answers(run.watched.flower_role), 30)
    assert httpx.get(f"http://127.0.0.1:{run.watched.ports['flower']}/tasks", trust_env=False).status_code == 401


def test_all_of_it_ended_well(run: Run) -> None:
    states = {JobState(run.watched.store.get(job_id).state) for job_id in run.ids}
    assert {JobState.SUCCEEDED, JobState.FAILED} <= states
    assert run.watched.store.audit() == []
