"""Settings from files: `PENSTOCK_API_KEYS_FILE=/run/secrets/api_keys` gives `api_keys` what that file holds.

Containers, clusters and systemd hand secrets over as files, which neither `ps` nor `docker inspect` shows. Any setting
may come so. Owns how such a file is read; knows no setting by name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import NoDecode, PydanticBaseSettingsSource

SUFFIX = "_FILE"
MAX_BYTES = 64 * 1024
"""A secret is short. Whoever names a device or a log by mistake is told so."""


class SettingFiles(PydanticBaseSettingsSource):
    """Reads `PENSTOCK_NAME_FILE` for each field `name` that has one.

    Raises:
        ValidationError: a file cannot be read, or the setting is given by value as well. It shows no content.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The file's text without the line end that editors add, the field's name, and whether it is JSON."""
        name = f"{self.config.get('env_prefix', '')}{field_name}".upper()
        path = os.environ.get(name + SUFFIX)
        if not path:
            return None, field_name, False
        if name in os.environ:
            raise _wrong(field_name, f"{name} is set too; give one of them")
        is_json = self.field_is_complex(field) and NoDecode not in field.metadata
        return _read(field_name, Path(path)), field_name, is_json

    def __call__(self) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            text, _, is_json = self.get_field_value(field, name)
            if text is not None:
                given[name] = _decoded(name, text) if is_json else text
        return given


def _read(field_name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _wrong(field_name, f"the file cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise _wrong(field_name, f"the file is longer than {MAX_BYTES} bytes")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise _wrong(field_name, "the file is not text in UTF-8") from None


def _decoded(field_name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise _wrong(field_name, "the file is not JSON") from None


def _wrong(field_name: str, reason: str) -> ValidationError:
    """As if a field of that name had been wrong, so that it is told like any other wrong setting."""
    fault = PydanticCustomError("setting_file", reason)
    where = f"{field_name}{SUFFIX}".lower()
    return ValidationError.from_exception_data("Settings", [InitErrorDetails(type=fault, loc=(where,), input=None)])
