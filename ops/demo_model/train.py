"""Trains the demo model and writes it: `python -m ops.demo_model.train [--out FILE] [--steps N]`.

Owns the schedule, the loss and the way from parameters to the quantized GGUF. Needs PyTorch (requirements.txt), which
nothing else in the project does. Seeds are fixed: the same machine and versions give the same file.
"""

import argparse
import hashlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Read once when PyTorch loads: on cores that others share, threads that spin at their barriers cost ten times the work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import gguf
import llama_cpp
import numpy as np
import torch
from rich.progress import Progress, TextColumn
from torch import Tensor
from torch.nn import functional

from ops.demo_model import DEMO_MODEL
from ops.demo_model.corpus import UNKNOWN, Batch, Corpus
from ops.demo_model.network import (
    Parameters,
    hidden_states,
    log_probabilities,
    new_parameters,
    penalized,
    quantized_view,
    rows_of,
)
from ops.demo_model.shape import Shape, start_writer
from ops.demo_model.tokenizer import Tokenizer

SHAPE = Shape(num_layers=4, width=256, feed_forward=768, num_heads=4, tied=True)
CONTEXT_TOKENS = 2048
MODEL_NAME = "Penstock demo (Phi3 architecture)"
SEED = 20_250
STEPS = 2_000
WARMUP_STEPS = 100
PEAK_RATE = 2e-3
# The last part of the training sees the weights rounded to four bits, so that quantization costs nothing.
QUANTIZED_SHARE = 0.3
# (rows, length) of the batches, in turn. Most documents are short; long prompts must not confuse the model.
SHORT_BATCH, MIDDLE_BATCH, LONG_BATCH = (8, 256), (4, 512), (2, 1_200)
# The engine's default penalty, and its absence: the model learns to write well under either.
PENALTIES = (1.0, 1.2, 1.2, 1.1)
PENALTY_WINDOW = 64
# All unused tokens together are pushed below this log probability: a sampled one in a million tokens.
UNUSED_LOG_PROBABILITY = -16.0
MAX_BYTES = 8_000_000


def main() -> None:
    arguments = argparse.ArgumentParser(description="Train the demo model (minutes).")
    arguments.add_argument("--out", type=Path, default=DEMO_MODEL)
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()
    corpus = Corpus(Tokenizer(), SEED)
    parameters = new_parameters(SHAPE, len(corpus.used) + 1, SEED)
    train(parameters, corpus, options.steps)
    write_model(options.out, parameters, corpus, options.threads)
    print(f"{options.out.name}: {options.out.stat().st_size:,} bytes after {time.monotonic() - started:.0f} s")


def train(parameters: Parameters, corpus: Corpus, steps: int) -> None:
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in parameters.values() if weight.dim() == 2], "weight_decay": 0.05},
            {"params": [weight for weight in parameters.values() if weight.dim() == 1], "weight_decay": 0.0},
        ],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
    )
    loss_shown = RunningMean()
    for step in _with_progress(steps, loss_shown):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        weights = quantized_view(parameters) if step > steps * (1 - QUANTIZED_SHARE) else parameters
        loss = _loss(weights, _batch(corpus, step), corpus.num_unused, PENALTIES[step // 4 % len(PENALTIES)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        loss_shown.add(loss.item())


class RunningMean:
    """Of about the last fifty values."""

    def __init__(self) -> None:
        self.value = math.nan

    def add(self, value: float) -> None:
        self.value = value if math.isnan(self.value) else 0.98 * self.value + 0.02 * value


def _with_progress(steps: int, loss: RunningMean) -> Iterator[int]:
    figures = TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]:.3f}")
    with Progress(*Progress.get_default_columns(), figures) as progress:
        task = progress.add_task("training", total=steps, loss=math.nan)
        for step in range(steps):
            yield step
            progress.update(task, advance=1, loss=loss.value)
            if step % 250 == 0 and not progress.console.is_terminal:
                progress.console.print(f"step {step} of {steps}, loss {loss.value:.3f}")


def _rate(step: int, steps: int) -> float:
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    return PEAK_RATE * max(0.01, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _batch(corpus: Corpus, step: int) -> Batch:
    if step % 12 == 11:
        return corpus.batch(*LONG_BATCH, long_text=True)
    return corpus.batch(*(MIDDLE_BATCH if step % 4 == 3 else SHORT_BATCH))


def _loss(parameters: Parameters, batch: Batch, num_unused: int, penalty: float) -> Tensor:
    """Cross entropy over the whole vocabulary, of the logits as the sampler sees them."""
    tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
    documents = torch.from_numpy(batch.documents)
    rows = rows_of(SHAPE, tokens, documents, torch.from_numpy(batch.positions))
    learned = targets >= 0
    with torch.autocast("cpu", torch.bfloat16):
        hidden = hidden_states(SHAPE, parameters, rows)[learned]
        logits = functional.linear(hidden, parameters["token_embd.weight"]).float()
    if penalty != 1.0:
        logits = penalized(logits, _recent(tokens, documents, logits.shape[-1])[learned], penalty)
    found = log_probabilities(logits, num_unused)
    excess = functional.relu(found[:, UNKNOWN] - UNUSED_LOG_PROBABILITY)
    return functional.nll_loss(found, targets[learned]) + 0.01 * excess.mean()


def _recent(tokens: Tensor, documents: Tensor, num_tokens: int) -> Tensor:
    """(rows, length, num_tokens): whether a token is among the last `PENALTY_WINDOW` of its document so far."""
    before = PENALTY_WINDOW - 1
    windows = functional.pad(tokens, (before, 0), value=UNKNOWN).unfold(1, PENALTY_WINDOW, 1)
    owners = functional.pad(documents, (before, 0), value=-2).unfold(1, PENALTY_WINDOW, 1)
    windows = windows.masked_fill(owners != documents[:, :, None], UNKNOWN)
    recent = torch.zeros(*tokens.shape, num_tokens, dtype=torch.bool).scatter_(2, windows, True)
    recent[:, :, UNKNOWN] = False
    return recent


def write_model(path: Path, parameters: Parameters, corpus: Corpus, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.gguf"
        _write_plain(plain, parameters, corpus)
        _quantize(plain, path, threads)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_BYTES:,} bytes")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


def _write_plain(path: Path, parameters: Parameters, corpus: Corpus) -> None:
    writer = start_writer(
        path, SHAPE, name=MODEL_NAME, context_tokens=CONTEXT_TOKENS, file_type=int(gguf.LlamaFileType.ALL_F32)
    )
    for name, _ in SHAPE.tensors():
        values = parameters[name].detach().numpy()
        writer.add_tensor(name, _all_rows(values, corpus) if name == "token_embd.weight" else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _all_rows(
    compact: np.ndarray[tuple[int, ...], np.dtype[np.float32]], corpus: Corpus
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rows = np.repeat(compact[UNKNOWN][None], SHAPE.vocabulary_size, axis=0)
    rows[corpus.used] = compact[1:]
    return rows


def _quantize(plain: Path, path: Path, threads: int) -> None:
    """The Q4_K_M mix, the embedding in Q4_K: it is the output matrix as well and would be Q6_K, over the size."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    settings.nthread = threads
    settings.token_embedding_type = llama_cpp.GGML_TYPE_Q4_K
    settings.output_tensor_type = llama_cpp.GGML_TYPE_Q4_K
    failed = llama_cpp.llama_model_quantize(str(plain).encode(), str(path).encode(), settings)
    if failed:
        raise RuntimeError("llama.cpp could not quantize the model")


if __name__ == "__main__":
    main()
