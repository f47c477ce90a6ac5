"""`python3 ops/docker/make_secrets.py`: prepare `docker compose up`. Needs nothing but Python.

Writes a random secret for each that docker-compose.yml names, and .env from its example, where they are not there yet;
what is there stays. The folder is its owner's alone. The files in it may be read by whoever is inside: Compose mounts
them as they are, and the containers' user is another one than yours.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

SECRETS: Mapping[str, Callable[[], str]] = {
    "postgres_password": lambda: secrets.token_urlsafe(24),
    "api_keys": lambda: secrets.token_urlsafe(32),
    "metrics_key": lambda: secrets.token_urlsafe(32),
    "flower_basic_auth": lambda: f"penstock:{secrets.token_urlsafe(18)}",
    "grafana_password": lambda: secrets.token_urlsafe(18),
}


def main(folder: Path = HERE / "secrets", environment: Path = ROOT / ".env") -> int:
    """Write what is missing, and say what was written; never a secret itself."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, make in SECRETS.items():
        path = folder / name
        if path.exists():
            continue
        path.write_text(make() + "\n", encoding="utf-8")
        path.chmod(0o444)
        print(f"wrote {path}")
    if not environment.exists():
        shutil.copy(HERE / "env.example", environment)
        print(f"wrote {environment}")
    print(f"Callers send a line of {folder / 'api_keys'} as their bearer token.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
