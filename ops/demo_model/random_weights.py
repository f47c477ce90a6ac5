"""Writes Phi-3-architecture models with random weights and the real tokenizer, for benchmarks and tests:
`python -m ops.demo_model.random_weights --shape tiny|small|mini --out FILE [--context N] [--seed N]`.

The quantized blocks themselves are drawn (random quants under constant scales), so that 2.39 GB take seconds and no
float matrix ever exists. Scales keep every layer's output near unit size: logits are finite and spread by about two.
Owns the mix of quantizations; knows nothing of training.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ops.demo_model.shape import Shape, start_writer

SHAPES: dict[str, Shape] = {
    "tiny": Shape(num_layers=2, width=256, feed_forward=768, num_heads=4),
    "small": Shape(num_layers=8, width=1024, feed_forward=2816, num_heads=16),
    "mini": Shape(num_layers=32, width=3072, feed_forward=8192, num_heads=32),
}
DEFAULT_CONTEXT_TOKENS = 4096
_LOGIT_SPREAD = 2.0
# Root mean square of uniformly drawn quants around their middle.
_SPREAD_OF_4_BITS, _SPREAD_OF_5_BITS, _SPREAD_OF_6_BITS = 4.61, 9.23, 18.47
_SUBSCALE = 16
# Twelve bytes that give each of the eight sub-blocks scale 16 and minimum 16, six bits each (ggml's K packing).
_SUBSCALES = bytes([0x50] * 8 + [0] * 4)

Bytes = npt.NDArray[np.uint8]


def write_random_model(
    path: Path,
    shape: Shape,
    *,
    context_tokens: int = DEFAULT_CONTEXT_TOKENS,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """The same seed gives the same bytes. The file appears under its name when it is whole; `on_progress` is told
    the bytes of each tensor written. Memory: the largest tensor twice."""
    partial = path.with_name(f"{path.name}.partial")
    writer = start_writer(
        partial,
        shape,
        name="Penstock random weights (Phi3 architecture)",
        context_tokens=context_tokens,
        file_type=int(gguf.LlamaFileType.MOSTLY_Q4_K_M),
    )
    for name, size in shape.tensors():
        kind = quantization(shape, name)
        writer.add_tensor_info(name, size, np.dtype(np.float32), tensor_bytes(kind, size), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    draw = np.random.Generator(np.random.SFC64(seed))
    for name, size in shape.tensors():
        data = _values(draw, shape, name, size)
        writer.write_tensor_data(data)
        if on_progress:
            on_progress(data.nbytes)
    writer.close()
    partial.replace(path)


def quantization(shape: Shape, name: str) -> Kind:
    """The Q4_K_M mix of the Phi-3-mini file."""
    if name.endswith("_norm.weight"):
        return Kind.F32
    if name == "output.weight" or (name == "token_embd.weight" and shape.tied):
        return Kind.Q6_K
    if name.endswith("attn_qkv.weight"):
        return Kind.Q5_K
    if name.endswith("ffn_down.weight") and _more_bits(int(name.split(".")[1]), shape.num_layers):
        return Kind.Q6_K
    return Kind.Q4_K


def _more_bits(layer: int, num_layers: int) -> bool:
    """llama.cpp's choice of the layers that keep more bits: the first and last eighth and every third between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def tensor_bytes(kind: Kind, size: tuple[int, ...]) -> int:
    values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(size) // int(values) * int(block_bytes)


def total_bytes(shape: Shape) -> int:
    """Bytes of all tensors; the file has the tokenizer's 0.7 MB more."""
    return sum(tensor_bytes(quantization(shape, name), size) for name, size in shape.tensors())


def _values(draw: np.random.Generator, shape: Shape, name: str, size: tuple[int, ...]) -> npt.NDArray[np.generic]:
    kind = quantization(shape, name)
    if kind == Kind.F32:
        return np.ones(size, dtype=np.float32)
    blocks = _random_bytes(draw, tensor_bytes(kind, size)).reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    _BLOCK_WRITERS[kind](blocks, _spread(shape, name, size))
    return blocks.reshape(-1)


def _random_bytes(draw: np.random.Generator, count: int) -> Bytes:
    words = draw.integers(0, 2**64, size=-(-count // 8), dtype=np.uint64)
    return words.view(np.uint8)[:count]


def _spread(shape: Shape, name: str, size: tuple[int, ...]) -> float:
    """Root mean square of a matrix's values, for inputs of unit size."""
    if name == "token_embd.weight" and not shape.tied:
        return 1.0
    spread = 1 / math.sqrt(size[1])
    if name in {"output.weight", "token_embd.weight"}:
        return _LOGIT_SPREAD * spread
    if name.endswith(("attn_output.weight", "ffn_down.weight")):
        return spread / math.sqrt(2 * shape.num_layers)
    return spread


def _half_bytes(value: float) -> Bytes:
    return np.frombuffer(np.float16(value).tobytes(), dtype=np.uint8)


def _scale_with_minimum(blocks: Bytes, scale: float, middle: float) -> None:
    """Scale, minimum and sub-scales at the front of a Q4_K or Q5_K block: values are scale x (quant - middle)."""
    blocks[:, 0:2] = _half_bytes(scale / _SUBSCALE)
    blocks[:, 2:4] = _half_bytes(float(np.float16(scale / _SUBSCALE)) * middle)
    blocks[:, 4:16] = np.frombuffer(_SUBSCALES, dtype=np.uint8)


def _finish_q4(blocks: Bytes, spread: float) -> None:
    _scale_with_minimum(blocks, spread / _SPREAD_OF_4_BITS, 7.5)


def _finish_q5(blocks: Bytes, spread: float) -> None:
    _scale_with_minimum(blocks, spread / _SPREAD_OF_5_BITS, 15.5)


def _finish_q6(blocks: Bytes, spread: float) -> None:
    """Signs of the sixteen sub-scales alternate: the quants' middle is -0.5, and so it cancels."""
    signs = np.array([_SUBSCALE, -_SUBSCALE] * 8, dtype=np.int8)
    blocks[:, 192:208] = signs.view(np.uint8)
    blocks[:, 208:210] = _half_bytes(spread / _SPREAD_OF_6_BITS / _SUBSCALE)


_BLOCK_WRITERS: dict[Kind, Callable[[Bytes, float], None]] = {
    Kind.Q4_K: _finish_q4,
    Kind.Q5_K: _finish_q5,
    Kind.Q6_K: _finish_q6,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random-weight Phi-3 model with the real tokenizer.")
    parser.add_argument("--shape", choices=tuple(SHAPES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--context", type=int, default=DEFAULT_CONTEXT_TOKENS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(f"writing {options.out.name}", total=total_bytes(shape))
        write_random_model(
            options.out,
            shape,
            context_tokens=options.context,
            seed=options.seed,
            on_progress=lambda written: progress.advance(task, written),
        )
    print(f"{options.out.name}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
