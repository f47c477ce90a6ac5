"""What is changed of Flower's pages: facts of our workers on theirs, and a guard where Flower has none.

Flower's own templates stay as they are: ours are put at the head of two of them. The facts are what the worker says of
itself (`worker.station.Station.info`), asked for when somebody looks, at most every two seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flower.views.monitor import Metrics
from flower.views.workers import WorkersView, WorkerView
from tornado.template import Loader, Template
from tornado.web import authenticated

TEMPLATES = Path(__file__).parent / "templates"
ADDED = {"worker.html": "penstock-worker.html", "workers.html": "penstock-workers.html"}
"""Which of Flower's pages begins with which of ours."""
_HEAD = b"{% block container %}"

FRESH_SECONDS = 2.0
ANSWER_SECONDS = 1.0


class Templates(Loader):  # type: ignore[misc]
    """Flower's templates, with ours at the head of two."""

    def __init__(self, root: str) -> None:
        super().__init__(root, namespace={"exactness": exactness, "living_facts": living_facts})

    def _create_template(self, name: str) -> Template:
        folder = TEMPLATES if name.startswith("penstock-") else Path(self.root)
        source = (folder / name).read_bytes()
        if name in ADDED:
            source = source.replace(_HEAD, _HEAD + f'{{% include "{ADDED[name]}" %}}'.encode(), 1)
        return Template(source, name=name, loader=self)


def exactness(facts: Mapping[str, Any]) -> str:
    """Which of the row classes that the worker has are proven there."""
    has = [name for name, number in facts["row_classes"].items() if number]
    proven = [name for name in has if facts["exact"].get(name)]
    if proven == has:
        return "yes"
    return f"{', '.join(proven)} only" if proven else "no"


def living_facts(application: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The facts of each worker that lives, by name."""
    living = {name for name, worker in application.events.state.workers.items() if worker.alive}
    known = ((name, dict(info).get("stats", {})) for name, info in sorted(application.workers.items()))
    return [(name, stats) for name, stats in known if name in living and "model" in stats]


class _Asks:
    """Asks the workers how they are, before a page shows it."""

    _asked_at: dict[str | None, float] = {}  # noqa: RUF012 -- one for the process, as the pages are

    async def ask(self, application: Any, name: str | None = None) -> None:
        now = time.monotonic()
        if now - self._asked_at.get(name, float("-inf")) < FRESH_SECONDS:
            return
        self._asked_at[name] = now
        num_living = sum(1 for worker in application.events.state.workers.values() if worker.alive)
        look = partial(_stats, application.capp, name, 1 if name else num_living)
        for worker, stats in (await application.io_loop.run_in_executor(None, look)).items():
            application.workers[worker]["stats"] = stats


def _stats(app: Any, name: str | None, num_answers: int) -> dict[str, Any]:
    """Broadcast once, and wait for as many answers as there are workers, or for a second."""
    if not num_answers:
        return {}
    inspect = app.control.inspect([name] if name else None, timeout=ANSWER_SECONDS, limit=num_answers)
    try:
        return dict(inspect.stats() or {})
    except OSError:  # the broker is away; the page says what was known
        return {}


class Worker(_Asks, WorkerView):  # type: ignore[misc]
    @authenticated  # type: ignore[untyped-decorator]
    async def get(self, name: str) -> None:
        await self.ask(self.application, name)
        await super().get(name)


class Workers(_Asks, WorkersView):  # type: ignore[misc]
    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        await self.ask(self.application)
        await super().get()


class GuardedMetrics(Metrics):  # type: ignore[misc]
    """Flower leaves its metrics open whatever password its pages have."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        await super().get()


HANDLERS = [(r"/", Workers), (r"/workers", Workers), (r"/worker/(.+)", Worker), (r"/metrics", GuardedMetrics)]
