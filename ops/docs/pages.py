"""Pages as they are written, and the parts made from code put in where `<!-- made: NAME -->` stands."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ops.docs import commands, error_codes, http_api, metrics, results, settings, states

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ROOT / "docs"
_UNBUILT = re.compile(r"^<!-- only in the repository -->\n(?:.+\n)+\n", re.MULTILINE)
_PLACE = re.compile(r"^<!-- made: (?P<name>[a-z_]+) -->$", re.MULTILINE)

PARTS: Mapping[str, Callable[[], str]] = {
    "settings": settings.settings,
    "parameters": settings.parameters,
    "commands": commands.commands,
    "api": http_api.api,
    "objects": http_api.objects,
    "statuses": http_api.statuses,
    "job_events": http_api.job_events,
    "batch_events": http_api.batch_events,
    "webhook_events": http_api.webhook_events,
    "metrics": metrics.metrics,
    "alerts": metrics.alerts,
    "error_codes": error_codes.error_codes,
    "states": states.states,
    "outcomes": states.outcomes,
    "priorities": states.priorities,
    "finish_reasons": states.finish_reasons,
    "replay_results": states.replay_results,
    "penstock_fields": results.penstock_fields,
    "succeeded_line": results.succeeded_line,
    "failed_line": results.failed_line,
}


class UnknownPart(Exception):
    """A page asks for a part that nobody makes."""


def write_pages(target: Path) -> None:
    """All pages, complete, into `target`, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    for source in sorted(WRITTEN.rglob("*")):
        written = target / source.relative_to(WRITTEN)
        if source.is_dir():
            written.mkdir(parents=True, exist_ok=True)
        elif source.suffix == ".md":
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(completed(source.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            written.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, written)


def completed(page: str) -> str:
    """A page with its made parts, without what is for readers of the repository. Raises UnknownPart."""

    def made(place: re.Match[str]) -> str:
        name = place["name"]
        if name not in PARTS:
            raise UnknownPart(f"made: {name}: one of {', '.join(PARTS)}")
        return PARTS[name]()

    return _PLACE.sub(made, _UNBUILT.sub("", page))
