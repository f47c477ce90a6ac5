"""Pydantic's findings as one clear refusal: the field by its name on the wire, and the limit; never the value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.errors import InvalidRequest

MAX_NAME_CHARACTERS = 128

_TYPE_FAULTS = {"int_type", "float_type", "int_from_float", "finite_number"}


class Fault(InvalidRequest):
    """An InvalidRequest whose field may still be put under a longer name."""

    def __init__(self, reason: str, *, param: str, code: str) -> None:
        super().__init__(f"{param}: {reason}." if param else f"{reason}.", param=param or None, code=code)
        self.reason = reason

    def named(self, param: str) -> Fault:
        """The same fault of the field `param`."""
        return Fault(self.reason, param=param, code=self.code)


def first_fault(errors: Sequence[Mapping[str, Any]], value: object, *, under: str = "") -> Fault:
    """The first finding about `value`, which lies at `under` in the body."""
    first = errors[0]
    path = _path(first["loc"], value, str(first["type"]))
    same = [error for error in errors if _path(error["loc"], value, str(error["type"])) == path]
    name = joined(under, path)
    if first["type"] == "extra_forbidden":
        return Fault("there is no such field", param=name, code="unknown_field")
    if first["type"] == "missing":
        return Fault("it is missing", param=name, code="missing_field")
    if len(same) > 1 and all(error["type"] in _TYPE_FAULTS for error in same):
        return Fault("must be a number", param=name, code="invalid_type")
    return Fault(_reason(first), param=name, code="invalid_type" if _is_type(first) else "invalid_value")


def joined(under: str, path: Sequence[str | int]) -> str:
    """`jobs[3]` and `messages`, 0, `role` make `jobs[3].messages[0].role`."""
    name = under
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name if len(name) <= MAX_NAME_CHARACTERS else name[:MAX_NAME_CHARACTERS] + "…"


def _reason(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    return message.replace("Input should be", "must be", 1).replace("Input should have", "must have", 1)


def _is_type(error: Mapping[str, Any]) -> bool:
    return str(error["type"]).endswith("_type") or error["type"] == "int_from_float"


def _path(loc: Sequence[str | int], value: object, kind: str) -> list[str | int]:
    """The part of `loc` that names places in the input; pydantic adds the names of union branches, which do not."""
    path: list[str | int] = []
    for part in loc:
        if isinstance(value, Mapping) and isinstance(part, str) and (part in value or kind == "missing"):
            value = value.get(part)
        elif isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            break
        path.append(part)
    return path
