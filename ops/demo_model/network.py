"""The Phi-3 network in PyTorch, its parameters named as in the GGUF, over the compact vocabulary of `corpus.py`.

Number 0 of that vocabulary stands for every unused token at once: they share one embedding row, so the softmax over
the whole vocabulary is the softmax over the compact one with log(number of unused tokens) added to that one logit.
Knows nothing of text, files or the training schedule.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ops.demo_model.corpus import UNKNOWN
from ops.demo_model.shape import Shape

Parameters = dict[str, Tensor]
_QUANT_BLOCK = 32
_QUANT_LEVELS = 15


def new_parameters(shape: Shape, num_tokens: int, seed: int) -> Parameters:
    """`num_tokens`: rows of the compact vocabulary, the shared row included."""
    generator = torch.Generator().manual_seed(seed)
    parameters: Parameters = {}
    for name, size in shape.tensors():
        if len(size) == 1:
            parameters[name] = torch.ones(size)
            continue
        rows = num_tokens if name == "token_embd.weight" else size[0]
        spread = 0.02 if name == "token_embd.weight" else 1 / math.sqrt(size[1])
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            spread /= math.sqrt(2 * shape.num_layers)
        parameters[name] = torch.randn(rows, size[1], generator=generator) * spread
    return {name: parameter.requires_grad_() for name, parameter in parameters.items()}


def like_quantized(weight: Tensor) -> Tensor:
    """`weight` rounded as 4-bit blocks round it; the gradient passes through as if it were not."""
    blocks = weight.detach().reshape(-1, _QUANT_BLOCK)
    low = blocks.amin(dim=1, keepdim=True).clamp(max=0)
    step = ((blocks.amax(dim=1, keepdim=True) - low) / _QUANT_LEVELS).clamp(min=1e-8)
    rounded = ((blocks - low) / step).round() * step + low
    return weight + (rounded.reshape(weight.shape) - weight.detach())


def quantized_view(parameters: Parameters) -> Parameters:
    return {name: like_quantized(weight) if weight.dim() == 2 else weight for name, weight in parameters.items()}


@dataclass(frozen=True)
class Rows:
    """What the network reads: `tokens` (rows, length), the rotary tables for their positions, and which token may
    look at which (rows, 1, length, length)."""

    tokens: Tensor
    cosine: Tensor
    sine: Tensor
    visible: Tensor


def rows_of(shape: Shape, tokens: Tensor, documents: Tensor, positions: Tensor) -> Rows:
    half = shape.head_width // 2
    frequencies = shape.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = positions[:, None, :, None].float() * frequencies
    length = tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return Rows(tokens, angles.cos(), angles.sin(), same & causal)


def hidden_states(shape: Shape, parameters: Parameters, rows: Rows) -> Tensor:
    """(rows, length, width), ready for the output matrix."""
    stream = functional.embedding(rows.tokens, parameters["token_embd.weight"])
    for layer in range(shape.num_layers):
        block = {part: parameters[f"blk.{layer}.{part}.weight"] for part in _BLOCK_PARTS}
        stream = stream + _attention(shape, block, _normed(stream, block["attn_norm"], shape), rows)
        stream = stream + _feed_forward(block, _normed(stream, block["ffn_norm"], shape))
    return _normed(stream, parameters["output_norm.weight"], shape)


_BLOCK_PARTS = ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")


def _normed(stream: Tensor, gain: Tensor, shape: Shape) -> Tensor:
    return functional.rms_norm(stream.float(), (shape.width,), gain, shape.rms_epsilon)


def _attention(shape: Shape, block: Parameters, stream: Tensor, rows: Rows) -> Tensor:
    batch, length, width = stream.shape
    mixed = functional.linear(stream, block["attn_qkv"]).view(batch, length, 3, shape.num_heads, shape.head_width)
    query, key, value = mixed.permute(2, 0, 3, 1, 4)
    query, key = (_rotated(part, rows).to(value.dtype) for part in (query, key))
    seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=rows.visible)
    return functional.linear(seen.transpose(1, 2).reshape(batch, length, width), block["attn_output"])


def _rotated(heads: Tensor, rows: Rows) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * rows.cosine - second * rows.sine, second * rows.cosine + first * rows.sine), dim=-1)


def _feed_forward(block: Parameters, stream: Tensor) -> Tensor:
    gate, up = functional.linear(stream, block["ffn_up"]).chunk(2, dim=-1)
    return functional.linear(functional.silu(gate) * up, block["ffn_down"])


def penalized(logits: Tensor, recent: Tensor, penalty: float) -> Tensor:
    """The repeat penalty of llama.cpp. `recent`: true where the token was among the last ones."""
    shrunk = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(recent, shrunk, logits)


def log_probabilities(logits: Tensor, num_unused: int) -> Tensor:
    """Of the compact vocabulary; entry 0 is the probability of all unused tokens together."""
    shared = torch.zeros(logits.shape[-1])
    shared[UNKNOWN] = math.log(num_unused)
    return functional.log_softmax(logits + shared, dim=-1)
