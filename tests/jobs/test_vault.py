"""The vault, on a disk and on an S3-compatible server: the same behaviour on both."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from jobs.errors import NotFound, PenstockError, StorageUnavailable
from jobs.files import PART_BYTES, READ_BYTES, Vault, checked_name, input_name, output_name
from tests.jobs.support import make_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["disk", "s3"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    url = str(tmp_path / "files") if request.param == "disk" else str(request.getfixturevalue("s3_url"))
    return Vault.open(make_settings(files_url=url))


def put(vault: Vault, name: str, data: bytes) -> None:
    with vault.writer(name) as out:
        out.write(data)


def names(vault: Vault) -> set[str]:
    return set(vault.stored_before(datetime.now(UTC) + timedelta(days=1)))


def test_an_object_is_read_back_whole_and_by_ranges(vault: Vault) -> None:
    data = os.urandom(2 * READ_BYTES + 77)
    with vault.writer("inputs/a.jsonl") as out:
        for start in range(0, len(data), 100_000):
            out.write(data[start : start + 100_000])
    assert out.num_bytes == len(data)
    assert b"".join(vault.read("inputs/a.jsonl")) == data
    assert b"".join(vault.read("inputs/a.jsonl", start=READ_BYTES - 5)) == data[READ_BYTES - 5 :]
    assert b"".join(vault.read("inputs/a.jsonl", 10, READ_BYTES + 20)) == data[10 : READ_BYTES + 20]
    assert max(map(len, vault.read("inputs/a.jsonl"))) <= READ_BYTES
    assert not list(vault.read("inputs/a.jsonl", start=len(data)))


def test_an_empty_object_is_an_object(vault: Vault) -> None:
    with vault.writer("checked/empty.jsonl"):
        pass
    assert vault.exists("checked/empty.jsonl")
    assert not list(vault.read("checked/empty.jsonl"))


@pytest.mark.parametrize("num_bytes", [10, PART_BYTES + 10], ids=["small", "of several parts"])
def test_a_writer_that_fails_leaves_nothing(vault: Vault, num_bytes: int) -> None:
    def write_and_fail() -> None:
        with vault.writer("inputs/broken.jsonl") as out:
            out.write(b"x" * num_bytes)
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()
    assert not vault.exists("inputs/broken.jsonl")
    assert not names(vault)
    assert vault.abandon_uploads(datetime.now(UTC) + timedelta(days=1)) == 0


def test_an_object_is_not_there_before_it_is_whole(vault: Vault) -> None:
    with vault.writer("outputs/a.jsonl") as out:
        out.write(b"a line\n")
        assert not vault.exists("outputs/a.jsonl")
    assert vault.exists("outputs/a.jsonl")


def test_what_is_not_there_is_not_found_and_may_be_deleted(vault: Vault) -> None:
    with pytest.raises(NotFound):
        list(vault.read("inputs/none.jsonl"))
    with pytest.raises(NotFound):
        list(vault.read("inputs/none.jsonl", 0, 10))
    vault.delete("inputs/none.jsonl")
    assert not names(vault)


def test_a_deleted_object_is_gone_and_its_neighbours_stay(vault: Vault) -> None:
    put(vault, "inputs/a.jsonl", b"a")
    put(vault, "inputs/b.jsonl", b"b")
    vault.delete("inputs/a.jsonl")
    assert names(vault) == {"inputs/b.jsonl"}


def test_only_what_was_written_before_is_listed(vault: Vault) -> None:
    for name in ("inputs/a.jsonl", "checked/a.jsonl", "outputs/a.jsonl"):
        put(vault, name, b"a")
    assert names(vault) == {"inputs/a.jsonl", "checked/a.jsonl", "outputs/a.jsonl"}
    assert not list(vault.stored_before(datetime.now(UTC) - timedelta(days=1)))


def test_threads_may_write_and_read_at_once(vault: Vault) -> None:
    def write(number: int) -> None:
        put(vault, f"inputs/{number}.jsonl", str(number).encode() * 1000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert b"".join(vault.read(f"inputs/{number}.jsonl")) == str(number).encode() * 1000


def test_names_of_two_writers_at_one_place_differ() -> None:
    assert output_name("file-1", 7) != output_name("file-1", 7)
    assert checked_name("file-1") != checked_name("file-1")
    assert input_name("file-1") == "inputs/file-1.jsonl"


def test_without_a_url_files_are_in_the_home(tmp_path: Path) -> None:
    put(Vault.open(make_settings(home=tmp_path)), "inputs/a.jsonl", b"a")
    assert (tmp_path / "files" / "inputs" / "a.jsonl").read_bytes() == b"a"


def test_a_killed_writer_leaves_no_object_and_what_it_left_is_swept(tmp_path: Path) -> None:
    script = (
        "import sys; from jobs.files import Vault\n"
        "with Vault(sys.argv[1]).writer('inputs/a.jsonl') as out:\n"
        "    out.write(b'half'); print('writing', flush=True); sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.kill()
    process.communicate()
    vault = Vault(str(tmp_path))
    assert not vault.exists("inputs/a.jsonl")
    (left,) = names(vault)
    vault.delete(left)
    assert not names(vault)


def test_an_upload_that_was_never_completed_is_given_up(s3_url: str) -> None:
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/outputs/a.jsonl")
    client.create_multipart_upload(Bucket=bucket, Key="another/application")
    vault = Vault(s3_url)
    assert vault.abandon_uploads(datetime(2000, 1, 1, tzinfo=UTC)) == 0
    assert vault.abandon_uploads(datetime.now(UTC) + timedelta(days=1)) == 1
    assert [left["Key"] for left in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["another/application"]


def test_a_disk_that_cannot_be_written_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "files").write_bytes(b"a file where the folder should be")
    with pytest.raises(StorageUnavailable), Vault(str(tmp_path / "files")).writer("inputs/a.jsonl"):
        pass


def test_a_bucket_that_is_not_there_is_an_outage_to_a_writer(s3_url: str) -> None:
    missing = Vault("s3://no-such-bucket/files")
    with pytest.raises(StorageUnavailable), missing.writer("inputs/a.jsonl") as out:
        out.write(b"a")


@pytest.mark.parametrize("url", ["nonsense://bucket", "s4://x/y"])
def test_a_storage_that_nobody_knows_is_refused_by_the_settings_name(url: str) -> None:
    with pytest.raises(PenstockError, match="PENSTOCK_FILES_URL"):
        Vault(url)


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("rename"), replace(self, target))[1])
    vault = Vault(str(tmp_path))
    put(vault, "inputs/a.jsonl", b"a")
    done.clear()
    put(vault, "inputs/b.jsonl", b"b")
    assert done == ["fsync", "rename", "fsync"]
