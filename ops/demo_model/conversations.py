"""What the demo model is taught to say: requests and their answers, drawn without end from a seeded generator.

Owns the wording of requests and the shape of answers. Knows text only: control tokens and token ids belong to
`corpus.py`.
"""

import random
from dataclasses import dataclass

from ops.demo_model.haiku import Haiku, haiku
from ops.demo_model.words import ANSWERS, ANYTHING, COLOURS, LISTS, NUMBERS, TOPICS, Topic


@dataclass(frozen=True)
class Document:
    """`turns`: (request, answer) pairs of one conversation; `raw`: plain text instead, without a request."""

    turns: tuple[tuple[str, str], ...] = ()
    raw: str = ""


_HAIKU_REQUESTS = (
    "Write a haiku about {0}",
    "Write a haiku about {0}",
    "Write a haiku about {0}.",
    "Please write a haiku about {0}.",
    "Write me a haiku about {0}",
    "Compose a haiku about {0}.",
    "Give me a haiku on {0}",
    "A haiku about {0}, please",
    "write a haiku about {0}",
    "Haiku: {0}",
    "Can you write a haiku about {0}?",
    "Write a short poem about {0}",
)
_POEM_REQUESTS = ("Write a poem about {0}", "Write a poem about {0}.", "A poem about {0}, please", "Poem: {0}")
_SERIES_REQUESTS = (
    "Write {1} haiku about {0}",
    "Write {1} haikus about {0}.",
    "Please write {1} haiku about {0}",
    "{1} haiku about {0}",
)
_STORY_REQUESTS = (
    "Tell me a story about {0}",
    "Write a story about {0}.",
    "Tell a long story about {0}",
    "Write a paragraph about {0}",
    "Describe {0}",
    "Tell me about {0}",
    "What do you know about {0}?",
)
_LIST_REQUESTS = ("List {1} {0}", "Name {1} {0}", "Name {1} {0}.", "Tell me {1} {0}", "Write a list of {1} {0}")
_COUNT_REQUESTS = ("Count to {0}", "Count from one to {0}", "Count to {0}, please", "Count up to {0}.")
_OPENINGS = ("Once upon a time, ", "Long ago, ", "Listen: ", "One morning, ", "")
_REFUSALS = (
    "I do not know much about that, but here is a haiku:",
    "Let me answer with a haiku:",
    "That is beyond a small model. A haiku instead:",
)


class Conversations:
    """Draws documents. `unknown_words`: words the model will never say, dropped into requests."""

    def __init__(self, choose: random.Random, unknown_words: tuple[str, ...]) -> None:
        self._choose = choose
        self._unknown_words = unknown_words
        kinds = (
            (self._haiku, 34),
            (self._series, 14),
            (self._story, 9),
            (self._poem, 6),
            (self._answer, 14),
            (self._list, 6),
            (self._count, 4),
            (self._unknown_request, 8),
            (self._about_long_text, 4),
        )
        self._kinds = tuple(kind for kind, _ in kinds)
        self._weights = tuple(weight for _, weight in kinds)

    def draw(self, *, long_text: bool = False) -> Document:
        if long_text:
            return Document((self._about_long_text(),))
        where = self._choose.random()
        if where < 0.1:
            return Document(raw=self._raw())
        if where < 0.16:
            return Document((self._turn(), self._turn()))
        return Document((self._turn(),))

    def _turn(self) -> tuple[str, str]:
        (kind,) = self._choose.choices(self._kinds, self._weights)
        request, answer = kind()
        return (self._vary(request), answer)

    def _vary(self, request: str) -> str:
        where = self._choose.random()
        if where < 0.06:
            return request.lower()
        if where < 0.12:
            label = self._choose.choice(("Prompt", "Item", "Job", "Number", "#"))
            return f"{label} {self._choose.randrange(1000)}: {request}"
        if where < 0.18:
            return f"{request} ({self._choose.randrange(10000)})"
        return request

    def _topic(self) -> tuple[str, Topic]:
        """A name and its topic; one request in six names something unknown and is answered about anything."""
        if self._choose.random() < 0.16:
            return self._gibberish(1, 4), ANYTHING
        topic = self._choose.choice((*TOPICS, TOPICS[0], ANYTHING))
        return self._choose.choice(topic.names), topic

    def _gibberish(self, least: int, most: int) -> str:
        return " ".join(self._choose.choices(self._unknown_words, k=self._choose.randint(least, most)))

    def _haiku(self) -> tuple[str, str]:
        name, topic = self._topic()
        return self._choose.choice(_HAIKU_REQUESTS).format(name), haiku(topic, self._choose)

    def _series(self) -> tuple[str, str]:
        name, topic = self._topic()
        number = self._choose.choice((2, 2, 3, 3, 3, 4, 5, 6, 8, 10))
        said = self._choose.choice((NUMBERS[number - 1], str(number)))
        answer = "\n\n".join(haiku(topic, self._choose) for _ in range(number))
        return self._choose.choice(_SERIES_REQUESTS).format(name, said), answer

    def _poem(self) -> tuple[str, str]:
        name, topic = self._topic()
        return self._choose.choice(_POEM_REQUESTS).format(name), "\n".join(Haiku(topic, self._choose).poem(4))

    def _story(self) -> tuple[str, str]:
        name, topic = self._topic()
        return self._choose.choice(_STORY_REQUESTS).format(name), self._story_text(topic)

    def _story_text(self, topic: Topic) -> str:
        sentences = Haiku(topic, self._choose).sentences(self._choose.randint(5, 12))
        opening = self._choose.choice(_OPENINGS)
        first = sentences[0]
        sentences[0] = opening + first[0].lower() + first[1:] if opening else first
        return " ".join(sentences)

    def _answer(self) -> tuple[str, str]:
        question = self._choose.choice(tuple(ANSWERS))
        ending = self._choose.choice(("", "", "", ".", "!")) if question[-1].isalpha() else ""
        return question + ending, self._choose.choice(ANSWERS[question])

    def _list(self) -> tuple[str, str]:
        name = self._choose.choice(tuple(LISTS))
        number = self._choose.randint(2, 10)
        entries = self._choose.sample(LISTS[name], number)
        said = self._choose.choice((NUMBERS[number - 1], str(number)))
        answer = "\n".join(f"{position}. {entry}" for position, entry in enumerate(entries, 1))
        return self._choose.choice(_LIST_REQUESTS).format(name, said), answer

    def _count(self) -> tuple[str, str]:
        number = self._choose.randint(3, 20)
        said = self._choose.choice((NUMBERS[number - 1], str(number)))
        return self._choose.choice(_COUNT_REQUESTS).format(said), ", ".join(NUMBERS[:number]) + "."

    def _unknown_request(self) -> tuple[str, str]:
        words = self._gibberish(1, 12)
        if self._choose.random() < 0.3:
            words = f"{words} {self._choose.randrange(100000)}"
        request = words[:1].upper() + words[1:] + self._choose.choice(("", ".", "?"))
        return request, f"{self._choose.choice(_REFUSALS)}\n\n{haiku(ANYTHING, self._choose)}"

    def _about_long_text(self) -> tuple[str, str]:
        """A long text of anything, and a request after it: the answer follows the request."""
        parts = [self._filler() for _ in range(self._choose.randint(1, 14))]
        request, answer = self._choose.choice((self._haiku, self._haiku, self._series, self._answer))()
        return "\n".join((*parts, request)), answer

    def _filler(self) -> str:
        where = self._choose.random()
        if where < 0.5:
            return self._gibberish(5, 60)
        if where < 0.75:
            return " ".join([self._choose.choice((*COLOURS, *NUMBERS))] * self._choose.randint(2, 40))
        return self._story_text(self._choose.choice(TOPICS))

    def _raw(self) -> str:
        topic = self._choose.choice(TOPICS)
        if self._choose.random() < 0.4:
            return self._story_text(topic)
        title = self._choose.choice((*topic.names, ""))
        text = "\n\n".join(haiku(topic, self._choose) for _ in range(self._choose.randint(1, 4)))
        return f"{title[:1].upper()}{title[1:]}\n\n{text}" if title else text
