"""The reference is made from the code: whatever has no description there fails here, and no page can go stale."""

from __future__ import annotations

from enum import StrEnum

import pytest

from api.wire import JobRequest
from cli.batch_results import COLUMNS
from jobs.settings import Settings
from jobs.states import AttemptOutcome, FinishReason, JobState, Priority, ReplayResult
from ops.docs import error_codes
from ops.docs.commands import described, every_command
from ops.docs.http_api import api, operations
from ops.docs.pages import PARTS, UnknownPart, completed
from ops.docs.results import MEANINGS, rendered
from ops.docs.settings import sections
from ops.docs.states import meanings
from tests.docs.blocks import ROOT

COMMANDS = dict(every_command())


@pytest.mark.parametrize("model", [Settings, JobRequest], ids=lambda model: model.__name__)
def test_every_setting_and_parameter_is_described(model: type[Settings] | type[JobRequest]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_every_setting_is_in_a_section_of_the_page() -> None:
    assert {name for names in sections().values() for name in names} == set(Settings.model_fields)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_each_of_its_options_is_described(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    assert [param.name for param in command.params if not param.hidden and not described(param)] == []


@pytest.mark.parametrize("words", [JobState, AttemptOutcome, Priority, FinishReason, ReplayResult])
def test_every_word_of_the_state_machine_is_described(words: type[StrEnum]) -> None:
    assert [word for word, text in meanings(words).items() if not text] == []


def test_every_error_code_has_a_meaning() -> None:
    assert error_codes.codes_in_source() - set(error_codes.MEANINGS) == set()


def test_no_meaning_is_of_a_code_that_is_gone() -> None:
    assert set(error_codes.MEANINGS) - error_codes.strings_in_source() == set()


def test_every_call_of_the_api_has_a_title_and_a_place_on_the_page() -> None:
    page = api()
    calls = {f"{method} {path}": call for method, path, call in operations()}
    assert [name for name, call in calls.items() if not call.get("summary") or f"### {name}\n" not in page] == []


def test_every_parameter_of_a_call_is_described() -> None:
    given = [
        (f"{method} {path}", one)
        for method, path, call in operations()
        for one in call.get("parameters", ())
        if one["in"] != "path"
    ]
    assert len(given) > 30
    assert [(name, one["name"]) for name, one in given if not one.get("description")] == []


def test_what_a_result_line_says_under_penstock_is_described() -> None:
    shown = {name for state in JobState if state not in {"queued", "running"} for name in rendered(state)["penstock"]}
    assert shown == set(MEANINGS)


def test_the_columns_of_a_table_of_results_are_named() -> None:
    page = (ROOT / "docs/reference/result-lines.md").read_text(encoding="utf-8")
    assert [name for name in COLUMNS if f"`{name}`" not in page] == []


def test_a_page_with_made_parts_says_so_in_the_repository_only() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    made = [page for page in pages if "<!-- made: " in page]
    assert len(made) > 5
    assert [page for page in made if "`make docs` builds it whole" not in page] == []
    assert [page for page in map(completed, pages) if "`make docs` builds it whole" in page] == []


def test_every_made_part_is_on_a_page_and_none_is_unknown() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    assert [name for name in PARTS if f"<!-- made: {name} -->" not in pages] == []
    with pytest.raises(UnknownPart, match="supper"):
        completed("<!-- made: supper -->\n")
