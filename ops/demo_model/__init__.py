"""The demo model and the random-weight generator.

Owns two ways to make a Phi-3-architecture GGUF with the real tokenizer: trained (small, answers) and random (any
shape, for benchmarks). Knows nothing of jobs, HTTP, Celery or the engine; nothing in the product imports it.
"""

from pathlib import Path

_HERE = Path(__file__).parent
VOCABULARY = _HERE / "phi-3-vocab.gguf"
DEMO_MODEL = _HERE / "phi-3-demo.gguf"
DEMO_MODEL_SHA256 = _HERE / "phi-3-demo.gguf.sha256"
