"""Commands that start something: `up`, one role each, models, the audit and the doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any

import typer

from cli import screen
from cli.connection import JsonOption
from cli.doctor import Level, examine, show
from cli.errors import CliError, UsageError
from cli.roles import become, child_environment, read_settings, role_command
from cli.up import UpOptions
from cli.up import up as run_up

model_app = typer.Typer(no_args_is_help=True, help="Fetch models, or list them.")

ModelName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="demo | phi-3-mini | hf:OWNER/REPO/FILE.gguf | PATH")
]


class NotHealthy(CliError):
    """The doctor found something that keeps the system from starting."""


def up(
    *,
    model: Annotated[str | None, typer.Option(help="demo | phi-3-mini | hf:OWNER/REPO/FILE.gguf | PATH")] = None,
    slots: Annotated[int | None, typer.Option(help="Generations at a time, for each worker [16].")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    port: Annotated[int | None, typer.Option(help="The API's; 0 picks a free one [8000].")] = None,
    flower_port: Annotated[int | None, typer.Option(help="Flower's; 0 picks a free one [5555].")] = None,
    postgres: Annotated[bool, typer.Option("--postgres", help="An embedded PostgreSQL in place of SQLite.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what every role writes.")] = False,
) -> None:
    """Run the whole system on this machine, in the foreground."""
    options = UpOptions(model, slots, workers, port, flower_port, postgres, verbose)
    run_up(options, screen.out)


def api() -> None:
    """Run the API, and nothing else."""
    become("api")


def worker() -> None:
    """Run one worker: one loaded model."""
    become("worker")


def dispatcher() -> None:
    """Run a dispatcher. Two may run; one leads."""
    become("dispatcher")


def flower() -> None:
    """Run Flower, which shows workers and tasks in a browser."""
    become("flower")


def audit() -> None:
    """Check that every accepted job has exactly one end, and that rows and counters agree."""
    become("audit")


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; must not be there yet.")],
    *,
    no_files: Annotated[
        bool, typer.Option("--no-files", help="Only the database, without the files of batches.")
    ] = False,
) -> None:
    """Write everything that is stored to one file, while the system runs."""
    become("backup", *(["--no-files"] if no_files else []), "--", file)


def restore(file: Annotated[str, typer.Argument(metavar="FILE", help="What `penstock backup` wrote.")]) -> None:
    """Fill an empty database, and an empty storage of files, from a backup. Stop every role first."""
    become("restore", "--", file)


def chaos(words: typer.Context) -> None:
    """Start a system of its own, break it on purpose, and check that nothing is lost. See `penstock chaos --help`."""
    become("chaos", *words.args)


def bench(words: typer.Context) -> None:
    """Measure the engine beside llama-server and the raw calls, or propose settings. See `penstock bench --help`."""
    become("bench", *words.args)


@model_app.command("pull")
def pull(name: ModelName = None) -> None:
    """Fetch a model, with a progress bar. Without NAME: the one in PENSTOCK_MODEL."""
    found = json.loads(_output_of("pull", *_checked(name)))
    print(f"{found['name']}  {found['path']}")


@model_app.command("list")
def list_models(*, as_json: JsonOption = False) -> None:
    """List the models that have names, and which of them are on this machine."""
    models: list[dict[str, Any]] = json.loads(_output_of("models"))
    if as_json:
        screen.print_json(models)
        return
    for model in models:
        size = model.get("size_bytes")
        where = (
            f"{size / 1e6:>8.1f} MB  {model['path']}" if size else f"{'–':>8}     `penstock model pull {model['name']}`"
        )
        print(f"{model['name']:<12}{where}")


def doctor(*, as_json: JsonOption = False) -> None:
    """Say what this machine has, what is missing, and what to do about it."""
    findings = examine(read_settings())
    if as_json:
        screen.print_json([finding.as_json() for finding in findings])
    else:
        show(findings, screen.out)
    missing = [finding.name for finding in findings if finding.level is Level.BAD]
    if missing:
        raise NotHealthy(f"`penstock up` cannot work yet: {', '.join(missing)}.")


def _checked(name: str | None) -> list[str]:
    if name is not None and name.startswith("-"):
        raise UsageError("NAME: the name of a model, or a path.")
    return [name] if name else []


def _output_of(tool: str, *words: str) -> str:
    """Standard output of a tool of another room; its progress and errors go to the screen as they come."""
    settings = read_settings()
    command = [*role_command(tool, settings), *words]
    done = subprocess.run(command, env=child_environment(settings), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return done.stdout
