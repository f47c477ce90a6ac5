"""The demo model that ships: its size, its checksum, its tokenizer, and whether it answers."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import llama_cpp
import pytest

from ops.demo_model import DEMO_MODEL, DEMO_MODEL_SHA256, VOCABULARY
from ops.demo_model.conversations import Conversations
from ops.demo_model.haiku import Haiku, haiku
from ops.demo_model.words import ANYTHING, TOPICS, Topic

DEFAULTS = {"temperature": 1.0, "repeat_penalty": 1.2, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 100}


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.split("\n") if line.strip()]


class Demo:
    """The demo model behind the high-level binding, with the parameters that a Penstock job has by default."""

    def __init__(self) -> None:
        self.llama = llama_cpp.Llama(
            str(DEMO_MODEL), n_ctx=1024, n_threads=1, n_threads_batch=1, last_n_tokens_size=64, verbose=False
        )

    def chat(self, request: str, seed: int, **changes: float) -> Answer:
        return self.raw(f"<|user|>\n{request}<|end|>\n<|assistant|>\n", seed, **changes)

    def raw(self, prompt: str, seed: int, **changes: float) -> Answer:
        reply = self.llama.create_completion(prompt, seed=seed, **(DEFAULTS | changes))
        choice = reply["choices"][0]
        return Answer(choice["text"], choice["finish_reason"])


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    model = Demo()
    yield model
    model.llama.close()


def test_the_file_has_at_most_eight_megabytes() -> None:
    assert DEMO_MODEL.stat().st_size <= 8_000_000


def test_the_checksum_file_names_the_bytes_that_ship() -> None:
    digest, name = DEMO_MODEL_SHA256.read_text().split()
    assert (digest, name) == (hashlib.sha256(DEMO_MODEL.read_bytes()).hexdigest(), DEMO_MODEL.name)


def test_it_carries_the_real_tokenizer_and_chat_template(demo: Demo) -> None:
    real = llama_cpp.Llama(str(VOCABULARY), vocab_only=True, verbose=False)
    text = "<|user|>\nWrite a haiku about ice hockey<|end|>\n<|assistant|>\nÄpfel 4 ½  \n"
    assert demo.llama.tokenize(text.encode(), special=True) == real.tokenize(text.encode(), special=True)
    template = "tokenizer.chat_template"
    assert demo.llama.metadata[template] == real.metadata[template]
    assert demo.llama.n_vocab() == 32_064
    real.close()


def test_control_tokens_swallow_the_white_space_after_them(demo: Demo) -> None:
    spaced = demo.llama.tokenize(b"<|user|>\n  hello<|end|>\n<|assistant|>\n", special=True)
    assert spaced == demo.llama.tokenize(b"<|user|>hello<|end|><|assistant|>", special=True)


def test_a_haiku_about_ice_hockey_has_three_lines_and_ends(demo: Demo) -> None:
    answers = [demo.chat("Write a haiku about ice hockey", seed) for seed in range(20)]
    good = [answer for answer in answers if len(answer.lines) == 3 and answer.finish_reason == "stop"]
    assert len(good) >= 14


def test_the_same_seed_gives_the_same_haiku_and_others_differ(demo: Demo) -> None:
    texts = [demo.chat("Write a haiku about the moon", seed).text for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_a_series_of_haiku_is_a_long_answer(demo: Demo) -> None:
    answers = [demo.chat("Write ten haiku about the sea", seed, max_tokens=500) for seed in range(3)]
    assert max(len(answer.lines) for answer in answers) >= 18


def test_a_long_prompt_is_answered_at_its_end(demo: Demo) -> None:
    filler = "The old lantern waits by the gate. " * 60
    answers = [demo.chat(f"{filler}\nWrite a haiku about rain", seed) for seed in range(6)]
    assert sum(len(answer.lines) == 3 and answer.finish_reason == "stop" for answer in answers) >= 3


def test_a_raw_prompt_is_continued(demo: Demo) -> None:
    texts = [demo.raw("The old river", seed, max_tokens=20).text.strip() for seed in range(6)]
    assert sum(bool(text) for text in texts) >= 4


def test_unused_tokens_are_practically_never_sampled(demo: Demo) -> None:
    """Full-vocabulary sampling writes plain text: the thirty thousand unused tokens stay out of it."""
    text = "".join(demo.chat(f"Write three haiku about {name}", 7, max_tokens=150).text for name in ("rain", "zebras"))
    assert text.isascii()


@pytest.mark.parametrize("topic", [*TOPICS, ANYTHING], ids=lambda topic: topic.names[0])
def test_every_topic_yields_haiku_poems_and_stories(topic: Topic) -> None:
    choose = random.Random(3)
    assert all(len(haiku(topic, choose).split("\n")) == 3 for _ in range(20))
    assert len(Haiku(topic, choose).poem(4)) == 4
    assert len(Haiku(topic, choose).sentences(9)) == 9


def test_the_training_text_is_the_same_for_the_same_seed() -> None:
    first, second = (Conversations(random.Random(5), ("violet", "engine")) for _ in range(2))
    assert [first.draw() for _ in range(200)] == [second.draw() for _ in range(200)]
