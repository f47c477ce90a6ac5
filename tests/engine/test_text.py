"""Text that may be shown: whole characters, and nothing of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.text import TextAssembler


def assemble(pieces: list[bytes], stop: tuple[str, ...] = (), **options: bool) -> tuple[list[str], TextAssembler]:
    text = TextAssembler(stop, **options)
    out = [text.feed(piece) for piece in pieces if not text.stopped]
    return [*out, text.finish()], text


def test_bytes_of_a_character_are_held_until_it_is_whole() -> None:
    out, _ = assemble([b"a\xf0\x9f", b"\x8e", b"\x89b"])
    assert out == ["a", "", "🎉b", ""]


def test_a_cut_character_ends_as_a_replacement_character() -> None:
    out, _ = assemble([b"ok\xf0\x9f"])
    assert "".join(out) == "ok\ufffd"


def test_a_stop_string_across_pieces_is_never_emitted() -> None:
    out, text = assemble([b"one E", b"N", b"D two"], ("END",))
    assert out[0] == "one "
    assert "".join(out) == "one "
    assert text.stopped


def test_a_tail_that_turns_out_not_to_be_a_stop_string_is_released() -> None:
    out, text = assemble([b"E", b"N", b"X"], ("END",))
    assert out == ["", "", "ENX", ""]
    assert not text.stopped


def test_the_earliest_of_several_stop_strings_cuts() -> None:
    out, _ = assemble([b"a\n\nb###"], ("###", "\n\n"))
    assert "".join(out) == "a"


def test_the_tokenizers_leading_space_is_dropped_once() -> None:
    out, _ = assemble([b" Hello", b" there"], drop_leading_space=True)
    assert "".join(out) == "Hello there"


@given(st.text(), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.data())
def test_however_the_bytes_are_cut_the_text_is_what_stands_before_the_first_stop_string(
    whole: str, stops: list[str], data: st.DataObject
) -> None:
    raw = whole.encode(errors="replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    out, text = assemble(pieces, tuple(stops))
    decoded = raw.decode()
    first = min((at for stop in stops if (at := decoded.find(stop)) >= 0), default=None)
    # A shorter stop string may be complete before a longer one that began earlier: then it cuts.
    assert "".join(out) == decoded[:first] if len(stops) <= 1 else decoded.startswith("".join(out))
    assert text.num_characters == len("".join(out))
    assert not any(stop in "".join(out) for stop in stops)
