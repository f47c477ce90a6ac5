"""What a file of prompts becomes, line by line, and which files cannot be cut into lines."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import batch_lines
from cli.batch_lines import Columns, FileFormat, LineWriter, lines_of
from cli.errors import UsageError

HELLO = [{"role": "user", "content": "Hi"}]
OPENAI = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": HELLO}}


def sent(
    content: bytes,
    kind: FileFormat = FileFormat.JSONL,
    columns: Columns | None = None,
    writer: LineWriter | None = None,
) -> bytes:
    return b"".join(lines_of(io.BytesIO(content), "prompts", kind, columns or Columns(), writer or LineWriter()))


def parsed(content: bytes, *more: Any, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sent(content, *more, **options).split(b"\n") if line]


def job(number: int, body: dict[str, Any], custom_id: str | None = None) -> dict[str, Any]:
    named = custom_id or f"line-{number}"
    return {"custom_id": named, "method": "POST", "url": "/v1/jobs", "body": body}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("Hi", job(1, {"messages": HELLO})),
        ({"prompt": "Hi", "temperature": 0}, job(1, {"prompt": "Hi", "temperature": 0})),
        ({"messages": HELLO, "custom_id": "mine"}, job(1, {"messages": HELLO}, "mine")),
        (OPENAI, OPENAI),
        ({name: value for name, value in OPENAI.items() if name != "custom_id"}, OPENAI | {"custom_id": "line-1"}),
    ],
)
def test_a_json_line_becomes_a_line_of_a_batch(value: Any, line: dict[str, Any]) -> None:
    assert parsed(json.dumps(value).encode()) == [line]


def test_an_openai_line_goes_out_byte_for_byte() -> None:
    line = json.dumps(OPENAI, indent=None, separators=(" ,", " :")).encode() + b"\n"
    assert sent(line) == line


@pytest.mark.parametrize("line", [b'{"prompt": ', b"\xff", b"3", b"{}", b"[" * 200_000, b"null", b'{"surprise": 1}'])
def test_what_is_no_line_goes_out_unchanged_for_the_api_to_name(line: bytes) -> None:
    assert sent(line) == line + b"\n"


def test_lines_keep_the_numbers_that_an_editor_shows() -> None:
    assert [line[:2] for line in sent(b'\xef\xbb\xbf"a"\n\n{\n"b"').split(b"\n")] == [b'{"', b"", b"{", b'{"', b""]
    assert parsed(b'"a"\n\n"b"')[1]["custom_id"] == "line-3"


def test_a_line_that_is_too_long_goes_out_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "MAX_LINE_BYTES", 8)
    content = b'"' + b"x" * 50 + b'"\n"b"\n' + b"y" * 20
    out = sent(content).split(b"\n")
    assert [out[0], *out[2:]] == [content.split(b"\n")[0], b"y" * 20, b""]
    assert json.loads(out[1])["custom_id"] == "line-2"


def test_text_is_a_prompt_a_line() -> None:
    assert parsed(b"Hi\r\n\nHi", FileFormat.TEXT) == [job(1, {"messages": HELLO}), job(3, {"messages": HELLO})]


def test_a_column_of_csv_holds_the_prompt_and_others_may_be_kept() -> None:
    content = b"custom_id,prompt,topic\nx,Hi,ice\n,Hi,sea\n"
    assert parsed(content, FileFormat.CSV) == [job(2, {"messages": HELLO}, "x"), job(3, {"messages": HELLO})]
    kept = parsed(content, FileFormat.CSV, Columns(kept=["topic"]))
    assert [line["body"]["metadata"] for line in kept] == [{"topic": "ice"}, {"topic": "sea"}]
    assert parsed(content, FileFormat.CSV, Columns(prompt="topic"))[0]["body"]["messages"][0]["content"] == "ice"


def test_a_record_of_csv_goes_out_under_the_number_of_its_first_line() -> None:
    content = b'question\n"two\nlines"\n\nlast\n'
    out = sent(content, FileFormat.CSV).split(b"\n")
    found = {number: json.loads(line)["custom_id"] for number, line in enumerate(out, start=1) if line}
    assert found == {2: "line-2", 5: "line-5"}


@pytest.mark.parametrize(
    ("content", "kind", "columns", "said"),
    [
        (b"ok\n\xff\n", FileFormat.TEXT, Columns(), "line 2 is not UTF-8"),
        (b"prompt\n\xff\n", FileFormat.CSV, Columns(), "not UTF-8"),
        (b"a,b\n1,2\n", FileFormat.CSV, Columns(), "no column 'prompt'; it has a, b"),
        (b"prompt\n1\n", FileFormat.CSV, Columns(kept=["x"]), "--keep: prompts has no column 'x'"),
        (b"prompt,b\n1\n", FileFormat.CSV, Columns(), "line 2 has 1 fields, the header 2"),
        (b'prompt\n"1\n', FileFormat.CSV, Columns(), "line 2 is not CSV"),
    ],
)
def test_a_file_that_cannot_be_cut_into_lines_is_named(
    content: bytes, kind: FileFormat, columns: Columns, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        sent(content, kind, columns)


def test_what_was_typed_is_for_lines_that_do_not_say_it_themselves() -> None:
    writer = LineWriter(given={"temperature": 0.5, "max_tokens": 9}, system="Be brief")
    hi, cold, theirs = parsed(b'"Hi"\n{"prompt": "x", "temperature": 0}\n' + json.dumps(OPENAI).encode(), writer=writer)
    assert hi["body"] == {
        "temperature": 0.5,
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "Be brief"}, *HELLO],
    }
    assert cold["body"] == {"prompt": "x", "temperature": 0, "max_tokens": 9}
    assert theirs == OPENAI
    assert (writer.num_lines, writer.num_untouched) == (3, 1)
    assert writer.urls == {"/v1/jobs": 2, "/v1/chat/completions": 1}


def test_prompts_can_be_sent_raw_and_to_another_endpoint() -> None:
    assert parsed(b'"Hi"', writer=LineWriter(raw=True)) == [job(1, {"prompt": "Hi"})]
    (line,) = parsed(b'"Hi"', writer=LineWriter(url="/v1/completions"))
    assert (line["url"], line["body"]) == ("/v1/completions", {"prompt": "Hi"})


def test_reading_again_counts_again() -> None:
    file, writer = io.BytesIO(b'"a"\n"b"\n'), LineWriter()
    for _ in range(2):
        assert len(list(lines_of(file, "f", FileFormat.JSONL, Columns(), writer))) == 2
    assert (writer.num_lines, writer.urls.total()) == (2, 2)


@given(st.binary(max_size=200))
def test_no_bytes_lose_or_add_a_line(junk: bytes) -> None:
    out = sent(junk)
    assert out.count(b"\n") == junk.count(b"\n") + (1 if junk and not junk.endswith(b"\n") else 0)


@given(st.lists(st.text(max_size=20).filter(lambda text: "\0" not in text), min_size=1, max_size=8))
def test_any_cell_arrives_unchanged(prompts: list[str]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["n", "prompt"], *([str(n), prompt] for n, prompt in enumerate(prompts))])
    out = parsed(text.getvalue().encode("utf-8", "surrogatepass"), FileFormat.CSV)
    assert [line["body"]["messages"][0]["content"] for line in out] == prompts
