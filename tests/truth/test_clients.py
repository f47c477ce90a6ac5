"""Clients that others wrote, unchanged, against the whole system: LangChain's OpenAI adapter, `llm`, curl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.support.packages import environment
from tests.support.system import System

LANGCHAIN, LLM = "langchain-openai==1.7.3", "llm==0.36"
SCRIPT = Path(__file__).parents[1] / "support" / "langchain_script.py"
QUESTION = "Write a haiku about ice hockey"
CLIENT_SECONDS = 120

Langchain = Callable[[str], Any]


def run(words: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=CLIENT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def answer(system: System) -> str:
    """What the model says to the question, with the seed 5."""
    with OpenAI(base_url=f"{system.http.base_url}/v1", api_key="none") as client:
        chat: Any = [{"role": "user", "content": QUESTION}]
        made = client.chat.completions.create(model="demo", messages=chat, seed=5, temperature=0)
        return made.choices[0].message.content or ""


# -- LangChain


@pytest.fixture
def langchain(system: System) -> Langchain:
    """Run one function of the script; what it printed."""
    env = environment(LANGCHAIN) | {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"{system.http.base_url}/v1"}

    def use(name: str) -> Any:
        return json.loads(run([sys.executable, "-S", str(SCRIPT), name], env))

    return use


def check_usage(told: dict[str, Any]) -> None:
    usage = told["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_langchain_invokes_a_chat(langchain: Langchain) -> None:
    told = langchain("invoked")
    check_usage(told)
    assert told["text"]
    assert told["about"]["finish_reason"] == "stop"
    assert told["about"]["system_fingerprint"].startswith("fp_")


def test_langchain_streams_a_chat(langchain: Langchain) -> None:
    told = langchain("streamed")
    check_usage(told)
    assert told["chunks"] > 2
    assert told["about"]["finish_reason"] == "stop"
    assert told["about"]["system_fingerprint"].startswith("fp_")


def test_langchain_batches_chats(langchain: Langchain) -> None:
    first, other, again = langchain("batched")
    assert first["text"] == again["text"] != other["text"]


@pytest.mark.parametrize("name", ["structured", "structured_raw"])
def test_langchain_gets_structured_output(langchain: Langchain, name: str) -> None:
    found = langchain(name)
    assert isinstance(found, dict)
    if name == "structured":
        assert set(found) == {"goals", "won"}
        assert 0 <= found["goals"] <= 9


def test_langchain_gets_logprobs(langchain: Langchain) -> None:
    content = langchain("logprobs")["about"]["logprobs"]["content"]
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in content)


def test_langchain_uses_responses(langchain: Langchain) -> None:
    told = langchain("response")
    check_usage(told)
    assert told["text"]
    assert told["about"]["status"] == "completed"


def test_langchain_streams_responses(langchain: Langchain) -> None:
    told = langchain("response_streamed")
    check_usage(told)
    assert told["text"]
    assert told["chunks"] > 2


def test_langchain_goes_on_from_a_response(langchain: Langchain, system: System) -> None:
    first, second = langchain("conversation")
    job = system.store.get(second["about"]["id"].replace("resp_", "job_"))
    assert [message["content"] for message in job.messages or []] == [QUESTION, first["text"], "Another one"]


def test_langchain_completes_a_prompt(langchain: Langchain) -> None:
    assert isinstance(langchain("completed"), str)


def test_langchain_completes_several_prompts_at_once(langchain: Langchain) -> None:
    told = langchain("several_prompts")
    assert len(told["texts"]) == 2
    assert told["usage"]["prompt_tokens"] > 0


# -- llm


@pytest.fixture
def llm(system: System, tmp_path: Path) -> Callable[..., str]:
    """Run the `llm` command with the system as a model of its own."""
    models = tmp_path / "extra-openai-models.yaml"
    models.write_text(
        f"- model_id: penstock\n  model_name: demo\n  api_base: {system.http.base_url}/v1\n  supports_schema: true\n"
        f"- model_id: penstock-raw\n  model_name: demo\n  api_base: {system.http.base_url}/v1\n  completion: true\n"
    )
    env = environment(LLM) | {"LLM_USER_PATH": str(tmp_path)}
    return lambda *words: run([sys.executable, "-S", "-m", "llm", *words], env)


def test_llm_lists_the_model(llm: Callable[..., str]) -> None:
    assert "penstock" in llm("models")


@pytest.mark.parametrize("options", [[], ["--no-stream"]])
def test_llm_answers(llm: Callable[..., str], answer: str, options: list[str]) -> None:
    said = llm("-m", "penstock", QUESTION, "-o", "seed", "5", "-o", "temperature", "0", *options)
    assert said.strip() == answer.strip()


def test_llm_keeps_what_was_counted(llm: Callable[..., str]) -> None:
    llm("-m", "penstock", QUESTION, "-s", "Be brief.")
    (entry,) = json.loads(llm("logs", "--json", "-n", "1"))
    assert entry["input_tokens"] > 0
    assert entry["output_tokens"] > 0


def test_llm_goes_on_with_a_conversation(llm: Callable[..., str], system: System) -> None:
    first = llm("-m", "penstock", QUESTION)
    llm("-c", "Another one")
    job = system.store.list_jobs(limit=1)[0][0]
    assert [message["content"].strip() for message in job.messages or []] == [QUESTION, first.strip(), "Another one"]


def test_llm_gets_what_a_schema_admits(llm: Callable[..., str]) -> None:
    found = json.loads(llm("-m", "penstock", QUESTION, "--schema", "goals int, won bool"))
    assert set(found) == {"goals", "won"}


def test_llm_completes_a_prompt(llm: Callable[..., str]) -> None:
    assert llm("-m", "penstock-raw", "ice and snow and", "-o", "max_tokens", "8").strip()


# -- curl


@pytest.fixture
def curl(system: System) -> Callable[..., str]:
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}

    def fetch(path: str, body: dict[str, Any] | None = None) -> str:
        words = ["curl", "--silent", "--show-error", "--fail-with-body", "--no-buffer", f"{system.http.base_url}{path}"]
        sent = [] if body is None else ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        return run([*words, *sent], env)

    return fetch


CHAT = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], "seed": 5, "temperature": 0}


def test_curl_gets_an_answer(curl: Callable[..., str], answer: str) -> None:
    document = json.loads(curl("/v1/chat/completions", CHAT))
    assert document["choices"][0]["message"]["content"] == answer


def test_curl_gets_a_stream(curl: Callable[..., str], answer: str) -> None:
    frames = curl("/v1/chat/completions", CHAT | {"stream": True}).split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == answer


def test_curl_submits_a_job_and_follows_it(curl: Callable[..., str], answer: str) -> None:
    body = {name: value for name, value in CHAT.items() if name != "model"} | {"repeat_penalty": 1.0}
    job = json.loads(curl("/v1/jobs", body))
    *_, last = curl(job["events_url"]).strip().split("\n\n")
    assert last.startswith("event: end\n")
    assert json.loads(last.split("data: ", 1)[1])["completion"] == answer
