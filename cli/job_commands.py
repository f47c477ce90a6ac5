"""Commands about single jobs: submit, status, watch, cancel, jobs list, jobs requeue."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli import knobs, screen
from cli.client import Client
from cli.connection import ApiKeyOption, ApiOption, JsonOption, connect
from cli.errors import CliError, UsageError
from cli.events import Ended, Reset, StateChanged, Text, follow
from cli.job_body import job_body
from cli.roles import become
from jobs.states import JobState, Priority

JobId = Annotated[str, typer.Argument(metavar="ID", help="The id of a job.")]
Sending = "Queueing"

jobs_app = typer.Typer(no_args_is_help=True, help="List jobs, or put a failed one back.")


class Show(StrEnum):
    """What `submit` shows."""

    ID = "id"
    TEXT = "text"
    STREAM = "stream"


class JobEnded(CliError):
    """A job that was waited for did not succeed."""


def submit(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help='What to ask; "-" reads it from standard input.')],
    *,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text as it comes.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, then print the text.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send PROMPT as it is, control tokens parsed, not as chat.")
    ] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message before it.")] = None,
    model: knobs.Model = None,
    max_tokens: knobs.MaxTokens = None,
    temperature: knobs.Temperature = None,
    top_p: knobs.TopP = None,
    top_k: knobs.TopK = None,
    min_p: knobs.MinP = None,
    repeat_penalty: knobs.RepeatPenalty = None,
    repeat_last_n: knobs.RepeatLastN = None,
    seed: knobs.Seed = None,
    stop: knobs.Stop = None,
    logprobs: knobs.Logprobs = None,
    json_schema: knobs.JsonSchema = None,
    exact: knobs.Exact = None,
    reuse: knobs.Reuse = None,
    priority: Annotated[Priority | None, typer.Option(help="Its queue.", rich_help_panel=Sending)] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds, then expired.", rich_help_panel=Sending)] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Tries before it fails.", rich_help_panel=Sending)] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Kept with it.", rich_help_panel=Sending)
    ] = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Submit one prompt. Prints the job's id, unless --stream or --wait asks for its text."""
    given = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "repeat_last_n": repeat_last_n,
        "seed": seed,
        "stop": stop,
        "logprobs": logprobs,
        "exact": exact,
        "reuse": reuse,
        "priority": priority and priority.value,
        "deadline_seconds": deadline,
        "max_attempts": max_attempts,
    }
    text = sys.stdin.read() if prompt == "-" else prompt
    body = job_body(text, raw=raw, system=system, knobs=given, json_schema=json_schema, metadata=metadata or [])
    show = Show.STREAM if stream else Show.TEXT if wait else Show.ID
    with connect(api, api_key) as client:
        _send(client, body, show, as_json=as_json)


def _send(client: Client, body: dict[str, Any], show: Show, *, as_json: bool) -> None:
    job = client.submit(body)
    if show is Show.ID and not as_json:
        print(job["id"])
    elif show is Show.ID:
        screen.print_json(job)
    else:
        _finish(
            _follow(client, job["id"], live=show is Show.STREAM and not as_json), as_json, shown=show is Show.STREAM
        )


def _follow(client: Client, job_id: str, *, live: bool) -> dict[str, Any]:
    """Read a job's events to its end; print its text as it comes if `live`. Returns the whole job."""
    fresh_line = True
    for event in follow(client, job_id):
        match event:
            case Ended(job):
                if live and not fresh_line:
                    screen.print_text("\n")
                return job
            case Text(text) if live:
                screen.print_text(text)
                fresh_line = text.endswith("\n")
            case Reset() if live:
                screen.print_text("" if fresh_line else "\n")
                screen.err.print("[yellow]The worker was lost; the text starts again.[/yellow]")
                fresh_line = True
            case StateChanged(state) if live and screen.err.is_terminal:
                screen.err.print(f"[dim]{job_id} {escape(state)}[/dim]")
    raise AssertionError("unreachable: a stream ends with its end")


def _finish(job: dict[str, Any], as_json: bool, *, shown: bool) -> None:
    """Print what has not been shown yet; fail if the job did."""
    if as_json:
        screen.print_json(job)
    elif not shown:
        screen.print_text((job.get("completion") or "") + "\n")
    if job["state"] != screen.GOOD_END:
        raise JobEnded(f"{job['id']} {job['state']}: {screen.error_text(job) or 'it was stopped before its end'}.")
    if not as_json and screen.err.is_terminal:
        screen.err.print(f"[dim]{escape(screen.end_line(job))}[/dim]")


def status(job_id: JobId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None) -> None:
    """Show where a job stands, and its text if it has ended."""
    with connect(api, api_key) as client:
        job = client.job(job_id)
    if as_json:
        screen.print_json(job)
        return
    screen.out.print(screen.job_table(job))
    if job.get("completion"):
        screen.print_text("\n" + job["completion"].rstrip("\n") + "\n")


def watch(job_id: JobId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None) -> None:
    """Print a job's text from its beginning, as it comes. A finished job is printed at once."""
    with connect(api, api_key) as client:
        client.job(job_id)  # an unknown id, or no API: said at once, not after tries to reconnect
        _finish(_follow(client, job_id, live=not as_json), as_json, shown=True)


def cancel(job_id: JobId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None) -> None:
    """Stop a job. What text it has is kept; a job that has ended stays as it is."""
    with connect(api, api_key) as client:
        job = client.cancel(job_id)
    if as_json:
        screen.print_json(job)
    elif job["state"] in {JobState.QUEUED, JobState.RUNNING}:
        print(f"{job['id']} {job['state']}, will stop")
    else:
        print(f"{job['id']} {job['state']}")


@jobs_app.command("list")
def list_jobs(
    *,
    state: Annotated[JobState | None, typer.Option(help="Only these.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="ID", help="Only this batch's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Older than this job.")] = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """List stored jobs, newest first."""
    with connect(api, api_key) as client:
        page = client.jobs(state=state and state.value, batch_id=batch, limit=limit, after=after)
    if as_json:
        screen.print_json(page)
        return
    screen.print_table(screen.jobs_table(page["data"]))
    if page.get("has_more"):
        screen.err.print(f"[dim]more: --after {page['data'][-1]['id']}[/dim]")


@jobs_app.command("delete")
def delete(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The ids of jobs that have ended.")],
    *,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Erase prompts, texts and attempts of jobs that have ended. Files of batches keep their lines."""
    with connect(api, api_key) as client:
        for job_id in job_ids:
            client.delete_job(job_id)
            print(f"{job_id} deleted")


@jobs_app.command("requeue")
def requeue(job_id: JobId) -> None:
    """Put a failed job back in the queue with a fresh budget of attempts. Works on the database, so run it there."""
    if job_id.startswith("-"):
        raise UsageError("ID: the id of a job.")
    become("requeue", job_id)
