"""The knobs of a generation as options, for every command that submits. Names and limits are `jobs.parameters`'."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Generation"
# Defaults stand in parentheses: what stands in brackets is markup to the help's printer, and vanishes.

Model = Annotated[str | None, typer.Option(help="Model, where several are served.", rich_help_panel=PANEL)]
MaxTokens = Annotated[int | None, typer.Option(help="At most (100).", rich_help_panel=PANEL)]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy (1.0).", rich_help_panel=PANEL)]
TopP = Annotated[float | None, typer.Option(help="(off)", rich_help_panel=PANEL)]
TopK = Annotated[int | None, typer.Option(help="(off)", rich_help_panel=PANEL)]
MinP = Annotated[float | None, typer.Option(help="(off)", rich_help_panel=PANEL)]
RepeatPenalty = Annotated[float | None, typer.Option(help="1 is off (1.2).", rich_help_panel=PANEL)]
RepeatLastN = Annotated[int | None, typer.Option(help="Tokens (64).", rich_help_panel=PANEL)]
Seed = Annotated[int | None, typer.Option(help="0 … 4294967294 (drawn).", rich_help_panel=PANEL)]
Stop = Annotated[list[str] | None, typer.Option(help="Up to 4 times.", rich_help_panel=PANEL)]
Logprobs = Annotated[int | None, typer.Option(help="Alternatives a token.", rich_help_panel=PANEL)]
JsonSchema = Annotated[Path | None, typer.Option(help="The text fits it.", rich_help_panel=PANEL)]
Exact = Annotated[
    bool | None, typer.Option("--exact/--no-exact", help="Same bits under any load.", rich_help_panel=PANEL)
]
Reuse = Annotated[
    bool | None, typer.Option("--reuse", help="A stored text that must be the same will do.", rich_help_panel=PANEL)
]
