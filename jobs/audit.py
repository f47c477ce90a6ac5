"""`python -m jobs.audit`: print what the audit of the configured database finds. Exit status 1 if anything."""

from __future__ import annotations

import sys

from jobs.database import open_engine
from jobs.errors import PenstockError
from jobs.settings import Settings
from jobs.store import Store


def main() -> int:
    """Audit; 0 when everything agrees, 1 with a line for each problem, 2 when the database cannot be read."""
    settings = Settings()
    store = Store(open_engine(settings.resolved_database_url), settings=settings)
    try:
        problems = store.audit()
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for problem in problems:
        print(problem)  # noqa: T201
    summary = (
        f"{len(problems)} problems" if problems else "clean: every job has one end or is alive, and all rows agree"
    )
    print(f"penstock audit: {summary}", file=sys.stderr)  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
