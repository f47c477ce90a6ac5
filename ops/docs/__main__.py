"""`python -m ops.docs`: the pages into `build/docs`, the site into `build/site`. A broken link is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ops.docs.pages import ROOT, write_pages


def main() -> int:
    """Build everything; the exit status is the site builder's."""
    write_pages(ROOT / "build" / "docs")
    builder = Path(sys.executable).with_name("zensical")
    done = subprocess.run([builder, "build", "--strict", "--clean"], cwd=ROOT, check=False)
    if done.returncode == 0:
        print("the documentation is in build/site: `python -m http.server -d build/site` shows it")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
