"""Shapes of Phi-3-architecture models, the names and sizes of their tensors, and the GGUF header with the real
tokenizer. Knows nothing of values: who trains or draws them calls `start_writer`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf

from ops.demo_model import VOCABULARY


@dataclass(frozen=True)
class Shape:
    """`width` and `feed_forward` must be multiples of 256, the block of the K quantizations; `tied`: the embedding
    matrix is the output matrix as well, as llama.cpp takes it when `output.weight` is absent."""

    num_layers: int
    width: int
    feed_forward: int
    num_heads: int
    tied: bool = False
    vocabulary_size: int = 32_064
    rms_epsilon: float = 1e-5
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        for name in ("num_layers", "width", "feed_forward", "num_heads", "vocabulary_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        for name in ("width", "feed_forward"):
            if getattr(self, name) % 256:
                raise ValueError(f"{name} must be a multiple of 256, the block of the K quantizations")
        if self.width % self.num_heads or self.head_width % 2:
            raise ValueError("num_heads must divide width into heads of an even size")

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and (rows, columns) of each tensor, in the order of the file. A matrix maps columns to rows."""
        yield "token_embd.weight", (self.vocabulary_size, self.width)
        for layer in range(self.num_layers):
            yield f"blk.{layer}.attn_norm.weight", (self.width,)
            yield f"blk.{layer}.attn_qkv.weight", (3 * self.width, self.width)
            yield f"blk.{layer}.attn_output.weight", (self.width, self.width)
            yield f"blk.{layer}.ffn_norm.weight", (self.width,)
            yield f"blk.{layer}.ffn_up.weight", (2 * self.feed_forward, self.width)
            yield f"blk.{layer}.ffn_down.weight", (self.width, self.feed_forward)
        yield "output_norm.weight", (self.width,)
        if not self.tied:
            yield "output.weight", (self.vocabulary_size, self.width)


def start_writer(path: Path, shape: Shape, *, name: str, context_tokens: int, file_type: int) -> gguf.GGUFWriter:
    """A writer with every key set. `name` has to contain "Phi3": by it llama.cpp knows that the control tokens of
    this tokenizer swallow the white space after them."""
    if "phi3" not in name.lower():
        raise ValueError('name must contain "Phi3"')
    if context_tokens <= 0:
        raise ValueError("context_tokens must be positive")
    writer = gguf.GGUFWriter(path, "phi3")
    writer.add_name(name)
    writer.add_license("MIT")
    writer.add_context_length(context_tokens)
    writer.add_rope_scaling_orig_ctx_len(context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(shape.num_layers)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_heads)
    writer.add_layer_norm_rms_eps(shape.rms_epsilon)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _copy_tokenizer(writer)
    return writer


def _copy_tokenizer(writer: gguf.GGUFWriter) -> None:
    for key, field in gguf.GGUFReader(VOCABULARY).fields.items():
        if not key.startswith("tokenizer."):
            continue
        kind = field.types[0]
        items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, items)
