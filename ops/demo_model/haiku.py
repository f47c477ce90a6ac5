"""The grammar that writes haiku and small stories from `words.py`. Pure text: knows no tokens and no model."""

import random
from collections.abc import Iterator

from ops.demo_model.words import CLOSERS, SHARED_ADJECTIVES, SHARED_VERBS, Topic, Word

# A slot in braces is one list of the topic, the rest is literal; the second value counts the literal's syllables.
_SHORT_LINES = (
    ("{adjective} {noun} {place}", 0),
    ("{noun} and {noun}", 1),
    ("{adjective}, {adjective} {noun}", 0),
    ("the {adjective} {noun} {verb}", 1),
    ("{place}, a {noun}", 1),
    ("the {noun} {place}", 1),
    ("one {adjective} {noun} {verb}", 1),
)
_LONG_LINES = (
    ("the {adjective} {noun} {verb} {place}", 1),
    ("a {noun} {verb} {place}", 1),
    ("a {noun} {verb} and {verb}", 2),
    ("{noun} and {noun} {place}", 1),
    ("the {noun} {verb}, the {noun} {verb}", 2),
    ("{place} the {noun} {verb}", 1),
    ("{place} a {adjective} {noun}", 1),
)
_LAST_LINES = (
    ("the {adjective} {noun} {verb}", 1),
    ("then {closer}", 1),
    ("{closer}, a {noun}", 1),
    ("and the {noun} {verb}", 2),
    ("{noun} and {closer}", 1),
    ("{adjective} {noun} {verb}", 0),
    ("the {noun} {verb} now", 2),
)
_STORY_LINES = (
    "The {noun} {verb} {place}.",
    "A {adjective} {noun} {verb}, and the {noun} {verb}.",
    "Nobody saw the {adjective} {noun} {place}.",
    "Then the {noun} {verb} {place}.",
    "The {adjective} {noun} and the {noun} were friends.",
    "All day long the {noun} {verb}.",
    "At last a {noun} {verb} {place}.",
)
_TRIES = 400


class Haiku:
    """Writes lines about one topic; within one text no noun or verb is used twice."""

    def __init__(self, topic: Topic, choose: random.Random) -> None:
        self._choose = choose
        self._lists: dict[str, tuple[Word, ...]] = {
            "noun": topic.nouns,
            "verb": topic.verbs + tuple(choose.sample(SHARED_VERBS, 2)),
            "adjective": topic.adjectives + tuple(choose.sample(SHARED_ADJECTIVES, 2)),
            "place": topic.places,
            "closer": CLOSERS,
        }
        self._used: set[str] = set()

    def lines(self) -> list[str]:
        return [self._line(_SHORT_LINES, 5), self._line(_LONG_LINES, 7), self._line(_LAST_LINES, 5)]

    def poem(self, num_lines: int) -> list[str]:
        return [self._line(_LONG_LINES, 7) for _ in range(num_lines)]

    def sentences(self, num_sentences: int) -> list[str]:
        return [self._capital(self._fill(self._choose.choice(_STORY_LINES))[0]) for _ in range(num_sentences)]

    def _line(self, patterns: tuple[tuple[str, int], ...], syllables: int) -> str:
        for attempt in range(_TRIES):
            if attempt == _TRIES // 2:
                self._used.clear()
            pattern, literal = self._choose.choice(patterns)
            text, entries = self._fill(pattern)
            if literal + sum(entry.syllables for entry in entries) == syllables:
                self._used.update(entry.text for entry in entries)
                return self._capital(text)
        raise ValueError(f"no line of {syllables} syllables can be made from this topic")

    def _fill(self, pattern: str) -> tuple[str, list[Word]]:
        taken: list[Word] = []
        words = list(self._words(pattern, taken))
        for position, word in enumerate(words[:-1]):
            if word in {"a", "A"} and words[position + 1][0] in "aeiou":
                words[position] = word + "n"
        return " ".join(words), taken

    def _words(self, pattern: str, taken: list[Word]) -> Iterator[str]:
        for part in pattern.split():
            if not part.startswith("{"):
                yield part
                continue
            name, after = part[1:].split("}")
            free = [word for word in self._lists[name] if word.text not in self._used and word not in taken]
            entry = self._choose.choice(free or self._lists[name])
            taken.append(entry)
            yield entry.text + after

    @staticmethod
    def _capital(text: str) -> str:
        return text[:1].upper() + text[1:]


def haiku(topic: Topic, choose: random.Random) -> str:
    return "\n".join(Haiku(topic, choose).lines())
