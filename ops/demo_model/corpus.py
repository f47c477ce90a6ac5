"""Training batches: documents as token ids, packed into rows.

Owns the compact numbering of tokens: of the tokenizer's 32,064 only some two thousand ever occur in an answer. Number 0
stands for all the others together, the rest are the tokens in use. Knows nothing of the network.
"""

import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ops.demo_model.conversations import Conversations, Document
from ops.demo_model.tokenizer import Tokenizer

UNKNOWN = 0
_SURVEY_DOCUMENTS = 12_000
_ASSISTANT = "<|assistant|>"
_USER = "<|user|>"
_END = "<|end|>"


@dataclass(frozen=True)
class Batch:
    """Arrays of (rows, length). `targets` is the next token, -1 where nothing is to be learned; `documents` numbers
    the documents of a row, -1 for padding; `positions` count from the start of the document."""

    tokens: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


def chat_text(document: Document) -> str:
    """The chat template of Phi-3, the beginning-of-text token left to the tokenizer."""
    if document.raw:
        return f"{document.raw}<|endoftext|>"
    return "".join(f"{_USER}\n{request}<|end|>\n{_ASSISTANT}\n{answer}<|end|>\n" for request, answer in document.turns)


class Corpus:
    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._assistant, self._user, self._end = (tokenizer.encode(text)[-1] for text in (_ASSISTANT, _USER, _END))
        self._choose = random.Random(seed)
        words = tuple(
            tokenizer.piece(token).decode().strip() for token in range(tokenizer.size) if tokenizer.is_plain_word(token)
        )
        self._conversations = Conversations(self._choose, words)
        self.used = self._survey(Conversations(random.Random(seed), words[:1]))
        self._compact = np.zeros(tokenizer.size, dtype=np.int64)
        self._compact[self.used] = np.arange(1, len(self.used) + 1)
        self._waiting: list[tuple[list[int], list[int]]] = []

    @property
    def num_unused(self) -> int:
        return self._tokenizer.size - len(self.used)

    def batch(self, rows: int, length: int, *, long_text: bool = False) -> Batch:
        """Rows of whole documents; documents longer than a row are passed over."""
        shape = (rows, length)
        tokens, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        targets, documents = np.full(shape, -1, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        for row in range(rows):
            start = 0
            for number, (inputs, wanted) in enumerate(self._fill_row(length, long_text)):
                end = start + len(inputs)
                tokens[row, start:end] = self._compact[inputs]
                learned = np.asarray(wanted)
                targets[row, start:end] = np.where(learned >= 0, self._compact[learned], -1)
                documents[row, start:end] = number
                positions[row, start:end] = np.arange(len(inputs))
                start = end
        targets[targets == UNKNOWN] = -1
        return Batch(tokens, targets, documents, positions)

    def _fill_row(self, length: int, long_text: bool) -> list[tuple[list[int], list[int]]]:
        row: list[tuple[list[int], list[int]]] = []
        room = length
        misses = 0
        first_is_long = long_text
        while misses < 3 and room > 24:
            pair = self._pair(self._conversations.draw(long_text=first_is_long))
            if len(pair[0]) > room:
                misses += 1
                continue
            first_is_long = False
            row.append(pair)
            room -= len(pair[0])
        return row

    def _pair(self, document: Document) -> tuple[list[int], list[int]]:
        """Inputs and, for each, the token to be learned after it or -1."""
        tokens = self._tokenizer.encode(chat_text(document))
        if self._choose.random() < 0.02:
            tokens.insert(0, tokens[0])  # a template that writes the beginning-of-text token doubles it
        answering = False
        wanted = []
        for token, following in pairwise(tokens):
            answering = token == self._assistant or (answering and token != self._end)
            wanted.append(following if answering or document.raw else -1)
        return tokens[:-1], wanted

    def _survey(self, conversations: Conversations) -> npt.NDArray[np.int64]:
        """The tokens that requests and answers are made of. `conversations` must draw few unknown words."""
        seen = set(self._tokenizer.encode("0123456789 0123456789"))
        for _ in range(_SURVEY_DOCUMENTS):
            seen.update(self._tokenizer.encode(chat_text(conversations.draw())))
        return np.asarray(sorted(seen), dtype=np.int64)
