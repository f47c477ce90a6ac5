"""The random-weight generator: files that load and decode, and the arithmetic of those too large to write here."""

from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from ops.demo_model.random_weights import SHAPES, quantization, total_bytes, write_random_model
from ops.demo_model.shape import Shape

PROMPT = b"<|user|>\nWrite a haiku about ice hockey<|end|>\n<|assistant|>\n"


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_a_random_model_loads_and_decodes_to_sane_logits(name: str, tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    write_random_model(path, SHAPES[name], context_tokens=512)
    model = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    model.eval(model.tokenize(PROMPT, special=True))
    logits = model.scores[: model.n_tokens]
    assert np.isfinite(logits).all()
    assert ((logits.std(axis=1) > 0.5) & (logits.std(axis=1) < 8)).all()
    assert len(set(logits.argmax(axis=1).tolist())) > 4
    assert model.metadata["phi3.context_length"] == "512"
    model.close()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    shape = Shape(num_layers=1, width=256, feed_forward=256, num_heads=4, tied=True)
    contents = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.gguf"
        write_random_model(path, shape, seed=seed)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_progress_adds_up_to_the_bytes_of_the_tensors_and_nothing_partial_stays(tmp_path: Path) -> None:
    shape = SHAPES["tiny"]
    written: list[int] = []
    write_random_model(tmp_path / "tiny.gguf", shape, on_progress=written.append)
    assert sum(written) == total_bytes(shape)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_mini_has_the_tensors_and_the_size_of_phi_3_mini() -> None:
    """By arithmetic: the file itself is 2.39 GB."""
    shape = SHAPES["mini"]
    tensors = dict(shape.tensors())
    assert sum(int(np.prod(size)) for size in tensors.values()) == 3_821_079_552
    assert tensors["blk.31.attn_qkv.weight"] == (9216, 3072)
    assert tensors["blk.31.ffn_up.weight"] == (16_384, 3072)
    assert tensors["output.weight"] == (32_064, 3072)
    assert 2_385_000_000 < total_bytes(shape) < 2_395_000_000


def test_mini_mixes_the_quantizations_as_the_real_file_does() -> None:
    shape = SHAPES["mini"]
    kinds = [quantization(shape, f"blk.{layer}.ffn_down.weight") for layer in range(32)]
    assert kinds.count(Kind.Q6_K) == kinds.count(Kind.Q4_K) == 16
    assert quantization(shape, "blk.0.attn_qkv.weight") == Kind.Q5_K
    assert quantization(shape, "output.weight") == Kind.Q6_K
    assert quantization(shape, "token_embd.weight") == Kind.Q4_K


def test_blocks_have_the_spread_that_keeps_activations_at_unit_size(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_random_model(path, SHAPES["tiny"])
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name.endswith("attn_qkv.weight") or tensor.name == "output.weight":
            values = gguf.quants.dequantize(tensor.data[:200], tensor.tensor_type)
            expected = (2 if tensor.name == "output.weight" else 1) / 16
            assert values.std() == pytest.approx(expected, rel=0.05)
            assert abs(values.mean()) < expected / 20


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 300}, "width"),
        ({"feed_forward": 100}, "feed_forward"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_heads": 7}, "num_heads"),
    ],
)
def test_an_impossible_shape_is_refused_by_the_name_of_its_field(changes: dict[str, int], named: str) -> None:
    fields = {"num_layers": 1, "width": 256, "feed_forward": 256, "num_heads": 4}
    with pytest.raises(ValueError, match=named):
        Shape(**(fields | changes))


def test_a_context_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="context_tokens"):
        write_random_model(tmp_path / "x.gguf", SHAPES["tiny"], context_tokens=0)
