"""Exact jobs on a whole system and the demo model: the same text in any company, by default where it costs nothing,
refused before they are queued where nothing holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.states import ENDED, JobState
from jobs.tables import Generation
from tests.support.services import wait_until
from tests.support.system import System

Run = Callable[..., Generation]

LONG = " ".join(["ice", "river", "lamp", "snow"] * 45)
"""More than two blocks that prompts begin with together."""
BATCH_SECONDS = 90.0


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def submit(system: System, jobs: list[dict[str, Any]]) -> list[str]:
    reply = system.http.post("/v1/jobs", json={"jobs": jobs}).raise_for_status().json()
    return [job["id"] for job in reply["data"]]


def wait_for_all(system: System, ids: list[str]) -> None:
    wait_until(lambda: all(system.state(job_id) in ENDED for job_id in ids), BATCH_SECONDS)
    assert {system.state(job_id) for job_id in ids} == {JobState.SUCCEEDED}


def crowd(seed: int, count: int = 30) -> list[dict[str, Any]]:
    """Ordinary jobs of mixed lengths, and more interactive ones than there are lanes: they pause batch lines."""
    return [
        {
            "messages": chat(f"{LONG if number % 5 == 0 else ''} Write a haiku about a crowd of {seed + number}"),
            "max_tokens": 10 + 7 * (number % 9),
            "priority": "interactive" if number % 3 == 0 else "batch",
        }
        for number in range(count)
    ]


def exact_jobs() -> list[dict[str, Any]]:
    """Short and long, with a beginning in common, drawn and greedy, in tiles and in lanes."""
    return [
        {
            "messages": chat(f"{LONG if number % 4 == 0 else ''} Write a haiku about {number} lamps"),
            "max_tokens": 20 + 5 * (number % 6),
            "temperature": (0, 1.0, 1.3)[number % 3],
            "seed": 1000 + number,
            "priority": "interactive" if number % 4 == 1 else "batch",
            "exact": True,
        }
        for number in range(16)
    ]


def replayed(system: System, ids: list[str]) -> list[str]:
    replays = []
    for job_id in ids:
        reply = system.http.post(f"/v1/jobs/{job_id}/replay", params={"priority": "batch"})
        replays.append(reply.raise_for_status().json()["id"])
    wait_for_all(system, replays)
    return [system.http.get(f"/v1/jobs/{replay_id}").json()["replay"]["result"] for replay_id in replays]


def test_exact_jobs_have_one_text_in_any_company(system: System) -> None:
    """They join and leave, share beginnings, are paused by others, beside a crowd of which a part is cancelled."""
    first = submit(system, crowd(0))
    ids = submit(system, exact_jobs())
    for job_id in first[1::4]:
        system.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    wait_for_all(system, ids)
    assert replayed(system, ids) == ["match"] * len(ids)
    submit(system, crowd(500))
    assert replayed(system, ids[::-1]) == ["match"] * len(ids)
    shared = [system.store.get_generation(job_id) for job_id in ids]
    assert all(each and system.store.get_recipe(each.recipe_id)["exact"] is True for each in shared)


def test_a_line_of_a_batch_is_exact_unless_it_says_otherwise(system: System) -> None:
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/jobs", "body": {"prompt": "ice and", "max_tokens": 4} | body}
        for name, body in {"default": {}, "asked": {"exact": True}}.items()
    ]
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = system.http.post("/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/jobs", "completion_window": "24h"}
    made = system.http.post("/v1/batches", json=asked).raise_for_status().json()

    def batch() -> dict[str, Any]:
        return dict(system.http.get(f"/v1/batches/{made['id']}").json())

    wait_until(lambda: batch()["status"] == "completed", BATCH_SECONDS)
    output = system.http.get(f"/v1/files/{batch()['output_file_id']}/content").text
    told = {line["custom_id"]: line["penstock"] for line in map(json.loads, output.splitlines())}
    assert {name: said["exact"] for name, said in told.items()} == {"default": True, "asked": True}
    assert {system.store.get_recipe(said["recipe"])["row_class"] for said in told.values()} == {"tile"}


def test_a_single_exact_job_runs_in_a_lane_of_its_own(system: System, run: Run) -> None:
    """A tile would make it crawl."""
    recipe = system.store.get_recipe(run(prompt="ice and", max_tokens=4, exact=True).recipe_id)
    assert (recipe["row_class"], recipe["exact"]) == ("lone", True)


def test_models_and_flower_show_what_is_exact(system: System) -> None:
    shown = system.http.get("/v1/models/demo").json()
    assert shown["exact"] == {"tile": True, "lone": True}
    assert shown["recipe"].startswith("fp_")
    stats = next(iter((system.inspect().stats() or {}).values()))
    assert (stats["exact"], stats["recipe"]) == (shown["exact"], shown["recipe"])


def test_the_recipe_names_all_that_decides_a_text(system: System, run: Run) -> None:
    generation = run(prompt="ice and", max_tokens=4)
    recipe = system.store.get_recipe(generation.recipe_id)
    file = "model_sha256"
    build = ("llama_cpp", "backend", "devices", "kernels", "threads", "gpu_layers", "main_gpu")
    cells = ("kv_layout", "kv_type", "flash_attention")
    rows = ("row_class", "exact", "tile_rows", "chunk_tokens", "block_tokens", "prefill")
    assert set(recipe) == {file, *build, *cells, *rows, "template_sha256", "sampler_chain"}
    assert all(value not in (None, "", []) for value in recipe.values())
    assert len(recipe["model_sha256"]) == len(recipe["template_sha256"]) == 64
    assert generation.prompt_token_ids
    assert generation.completion_token_ids


# -- where nothing holds


@pytest.fixture(scope="module")
def unproven(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, tiny_model_path: Path, system: System
) -> Iterator[System]:
    """A worker whose note of an earlier start says that no row class is exact: it believes it, and probes nothing. Its
    tiles are the largest there are, so that no larger ones are tried."""
    folder = tmp_path_factory.mktemp("unproven")
    shutil.copy(sqlite_template, folder / "penstock.db")
    url = f"{system.settings.redis_url.partition('?')[0]}?db=1"
    made = System(folder, f"sqlite:///{folder / 'penstock.db'}", url, tiny_model_path, slots=16, tile_rows=64)
    first = made.start_worker_process()
    first.wait_until_it_says(" ready.")
    first.kill()
    (note,) = (made.settings.home / "proofs").iterdir()
    assert json.loads(note.read_text()) == {"tile": True, "lone": True, "blocks": True, "cuts": True}
    note.write_text(json.dumps({"tile": False, "lone": False, "blocks": False}))
    with made.engine.begin() as connection:
        for table in ("workers", "models"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    made.start_all()
    wait_until(lambda: refuses_exact(made))  # until a worker has said so, the API lets the worker decide
    yield made
    made.close()


def refuses_exact(system: System) -> bool:
    return system.http.post("/v1/jobs", json={"prompt": "ice", "exact": True}).status_code == 400


EXACT: dict[str, dict[str, Any]] = {
    "/v1/jobs": {"prompt": "ice"},
    "/v1/chat/completions": {"messages": chat("ice")},
    "/v1/completions": {"prompt": "ice"},
    "/v1/responses": {"input": "ice"},
}


@pytest.mark.parametrize("url", EXACT)
def test_an_exact_job_is_refused_before_it_is_queued_where_nothing_holds(unproven: System, url: str) -> None:
    reply = unproven.http.post(url, json=EXACT[url] | {"exact": True})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, "exact", "exact_unavailable")
    assert "row class" in error["message"]
    (model,) = unproven.http.get("/v1/models").json()["data"]
    assert model["exact"] == {"tile": False, "lone": False}


def test_an_exact_line_is_refused_with_its_number_where_nothing_holds(unproven: System) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/jobs", "body": {"prompt": "ice", "exact": True}}
    data = json.dumps(line).encode() + b"\n"
    file = unproven.http.post("/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}).json()
    assert file["lines"] == {"total": 1, "invalid": 1}


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_other_jobs_run_there_and_are_not_called_exact(unproven: System, priority: str) -> None:
    ids = submit(unproven, [{"prompt": "ice and", "max_tokens": 4, "priority": priority}])
    wait_for_all(unproven, ids)
    generation = unproven.store.get_generation(ids[0])
    assert generation is not None
    assert unproven.store.get_recipe(generation.recipe_id)["exact"] is False
