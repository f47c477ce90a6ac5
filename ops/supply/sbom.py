"""`python -m ops.supply.sbom FILE`: the locked packages as a CycloneDX bill of materials (`make sbom`).

Made from `requirements.lock` alone, so that it says what is shipped and not what happens to be installed here. The same
lock gives the same bytes: no time, no random number.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1:
        print("usage: python -m ops.supply.sbom FILE", file=sys.stderr)
        return 2
    return subprocess.run(command(Path(given[0])), check=False).returncode


def command(out: Path) -> list[str]:
    options = ["--output-reproducible", "--output-format=JSON", "--spec-version=1.6", f"--output-file={out}"]
    about = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type=application"]
    return [sys.executable, "-m", "cyclonedx_py", "requirements", *options, *about, str(ROOT / "requirements.lock")]


if __name__ == "__main__":
    sys.exit(main())
