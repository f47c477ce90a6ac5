"""Log-probabilities computed with llama.cpp and nothing of ours but the attention: one context, one sequence, one token
a call. Another attention gives other bits, a tenth apart after some layers; see `tests/engine/test_attention_model.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from worker.engine import attention


def direct_logprobs(path: Path, prompt: Sequence[int], completion: Sequence[int]) -> NDArray[np.float64]:
    """For each token of `completion`, the log-probabilities of all tokens that may come in its place.

    Shape (len(completion), size of the vocabulary).
    """
    attention.use("auto")
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = len(prompt) + len(completion) + 1
    params.n_batch = params.n_ctx
    params.flash_attn_type = 1
    context = llama_cpp.llama_init_from_model(model, params)
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    try:
        rows = [_after(context, prompt, size)]
        rows += [_after(context, [token], size) for token in completion[:-1]]
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
    return np.array(rows)


def _after(context: ctypes.c_void_p, tokens: Sequence[int], size: int) -> NDArray[np.float64]:
    """Decode tokens; the log-probabilities of what comes behind the last."""
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens)))
    assert status == 0, status
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(size,)).astype(np.float64)
    shifted: NDArray[np.float64] = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
