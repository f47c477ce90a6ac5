"""Makes phi-3-chats.jsonl: how transformers renders chats through the template of the Phi-3 vocabulary.

    python -m venv other && other/bin/pip install transformers==5.23.0 gguf
    PYTHONPATH=. other/bin/python tests/engine/data/render_chats.py

Each text of phi-3-tokenizer-cases.txt is a user's turn, an assistant's between two, and the last of three. Not part of
the tests, which need no transformers: they read the file.
"""

from __future__ import annotations

import json
from pathlib import Path

from gguf import GGUFReader
from transformers.utils.chat_template_utils import render_jinja_template

DATA = Path(__file__).parent
VOCABULARY = DATA.parents[2] / "ops" / "demo_model" / "phi-3-vocab.gguf"


def chats(text: str) -> list[list[dict[str, str]]]:
    user, assistant = {"role": "user", "content": text}, {"role": "assistant", "content": text}
    more = {"role": "user", "content": "Go on."}
    return [[user], [more, assistant, more], [more, {"role": "assistant", "content": "Ice."}, user]]


def main() -> None:
    template = GGUFReader(VOCABULARY).get_field("tokenizer.chat_template").contents()
    texts = (DATA / "phi-3-tokenizer-cases.txt").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = []
    for messages in [chat for text in texts for chat in chats(text)]:
        rendered, _ = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="<|endoftext|>"
        )
        lines.append(json.dumps({"messages": messages, "rendered": rendered[0]}) + "\n")
    (DATA / "phi-3-chats.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
