"""Answers of live requests in OpenAI's shapes: whole ones, and the chunks of a stream. Pure.

A stream begins with a chunk that names the role, ends with one that has the reason, and `[DONE]` last; with usage if
it was asked for. Whatever keeps it from its end is told as an error frame: a cut stream never looks finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from api.errors import SERVER, error_body
from jobs.lines import chat_body, text_body
from jobs.tables import Generation, Job

Kind = Literal["chat", "text"]
Document = dict[str, Any]

DONE = b"data: [DONE]\n\n"
_BODIES = {"chat": chat_body, "text": text_body}
_PREFIXES = {"chat": "chatcmpl", "text": "cmpl"}
_OBJECTS = {"chat": "chat.completion.chunk", "text": "text_completion"}


def whole(kind: Kind, done: Sequence[tuple[Job, Generation]], num_choices: int) -> Document:
    """The answer of a request that does not stream: a choice for each job, `num_choices` for each prompt."""
    bodies = [_BODIES[kind](job, generation) for job, generation in done]
    choices = [{**body["choices"][0], "index": index} for index, body in enumerate(bodies)]
    usage = usage_of([generation for _, generation in done], num_choices)
    return {**bodies[0], "choices": choices, "usage": usage, "penstock": provenance(done)}


def usage_of(generations: Sequence[Generation], num_choices: int) -> Document:
    """Tokens of all choices. A prompt, which `num_choices` of them share, counts once, as it does at OpenAI's."""
    prompt = sum(generation.num_prompt_tokens for generation in generations[::num_choices])
    completion = sum(generation.num_completion_tokens for generation in generations)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def provenance(done: Sequence[tuple[Job, Generation]]) -> Document:
    """An extra key: the jobs behind the choices, and the seeds that make them again. `reused_from`, where a choice
    was answered from the store: the jobs it was generated for."""
    told: Document = {"job_ids": [job.id for job, _ in done], "seeds": [job.seed for job, _ in done]}
    reused = [(generation.continuity or {}).get("of") for _, generation in done]
    return {**told, "reused_from": reused} if any(reused) else told


@dataclass(frozen=True, slots=True)
class Chunks:
    """Makes the chunks of one stream. `with_usage`: every chunk has the key, the last its value. `num_choices`: of each
    prompt."""

    kind: Kind
    job_id: str
    created: int
    model: str
    with_usage: bool = False
    num_choices: int = 1

    def opening(self, index: int, fingerprint: str | None) -> bytes:
        """A chat says who speaks, before it says anything. `fingerprint`: id of the recipe that makes the choice."""
        if self.kind == "text":
            return b""
        return self._of(index, {"role": "assistant", "content": "", "refusal": None}, system_fingerprint=fingerprint)

    def text(self, index: int, text: str, fingerprint: str | None) -> bytes:
        return self._of(index, {"content": text} if self.kind == "chat" else text, system_fingerprint=fingerprint)

    def ending(self, index: int, job: Job, generation: Generation) -> bytes:
        """The reason it ended, and the logprobs of all its tokens if they were asked for."""
        choice = _BODIES[self.kind](job, generation)["choices"][0]
        told = {"system_fingerprint": generation.recipe_id, "penstock": provenance([(job, generation)])}
        delta: object = {} if self.kind == "chat" else ""
        return self._of(index, delta, reason=choice["finish_reason"], logprobs=choice["logprobs"], **told)

    def usage(self, generations: Sequence[Generation]) -> bytes:
        if not self.with_usage:
            return b""
        usage = usage_of(generations, self.num_choices)
        return self._frame({"choices": [], "usage": usage, "system_fingerprint": generations[0].recipe_id})

    def _of(
        self, index: int, delta: object, *, reason: str | None = None, logprobs: object = None, **told: object
    ) -> bytes:
        name = "delta" if self.kind == "chat" else "text"
        choice = {"index": index, name: delta, "logprobs": logprobs, "finish_reason": reason}
        return self._frame({"choices": [choice], **({"usage": None} if self.with_usage else {}), **told})

    def _frame(self, rest: Mapping[str, object]) -> bytes:
        head = {
            "id": f"{_PREFIXES[self.kind]}-{self.job_id.removeprefix('job_')}",
            "object": _OBJECTS[self.kind],
            "created": self.created,
            "model": self.model,
        }
        return data_frame({**head, **rest})


def data_frame(document: Mapping[str, object]) -> bytes:
    """A frame without a name, as OpenAI's streams have them."""
    return b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error_frame(message: str, code: str) -> bytes:
    """The last frame of a stream that did not come to its end."""
    return data_frame(error_body(message, type=SERVER, param=None, code=code))
