"""What is proven of a machine, remembered by recipe, and what an exact job gets of it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from worker.engine.model import Model
from worker.proof import ExactUnavailable, Proofs, class_for, proven


class Shape:
    tile_slots, num_slots = 16, 18


MODEL = cast(Model, Shape())


def test_a_proof_is_made_once_for_a_recipe(tmp_path: Path) -> None:
    probed: list[Model] = []

    def probe(model: Model) -> Proofs:
        probed.append(model)
        return {"tile": True, "lone": False}

    first = proven(MODEL, {"threads": 2}, tmp_path, probe)
    again = proven(MODEL, {"threads": 2}, tmp_path, probe)
    proven(MODEL, {"threads": 4}, tmp_path, probe)
    assert first == again == {"tile": True, "lone": False}
    assert len(probed) == 2


def test_a_home_that_cannot_be_written_only_costs_the_note(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert proven(MODEL, {}, blocked, lambda _: {"tile": True}) == {"tile": True}


@pytest.mark.parametrize(
    ("exact", "proofs", "row_class"),
    [
        (None, {"tile": False}, None),
        (False, {"tile": False}, None),
        (True, {"tile": True, "lone": True}, None),
        (True, {"tile": False, "lone": True}, "lone"),
        (True, {"tile": True, "lone": False}, "tile"),
    ],
)
def test_an_exact_job_gets_a_class_that_is_proven(exact: bool | None, proofs: Proofs, row_class: str | None) -> None:
    assert class_for(exact, proofs) == row_class


def test_an_exact_job_is_refused_where_nothing_holds() -> None:
    with pytest.raises(ExactUnavailable, match="exact"):
        class_for(True, {"tile": False, "lone": False})
