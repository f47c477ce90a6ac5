"""What is measured: jobs of random words, the same for every contestant."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

END_TOKENS = (2, 32000, 32007)
"""Banned in every run, so that each job has exactly as many completion tokens as it asks for."""
REPEAT_PENALTY = 1.2
CONTEXT_TOKENS = 256
_WORDS = "ice river stone moon winter light road house green night water long cold song heart wind snow tree sea day"


@dataclass(frozen=True, slots=True)
class Work:
    """One job: a raw prompt (a word is a token), and how many tokens to complete."""

    prompt: str
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Jobs of one kind, and the context that the longest of them needs in a slot."""

    name: str
    title: str
    work: Sequence[Work]
    variant: int = 0

    @property
    def context_tokens(self) -> int:
        longest = max(len(job.prompt.split()) + 8 + job.max_tokens for job in self.work)
        return -(-longest // 256) * 256


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(_WORDS.split(), k=count))


def short_chats(count: int, variant: int = 0, *, prompt_tokens: int = 55, max_tokens: int = 64) -> Sequence[Work]:
    """`count` jobs of one length: many short questions at once."""
    rng = random.Random(3 * variant)
    return [Work(_words(rng, prompt_tokens - 1), max_tokens, seed) for seed in range(count)]


def long_prompts(count: int, variant: int = 0) -> Sequence[Work]:
    """Much to read and little to say: 900 + 32 tokens."""
    return short_chats(count, variant, prompt_tokens=900, max_tokens=32)


def shared_prefix(count: int, variant: int = 0) -> Sequence[Work]:
    """The same 400 tokens before 30 own ones, 30 to complete."""
    rng = random.Random(3 * variant + 1)
    system = _words(rng, 399)
    return [Work(f"{system} {_words(rng, 30)}", 30, seed) for seed in range(count)]


def mixed_lengths(count: int, variant: int = 0) -> Sequence[Work]:
    """Prompts of 10 to 1,500 tokens (most of them short), outputs of 5 to 200."""
    rng = random.Random(2)
    words = random.Random(3 * variant + 2)
    lengths = [round(10 * 150 ** rng.random()) for _ in range(count)]
    return [Work(_words(words, length - 1), rng.randint(5, 200), seed) for seed, length in enumerate(lengths)]


_MAKERS: Mapping[str, tuple[str, Callable[[int, int], Sequence[Work]]]] = {
    "short": ("short chats, 55 + 64 tokens", short_chats),
    "long": ("long prompts, 900 + 32 tokens", long_prompts),
    "shared": ("400 tokens shared, 30 + 30 own", shared_prefix),
    "mixed": ("prompts of 10 to 1,500 tokens, outputs of 5 to 200", mixed_lengths),
}
NAMES = tuple(_MAKERS)


def workload(name: str, count: int, variant: int = 0) -> Workload:
    """The workload of that name, with `count` jobs. Variants have the same lengths and other words, so that a prompt
    cache gains nothing from an earlier round."""
    title, make = _MAKERS[name]
    return Workload(name, title, make(count, variant), variant)
