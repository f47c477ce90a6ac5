"""What is exact on this machine, row classes and cuts of prompts: proven once for a recipe, noted in the home."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.records import recipe_id
from worker.engine.generation import RowClass
from worker.engine.model import Model
from worker.engine.probe import VERSION, prove

logger = logging.getLogger("penstock.proof")

Proofs = Mapping[RowClass, bool]
ROW_CLASSES: tuple[RowClass, ...] = ("tile", "lone")


class ExactUnavailable(ValueError):
    """An exact job was asked for, and no row class is proven here."""


def proven(
    model: Model,
    recipe: Mapping[str, object],
    home: Path,
    probe: Callable[[Model], Mapping[str, bool]] = prove,
) -> Proofs:
    """The proofs of the row classes for this recipe and these slots, from the note of an earlier start or by probing
    now. The model is told whether prompts may be prefilled together, and whether they may be cut anywhere."""
    shape = {"tile_slots": model.tile_slots, "num_slots": model.num_slots, "probe": VERSION}
    note = home / "proofs" / f"{recipe_id({**recipe, **shape})}.json"
    try:
        known: Mapping[str, bool] = json.loads(note.read_text())
    except (OSError, ValueError):
        known = probe(model)
        _remember(note, known)
    model.blocks_are_exact = known.get("blocks", False)
    model.cuts_are_free = known.get("cuts", False)
    if not model.blocks_are_exact:
        logger.warning("Prompts prefilled together are not exact on this machine: exact jobs are prefilled alone.")
    proofs: dict[RowClass, bool] = {name: known[name] for name in ROW_CLASSES if name in known}
    for row_class, holds in proofs.items():
        if not holds:
            logger.warning("The row class %r is not exact on this machine: its texts may not replay.", row_class)
    return proofs


def class_for(exact: bool | None, proofs: Proofs) -> RowClass | None:
    """The row class an exact job must have; None where the engine may choose. Raises ExactUnavailable."""
    if not exact or all(proofs.values()):
        return None
    for row_class, holds in proofs.items():
        if holds:
            return row_class
    raise ExactUnavailable("exact: no row class is exact on this worker's machine")


def _remember(note: Path, proofs: Mapping[str, bool]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(proofs))
    except OSError as error:
        logger.warning("The proof of the row classes cannot be kept (%s); the next start proves it again.", error)
