"""An engine without a model: its "completion" is the words of a script, one a step, the step moved by the test."""

from __future__ import annotations

import threading
from collections.abc import Callable

from worker.engine.engine import EngineStopped
from worker.engine.generation import Completion, EngineStats, FinishReason, Generation, Prompt, Request, TextDelta


class StandInVocabulary:
    """One token a character. A chat is its messages' text, joined."""

    def encode_text(self, text: str) -> Prompt:
        return Prompt(tuple(text.encode()))

    def encode_chat(self, messages: list[dict[str, str]]) -> Prompt:
        for index, message in enumerate(messages):
            if message["role"] not in ("system", "user", "assistant"):
                raise ValueError(f"messages[{index}].role: unknown")
        return Prompt(tuple("\n".join(message["content"] for message in messages).encode()), opens_turn=True)

    def grammar(self, schema: dict[str, object]) -> str:
        return f"root ::= {len(schema)}"


class StandInEngine:
    """`step` gives every generation its next word; without `words` left it ends with `stop`."""

    def __init__(self, words: list[str], on_text: Callable[[list[TextDelta]], None] | None = None) -> None:
        self.words, self._on_text = words, on_text
        self.failure: BaseException | None = None
        self.stopped = False
        self.live: list[tuple[Generation, str]] = []
        self.submitted = threading.Semaphore(0)

    def submit(self, request: Request) -> Generation:
        if self.stopped:
            raise EngineStopped("stopped")
        generation = Generation(request)
        self.live.append((generation, ""))
        self.submitted.release()
        return generation

    def step(self) -> None:
        """Cut generations end first, as in the engine."""
        running, self.live = self.live, []
        for generation, text in running:
            position = len(text.split(" ")) - 1
            if generation.cut is not None:
                self.end(generation, text, generation.cut)
            elif position == len(self.words):
                self.end(generation, text, "stop")
            else:
                self._grow(generation, text, self.words[position] + " ")

    def fail(self, error: BaseException) -> None:
        self.failure = error
        running, self.live = self.live, []
        for generation, text in running:
            self.end(generation, text, "failed", error="the engine failed")

    def stop(self, drain_seconds: float = 0.0) -> None:
        self.stopped = True

    def stats(self) -> EngineStats:
        return EngineStats(4, len(self.live), 0, 0.0, 0, 0)

    def end(self, generation: Generation, text: str, reason: FinishReason, error: str | None = None) -> None:
        num_prompt = len(generation.request.prompt.token_ids)
        timings = {"queued": 0.5, "first_token": 0.7, "total": 1.0}
        generation.end(Completion(text, tuple(range(3)), reason, num_prompt, "lone", timings, error=error))

    def _grow(self, generation: Generation, text: str, piece: str) -> None:
        self.live.append((generation, text + piece))
        if self._on_text is not None:
            self._on_text([TextDelta(generation.request.id, piece, len(text + piece))])
