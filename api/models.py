"""The served model as the API needs it: its name, its vocabulary and the context of a slot.

A worker announces its model in the database, vocabulary included; that is read again every few seconds. A model that
lies on this machine (`demo`, or a path) is known before any worker has announced it.
"""

from __future__ import annotations

import hashlib
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jobs.errors import ModelUnknown
from jobs.settings import Settings
from jobs.store import Store
from jobs.tables import Model, Worker
from worker.engine.vocabulary import Vocabulary

FRESH_SECONDS = 2.0
LOCAL_SECONDS = 0.2
"""For so long a local file is believed that no worker has announced yet."""
ALIVE_SECONDS = 30.0
"""A worker that was heard of within so long lives."""
DEMO_FILE = Path(__file__).resolve().parent.parent / "ops" / "demo_model" / "phi-3-demo.gguf"
"""Beside this package, in the repository as when installed. `ops` itself is imported by nobody."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`context_tokens`: prompt and completion together, of one job. `exact`: a worker has proven a row class on
    its machine; None while no worker has said."""

    name: str
    context_tokens: int
    vocabulary: Vocabulary
    exact: bool | None = None
    version: str = ""
    """The SHA-256 of the model's file, or what else tells one from another that had its name."""

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits for all of it that a request is checked against: what was checked for one such
        model holds for another with the same."""
        said = f"{self.name}\n{self.version}\n{self.context_tokens}\n{self.exact is False}"
        return hashlib.sha256(said.encode()).hexdigest()


class Catalog:
    """Finds the served model. Safe from several threads."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._served: ServedModel | None = None
        self._served_until = 0.0

    @property
    def name(self) -> str:
        """Name of the one model that is served."""
        return self._settings.model_name

    def served(self) -> ServedModel:
        """The served model. Raises ModelUnknown, StoreUnavailable."""
        with self._lock:
            if self._served is None or self._clock() >= self._served_until:
                self._served, fresh_seconds = self._look()
                self._served_until = self._clock() + fresh_seconds
            return self._served

    def _look(self) -> tuple[ServedModel, float]:
        """The model, and for how long it need not be looked for again."""
        try:
            row = self._store.model(self.name)
        except ModelUnknown:
            return self._local(), LOCAL_SECONDS
        announced = ServedModel(
            self.name,
            row.context_tokens,
            _announced_vocabulary(row.vocabulary),
            exact=_any(proven_classes(row, self._store.list_workers(ALIVE_SECONDS))),
            version=row.sha256,
        )
        return announced, FRESH_SECONDS

    def _local(self) -> ServedModel:
        path = local_file(self._settings.model)
        if path is None:
            raise ModelUnknown(self.name)
        changed_at = path.stat().st_mtime_ns
        vocabulary = _vocabulary_in(path, changed_at)
        known = [tokens for tokens in (self._settings.context_tokens, vocabulary.context_tokens) if tokens]
        if not known:
            raise ModelUnknown(self.name)
        return ServedModel(self.name, min(known), vocabulary, version=f"changed at {changed_at}")


def proven_classes(model: Model, workers: Iterable[Worker]) -> dict[str, bool] | None:
    """By row class: whether a living worker has proven that it is exact. Where none lives, what the last one said at
    its start; None where nobody has said."""
    said = [w.details["exact"] for w in workers if w.model == model.name and "exact" in w.details]
    if not said and model.details.get("exact") is not None:
        said = [model.details["exact"]]
    names = sorted({name for one in said for name in one})
    return {name: any(one.get(name) for one in said) for name in names} if said else None


def _any(classes: Mapping[str, bool] | None) -> bool | None:
    return None if classes is None else any(classes.values())


# A process serves one model, or for a moment two, when the file behind a name changes.


@lru_cache(maxsize=2)
def _announced_vocabulary(data: bytes) -> Vocabulary:
    """`data`: a GGUF file without tensors, as the store keeps it: compressed."""
    return Vocabulary.from_bytes(zlib.decompress(data))


@lru_cache(maxsize=2)
def _vocabulary_in(path: Path, _changed_at: int) -> Vocabulary:
    return Vocabulary.from_gguf(path)


def local_file(model: str) -> Path | None:
    """The model's file, if it lies on this machine: a path, or the built-in demo model."""
    path = DEMO_FILE if model == "demo" else Path(model)
    return path if path.is_file() else None
