"""Model names to files: the hub path against a server that speaks its protocol, in a process as an operator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_hub import COMMIT, Hub, serving
from tests.worker.gguf_files import gguf_bytes, phi_like, write
from worker import sources
from worker.gguf_header import NotGGUF, read_header
from worker.sources import HUB_MODELS, ModelUnavailable, file_sha256, hub_file, resolve_name

ROOT = Path(__file__).resolve().parents[2]
REPO = "owner/repo"
NAME = f"hf:{REPO}/deep/model.gguf"
MODEL = phi_like() + bytes(range(256)) * 4096


class Puller:
    """Runs `python -m worker.sources`, as `penstock model pull` does."""

    def __init__(self, folder: Path, url: str) -> None:
        self.home = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PENSTOCK_HOME": str(folder),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "worker.sources", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def pull(self, name: str = NAME, **environment: str) -> dict[str, Any]:
        done = self.run(name, **environment)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def refusal(self, name: str = NAME, **environment: str) -> str:
        done = self.run(name, **environment)
        assert done.returncode == 1, done.stdout
        return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({(REPO, "deep/model.gguf"): MODEL})) as made:
        yield made


@pytest.fixture
def puller(tmp_path: Path, hub: Hub) -> Puller:
    return Puller(tmp_path, hub.url)


def test_a_model_is_downloaded_once_and_found_again_without_the_hub(puller: Puller, hub: Hub) -> None:
    first = puller.pull()
    assert Path(first["path"]).read_bytes() == MODEL
    assert (first["repo"], first["revision"]) == (REPO, COMMIT)
    puller.pull()
    assert hub.transfers() == [None], "the second pull asks whether it is the newest, and transfers nothing"
    assert puller.pull(HF_ENDPOINT="http://127.0.0.1:9") == first
    assert puller.pull(HF_HUB_OFFLINE="1") == first


def test_a_pinned_commit_is_not_asked_for_again(puller: Puller, hub: Hub) -> None:
    puller.pull(PENSTOCK_MODEL_REVISION=COMMIT)
    hub.requests.clear()
    assert puller.pull(PENSTOCK_MODEL_REVISION=COMMIT)["revision"] == COMMIT
    assert hub.requests == []


def test_a_connection_cut_in_the_middle_is_taken_up_where_it_ended(puller: Puller, hub: Hub) -> None:
    hub.cut_after = [400_000, 300_000]
    assert Path(puller.pull()["path"]).read_bytes() == MODEL
    assert hub.transfers() == [None, "bytes=400000-", "bytes=700000-"]


def test_a_pull_that_was_stopped_goes_on_in_the_next_process(puller: Puller, hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [500_000] + [0] * 20
    assert "out of reach" in puller.refusal()
    hub.cut_after = []
    hub.requests.clear()
    assert Path(puller.pull()["path"]).read_bytes() == MODEL
    assert hub.transfers() == ["bytes=500000-"]
    assert not list(tmp_path.rglob("*.part"))


def test_damaged_bytes_do_not_become_the_model(puller: Puller, hub: Hub) -> None:
    hub.damaged = True
    assert "checksum differs" in puller.refusal()
    hub.damaged = False
    assert Path(puller.pull()["path"]).read_bytes() == MODEL


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        ("hf:owner/nothing/model.gguf", {}, "owner/nothing"),
        (f"hf:{REPO}/other.gguf", {}, "has no file 'other.gguf'"),
        (NAME, {"PENSTOCK_MODEL_REVISION": "nightly"}, "has no revision 'nightly'"),
        (NAME, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "use `--model demo`"),
        (NAME, {"HF_HUB_OFFLINE": "1"}, "`--model PATH`"),
        ("phi-3-mini", {"HF_HUB_OFFLINE": "1"}, "no copy of phi-3-mini is cached"),
    ],
)
def test_refusals_are_one_clear_line(puller: Puller, name: str, environment: dict[str, str], said: str) -> None:
    line = puller.refusal(name, **environment)
    assert said in line
    assert "Traceback" not in line


def test_a_gated_repository_asks_for_its_terms_and_a_token(puller: Puller, hub: Hub) -> None:
    hub.gated = {REPO}
    assert "HF_TOKEN" in puller.refusal()


def test_a_model_larger_than_the_disk_is_refused_before_its_first_byte(puller: Puller, hub: Hub) -> None:
    hub.claimed_size = 2**60
    assert "more on disk" in puller.refusal()
    assert hub.transfers() == []


def test_the_list_tells_what_is_cached(puller: Puller) -> None:
    known = {entry["name"]: entry for entry in json.loads(puller.run("--list").stdout)}
    assert set(known) == {"demo", *HUB_MODELS}
    assert known["phi-3-mini"]["cached"] is False


class TestPaths:
    def refusal(self, name: str, home: Path) -> ModelUnavailable:
        with pytest.raises(ModelUnavailable) as refused:
            resolve_name(name, None, home)
        return refused.value

    def test_a_path_is_its_own_model(self, tmp_path: Path) -> None:
        path = write(tmp_path / "own.gguf", phi_like())
        source = resolve_name(str(path), None, tmp_path)
        assert (source.name, source.path, source.repo, source.revision) == (str(path), path, None, None)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        error = self.refusal(str(tmp_path / "none.gguf"), tmp_path)
        assert error.code == "file_missing"
        assert "none.gguf" in error.message

    def test_a_folder_is_not_a_file(self, tmp_path: Path) -> None:
        assert self.refusal(str(tmp_path), tmp_path).code == "file_missing"

    @pytest.mark.parametrize("data", [b"", b"hello, I am text", b"GGUF", b"GGUF\x09" + bytes(40), phi_like()[:120]])
    def test_what_is_not_a_gguf_is_refused(self, tmp_path: Path, data: bytes) -> None:
        error = self.refusal(str(write(tmp_path / "x.gguf", data)), tmp_path)
        assert error.code == "not_a_gguf"

    def test_a_vocabulary_is_not_a_model(self, tmp_path: Path) -> None:
        path = write(tmp_path / "vocab.gguf", gguf_bytes(num_tensors=0, general__architecture="phi3"))
        assert "without weights" in self.refusal(str(path), tmp_path).message

    def test_an_unknown_name_lists_the_known_ones(self, tmp_path: Path) -> None:
        error = self.refusal("phi-4", tmp_path)
        assert error.code == "unknown_name"
        assert "demo, phi-3-mini" in error.message

    @pytest.mark.parametrize("name", ["hf:", "hf:owner", "hf:owner/repo", "hf:owner/repo/file.bin", "hf://x.gguf"])
    def test_a_hub_name_has_an_owner_a_repository_and_a_gguf(self, name: str) -> None:
        with pytest.raises(ModelUnavailable, match="hf:OWNER/REPO/FILE"):
            hub_file(name)


def test_a_checksum_is_computed_once_for_a_file_that_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.gguf", b"one")
    hashed: list[Path] = []
    compute = sources._hash
    monkeypatch.setattr(sources, "_hash", lambda file, size: (hashed.append(file), compute(file, size))[1])
    first = file_sha256(path, tmp_path / "home")
    assert file_sha256(path, tmp_path / "home") == first
    assert hashed == [path]
    path.write_bytes(b"three")
    assert file_sha256(path, tmp_path / "home") != first


def test_the_head_tells_the_cost_of_a_token(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "x.gguf", phi_like()))
    assert header.trained_context_tokens == 4096
    assert header.kv_bytes_per_token() == 384 * 1024, "what was measured for Phi-3-mini at f16"
    shared = read_header(write(tmp_path / "y.gguf", phi_like(attention__head_count_kv=8)))
    assert shared.kv_bytes_per_token() == 96 * 1024


def test_a_head_of_nonsense_lengths_is_refused_without_reading_it(tmp_path: Path) -> None:
    data = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") * 2 + b"\xff" * 8
    with pytest.raises(NotGGUF):
        read_header(write(tmp_path / "x.gguf", data))
