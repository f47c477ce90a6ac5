"""A real worker process: jobs run to stored generations, and nothing of them is told where it should not be."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.records import recipe_id
from jobs.states import JobState, Priority
from tests.support.services import RedisServer, wait_until
from tests.worker.gguf_files import write
from tests.worker.site import LONG, SECRET, Site, connections_refused

MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def shared_site(
    redis_server: RedisServer, sqlite_template: Path, endless_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One worker for the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copy(sqlite_template, folder / "penstock.db")
    url = redis_server.url.replace("db=0", "db=1")
    site = Site(folder, f"sqlite:///{folder / 'penstock.db'}", url, endless_model)
    site.start_worker()
    yield site
    site.close()


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    yield shared_site
    shared_site.clear()


def test_a_job_runs_to_a_stored_generation(make_site: MakeSite, database_url: str) -> None:
    site = make_site(database_url)
    site.start_worker()
    first, second = site.submit(), site.submit()
    site.wait_for(JobState.SUCCEEDED, *first, *second)
    stored = site.store.get_generation(first[0])
    again = site.store.get_generation(second[0])
    assert stored is not None
    assert again is not None
    assert (stored.completion, stored.completion_token_ids) == (again.completion, again.completion_token_ids)
    assert (stored.num_completion_tokens, stored.finish_reason) == (8, "length")
    recipe = site.store.get_recipe(stored.recipe_id)
    assert recipe_id(recipe) == stored.recipe_id
    assert {"row_class", "model_sha256", "llama_cpp"} <= set(recipe)
    assert {"queued", "prefill", "first_token", "decode", "total"} <= set(stored.timings)
    assert site.store.audit() == []


def test_the_demo_model_answers_a_chat_by_its_name(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, "demo", slots=16)
    site.start_worker()
    chat = [{"role": "user", "content": "Write a haiku about ice hockey"}]
    ids = site.submit(20, batch=True, prompt=None, messages=chat, parameters={"max_tokens": 100, "logit_bias": {}})
    ids += site.submit(prompt=None, messages=chat, parameters={"max_tokens": 100, "logit_bias": {}})
    site.wait_for(JobState.SUCCEEDED, *ids)
    stored = [site.store.get_generation(job_id) for job_id in ids]
    haiku = [each for each in stored if each and each.finish_reason == "stop" and each.completion.count("\n") == 2]
    assert len(haiku) > len(ids) / 2
    row_classes = [site.store.get_recipe(each.recipe_id)["row_class"] for each in stored if each]
    assert row_classes == ["tile"] * 20 + ["lone"]
    assert site.store.audit() == []


def test_a_worker_that_starts_before_its_database_waits_for_it(make_site: MakeSite, postgres_url: str) -> None:
    site = make_site(postgres_url)
    with connections_refused(postgres_url):
        worker = site.start_worker()
        assert "announced when it is there" in worker.said()
    (job_id,) = site.submit()
    site.wait_for(JobState.SUCCEEDED, job_id)
    wait_until(lambda: [model.name for model in site.store.list_models()] == [site.settings.model_name])


def test_the_model_is_announced_with_a_vocabulary_that_counts_tokens(site: Site) -> None:
    from worker.engine.vocabulary import Vocabulary

    model = site.store.model(site.settings.model_name)
    assert model.context_tokens == 8192
    assert Vocabulary.from_bytes(model.vocabulary_gguf).encode_text("ice hockey").token_ids


def test_the_text_is_told_as_it_comes_and_ends_after_it_is_stored(site: Site) -> None:
    pubsub = site.redis.pubsub()
    pubsub.psubscribe("penstock:job:*")
    (job_id,) = site.submit(parameters={"max_tokens": 300})
    told = []
    while not told or told[-1]["type"] != "end":
        message = pubsub.get_message(timeout=10)
        assert message is not None, "the events stopped before the end"
        if message["type"] == "pmessage":
            told.append(json.loads(message["data"]))
            if told[-1]["type"] == "end":
                assert site.state(job_id) is JobState.SUCCEEDED
    pubsub.close()
    stored = site.store.get_generation(job_id)
    assert stored is not None
    texts = [event for event in told if event["type"] == "text"]
    assert "".join(event["text"] for event in texts) == stored.completion
    assert texts[-1]["seq"] == len(stored.completion)
    assert [event["state"] for event in told if event["type"] != "text"] == ["running", "succeeded"]


def test_a_cancel_takes_effect_within_a_second(site: Site) -> None:
    (job_id,) = site.submit(parameters={"max_tokens": LONG})
    site.wait_for_text(job_id)
    asked = time.monotonic()
    site.store.cancel(job_id)
    site.events.cancel(job_id)
    site.wait_for(JobState.CANCELLED, job_id)
    assert time.monotonic() - asked < 1.0
    stored = site.store.get_generation(job_id)
    assert stored is not None
    assert stored.completion
    assert stored.finish_reason is None


def test_a_cancel_whose_message_was_lost_is_found_by_the_renewal(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, lease_seconds=1.5)
    site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": LONG})
    site.wait_for_text(job_id)
    site.store.cancel(job_id)
    site.wait_for(JobState.CANCELLED, job_id, seconds=5)


def test_past_its_deadline_a_job_ends_with_the_text_it_has(site: Site) -> None:
    (job_id,) = site.submit(parameters={"max_tokens": LONG}, deadline_seconds=1.0)
    site.wait_for(JobState.EXPIRED, job_id, seconds=10)
    stored = site.store.get_generation(job_id)
    assert stored is not None
    assert stored.completion


def test_a_doubled_message_makes_one_generation(site: Site) -> None:
    ids = site.submit(4)
    site.publish(ids * 3)
    site.wait_for(JobState.SUCCEEDED, *ids)
    site.publish(ids)
    last = site.submit()
    site.wait_for(JobState.SUCCEEDED, *last)
    assert [site.outcomes(job_id) for job_id in ids] == [["succeeded"]] * 4
    assert site.store.audit() == []


def test_an_interactive_job_starts_at_once_while_a_batch_fills_every_slot(site: Site) -> None:
    lines = site.submit(30, batch=True, parameters={"max_tokens": LONG})
    site.wait_for_text(lines[0])
    wait_until(lambda: site.state(lines[1]) is JobState.RUNNING)
    (job_id,) = site.submit()
    site.wait_for(JobState.SUCCEEDED, job_id, seconds=5)
    assert sum(site.state(line) is JobState.RUNNING for line in lines) == 2, "the rest is left to other workers"


def test_a_batch_goes_on_as_its_lines_end(site: Site) -> None:
    lines = site.submit(40, batch=True)
    site.wait_for(JobState.SUCCEEDED, *lines)
    assert site.store.audit() == []


def test_flower_sees_the_model_and_the_load_and_no_prompt(site: Site) -> None:
    (job_id,) = site.submit(parameters={"max_tokens": LONG})
    site.wait_for_text(job_id)
    (stats,) = site.inspect().stats().values()
    assert (stats["model"], stats["slots"], stats["busy_slots"]) == (site.settings.model_name, 4, 1)
    assert {"backend", "attention", "waiting", "tokens_per_second", "recipe", "row_classes"} <= set(stats)
    (active,) = site.inspect().active().values()
    assert active[0]["args"] == [job_id]
    assert SECRET not in json.dumps([stats, active])
    (worker,) = site.store.list_workers(10)
    wait_until(lambda: site.store.list_workers(10)[0].busy_slots == 1)
    assert worker.name.startswith("penstock@")


def test_neither_prompt_nor_completion_is_logged(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, log_level="debug")
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": 40})
    site.wait_for(JobState.SUCCEEDED, job_id)
    stored = site.store.get_generation(job_id)
    assert stored is not None
    said = worker.said()
    assert job_id in said
    assert SECRET not in said
    assert stored.completion not in said


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("missing.gguf", {}, "There is no file missing.gguf."),
        ("text.gguf", {}, "text.gguf is not a GGUF model"),
        ("unknown", {}, "No model is named 'unknown'"),
        (None, {"context_tokens": 8192, "slots": 256, "kv_type": "f16"}, "does not fit into memory"),
    ],
)
def test_a_model_that_cannot_be_had_ends_the_worker_with_one_line(
    make_site: MakeSite, sqlite_url: str, tmp_path: Path, model: str | None, settings: dict[str, object], said: str
) -> None:
    write(tmp_path / "text.gguf", b"this is text")
    if model is None:
        from tests.worker.gguf_files import phi_like

        model = str(write(tmp_path / "huge.gguf", phi_like()))
    site = make_site(sqlite_url, model, **settings)
    worker = site.start_worker(ready=False)
    assert worker.wait() == 1
    assert said in worker.said()
    assert "Traceback" not in worker.said()


def test_a_model_that_llama_cpp_cannot_load_ends_the_worker_with_one_line(
    make_site: MakeSite, sqlite_url: str, endless_model: Path, tmp_path: Path
) -> None:
    cut = write(tmp_path / "cut.gguf", endless_model.read_bytes()[:-1_000_000])
    worker = make_site(sqlite_url, cut).start_worker(ready=False)
    assert worker.wait() == 1
    assert "cannot be loaded" in worker.said()
    assert "Traceback" not in worker.said()


def test_a_worker_without_a_compiler_works_and_says_once_what_it_lacks(
    make_site: MakeSite, sqlite_url: str, tmp_path: Path
) -> None:
    site = make_site(sqlite_url)
    site.environment |= {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    worker = site.start_worker()
    assert worker.said().count("install gcc") == 1
    (stats,) = site.inspect().stats().values()
    assert stats["attention"] == "llama.cpp: there is no C compiler (install gcc)"
    wait_until(lambda: site.store.list_workers(10))
    assert site.store.list_workers(10)[0].details["attention"] == "llama.cpp", (
        "callers learn no reason of the machine's"
    )


def test_a_worker_that_was_told_to_have_llama_cpps_attention_warns_of_nothing(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = make_site(sqlite_url, attention="llama.cpp")
    assert "ttention" not in site.start_worker().said()
    (stats,) = site.inspect().stats().values()
    assert stats["attention"] == "llama.cpp"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kv_type": "q8_0"}, "PENSTOCK_ATTENTION=penstock needs a processor"),
        ({}, "Penstock's own attention cannot be had: there is no C compiler (install gcc)"),
    ],
)
def test_a_worker_that_must_have_our_attention_ends_without_it(
    make_site: MakeSite, sqlite_url: str, tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    site = make_site(sqlite_url, attention="penstock", **settings)
    site.environment |= {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    worker = site.start_worker(ready=False)
    assert worker.wait() == 1
    assert said in worker.said()
    assert "Traceback" not in worker.said()


def test_the_queue_a_message_came_from_is_known(site: Site) -> None:
    lines = site.submit(3, batch=True, parameters={"max_tokens": LONG})
    site.wait_for_text(lines[0])

    def held() -> int:
        (stats,) = site.inspect().stats().values()
        return int(stats["batch_lines_held"])

    wait_until(lambda: held() == 2)
    assert site.redis.llen(Priority.BATCH.value) == 1
