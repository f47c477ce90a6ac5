"""What takes files in: any bytes in any pieces, and each line is either a job or an error with its number."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.errors import Refusal
from api.fitting import Draft, fit
from api.intake.checked_lines import CheckedLines
from api.intake.checker import URLS, read_body
from api.intake.custom_ids import SeenIds
from api.intake.familiar import FamiliarBodies
from api.intake.form import Form
from api.intake.lines import LineSplitter
from api.intake.prefixes import PrefixGroups, prefix_of
from api.models import ServedModel
from jobs.checked import CheckedLine, read
from jobs.errors import InvalidRequest
from jobs.settings import Settings
from tests.api.batch_stage import chat_line, job_line, jsonl, upload
from tests.api.stage import CONTEXT_TOKENS, MODEL, Api
from worker.engine.vocabulary import Vocabulary

MAX_LINE_BYTES = 4096


@pytest.fixture(scope="module")
def model(vocabulary_bytes: bytes) -> ServedModel:
    return ServedModel(MODEL, CONTEXT_TOKENS, Vocabulary.from_bytes(vocabulary_bytes))


def check(data: bytes, model: ServedModel, piece_bytes: int = 10_000) -> list[CheckedLine]:
    written: list[bytes] = []
    lines = CheckedLines(written.append, model, Settings(max_line_bytes=MAX_LINE_BYTES))
    for start in range(0, len(data), piece_bytes):
        lines.feed(data[start : start + piece_bytes])
    tally = lines.finish()
    found = list(read([b"".join(written)]))
    assert tally.num_lines == len(found)
    assert tally.num_invalid == sum(line.error is not None for line in found)
    assert sum(tally.urls.values()) == len(found) - tally.num_invalid
    return found


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
good = st.builds(chat_line, st.text(max_size=4)) | st.builds(job_line, st.text(max_size=4))


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A line with one field, of it or of its body, replaced by anything."""
    line = draw(good)
    place = draw(st.sampled_from([line, line["body"]]))
    names = [*place, "temperature", "messages", "prompt", "stop", "response_format", "logit_bias", "tools", "seed", "n"]
    place[draw(st.sampled_from(names))] = draw(values)
    return line


def as_bytes(line: object) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A line with some bytes cut out, or others put in."""
    data = as_bytes(draw(good))
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 8)))
    return data[:start] + draw(st.binary(max_size=4)) + data[end:]


any_line = good.map(as_bytes) | spoilt().map(as_bytes) | damaged() | st.binary(max_size=40) | values.map(as_bytes)


@settings(max_examples=150)
@given(
    lines=st.lists(any_line, min_size=1, max_size=8), ends=st.sampled_from([b"\n", b"\r\n"]), pieces=st.integers(1, 300)
)
def test_each_line_that_is_not_blank_is_a_job_or_an_error_with_its_number(
    model: ServedModel, lines: list[bytes], ends: bytes, pieces: int
) -> None:
    data = ends.join(lines)
    written = [line.removeprefix(b"\xef\xbb\xbf") if not n else line for n, line in enumerate(data.split(b"\n"))]
    numbers = [number for number, line in enumerate(written, start=1) if line and not line.isspace()]
    if not numbers:
        with pytest.raises(InvalidRequest):
            check(data, model, pieces)
        return
    found = check(data, model, pieces)
    assert [line.number for line in found] == numbers
    for line in found:
        assert (line.job is None) != (line.error is None)
        if line.error is not None:
            assert line.error["message"].startswith(f"line {line.number}: ")
            assert line.error["code"]
    assert found == check(data, model, 100_000)


@settings(max_examples=40)
@given(body=st.binary(max_size=300) | st.lists(any_line, max_size=4).map(b"\n".join))
def test_no_upload_whatever_it_holds_is_a_fault_of_ours(api: Api, body: bytes) -> None:
    reply = upload(api, body)
    assert reply.status_code in {200, 400, 415}, reply.text
    bare = api.client.post("/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert bare.status_code == 400, bare.text


@settings(max_examples=100)
@given(lines=st.lists(st.binary(max_size=60), max_size=12), piece_bytes=st.integers(1, 40))
def test_lines_are_the_same_in_any_pieces(lines: list[bytes], piece_bytes: int) -> None:
    data = b"\n".join(lines)
    split = LineSplitter(max_line_bytes=30)
    found = [line for at in range(0, len(data), piece_bytes) for line in split.feed(data[at : at + piece_bytes])]
    found += split.finish()
    whole = LineSplitter(max_line_bytes=30)
    assert found == whole.feed(data) + whole.finish()


@settings(max_examples=60)
@given(data=st.binary(max_size=300), piece_bytes=st.integers(1, 50), first=st.booleans())
def test_a_form_is_the_same_in_any_pieces(data: bytes, piece_bytes: int, first: bool) -> None:
    if b"--BOUNDARY" in data:
        return
    file = b'--BOUNDARY\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + data + b"\r\n"
    field = b'--BOUNDARY\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    body = (field + file if first else file + field) + b"--BOUNDARY--\r\n"
    taken: list[bytes] = []
    form = Form("BOUNDARY", taken.append)
    for at in range(0, len(body), piece_bytes):
        form.feed(body[at : at + piece_bytes])
    form.finish()
    assert (b"".join(taken), form.fields, form.filename) == (data, {"purpose": "batch"}, "f")


@given(st.lists(st.text(max_size=3), max_size=60))
def test_the_first_line_of_a_custom_id_is_remembered(ids: list[str]) -> None:
    seen, known = SeenIds(), dict[str, int]()
    for number, custom_id in enumerate(ids, start=1):
        assert seen.first_line(custom_id, number) == known.get(custom_id)
        known.setdefault(custom_id, number)


def test_ids_of_many_lines_take_little_memory() -> None:
    tracemalloc.start()
    seen = SeenIds()
    for number in range(200_000):
        assert seen.first_line(f"request-{number}", number) is None
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 8e6
    assert peak < 12e6
    assert seen.first_line("request-77", 1) == 77


def test_groups_are_bounded_and_the_longest_unseen_is_forgotten() -> None:
    groups = PrefixGroups(max_groups=2)
    assert [groups.order(prefix, number) for number, prefix in enumerate([7, 8, 7, 9, 7, 8], start=1)] == [
        1,
        2,
        1,
        4,
        1,
        6,
    ]
    assert groups.order(None, 9) == 9


def test_a_prefix_is_long_or_short_or_none() -> None:
    long = tuple(range(300))
    assert prefix_of(long[:63]) is None
    assert prefix_of(long[:64]) == prefix_of(long[:100]) != prefix_of(long[:256])
    assert prefix_of(long[:256]) == prefix_of(long)


@settings(max_examples=300)
@given(line=good | spoilt(), again=st.lists(st.text(max_size=5), min_size=1, max_size=3), seed=st.integers(-1, 2**32))
def test_a_body_that_is_recognised_makes_the_draft_that_it_would_make_unknown(
    model: ServedModel, line: dict[str, Any], again: list[str], seed: int
) -> None:
    try:
        line = orjson.loads(as_bytes(line))  # what no line can hold is refused before
    except orjson.JSONDecodeError:
        return
    url, body = line["url"], line["body"]
    if url not in URLS or not isinstance(body, dict):
        return
    familiar = FamiliarBodies(read_body)
    texts = [
        {"prompt": text} if "prompt" in body else {"messages": [{"role": "user", "content": text}]} for text in again
    ]
    for changed in ({}, *texts, {"seed": seed}):
        known, unknown = (outcome(read, model, url, body | changed) for read in (familiar.draft, read_body))
        assert known == unknown


def outcome(read: Callable[[str, dict[str, Any]], Draft], model: ServedModel, url: str, body: dict[str, Any]) -> object:
    try:
        fitted = fit(read(url, body), model)
    except (InvalidRequest, Refusal) as error:
        return error.code, error.message, error.param
    return fitted.parameters, fitted.seed, fitted.token_ids, fitted.draft.messages, fitted.draft.prompt


def test_what_is_remembered_of_bodies_stays_small(model: ServedModel) -> None:
    """A format of plain text may bring a schema that nobody reads, of any size."""
    reads: list[str] = []

    def counted(url: str, body: dict[str, Any]) -> Draft:
        reads.append(url)
        return read_body(url, body)

    familiar = FamiliarBodies(counted)
    for size in (10, 100_000):
        unread = {"type": "text", "json_schema": {"x": "y" * size}}
        for _ in range(2):
            familiar.draft("/v1/jobs", {"prompt": "Ice", "response_format": unread})
    assert len(reads) == 3  # the small one is known the second time


def test_lines_keep_their_order(model: ServedModel) -> None:
    found = check(jsonl([job_line(str(n)) for n in range(1500)]), model)
    assert [line.custom_id for line in found] == [str(n) for n in range(1500)]
