"""Names of models, and the local file that each means.

    demo                          the small model that ships with Penstock
    phi-3-mini                    Phi-3-mini, quantized, from the hub
    hf:OWNER/REPO/FILE.gguf       any file of the hub (FILE may hold slashes)
    PATH                          a file of this machine

`python -m worker.sources NAME` fetches one with a progress bar; `--list` prints what is known and cached, as JSON.
Knows files, not engines: a model that resolves here may still be one that llama.cpp cannot run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jobs.settings import Settings
from worker import hub
from worker.gguf_header import NotGGUF, read_header
from worker.hub import HubFile
from worker.progress import Meter

HUB_MODELS = {
    "phi-3-mini": HubFile("microsoft/Phi-3-mini-4k-instruct-gguf", "Phi-3-mini-4k-instruct-q4.gguf"),
}
DEMO = Path(__file__).resolve().parent.parent / "ops" / "demo_model" / "phi-3-demo.gguf"
_ADVICE = "use `--model demo`, which ships with Penstock, or `--model PATH` for a GGUF file of your own"
_READ_BYTES = 4 * 1024 * 1024


class ModelUnavailable(Exception):
    """This model cannot be had. The message is one line, for a person.

    `code`: `unknown_name`, `file_missing`, `not_a_gguf`, `unreadable`, `too_little_memory`, `no_network`,
    `repository_not_found`, `revision_not_found`, `file_not_found`, `access_denied`, `disk_full`, `download_failed`;
    of a file that is there and cannot be loaded: `model_unreadable`, `out_of_memory`, `attention_unavailable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model's file. `repo` and `revision` (the commit's hash) are set for models of the hub."""

    name: str
    path: Path
    repo: str | None
    revision: str | None
    sha256: str


def resolve(settings: Settings) -> ModelSource:
    """Find the file of `settings.model`, downloading it where needed. Raises ModelUnavailable."""
    source = resolve_name(settings.model, settings.model_revision, settings.home)
    return replace(source, name=settings.model_name)


def resolve_name(name: str, revision: str | None, home: Path) -> ModelSource:
    wanted = hub_file(name, revision)
    path = _fetch(name, wanted) if wanted else _local(name)
    _check_gguf(path)
    commit = hub.commit_of(path) if wanted else None
    return ModelSource(name, path, wanted.repo if wanted else None, commit, file_sha256(path, home))


def hub_file(name: str, revision: str | None = None) -> HubFile | None:
    """What `name` means on the hub; None for the demo model and for paths."""
    if name in HUB_MODELS:
        known = HUB_MODELS[name]
        return HubFile(known.repo, known.file, revision)
    if not name.startswith("hf:"):
        return None
    owner, _, rest = name.removeprefix("hf:").partition("/")
    repo, _, file = rest.partition("/")
    if not owner or not repo or not file.endswith(".gguf"):
        raise ModelUnavailable("unknown_name", f"{name!r} is not of the form hf:OWNER/REPO/FILE.gguf.")
    return HubFile(f"{owner}/{repo}", file, revision)


def file_sha256(path: Path, home: Path) -> str:
    """SHA-256 of a file, remembered in `home` under its path, size and time of change: once for gigabytes."""
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    note = home / "checksums" / f"{hashlib.sha256(key.encode()).hexdigest()}.txt"
    try:
        return note.read_text().strip()
    except OSError:
        digest = _hash(path, status.st_size)
    _remember(note, digest)
    return digest


def _hash(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with Meter(f"Checking {path.name}", size) as meter, path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
            meter.advance(len(piece))
    return digest.hexdigest()


def _remember(note: Path, digest: str) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        part = note.with_suffix(f".{os.getpid()}")
        part.write_text(digest)
        part.replace(note)
    except OSError as error:  # a read-only home costs the time of a checksum at each start, no more
        logging.getLogger("penstock.sources").info("The checksum cannot be kept: %s.", error.strerror)


def _fetch(name: str, wanted: HubFile) -> Path:
    try:
        return hub.fetch(wanted)
    except hub.HubError as error:
        message = str(error)
        if error.code == "no_network":
            message = f"{message}, and no copy of {name} is cached: {_ADVICE}."
        raise ModelUnavailable(error.code, message) from error


def _local(name: str) -> Path:
    path = DEMO if name == "demo" else Path(name).expanduser()
    if path.is_file():
        return path
    if path.exists():
        raise ModelUnavailable("file_missing", f"{name} is not a file.")
    if name == "demo":
        raise ModelUnavailable("file_missing", "The demo model is not installed; `make demo-model` writes it.")
    if "/" not in name and not name.endswith(".gguf"):
        known = ", ".join(["demo", *HUB_MODELS])
        raise ModelUnavailable(
            "unknown_name", f"No model is named {name!r}: {known}, hf:OWNER/REPO/FILE.gguf or a path."
        )
    raise ModelUnavailable("file_missing", f"There is no file {name}.")


def _check_gguf(path: Path) -> None:
    try:
        header = read_header(path)
    except NotGGUF as error:
        raise ModelUnavailable("not_a_gguf", f"{path.name} is not a GGUF model: {error}.") from error
    except OSError as error:
        raise ModelUnavailable("unreadable", f"{path.name} cannot be read: {error.strerror}.") from error
    if header.num_tensors == 0:
        raise ModelUnavailable("not_a_gguf", f"{path.name} is a GGUF file without weights (a vocabulary only).")


def list_models() -> list[dict[str, object]]:
    """Every name Penstock knows, with the file it has for it and its size in bytes, if it has one."""
    files = {"demo": DEMO if DEMO.is_file() else None}
    files |= {name: hub.cached(wanted) for name, wanted in HUB_MODELS.items()}
    return [
        {
            "name": name,
            "cached": path is not None,
            "path": str(path) if path else None,
            "size_bytes": path.stat().st_size if path else None,
            "repo": HUB_MODELS[name].repo if name in HUB_MODELS else None,
            "revision": hub.commit_of(path) if path else None,
        }
        for name, path in files.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Pull one model, or list them. Exit status 1 with one line on standard error where it cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m worker.sources", description="Fetch a model.")
    parser.add_argument("name", nargs="?", help="demo, phi-3-mini, hf:OWNER/REPO/FILE.gguf or a path")
    parser.add_argument("--list", action="store_true", help="print the known models as JSON")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        sys.stdout.write(json.dumps(list_models(), indent=2) + "\n")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for talkative in ("httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    settings = Settings()
    try:
        source = resolve_name(chosen.name or settings.model, settings.model_revision, settings.home)
    except ModelUnavailable as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    sys.stdout.write(json.dumps({**asdict(source), "path": str(source.path)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
