"""A model's vocabulary without its weights: text to tokens, tokens to bytes, chat template, grammars.

Source of every rule: llama.cpp's tokenizer, called through the low-level bindings. The one rule of our own is that
text inside a chat message can never become a control token. Loads in milliseconds and holds a few megabytes, so the
API may use it to count tokens exactly. Knows no sequences, no slots and no context.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import llama_cpp
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.engine.generation import Prompt
from worker.engine.schemas import grammar_of

_NORMAL_BREAK = "\n"
_ROLES = ("system", "user", "assistant")
_SPACE = " \t\n\r\v\f"
MAX_SKELETONS = 256
"""Sequences of roles whose rendered template is remembered; the chats of a batch tend to share one."""


class VocabularyError(Exception):
    """The file holds no usable vocabulary."""


class _Place(NamedTuple):
    """Where the text of a message goes."""

    message: int


class _Text(NamedTuple):
    """A run of text between control tokens."""

    pieces: tuple[str | _Place, ...]
    strip_left: bool
    strip_right: bool

    def filled(self, messages: Sequence[Mapping[str, str]]) -> str:
        text = "".join([p if isinstance(p, str) else messages[p.message]["content"] for p in self.pieces])
        if self.strip_left:
            text = text.lstrip(_SPACE)
        return text.rstrip(_SPACE) if self.strip_right else text


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_quiet(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp talks on stderr by default; what matters of it is raised as an error by its caller."""


class Vocabulary:
    """Tokens of one model. Safe to use from several threads (llama.cpp's tokenizer is)."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._bos: int = llama_cpp.llama_vocab_bos(self._vocab)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.context_tokens = int(self._metadata(f"{self._metadata('general.architecture')}.context_length") or 0)
        self.template = self._metadata("tokenizer.chat_template") or ""
        self.template_sha256 = hashlib.sha256(self.template.encode()).hexdigest()
        self._pieces = [self._read_piece(token) for token in range(self.size)]
        self._ends = frozenset(t for t in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, t))
        self._read_specials()
        self._skeleton = lru_cache(maxsize=MAX_SKELETONS)(self._render_skeleton)

    @classmethod
    def from_gguf(cls, path: Path) -> Vocabulary:
        """Read the vocabulary of a GGUF file; its tensors, if any, are not touched."""
        llama_cpp.llama_log_set(_keep_quiet, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise VocabularyError(f"{path.name} holds no vocabulary that llama.cpp can read")
        return cls(model)

    @classmethod
    def from_bytes(cls, gguf: bytes) -> Vocabulary:
        """Read a GGUF file that was kept as bytes; its tensors may have been left out."""
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(gguf)
            file.flush()
            return cls.from_gguf(Path(file.name))

    def encode_text(self, text: str) -> Prompt:
        """Tokenize a raw prompt: control tokens written in it are parsed, and the model's first token is put first."""
        tokens = self._tokenize(text, parse_special=True)
        if self._adds_bos and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return self._prompt(tokens)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> Prompt:
        """Tokenize a chat through the model's template. Text of a message never becomes a control token.

        `messages`: `{"role": "system" | "user" | "assistant", "content": str}`. A template without a place for
        system messages gets their text at the head of the next user message. Raises ValueError, with the field's
        name first, for messages that the template cannot take.
        """
        tokens: list[int] = []
        for part in self._render(messages):
            tokens += [part] if isinstance(part, int) else self._tokenize_plain(part)
        if self._adds_bos and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return self._prompt(tokens)

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to the text; none for control tokens."""
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        """Whether the token ends a completion (`<|end|>`, `<|endoftext|>`, …)."""
        return token in self._ends

    def grammar(self, schema: Mapping[str, Any]) -> str:
        """The GBNF grammar of a JSON schema, its root named `root`.

        Raises ValueError, whose text repeats nothing of the schema, for one that is wrong, not served, or more than
        llama.cpp can follow in good time (`worker.engine.schemas`).
        """
        text = grammar_of(schema)
        self.check_grammar(text)
        return text

    def check_grammar(self, text: str) -> None:
        """Raise ValueError unless llama.cpp can parse the GBNF `text`."""
        sampler = llama_cpp.llama_sampler_init_grammar(self._vocab, text.encode(), b"root")
        if not sampler:
            raise ValueError("llama.cpp cannot parse the grammar made from this JSON schema")
        llama_cpp.llama_sampler_free(sampler)

    def _prompt(self, tokens: list[int]) -> Prompt:
        return Prompt(tuple(tokens), opens_turn=bool(tokens) and tokens[-1] in self._controls)

    def _metadata(self, key: str) -> str | None:
        size = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, size + 1)
        return buffer.value.decode()

    def _read_piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, 256, 0, False)
        return buffer.raw[: max(length, 0)]

    def _read_specials(self) -> None:
        self._adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab)) and self._bos >= 0
        self._controls: set[int] = set()
        self._strips_right: set[int] = set()
        self._strips_left: set[int] = set()
        special: dict[str, int] = {}
        marks: list[str] = []
        for token in range(self.size):
            attr = llama_cpp.llama_vocab_get_attr(self._vocab, token)
            control = bool(attr & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL) or token in self._ends
            if not control and not attr & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED:
                continue
            text = llama_cpp.llama_vocab_get_text(self._vocab, token).decode(errors="replace")
            special[text] = token
            if control:
                self._controls.add(token)
                marks.append(text)
            self._strips_right.update([token] if attr & llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP else [])
            self._strips_left.update([token] if attr & llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP else [])
        self._special = special
        self._special_pattern = _any_of(special)
        # llama.cpp parses some of these in plain text too (`</s>` is "user defined" in Phi-3, and ends a text).
        self._mark_pattern = _any_of(mark for mark in marks if len(mark) > 1)

    def _tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, False, parse_special)
        if count < 0:
            raise VocabularyError("llama.cpp could not tokenize the text")
        return list(tokens[:count])

    def _tokenize_plain(self, text: str) -> list[int]:
        """Tokenize text in which nothing is a control token, by breaking each string that looks like one."""
        pieces: list[str] = []
        start = 0
        for mark in self._mark_pattern.finditer(text) if self._mark_pattern else ():
            pieces.append(text[start : mark.start() + 1])
            start = mark.start() + 1
        pieces.append(text[start:])
        tokens = self._tokenize(pieces[0], parse_special=False)
        for piece in pieces[1:]:
            tokens += self._tokenize_onward(piece)
        return tokens

    def _tokenize_onward(self, text: str) -> list[int]:
        """Tokenize text that goes on from other text: without the space the tokenizer puts before a beginning."""
        head = self._tokenize(_NORMAL_BREAK, parse_special=False)
        whole = self._tokenize(_NORMAL_BREAK + text, parse_special=False)
        return whole[len(head) :] if whole[: len(head)] == head else self._tokenize(text, parse_special=False)

    def _render(self, messages: Sequence[Mapping[str, Any]]) -> list[int | str]:
        """The rendered chat as control tokens (int) and plain text between them, stripped as the tokens ask."""
        checked = _checked(messages)
        if not self.template:
            raise ValueError("messages: the model has no chat template; send `prompt` instead")
        skeleton = self._skeleton(tuple(message["role"] for message in checked))
        if skeleton is None:
            return self._render(_fold_system(checked))
        filled = [part if isinstance(part, int) else part.filled(checked) for part in skeleton]
        return [part for part in filled if part != ""]

    def _render_skeleton(self, roles: tuple[str, ...]) -> tuple[int | _Text, ...] | None:
        """A chat of these roles with places instead of its texts: the template never sees a text. None: it has no
        place for system messages."""
        nonce = secrets.token_hex(8)
        rendered = self._render_marked(roles, nonce)
        for index, role in enumerate(roles):
            if _mark(nonce, index) not in rendered and role == "system":
                return None
            if _mark(nonce, index) not in rendered:
                raise ValueError(f"messages[{index}].role: the model's chat template has no place for it")
        runs: list[int | list[str | _Place]] = [[]]
        for position, text in enumerate(re.split(f"<{nonce}:([0-9]+)>", rendered)):
            if position % 2:
                _append_text(runs, _Place(int(text)))
            else:
                self._append_template(runs, text)
        return tuple(self._stripped(runs))

    def _render_marked(self, roles: Sequence[str], nonce: str) -> str:
        marked = [{"role": role, "content": _mark(nonce, index)} for index, role in enumerate(roles)]
        special = {"bos_token": self._bos, "eos_token": llama_cpp.llama_vocab_eos(self._vocab)}
        names = {
            name: llama_cpp.llama_vocab_get_text(self._vocab, token).decode() if token >= 0 else ""
            for name, token in special.items()
        }
        try:
            return _compiled(self.template).render(messages=marked, add_generation_prompt=True, **names)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ValueError(f"messages: the model's chat template refuses them: {error}") from error

    def _append_template(self, runs: list[int | list[str | _Place]], text: str) -> None:
        start = 0
        for match in self._special_pattern.finditer(text) if self._special_pattern else ():
            _append_text(runs, text[start : match.start()])
            runs.append(self._special[match.group()])
            start = match.end()
        _append_text(runs, text[start:])

    def _stripped(self, runs: Sequence[int | list[str | _Place]]) -> Iterator[int | _Text]:
        """Runs of text, stripped where the control tokens beside them ask for it."""
        for index, run in enumerate(runs):
            if isinstance(run, int):
                yield run
            elif run:
                before = runs[index - 1] if index > 0 else None
                after = runs[index + 1] if index + 1 < len(runs) else None
                yield _Text(tuple(run), before in self._strips_right, after in self._strips_left)


def _any_of(texts: Any) -> re.Pattern[str] | None:
    ordered = sorted((re.escape(text) for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(ordered)) if ordered else None


def _append_text(runs: list[int | list[str | _Place]], piece: str | _Place) -> None:
    if not isinstance(last := runs[-1], list):
        runs.append(last := [])
    if piece != "":
        last.append(piece)


def _mark(nonce: str, index: int) -> str:
    return f"<{nonce}:{index}>"


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    if not messages:
        raise ValueError("messages: at least one is needed")
    for index, message in enumerate(messages):
        if message.get("role") not in _ROLES:
            raise ValueError(f"messages[{index}].role: one of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"messages[{index}].content: must be a string")
    return [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]


def _fold_system(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Put the text of system messages before that of the next user message (in one of its own, if none follows)."""
    out: list[dict[str, str]] = []
    held: list[str] = []
    for message in messages:
        if message["role"] == "system":
            held.append(message["content"])
        elif message["role"] == "user" and held:
            out.append({"role": "user", "content": "\n\n".join([*held, message["content"]])})
            held = []
        else:
            out.append(dict(message))
    if held:
        out.append({"role": "user", "content": "\n\n".join(held)})
    return out


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)
