"""`penstock`: every command in one place. Knows their names and order; what they do is in the modules beside it."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from cli import job_commands, replay_commands, role_commands
from cli.batch_commands import batch_app
from cli.errors import CliError
from cli.file_commands import file_app
from cli.key_commands import keys_app
from cli.webhook_commands import webhook_app

app = typer.Typer(
    name="penstock",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback must never show a prompt
    add_completion=False,
    help="A job queue for local language models.",
)

START, USE, ROLES, LOOK = "Start", "Use", "One role each", "Look after it"

app.command(rich_help_panel=START)(role_commands.up)
app.command(rich_help_panel=USE)(job_commands.submit)
app.command(rich_help_panel=USE)(job_commands.status)
app.command(rich_help_panel=USE)(job_commands.watch)
app.command(rich_help_panel=USE)(job_commands.cancel)
app.command(rich_help_panel=USE)(replay_commands.replay)
app.add_typer(job_commands.jobs_app, name="jobs", rich_help_panel=USE)
app.add_typer(batch_app, name="batch", rich_help_panel=USE)
app.add_typer(file_app, name="file", rich_help_panel=USE)
app.add_typer(webhook_app, name="webhook", rich_help_panel=USE)
app.add_typer(role_commands.model_app, name="model", rich_help_panel=START)
app.command(rich_help_panel=ROLES)(role_commands.api)
app.command(rich_help_panel=ROLES)(role_commands.worker)
app.command(rich_help_panel=ROLES)(role_commands.dispatcher)
app.command(rich_help_panel=ROLES)(role_commands.flower)
app.add_typer(keys_app, name="keys", rich_help_panel=LOOK)
app.command(rich_help_panel=LOOK)(role_commands.audit)
app.command(rich_help_panel=LOOK)(role_commands.backup)
app.command(rich_help_panel=LOOK)(role_commands.restore)
app.command(rich_help_panel=LOOK)(role_commands.doctor)
app.command(
    rich_help_panel=LOOK,  # every word is its own, `--help` too
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(role_commands.chaos)
app.command(
    rich_help_panel=LOOK,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(role_commands.bench)


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        print(f"penstock {installed_version()}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(2)


def installed_version() -> str:
    """The version that is installed, if it is."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """Run one command. An error is one line on standard error, and exit status 1 (2: what was typed is wrong)."""
    try:
        app()
    except CliError as error:
        sys.stdout.flush()
        print(f"penstock: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
