"""Settings from files: secrets by path, refused with a reason and without their content."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cli.roles import child_environment
from jobs.settings import Settings


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return tmp_path / "secret"


def test_a_secret_comes_from_the_file_that_is_named(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.write_text("user:a-password\n")
    monkeypatch.setenv("PENSTOCK_FLOWER_BASIC_AUTH_FILE", str(secret))
    assert Settings().flower_basic_auth == "user:a-password"


def test_a_file_of_keys_has_one_a_line(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.write_text("first\nsecond\r\n\nthird,fourth\n")
    monkeypatch.setenv("PENSTOCK_API_KEYS_FILE", str(secret))
    assert Settings().api_keys == ("first", "second", "third", "fourth")


def test_a_number_and_a_table_may_come_from_files(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.write_text("32\n")
    weights = secret.with_name("weights")
    weights.write_text('{"me": 3}')
    monkeypatch.setenv("PENSTOCK_SLOTS_FILE", str(secret))
    monkeypatch.setenv("PENSTOCK_KEY_WEIGHTS_FILE", str(weights))
    settings = Settings()
    assert (settings.slots, settings.key_weights) == (32, {"me": 3.0})


def test_the_databases_password_goes_into_its_url(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.write_text("p@ss/word\n")
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", "postgresql+psycopg://penstock@postgres:5432/penstock")
    monkeypatch.setenv("PENSTOCK_DATABASE_PASSWORD_FILE", str(secret))
    wanted = "postgresql+psycopg://penstock:p%40ss%2Fword@postgres:5432/penstock"
    assert Settings().resolved_database_url == wanted


@pytest.mark.parametrize(
    ("content", "others", "reason"),
    [
        (None, {}, "cannot be read (No such file or directory)"),
        (b"x" * 70_000, {}, "longer than 65536 bytes"),
        (b"\xff\xfe", {}, "not text in UTF-8"),
        (b"from-the-file", {"PENSTOCK_DATABASE_URL": "by-value"}, "PENSTOCK_DATABASE_URL is set too"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_without_its_content(
    secret: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, others: dict[str, str], reason: str
) -> None:
    if content is not None:
        secret.write_bytes(content)
    for name, value in (others | {"PENSTOCK_DATABASE_URL_FILE": str(secret)}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    (fault,) = caught.value.errors()
    assert fault["loc"] == ("database_url_file",)
    assert reason in fault["msg"]
    assert "from-the-file" not in str(caught.value)


def test_a_table_that_is_no_json_is_refused(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.write_text("me=3")
    monkeypatch.setenv("PENSTOCK_KEY_WEIGHTS_FILE", str(secret))
    with pytest.raises(ValidationError, match="not JSON"):
        Settings()


def test_a_child_gets_an_override_in_the_place_of_the_file(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret.write_text("sqlite:///other.db")
    monkeypatch.setenv("PENSTOCK_DATABASE_URL_FILE", str(secret))
    environment = child_environment(Settings(), {"database_url": "sqlite:///mine.db"})
    assert environment["PENSTOCK_DATABASE_URL"] == "sqlite:///mine.db"
    assert "PENSTOCK_DATABASE_URL_FILE" not in environment
