"""Which tokens a grammar lets come: llama.cpp's judgement along one completion. Knows tokens and logits only."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama.cpp's `llama_token_data`."""


class ModelGrammar:
    """The state of one grammar along one completion: llama.cpp's. Raises ValueError for text it cannot parse."""

    def __init__(self, vocab: Any, ids: Any, text: str) -> None:
        self._ids = ids
        self._grammar = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        if not self._grammar:
            raise ValueError("llama.cpp cannot parse the grammar")

    def allows(self, token: int) -> bool:
        """Whether `token` may come now."""
        one = np.array([(token, 1.0, 0.0)], dtype=_CANDIDATE)
        self._apply(one)
        return bool(one["logit"][0] != -np.inf)

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits of all tokens that may not come now to minus infinity."""
        candidates = np.zeros(len(logits), dtype=_CANDIDATE)
        candidates["id"], candidates["logit"] = self._ids, logits
        self._apply(candidates)
        logits[:] = candidates["logit"]

    def accept(self, token: int) -> None:
        """`token` has come."""
        llama_cpp.llama_sampler_accept(self._grammar, token)

    def close(self) -> None:
        """Free what llama.cpp holds for it."""
        llama_cpp.llama_sampler_free(self._grammar)

    def _apply(self, candidates: Any) -> None:
        array = llama_cpp.llama_token_data_array(
            data=candidates.ctypes.data_as(llama_cpp.llama_token_data_p),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
