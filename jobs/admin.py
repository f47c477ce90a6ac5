"""`python -m jobs.admin requeue ID`: what an operator may do to a job that has ended."""

from __future__ import annotations

import argparse
import sys

from jobs.database import open_engine
from jobs.errors import PenstockError, QueueUnavailable
from jobs.queue import Publisher, make_app
from jobs.settings import Settings
from jobs.states import Priority
from jobs.store import Store
from jobs.tables import Job


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when it was done, 1 with one line on standard error when it could not be."""
    parser = argparse.ArgumentParser(prog="penstock jobs")
    commands = parser.add_subparsers(required=True)
    requeue = commands.add_parser("requeue", help="queue a failed job again, with a fresh budget of attempts")
    requeue.add_argument("id")
    chosen = parser.parse_args(arguments)
    settings = Settings()
    store = Store(open_engine(settings.resolved_database_url), settings=settings)
    try:
        job = store.requeue(chosen.id)
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)  # noqa: T201
        return 1
    _nudge(settings, job)
    print(f"{job.id} is queued again; its earlier attempts are kept.")  # noqa: T201
    return 0


def _nudge(settings: Settings, job: Job) -> None:
    """Publish at once; the dispatcher would find it all the same."""
    if job.priority != Priority.INTERACTIVE:
        return
    try:
        Publisher(make_app(settings)).publish([job.id], Priority.INTERACTIVE)
    except QueueUnavailable:
        print("penstock: Redis is out of reach; the dispatcher publishes it when it is back.", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
