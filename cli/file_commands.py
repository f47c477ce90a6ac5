"""Commands about files: what was uploaded, and what batches wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cli import progress, screen
from cli.batch_writing import result_file
from cli.connection import ApiKeyOption, ApiOption, JsonOption, connect
from cli.errors import UsageError
from cli.transfer import PIECE_BYTES, download, upload

FileId = Annotated[str, typer.Argument(metavar="ID", help="The id of a file.")]

file_app = typer.Typer(no_args_is_help=True, help="Files that batches read and write.")


@file_app.command("upload")
def upload_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Lines of an OpenAI batch.")],
    *,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Store FILE as it is and print its id. `batch submit` does this by itself, and takes more kinds of file."""
    try:
        with file.open("rb") as opened, connect(api, api_key) as client, progress.sending() as bars:
            task = bars.add_task("Sending", total=file.stat().st_size)

            def read() -> Iterator[bytes]:
                opened.seek(0)
                for piece in iter(lambda: opened.read(PIECE_BYTES), b""):
                    bars.update(task, completed=opened.tell())
                    yield piece

            stored = upload(client, file.name, read)
    except OSError as error:
        raise UsageError(f"FILE: cannot read {file}: {error.strerror}.") from error
    if as_json:
        screen.print_json(stored)
    else:
        print(stored["id"])


@file_app.command("list")
def list_files(
    *,
    purpose: Annotated[str | None, typer.Option(help="Only these: batch, or batch_output.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Older than this file.")] = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """List files, newest first."""
    with connect(api, api_key) as client:
        page = client.files(limit=limit, after=after, purpose=purpose)
    if as_json:
        screen.print_json(page)
        return
    screen.print_table(screen.files_table(page["data"]))
    if page.get("has_more"):
        screen.err.print(f"[dim]more: --after {page['data'][-1]['id']}[/dim]")


@file_app.command("get")
def get(
    file_id: FileId,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to (standard output).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What is known about it, instead of its content.")] = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Fetch a file's content. A connection that breaks is taken up again where it broke."""
    with connect(api, api_key) as client:
        if as_json:
            screen.print_json(client.file(file_id))
            return
        client.file(file_id)  # an unknown id is said before anything is written
        with result_file(output) as target:
            target.writelines(download(client, file_id))


@file_app.command("delete")
def delete(file_id: FileId, *, api: ApiOption = None, api_key: ApiKeyOption = None) -> None:
    """Delete a file. One that a batch still reads from is kept, and the error says so."""
    with connect(api, api_key) as client:
        client.delete_file(file_id)
    print(f"{file_id} deleted")
