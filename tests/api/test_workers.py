"""Workers, queues, recipes, and what a listing of jobs can be asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs.keys import KeyScope, NewKey
from jobs.records import recipe_id
from tests.api.batch_stage import chat_line, created, office
from tests.api.stage import RECIPE, Api, claim, run_to_end


def test_workers_are_told_as_their_newest_heartbeat_has_them(api: Api) -> None:
    details = {"waiting": 2, "draining": True, "exact": {"tile": True}, "backend": "CPU", "prefix_hit_rate": 0.5}
    api.store.heartbeat("one", "demo", 16, 3, 12.34, details)
    reply = api.client.get("/v1/workers")
    (worker,) = reply.json()["data"]
    assert reply.headers["Retry-After"] == "2"
    assert (worker["name"], worker["alive"], worker["draining"], worker["waiting"]) == ("one", True, True, 2)
    assert (worker["slots"], worker["busy_slots"], worker["tokens_per_second"]) == (16, 3, 12.3)
    assert (worker["exact"], worker["details"]) == ({"tile": True}, {"backend": "CPU", "prefix_hit_rate": 0.5})


def test_queues_are_told_of_all_that_waits(api: Api) -> None:
    api.submit()
    created(api, [chat_line("a"), chat_line("b")])
    interactive, batch = api.client.get("/v1/queues").json()["data"]
    assert (interactive["name"], interactive["queued"], interactive["published"]) == ("interactive", 1, 1)
    assert (batch["name"], batch["queued"], batch["running"]) == ("batch", 2, 0)
    assert batch["oldest_at"] is not None


def test_a_key_is_told_of_its_own_jobs_and_of_the_machine(start_api: Callable[..., Api]) -> None:
    api = start_api(api_keys="ann, bob")
    details = {
        "waiting": 2,
        "exact": {"tile": True},
        "backend": "CPU",
        "kv_cells": 64,
        "kv_cells_used": 9,
        "num_moves": 1,
    }
    api.store.heartbeat("test-worker", "demo", 16, 3, 12.34, details)
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("ann", "bob"))
    for _ in range(3):
        claim(api.store, api.client.post("/v1/jobs", json={"prompt": "Ice"}, headers=ann).json()["id"])
        api.client.post("/v1/jobs", json={"prompt": "Ice"}, headers=ann)
    workers, queues = (api.client.get(f"/v1/{what}", headers=bob).json() for what in ("workers", "queues"))
    assert (workers["counts"], queues["counts"]) == ("own", "own")
    (worker,) = workers["data"]
    assert [worker[name] for name in ("busy_slots", "waiting", "tokens_per_second")] == [None] * 3
    assert (worker["running"], worker["slots"], worker["exact"]) == (0, 16, {"tile": True})
    assert worker["details"] == {"backend": "CPU", "kv_cells": 64}
    assert [(queue["queued"], queue["running"], queue["oldest_at"]) for queue in queues["data"]] == [(0, 0, None)] * 2
    (worker,) = api.client.get("/v1/workers", headers=ann).json()["data"]
    (interactive, _) = api.client.get("/v1/queues", headers=ann).json()["data"]
    assert (worker["running"], interactive["queued"], interactive["running"]) == (3, 3, 3)


@pytest.mark.parametrize("scope", [KeyScope.METRICS, KeyScope.ADMIN])
def test_a_key_for_numbers_or_for_everything_is_told_of_everybody(api: Api, scope: KeyScope) -> None:
    claim(api.store, api.submit()["id"])
    api.store.heartbeat("test-worker", "demo", 16, 3, 12.34, {"num_moves": 1})
    _, key = api.store.create_key(NewKey("a key", "eve", (KeyScope.READ, scope)))
    headers = {"Authorization": f"Bearer {key}"}
    workers, queues = (api.client.get(f"/v1/{what}", headers=headers).json() for what in ("workers", "queues"))
    assert (workers["counts"], queues["counts"]) == ("all", "all")
    (worker,) = workers["data"]
    assert (worker["running"], worker["busy_slots"], worker["details"]) == (1, 3, {"num_moves": 1})
    assert queues["data"][0]["running"] == 1


def test_a_recipe_is_told_whole(api: Api) -> None:
    run_to_end(api.store, api.submit()["id"])
    reply = api.client.get(f"/v1/recipes/{recipe_id(RECIPE)}")
    assert reply.json() == {"id": recipe_id(RECIPE), "object": "recipe", "body": RECIPE}


@pytest.mark.parametrize("name", ["fp_0000000000000000", "fp_x", "..", "%00"])
def test_a_recipe_that_is_not_there_is_not_found(api: Api, name: str) -> None:
    assert api.client.get(f"/v1/recipes/{name}").status_code == 404


def test_jobs_are_found_by_how_their_ids_begin(api: Api) -> None:
    job_id = api.submit()["id"]
    found = api.client.get("/v1/jobs", params={"id_prefix": job_id[:30]}).json()["data"]
    assert [job["id"] for job in found] == [job_id]
    assert api.client.get("/v1/jobs", params={"id_prefix": "job_" + "f" * 12}).json()["data"] == []
    assert api.client.get("/v1/jobs", params={"id_prefix": "job_"}).json()["first_id"] == job_id


@pytest.mark.parametrize("prefix", ["JOB_", "job_%", "job_zz", "x", "job_" + "0" * 33])
def test_a_beginning_that_no_id_has_is_refused_by_its_name(api: Api, prefix: str) -> None:
    reply = api.client.get("/v1/jobs", params={"id_prefix": prefix})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "id_prefix")


def test_a_listing_may_ask_for_the_beginnings_of_texts_only(api: Api) -> None:
    chat = [{"role": "system", "content": "x " * 20}, {"role": "user", "content": "Ice " * 20}]
    job_id = api.client.post("/v1/jobs", json={"messages": chat}).json()["id"]
    run_to_end(api.store, job_id, "Skates " * 100)
    (job,) = api.client.get("/v1/jobs", params={"excerpt": 5}).json()["data"]
    assert (job["messages"], job["completion"]) == ([{"role": "user", "content": "Ice I"}], "Skate")
    (whole,) = api.client.get("/v1/jobs").json()["data"]
    assert (whole["messages"], len(whole["completion"])) == (chat, 700)


def test_a_line_is_known_by_what_its_file_calls_it(api: Api) -> None:
    batch_id = created(api, [chat_line("a")])["id"]
    assert api.submit()["custom_id"] is None
    office(api).work()
    (line,) = api.client.get("/v1/jobs", params={"batch_id": batch_id}).json()["data"]
    assert line["custom_id"] == "a"


def test_a_page_of_batches_tells_their_pace_when_asked(api: Api) -> None:
    created(api, [chat_line("a")])
    (batch,) = api.client.get("/v1/batches", params={"rates": True}).json()["data"]
    assert batch["lines_per_second"] is None
    assert api.client.get("/v1/batches", params={"rates": "x"}).status_code == 400
