"""What is measured: jobs of random words, the same for every contestant."""

from __future__ import annotations

import random
from collections.abc import Sequence
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


def short_chats(count: int, *, prompt_tokens: int = 55, max_tokens: int = 64) -> Sequence[Work]:
    """`count` jobs of one length: many short questions at once."""
    rng = random.Random(0)
    words = _WORDS.split()
    prompts = [" ".join(rng.choices(words, k=prompt_tokens - 1)) for _ in range(count)]
    return [Work(prompt, max_tokens, index) for index, prompt in enumerate(prompts)]
