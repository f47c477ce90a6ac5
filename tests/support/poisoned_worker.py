"""`python -m tests.support.poisoned_worker`: a worker that one prompt kills, as a fault inside llama.cpp would.

The prompt is in the environment variable POISON. The process aborts natively when the engine is handed it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from worker import __main__ as worker
from worker.engine.engine import Engine
from worker.engine.generation import Generation, Request
from worker.engine.vocabulary import Vocabulary

_submit, _encode = Engine.submit, Vocabulary.encode_text
_poison: set[tuple[int, ...]] = set()


def _note(self: Vocabulary, text: str) -> Any:
    prompt = _encode(self, text)
    if text == os.environ["POISON"]:
        _poison.add(tuple(prompt.token_ids))
    return prompt


def _die(self: Engine, request: Request) -> Generation:
    if tuple(request.prompt.token_ids) in _poison:
        os.abort()
    return _submit(self, request)


if __name__ == "__main__":
    Vocabulary.encode_text = _note  # type: ignore[method-assign]
    Engine.submit = _die  # type: ignore[method-assign]
    sys.exit(worker.main())
