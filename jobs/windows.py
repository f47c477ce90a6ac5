"""Completion windows as callers write them: a number and a unit, such as `24h`, `90m` or `1.5h`."""

from __future__ import annotations

import re

from jobs.errors import InvalidRequest

_FORM = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])", re.ASCII)
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def window_seconds(text: str, max_seconds: float | None = None) -> float:
    """Read a window.

    Raises:
        InvalidRequest: no such form, nothing at all, or longer than `max_seconds`.
    """
    found = _FORM.fullmatch(text)
    seconds = float(found[1]) * _UNIT_SECONDS[found[2]] if found else 0.0
    if seconds <= 0:
        message = "completion_window is a positive number and a unit (s, m, h or d), such as 24h or 90m."
        raise InvalidRequest(message, param="completion_window")
    if max_seconds is not None and seconds > max_seconds:
        message = f"completion_window is {seconds:g} seconds; at most {max_seconds:g} are allowed."
        raise InvalidRequest(message, param="completion_window")
    return seconds
