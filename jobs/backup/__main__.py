"""`python -m jobs.backup save|restore FILE`: back up the configured database and files, or take a backup back.

Exit status 0: done; 1: not done, with one line that says why, or restored with problems, a line each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs.backup.archive import reading
from jobs.backup.restoring import restore
from jobs.backup.saving import save
from jobs.database import open_engine
from jobs.errors import PenstockError
from jobs.files import Vault
from jobs.settings import Settings
from jobs.store import Store


def main(words: list[str] | None = None) -> int:
    """Run the command."""
    options = _options(words)
    settings = Settings()
    try:
        store = Store(open_engine(settings.resolved_database_url), settings=settings)
        if options.command == "save":
            return _save(store, settings, options)
        return _restore(store, settings, options.file)
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="penstock", description="Back up and restore.")
    commands = parser.add_subparsers(dest="command", required=True)
    saving = commands.add_parser("save", prog="penstock backup", help="write a backup, while the system runs")
    saving.add_argument("file", type=Path)
    saving.add_argument("--no-files", action="store_true", help="only the database: the object store has its own")
    restoring = commands.add_parser("restore", prog="penstock restore", help="fill an empty database and storage")
    restoring.add_argument("file", type=Path)
    return parser.parse_args(words)


def _save(store: Store, settings: Settings, options: argparse.Namespace) -> int:
    made = save(store, None if options.no_files else Vault.open(settings), options.file)
    kept = f"{len(made.objects)} objects of files" if made.with_files else "no files"
    size = options.file.stat().st_size / 1e6
    print(f"{options.file}: {sum(made.num_rows.values())} rows and {kept}, {size:.1f} MB.")  # noqa: T201
    print("It holds prompts, completions and webhook secrets: keep it as safe as the database.", file=sys.stderr)  # noqa: T201
    return 0


def _restore(store: Store, settings: Settings, file: Path) -> int:
    with reading(file) as source:
        done = restore(store, Vault.open(settings), source)
        made_at = source.manifest.made_at
    for problem in done.problems:
        print(problem)  # noqa: T201
    print(  # noqa: T201
        f"Restored {done.num_rows} rows and {done.num_objects} objects of {made_at}; "
        f"{done.num_requeued} jobs that ran then are queued again."
    )
    if done.num_missing:
        print(f"penstock: {done.num_missing} objects that rows name are not in the storage.", file=sys.stderr)  # noqa: T201
    verdict = f"{len(done.problems)} problems" if done.problems else "clean"
    print(f"penstock audit: {verdict}", file=sys.stderr)  # noqa: T201
    return 1 if done.problems or done.num_missing else 0


if __name__ == "__main__":
    sys.exit(main())
