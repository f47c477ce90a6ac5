"""Bars for what takes long, on standard error: bytes of a file that is sent, lines of a batch that runs."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from cli import screen

NAME = TextColumn("{task.description:<10}")


class Pace(ProgressColumn):
    """Lines and tokens a second as the API measures them; until it does, lines as seen from here."""

    def render(self, task: Task) -> Text:
        pace: str = task.fields.get("pace", "")
        speed = task.finished_speed or task.speed
        return Text(pace or ("" if speed is None else f"{speed:.1f} lines/s"))


class Eta(ProgressColumn):
    """When the API expects the end: a range."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("eta", "")))


def sending() -> Progress:
    """Bytes of a file on their way."""
    return Progress(
        NAME,
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=screen.err,
    )


def generating() -> Progress:
    """Lines of a batch on their way; its task takes the fields `pace` and `eta`."""
    return Progress(NAME, BarColumn(), MofNCompleteColumn(), Pace(), TimeElapsedColumn(), Eta(), console=screen.err)
