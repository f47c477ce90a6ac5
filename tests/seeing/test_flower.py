"""Flower over a real worker: who runs what, tasks that move, a history that stays, and a door that is shut."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import Settings
from jobs.states import JobState
from ops.flower.__main__ import WrongSettings, credentials_of
from ops.flower.pages import exactness
from tests.seeing.system import Watched
from tests.support.services import wait_until
from tests.worker.site import ENDLESS, ROOT


def tasks(watched: Watched, job_id: str) -> list[dict[str, Any]]:
    """Flower's tasks of a job, as its API tells them."""
    found = watched.flower("/api/tasks", limit=1000).json().values()
    return [task for task in found if job_id in str(task["args"])]


def test_its_api_tells_the_model_the_load_and_the_exactness_of_a_worker(watched: Watched) -> None:
    (worker,) = watched.store.list_workers(30)
    stats = watched.flower("/api/workers", refresh=1, workername=worker.name).json()[worker.name]["stats"]
    assert (stats["model"], stats["slots"]) == ("phi-3-demo.gguf", worker.slots)
    assert stats["backend"].startswith("CPU, llama.cpp")
    assert stats["exact"] == {name: True for name, number in stats["row_classes"].items() if number}
    assert {"tokens_per_second", "busy_slots", "recipe", "kv_cells", "prefix_hit_rate"} <= set(stats)


@pytest.mark.parametrize("page", ["/", "/workers", "/worker/{name}"])
def test_its_pages_show_them(watched: Watched, page: str) -> None:
    (worker,) = watched.store.list_workers(30)
    wait_until(lambda: watched.flower("/api/workers", status=1).json().get(worker.name))

    def shown() -> bool:
        text = watched.flower(page.format(name=worker.name)).text
        wanted = ("phi-3-demo.gguf", "CPU, llama.cpp", f"of {worker.slots}</td>", "Tokens a second", ">Exact<")
        return all(words in text for words in wanted) and (">Attention<" in text or "{name}" not in page)

    wait_until(shown)


def test_a_task_moves_while_it_runs_and_says_how_it_ended(watched: Watched) -> None:
    # Alone it could be over before a worker's next beat, which tells how far it is.
    job_id, *company = [watched.post("Ice", max_tokens=2000, temperature=1.5, logit_bias=ENDLESS) for _ in range(4)]
    seen: list[tuple[str, str]] = []

    def moved() -> bool:
        seen.extend((task["state"], str(task["result"])) for task in tasks(watched, job_id))
        return any(state == "STARTED" and "tokens so far" in result for state, result in seen)

    wait_until(moved, 30)
    assert watched.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    for each in company:
        watched.http.post(f"/v1/jobs/{each}/cancel")
    wait_until(lambda: watched.state(job_id) is JobState.CANCELLED)
    wait_until(lambda: [task["state"] for task in tasks(watched, job_id)] == ["SUCCESS"])
    assert "cancelled" in tasks(watched, job_id)[0]["result"]


def test_its_history_survives_a_restart(watched: Watched) -> None:
    job_id = watched.post("Ice", max_tokens=4)
    watched.wait_for_ends([job_id])
    wait_until(lambda: [task["state"] for task in tasks(watched, job_id)] == ["SUCCESS"])
    watched.flower_role.process.terminate()
    assert watched.flower_role.wait(20) == 0
    watched.flower_role.restart()
    wait_until(lambda: watched.flower_answers(watched.flower_role), 30)
    (task,) = tasks(watched, job_id)
    assert (task["state"], task["worker"]) == ("SUCCESS", watched.store.list_workers(30)[0].name)


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/metrics", "/api/workers", "/api/tasks", "/broker"])
def test_nothing_but_its_health_is_told_without_the_password(watched: Watched, path: str) -> None:
    assert watched.flower(path, auth=None).status_code == 401
    assert watched.flower(path, auth=("tests", "another")).status_code == 401
    assert watched.flower(path).status_code == 200
    assert watched.flower("/healthcheck", auth=None).text == "OK"


def test_it_looks_and_does_not_touch(watched: Watched) -> None:
    import httpx

    (worker,) = watched.store.list_workers(30)
    url = f"http://127.0.0.1:{watched.ports['flower']}/api/worker/shutdown/{worker.name}"
    assert httpx.post(url, auth=("tests", "a-password"), trust_env=False).status_code == 403


def flower(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {f"PENSTOCK_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "ops.flower"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PENSTOCK_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_it_does_not_open_beyond_loopback_without_credentials(tmp_path: Path) -> None:
    done = flower(tmp_path, flower_host="0.0.0.0", flower_port="0")
    assert done.returncode == 2
    assert "PENSTOCK_FLOWER_BASIC_AUTH" in done.stderr
    assert "Traceback" not in done.stderr


def settings(**given: Any) -> Settings:
    return Settings.model_validate(given)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "penstock.example"])
def test_every_address_but_loopback_needs_credentials(host: str) -> None:
    with pytest.raises(WrongSettings, match="no credentials"):
        credentials_of(settings(flower_host=host))
    assert credentials_of(settings(flower_host=host, flower_basic_auth="me:secret")) == "me:secret"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert credentials_of(settings(flower_host=host)) == ""


def test_credentials_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "flower"
    file.write_text("me:secret\n")
    monkeypatch.setenv("PENSTOCK_FLOWER_BASIC_AUTH_FILE", str(file))
    assert credentials_of(settings(flower_host="0.0.0.0")) == "me:secret"


@pytest.mark.parametrize("credentials", ["secret", ":secret", "me:"])
def test_credentials_of_another_form_are_refused_and_not_repeated(credentials: str) -> None:
    with pytest.raises(WrongSettings, match="USER:PASSWORD") as refused:
        credentials_of(settings(flower_basic_auth=credentials))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("exact", "said"),
    [({"tile": True, "lone": True}, "yes"), ({"tile": True, "lone": False}, "tile only"), ({}, "no")],
)
def test_exactness_is_said_in_a_word(exact: dict[str, bool], said: str) -> None:
    assert exactness({"row_classes": {"tile": 16, "lone": 2}, "exact": exact}) == said
