"""`python -m api`, stopped by SIGTERM in the middle of writing a log line."""

from __future__ import annotations

import os
import signal
import sys
from typing import TextIO

from api.__main__ import main


class Cut:
    """Standard error that refuses, as a buffered one does, to be written to while it is being written to."""

    def __init__(self, real: TextIO) -> None:
        self._real = real
        self._inside = False

    def write(self, text: str) -> int:
        if self._inside:
            raise RuntimeError("reentrant call")
        self._inside = True
        try:
            self._real.write(text)
            if '"listening"' in text:
                os.kill(os.getpid(), signal.SIGTERM)
                self._real.flush()  # A handler runs before the next step.
        finally:
            self._inside = False
        return len(text)

    def flush(self) -> None:
        self._real.flush()

    def isatty(self) -> bool:
        return False


if __name__ == "__main__":
    sys.stderr = Cut(sys.stderr)  # type: ignore[assignment]
    sys.exit(main([]))
