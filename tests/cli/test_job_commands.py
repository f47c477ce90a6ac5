"""submit, status, watch, cancel, jobs list and jobs delete, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.screen import error_text, jobs_table
from tests.cli.conftest import Said
from tests.support.fake_api import TEXT, FakeAPI

Penstock = Callable[..., Said]


def sent(server: FakeAPI) -> Any:
    return next(body for path, _, body in server.seen if path == "/v1/jobs" and body)


def test_submit_sends_one_chat_message_and_prints_the_id(penstock: Penstock, server: FakeAPI) -> None:
    said = penstock("submit", "Write a haiku")
    assert (said.status, said.out) == (0, "job_0\n")
    assert sent(server) == {"messages": [{"role": "user", "content": "Write a haiku"}]}


def test_raw_sends_the_prompt_itself(penstock: Penstock, server: FakeAPI) -> None:
    penstock("submit", "--raw", "<|user|>\nHi<|end|>")
    assert sent(server) == {"prompt": "<|user|>\nHi<|end|>"}


def test_a_dash_reads_the_prompt_from_standard_input(penstock: Penstock, server: FakeAPI) -> None:
    assert penstock("submit", "-", stdin="From a pipe\n").status == 0
    assert sent(server)["messages"][0]["content"] == "From a pipe\n"


def test_every_knob_is_on_the_wire_by_its_name(penstock: Penstock, server: FakeAPI, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    knobs = (
        "--temperature 0.5 --max-tokens 9 --top-p 0.9 --top-k 40 --min-p 0.1 --repeat-penalty 1.1 --repeat-last-n 32"
    )
    more = "--seed 0 --stop A --stop B --logprobs 2 --deadline 5 --priority batch --no-exact --metadata k=v=w"
    said = penstock("submit", "Hi", "--system", "Be brief", "--json-schema", str(schema), *knobs.split(), *more.split())
    assert said.status == 0
    assert sent(server) == {
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "max_tokens": 9,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "repeat_last_n": 32,
        "seed": 0,
        "stop": ["A", "B"],
        "logprobs": 2,
        "deadline_seconds": 5.0,
        "priority": "batch",
        "exact": False,
        "metadata": {"k": "v=w"},
        "response_format": {"type": "json_schema", "json_schema": {"type": "object"}},
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--temperature", "-1"], "--temperature"),
        (["--temperature", "nan"], "--temperature"),
        (["--top-p", "1.5"], "--top-p"),
        (["--seed", "4294967295"], "--seed"),
        (["--seed", "-1"], "--seed"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--metadata", "novalue"], "--metadata"),
        (["--json-schema", "/no/such/file"], "--json-schema"),
        (["--raw", "--system", "x"], "--system"),
        (["--stop", ""], "--stop"),
    ],
)
def test_a_bad_option_is_named_and_nothing_is_sent(
    penstock: Penstock, server: FakeAPI, words: list[str], named: str
) -> None:
    said = penstock("submit", "Hi", *words)
    assert said.status == 2
    assert named in said.err
    assert not server.seen


def test_an_empty_prompt_is_refused(penstock: Penstock, server: FakeAPI) -> None:
    assert penstock("submit", " \n").status == 2
    assert not server.seen


def test_stream_prints_the_text_as_it_is(penstock: Penstock) -> None:
    assert penstock("submit", "--stream", "Hi").out == TEXT + "\n"


def test_stream_resumes_by_itself_without_gap_or_repeat(penstock: Penstock, server: FakeAPI) -> None:
    server.drops = 2
    assert penstock("submit", "--stream", "Hi").out == TEXT + "\n"
    streams = [path for path, _, _ in server.seen if "/events" in path]
    assert [path.rpartition("=")[2] for path in streams] == ["0", "14", "28"]


def test_wait_prints_the_whole_text_at_the_end(penstock: Penstock) -> None:
    assert penstock("submit", "--wait", "Hi").out == TEXT + "\n"


def test_a_job_that_did_not_succeed_is_an_error(penstock: Penstock, server: FakeAPI) -> None:
    server.end_state = "failed"
    said = penstock("submit", "--stream", "Hi")
    assert said.status == 1
    assert "job_0 failed" in said.err


def test_json_is_one_document(penstock: Penstock) -> None:
    assert json.loads(penstock("submit", "--json", "Hi").out)["id"] == "job_0"
    assert json.loads(penstock("submit", "--json", "--wait", "Hi").out)["completion"] == TEXT


def test_status_shows_state_seed_and_text(penstock: Penstock, server: FakeAPI) -> None:
    server.make({"seed": 4294967294})
    said = penstock("status", "job_0")
    assert "succeeded" in said.out
    assert "4294967294" in said.out
    assert TEXT in said.out


def test_watch_replays_a_finished_job(penstock: Penstock, server: FakeAPI) -> None:
    server.make({})
    assert penstock("watch", "job_0").out == TEXT + "\n"


def test_cancel_says_what_becomes_of_the_job(penstock: Penstock, server: FakeAPI) -> None:
    server.make({})
    assert penstock("cancel", "job_0").out == "job_0 running, will stop\n"


def test_jobs_list_shows_state_seed_tokens_and_rate(penstock: Penstock, server: FakeAPI) -> None:
    server.make({"seed": 11})
    row = penstock("jobs", "list").out.splitlines()[-1].split()
    assert row == ["job_0", "succeeded", "11", "20", "10.0"]


def test_an_unknown_id_is_one_line(penstock: Penstock) -> None:
    for words in (["status", "job_9"], ["watch", "job_9"]):
        said = penstock(*words)
        assert (said.status, said.err) == (1, "penstock: No such job.\n")


def test_a_refusal_shows_its_field(penstock: Penstock, server: FakeAPI) -> None:
    error = {"message": "Too long.", "type": "invalid_request_error", "param": "prompt", "code": "too_long"}
    server.refusals.append((400, {"error": error}))
    said = penstock("submit", "Hi")
    assert (said.status, said.err) == (1, "penstock: Too long. (field: prompt)\n")


def test_a_busy_api_is_asked_again_with_the_same_key(penstock: Penstock, server: FakeAPI) -> None:
    server.refusals.append((503, {"error": {"message": "Later.", "type": "x", "param": None, "code": "y"}}))
    assert penstock("submit", "Hi").status == 0
    keys = [headers["Idempotency-Key"] for _, headers, _ in server.seen]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_no_api_is_one_line_that_says_what_to_do(penstock: Penstock) -> None:
    said = penstock("submit", "Hi", "--api", "http://127.0.0.1:9")
    assert said.status == 1
    assert "penstock up" in said.err
    assert said.err.count("\n") == 1


def test_a_key_is_sent_as_a_bearer(penstock: Penstock, server: FakeAPI) -> None:
    penstock("submit", "Hi", "--api-key", "secret")
    assert server.seen[0][1]["Authorization"] == "Bearer secret"


def test_what_is_no_url_is_a_usage_error(penstock: Penstock) -> None:
    assert penstock("status", "x", "--api", "localhost:8000").status == 2


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"state": "failed", "error": {"code": "engine_failed", "message": "It broke."}}, "It broke. (engine_failed)"),
        ({"state": "expired", "error": None}, "its deadline was over before it had ended"),
        ({"state": "succeeded", "error": None}, None),
    ],
)
def test_an_ended_job_says_why_in_one_line(job: dict[str, Any], said: str | None) -> None:
    assert error_text(job) == said


def test_a_list_with_failures_names_their_codes() -> None:
    jobs = [
        {"id": "job_1", "state": "failed", "error": {"code": "engine_failed", "message": "It broke."}},
        {"id": "job_2", "state": "succeeded", "error": None},
    ]
    assert [str(column.header) for column in jobs_table(jobs).columns][-1] == "error"
    assert list(jobs_table(jobs).columns[-1].cells) == ["engine_failed", ""]
    assert [str(column.header) for column in jobs_table(jobs[1:]).columns][-1] != "error"


def test_jobs_are_deleted_one_by_one_and_the_first_refusal_is_said(penstock: Penstock, server: FakeAPI) -> None:
    assert penstock("jobs", "delete", "job_0", "job_1").out == "job_0 deleted\njob_1 deleted\n"
    message = "The job 'job_2' is running; only one that has ended can be deleted."
    error = {"message": message, "type": "invalid_request_error", "param": "id", "code": "job_not_ended"}
    server.refusals.append((409, {"error": error}))
    refused = penstock("jobs", "delete", "job_2", "job_3")
    assert (refused.status, refused.out) == (1, "")
    assert "job_2" in refused.err
    assert [path for path, _, _ in server.seen] == [f"/v1/jobs/job_{number}" for number in range(3)]
