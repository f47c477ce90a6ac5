"""When two generations must be the same: the fingerprint of all that decides a text besides the recipe.

Pure; knows no statement, no wire and no engine. Only exact generations have one: any other text depends on more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import orjson

from jobs.parameters import Parameters

FINGERPRINT_CHARACTERS = 32
_DECIDES_NOTHING = {"exact", "reuse", "seed"}
"""Whether a text is exact the recipe says; the seed, which may have been drawn, goes in by itself."""


def fingerprint(prompt_token_ids: Sequence[int], knobs: Parameters, seed: int) -> str:
    """Hex, 128 bits. Same recipe and same fingerprint: same tokens."""
    decides = [list(prompt_token_ids), knobs.model_dump(mode="json", exclude=_DECIDES_NOTHING), seed]
    return hashlib.sha256(orjson.dumps(decides, option=orjson.OPT_SORT_KEYS)).hexdigest()[:FINGERPRINT_CHARACTERS]
