"""Commands about batches: submit a file, watch it, fetch its results, run again what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import batch_results, knobs, progress, screen
from cli.batch_lines import JOBS_URL, Columns, FileFormat, LineWriter
from cli.batch_results import Order, ResultFormat
from cli.batch_sending import Source, send
from cli.batch_words import BATCH_ENDED, eta_of, hints, num_ended, pace_of, refuse_failed, summary, total_of
from cli.batch_writing import check_target, write_results
from cli.client import Client, Json
from cli.connection import ApiKeyOption, ApiOption, JsonOption, connect
from cli.errors import CliError, Interrupted, UsageError
from cli.job_body import check_parameters, read_metadata, read_schema
from cli.processes import SignalWatch

LOOK_SECONDS = 0.5
IN_FILE, OF_BATCH = "The file", "The batch"

BatchId = Annotated[str, typer.Argument(metavar="ID", help="The id of a batch.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the results there; .csv and .parquet are tables."),
]
InputFile = Annotated[Path, typer.Argument(metavar="FILE", help='JSONL, CSV or text; "-" reads standard input.')]
KindOption = Annotated[
    FileFormat | None, typer.Option("--format", help="(by the file's name)", rich_help_panel=IN_FILE)
]
ColumnOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="CSV: holds the prompts (prompt).", rich_help_panel=IN_FILE)
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="CSV: a column for the lines' metadata.", rich_help_panel=IN_FILE),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="What runs them (as the lines say, or /v1/jobs).", rich_help_panel=IN_FILE),
]
SystemOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A system message before prompts.", rich_help_panel=IN_FILE)
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Prompts as they are, control tokens parsed.", rich_help_panel=IN_FILE)
]
AttemptsOption = Annotated[int | None, typer.Option(help="Tries before a line fails.", rich_help_panel=OF_BATCH)]
NameOption = Annotated[str | None, typer.Option(help="What `batch list` calls it.", rich_help_panel=OF_BATCH)]
MetadataOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Kept with it.", rich_help_panel=OF_BATCH)
]
WindowOption = Annotated[
    str | None, typer.Option(help="90m, 24h, 7d: lines that are later expire (none).", rich_help_panel=OF_BATCH)
]
WeightOption = Annotated[
    float | None, typer.Option(help="Its share beside other batches (1).", rich_help_panel=OF_BATCH)
]
InvalidOption = Annotated[
    str | None,
    typer.Option(metavar="reject", help="One line that cannot run refuses all.", rich_help_panel=OF_BATCH),
]

batch_app = typer.Typer(no_args_is_help=True, help="Submit a file of prompts, watch it, fetch its results.")


class BatchIncomplete(CliError):
    """A batch that was waited for ended with lines that did not succeed."""


@batch_app.command("submit")
def submit(
    file: InputFile,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, with a progress bar.")] = False,
    output: OutOption = None,
    kind: KindOption = None,
    column: ColumnOption = None,
    keep: KeepOption = None,
    endpoint: EndpointOption = None,
    system: SystemOption = None,
    raw: RawOption = False,
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
    max_attempts: AttemptsOption = None,
    name: NameOption = None,
    metadata: MetadataOption = None,
    window: WindowOption = None,
    weight: WeightOption = None,
    on_invalid: InvalidOption = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Submit every line of FILE as one batch and print its id.

    JSONL: lines of an OpenAI batch, or strings (prompts), or objects with `prompt`
    or `messages` and any parameters. CSV: a column of prompts; `custom_id` may
    name the lines. Text: a prompt a line. Options for a generation go into every
    line that is not an OpenAI line and does not say it itself.
    """
    if output is not None and not wait:
        raise UsageError("--output: only together with --wait; later, use `penstock batch results`.")
    if on_invalid not in (None, "reject"):
        raise UsageError("--on-invalid: only `reject`; left out, such lines end in the error file.")
    check_target(batch_results.format_of(output), output)
    given = given_fields(
        model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        repeat_penalty=repeat_penalty, repeat_last_n=repeat_last_n, seed=seed, stop=stop, logprobs=logprobs,
        exact=exact, reuse=reuse, max_attempts=max_attempts, json_schema=json_schema,
    )  # fmt: skip
    writer = LineWriter(url=endpoint or JOBS_URL, given=given, system=system, raw=raw)
    about = {"name": name, "on_invalid": on_invalid, "weight": None if weight is None else f"{weight:g}"}
    body: Json = {"metadata": batch_metadata(metadata or [], about)}
    body |= {"completion_window": window} if window else {}
    columns = Columns(prompt=column, kept=keep or ())
    with Source.opened(file, kind, columns) as source, connect(api, api_key) as client:
        batch = send(client, source, writer, body, endpoint)
        if not wait and not as_json and batch["status"] != "failed":
            print(batch["id"])
            return
        batch = _wait(client, batch["id"]) if wait else batch
        _report(client, batch, output, as_json=as_json, waited=wait)


@batch_app.command("list")
def list_batches(
    *,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Older than this batch.")] = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """List batches, newest first."""
    with connect(api, api_key) as client:
        page = client.batches(limit=limit, after=after)
    if as_json:
        screen.print_json(page)
        return
    screen.print_table(screen.batches_table(page["data"]))
    if page.get("has_more"):
        screen.err.print(f"[dim]more: --after {page['data'][-1]['id']}[/dim]")


@batch_app.command("status")
def status(
    batch_id: BatchId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None
) -> None:
    """Show how far a batch has come, how fast it goes, and what failed."""
    with connect(api, api_key) as client:
        batch = client.batch(batch_id)
    if as_json:
        screen.print_json(batch)
        return
    print(summary(batch))
    if batch["status"] not in BATCH_ENDED and (words := [pace_of(batch), eta_of(batch)]) != ["", ""]:
        print(" · ".join(filter(None, words)))
    for hint in hints(batch):
        screen.err.print(hint, markup=False)


@batch_app.command("watch")
def watch(
    batch_id: BatchId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None
) -> None:
    """Show a batch's progress until it ends. Ctrl-C stops watching; the batch goes on."""
    with connect(api, api_key) as client:
        _report(client, _wait(client, batch_id), None, as_json=as_json, waited=True)


@batch_app.command("cancel")
def cancel(
    batch_id: BatchId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None
) -> None:
    """Stop every line of a batch that has not ended. What text they have is kept."""
    with connect(api, api_key) as client:
        _show(client.cancel_batch(batch_id), as_json=as_json)


@batch_app.command("retry")
def retry(
    batch_id: BatchId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None
) -> None:
    """Run the lines that failed or expired once more, in the same batch. A line that can never run stays as it is."""
    with connect(api, api_key) as client:
        batch = client.retry_batch(batch_id)
        _show(batch, as_json=as_json)
    if not as_json and batch.get("num_retried") is not None:
        again = f"{batch['num_retried']} lines run again: `penstock batch watch {batch_id}`"
        none = "no line of it failed or expired in a way that another try may change"
        screen.err.print(again if batch["num_retried"] else none, markup=False)


@batch_app.command("results")
def results(
    batch_id: BatchId,
    *,
    output: OutOption = None,
    kind: Annotated[ResultFormat | None, typer.Option("--format", help="(by the name of --output)")] = None,
    order: Annotated[Order, typer.Option(help="Of the input, or as the lines ended.")] = Order.INPUT,
    errors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Lines that did not succeed go there instead.")
    ] = None,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Write what a batch has, one line for each that has ended; those that did not succeed carry an `error`.

    Works while the batch runs: then it is what there is so far. A connection that breaks is taken up again.
    """
    check_target(kind or batch_results.format_of(output), output)
    check_target(kind or batch_results.format_of(errors), errors)
    with connect(api, api_key) as client:
        batch = client.batch(batch_id)
        refuse_failed(batch)
        tally = write_results(client, batch, output, kind=kind, order=order, errors=errors)
    if output is not None or errors is not None or not tally.is_clean or batch["status"] not in BATCH_ENDED:
        screen.err.print(tally.sentence(batch), markup=False)


def given_fields(json_schema: Path | None, **knobs: Any) -> Json:
    """Fields of a job's body that were typed, checked as `submit` checks them."""
    given = {name: value for name, value in knobs.items() if value not in (None, [])}
    if json_schema is not None:
        given["response_format"] = {"type": "json_schema", "json_schema": read_schema(json_schema)}
    check_parameters(given)
    return given


def batch_metadata(pairs: list[str], about: dict[str, str | None]) -> dict[str, str]:
    """A batch's metadata: pairs as typed, and what has an option of its own."""
    metadata = read_metadata(pairs)
    for name, value in about.items():
        if value is not None and metadata.setdefault(name, value) != value:
            raise UsageError(f"--metadata: {name} is also given as --{name.replace('_', '-')}.")
    return metadata


def _show(batch: Json, *, as_json: bool) -> None:
    if as_json:
        screen.print_json(batch)
    else:
        print(summary(batch))


def _wait(client: Client, batch_id: str) -> Json:
    """Look at a batch until it ends; ctrl-C stops looking and leaves the batch alone.

    An API that is away for a while, because it starts again, is waited for.
    """
    with progress.generating() as bars, SignalWatch() as signals:
        client.pause = signals.wait
        task = bars.add_task("Generating", total=None)
        while True:
            batch = client.batch(batch_id)
            bars.update(
                task,
                completed=num_ended(batch),
                total=total_of(batch),
                description=batch["status"].capitalize() if batch["status"] != "in_progress" else "Generating",
                pace=pace_of(batch),
                eta=eta_of(batch) if batch["status"] not in BATCH_ENDED else "",
            )
            if batch["status"] in BATCH_ENDED:
                return batch
            signals.wait(LOOK_SECONDS)
            if signals.num_stops:
                raise Interrupted(f"no longer waiting; the batch goes on: `penstock batch watch {batch_id}`")


def _report(client: Client, batch: Json, output: Path | None, *, as_json: bool, waited: bool) -> None:
    """Say how a batch ended; fail unless every line succeeded."""
    if output is not None and batch["status"] != "failed":
        write_results(client, batch, output)
    if as_json:
        screen.print_json(batch)
    else:
        print(summary(batch))
    refuse_failed(batch)
    succeeded = int(batch["request_counts"]["completed"])
    if waited and succeeded < total_of(batch):
        raise BatchIncomplete(
            f"{total_of(batch) - succeeded} of {total_of(batch)} lines did not succeed: "
            f"`penstock batch results {batch['id']} --errors FILE` says why, "
            f"`penstock batch retry {batch['id']}` runs those again that can run."
        )
