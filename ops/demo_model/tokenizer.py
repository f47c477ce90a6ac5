"""The real Phi-3 tokenizer, read from `phi-3-vocab.gguf` by llama.cpp itself, so that training sees the very tokens
that the engine will see. Owns nothing but the loaded vocabulary."""

import ctypes
from pathlib import Path

import llama_cpp

from ops.demo_model import VOCABULARY


class Tokenizer:
    def __init__(self, path: Path = VOCABULARY) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_load_model_from_file(str(path).encode(), parameters)
        if not self._model:
            raise ValueError(f"{path.name} is no GGUF that llama.cpp can read")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)

    def encode(self, text: str) -> list[int]:
        """Token ids with the beginning-of-text token in front; control tokens written in `text` are parsed."""
        data = text.encode()
        room = len(data) + 8
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, True, True)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:length]

    def is_plain_word(self, token: int) -> bool:
        """Whether the token is a whole lower-case word with the space before it."""
        piece = self.piece(token)
        return piece[:1] == b" " and len(piece) > 3 and piece[1:].isalpha() and piece[1:].islower()
