"""`python -m ops.flower`: Flower as a process. Exit status 2: the settings are wrong; 3: it could not listen.

Beyond loopback it opens with credentials only, and they cover `/metrics` too; `/healthcheck` says "OK" to anybody.
It looks and never touches: ending a job is the API's, which knows the row, and a worker ends by its signal.
What it has seen is saved now and then and at its end, and is there again after a restart.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import structlog
from flower.app import Flower
from flower.command import apply_env_options
from flower.options import options
from flower.urls import settings as flower_settings
from pydantic import ValidationError

from jobs.binding import is_loopback
from jobs.logs import configure_logs
from jobs.queue import make_app
from jobs.settings import Settings
from jobs.standing import stand
from ops.flower.pages import HANDLERS, Templates

log = structlog.get_logger("penstock.flower")

EXIT_SETTINGS = 2
EXIT_STARTUP = 3
SAVE_SECONDS = 30
MAX_TASKS = 10_000
"""Tasks that are remembered: saving them all takes a moment, in which nothing is answered."""


class WrongSettings(Exception):
    """A sentence for an operator; it holds no secret."""


def credentials_of(settings: Settings) -> str:
    """USER:PASSWORD, or nothing where only this machine reaches the page.

    Raises:
        WrongSettings: none beyond loopback, or not of that form.
    """
    credentials = settings.flower_basic_auth
    if not credentials and not is_loopback(settings.flower_host):
        raise WrongSettings(
            f"PENSTOCK_FLOWER_HOST is {settings.flower_host or 'empty'}, which other machines can reach, and there are "
            "no credentials: set PENSTOCK_FLOWER_BASIC_AUTH or PENSTOCK_FLOWER_BASIC_AUTH_FILE to USER:PASSWORD, or "
            "leave it at 127.0.0.1."
        )
    user, colon, password = credentials.partition(":")
    if credentials and not (user and colon and password):
        raise WrongSettings("PENSTOCK_FLOWER_BASIC_AUTH must be USER:PASSWORD.")
    return credentials


def history_of(settings: Settings) -> Path:
    """Where the history is kept; its folder is there, and nobody else's."""
    path = (settings.flower_db or settings.home / "flower" / "history").absolute()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def make_flower(settings: Settings) -> Any:
    """Flower's application, ready to listen. `FLOWER_*` variables count where ours say nothing."""
    credentials = credentials_of(settings)
    apply_env_options()
    options.basic_auth = [credentials] if credentials else []
    options.address, options.port = settings.flower_host, settings.flower_port
    options.persistent, options.db = True, str(history_of(settings))
    options.state_save_interval, options.max_tasks = SAVE_SECONDS * 1000, MAX_TASKS
    options.read_only = True
    options.tasks_columns = "name,args,state,result,received,started,runtime,worker"
    app = Flower(
        capp=make_app(settings),
        options=options,
        **{**flower_settings, "template_loader": Templates(flower_settings["template_path"])},
    )
    app.add_handlers(r".*", HANDLERS)
    return app


def main() -> int:
    os.umask(0o077)
    try:
        settings = Settings()
        configure_logs(settings.log_level, settings.log_format)
        app = make_flower(settings)
    except WrongSettings as error:
        return _complain(str(error), EXIT_SETTINGS)
    except ValidationError as error:
        names = ", ".join(f"PENSTOCK_{fault['loc'][0]}".upper() for fault in error.errors(include_input=False))
        return _complain(f"{names}: not valid.", EXIT_SETTINGS)
    try:
        port = app.start_http_server()
    except OSError as error:
        return _complain(f"cannot listen on {settings.flower_host} ({error.strerror}).", EXIT_STARTUP)
    log.info("listening", host=settings.flower_host, port=port, guarded=bool(options.basic_auth))
    stand()
    _run(app)
    return 0


def _run(app: Any) -> None:
    """Until SIGTERM or SIGINT; then the history is saved."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        app.start()
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        app.stop()


def _complain(message: str, status: int) -> int:
    print(f"penstock flower: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
