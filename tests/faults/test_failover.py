"""A worker dies in mid-stream: the next attempt takes up what readers have, or says openly that it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.events import snapshot_key
from jobs.states import JobState
from ops.demo_model.random_weights import SHAPES, write_random_model
from tests.faults.conftest import MakeSystem
from tests.faults.reading import LONG_TOKENS, Answer, Chat, Native, ask, post, stored
from tests.support.services import wait_until
from tests.support.system import Role, System


@pytest.fixture
def system(make_system: MakeSystem, sqlite_url: str) -> System:
    """Leases are short, so that a death is noticed soon; slots for all that runs in one test."""
    made = make_system(sqlite_url, model="demo", slots=4, lease_seconds=2.0, retry_backoff_seconds=0.1)
    made.start_all()
    return made


def worker_of(system: System) -> Role:
    return system.roles[2]


def replace_worker(system: System) -> None:
    """SIGKILL, and another one in its place."""
    worker_of(system).kill()
    worker_of(system).restart()


@pytest.fixture
def impostor(tmp_path: Path) -> Path:
    """A model of the same name that says something else."""
    path = tmp_path / "other" / "demo"
    path.parent.mkdir()
    write_random_model(path, SHAPES["tiny"], context_tokens=2048, seed=5)
    return path


def test_on_every_wire_an_ordinary_stream_goes_on_behind_what_was_told(system: System) -> None:
    native_id, response_id = post(system), ask(system)
    readings = [Native(system, native_id), Answer(system, response_id), Chat(system)]
    native, response, chat = readings
    for reading in readings:
        reading.wait_for_text()
    before = [reading.text for reading in readings]
    replace_worker(system)
    assert isinstance(native, Native)
    assert isinstance(chat, Chat)
    ids = [native_id, response_id.replace("resp_", "job_"), chat.job_id]
    for job_id, reading, told in zip(ids, readings, before, strict=True):
        completion, continuity = stored(system, job_id)
        reading.join()
        assert reading.text == completion, "no gap, no repeat"
        assert (continuity["mode"], continuity["from_attempt"]) == ("continued", 1)
        assert 0 < continuity["tokens"] < LONG_TOKENS
        assert len(told) <= continuity["kept"]["1"] < len(completion)
        assert system.outcomes(job_id) == ["lease_lost", "succeeded"]
    assert native.kinds[-1] == "end"
    assert "reset" not in native.kinds
    assert response.kinds[-1] == "response.incomplete"
    assert chat.done


def test_an_exact_stream_is_generated_again_and_checked_token_by_token(system: System) -> None:
    job_id = post(system, exact=True)
    reading = Native(system, job_id)
    reading.wait_for_text()
    told = reading.text
    replace_worker(system)
    completion, continuity = stored(system, job_id)
    reading.join()
    assert (reading.text, reading.kinds[-1]) == (completion, "end")
    assert "reset" not in reading.kinds
    assert (continuity["mode"], continuity["matches"]) == ("regenerated", True)
    assert continuity["tokens"] > 0
    assert continuity["kept"]["1"] >= len(told)
    replay = system.http.post(f"/v1/jobs/{job_id}/replay").json()["id"]
    system.wait_for_ends([replay], 60)
    assert system.http.get(f"/v1/jobs/{replay}").json()["replay"]["result"] == "match"


def test_a_worker_that_dies_while_it_catches_up_loses_nothing_that_was_told(system: System) -> None:
    """The third attempt checks all that the first one told, not the little that the second came to."""
    job_id = post(system, exact=True)
    reading = Native(system, job_id)
    reading.wait_for_text(1500)
    replace_worker(system)
    wait_until(lambda: system.store.get(job_id).attempt == 2, 60)
    replace_worker(system)
    completion, continuity = stored(system, job_id)
    reading.join()
    assert reading.text == completion
    assert "reset" not in reading.kinds
    assert (continuity["mode"], continuity["matches"]) == ("regenerated", True)
    assert continuity["kept"]["1"] >= 1500


def test_readers_that_come_back_after_the_death_go_on_where_they_were(system: System) -> None:
    """While the next attempt runs, and when it has ended, with the place they had in the first one's text."""
    native_id, response_id = post(system), ask(system)
    native, response = Native(system, native_id), Answer(system, response_id)
    for reading in (native, response):
        reading.wait_for_text()
        reading.leave()
    replace_worker(system)
    back, again = Native(system, native_id, after=native.place), Answer(system, response_id, after=response.place)
    completion, _ = stored(system, native_id)
    answer, _ = stored(system, response_id.replace("resp_", "job_"))
    late, later = Native(system, native_id, after=native.place), Answer(system, response_id, after=response.place)
    for reading in (back, again, late, later):
        reading.join()
    assert [native.text + reading.text for reading in (back, late)] == [completion] * 2
    assert [response.text + reading.text for reading in (again, later)] == [answer] * 2
    assert "reset" not in back.kinds + late.kinds


def test_another_text_than_was_told_is_a_reset_or_an_error_and_never_a_whole_stream(
    system: System, impostor: Path
) -> None:
    """The snapshot is lost, and the next worker says something else; of an exact job the snapshot is there."""
    native_id, response_id, exact_id = post(system), ask(system), post(system, exact=True)
    native, response, exact = Native(system, native_id), Answer(system, response_id), Native(system, exact_id)
    chat = Chat(system, store=True)
    for reading in (native, response, exact, chat):
        reading.wait_for_text()
    worker_of(system).kill()
    response_job = response_id.replace("resp_", "job_")
    for job_id in (native_id, response_job, chat.job_id):
        assert system.redis.delete(snapshot_key(job_id))
    place = native.place
    system.start_worker_process(PENSTOCK_MODEL=str(impostor))
    completion, continuity = stored(system, native_id)
    for reading in (native, response, exact, chat):
        reading.join()
    assert continuity == {}, "nothing was known of what had been told"
    assert (native.text, native.kinds[-1]) == (completion, "end")
    assert "reset" in native.kinds
    exact_text, exactness = stored(system, exact_id)
    assert (exactness["mode"], exactness["matches"]) == ("regenerated", False)
    assert (exact.text, "reset" in exact.kinds) == (exact_text, True)
    assert (response.kinds[-1], response.data[-1]["code"]) == ("error", "stream_reset")
    assert (chat.done, chat.error) == (False, "stream_reset")
    stored(system, response_job)
    late = Native(system, native_id, after=place)
    later = Answer(system, response_id, after=response.place)
    late.join()
    later.join()
    assert (late.kinds[0], late.text) == ("reset", completion)
    assert later.data[-1]["code"] == "stream_reset"


def test_a_killed_api_leaves_no_stream_that_looks_finished_and_all_can_be_resumed(system: System) -> None:
    native_id, response_id = post(system), ask(system)
    chat = Chat(system, store=True)
    native, response = Native(system, native_id), Answer(system, response_id)
    for reading in (native, response, chat):
        reading.wait_for_text()
    api = system.roles[0]
    api.kill()
    for reading in (native, response, chat):
        reading.join()
        assert reading.cut
    assert "end" not in native.kinds
    assert not [kind for kind in response.kinds if kind in ("response.completed", "response.incomplete")]
    assert not chat.done
    api.restart()
    wait_until(system.health, 30)
    back, again = Native(system, native_id, after=native.place), Answer(system, response_id, after=response.place)
    completion, _ = stored(system, native_id)
    answer, _ = stored(system, response_id.replace("resp_", "job_"))
    back.join()
    again.join()
    assert (native.text + back.text, back.kinds[-1]) == (completion, "end")
    assert response.text + again.text == answer
    whole, _ = stored(system, chat.job_id)
    assert whole.startswith(chat.text)


def test_a_caller_that_leaves_cancels_a_plain_live_job_and_no_other(system: System) -> None:
    response_id = ask(system)
    plain, kept, response = Chat(system), Chat(system, store=True), Answer(system, response_id)
    for reading in (plain, kept, response):
        reading.wait_for_text()
        reading.leave()
    system.wait_for(JobState.CANCELLED, plain.job_id)
    for job_id in (kept.job_id, response_id.replace("resp_", "job_")):
        stored(system, job_id)
