"""`python -m api`: the API role as a process. Exit status 2: the settings are wrong; 3: it could not listen.

`python -m api check` says only whether it may listen where the settings want it to.
"""

from __future__ import annotations

import sys

from pydantic import ValidationError

from api.binding import UnsafeBinding, check_binding
from api.server import Server
from jobs.logs import configure_logs
from jobs.settings import Settings
from jobs.standing import stand
from jobs.tracing import TracingUnavailable, start_tracing

EXIT_SETTINGS = 2
EXIT_STARTUP = 3


def main(arguments: list[str] | None = None) -> int:
    try:
        settings = Settings()
        check_binding(settings)
    except UnsafeBinding as error:
        return _complain(str(error))
    except ValidationError as error:
        return _complain("\n".join(_wrong_settings(error)))
    if (sys.argv[1:] if arguments is None else arguments) == ["check"]:
        return 0
    configure_logs(settings.log_level, settings.log_format)
    try:
        stop_tracing = start_tracing(settings, "api")
    except TracingUnavailable as error:
        return _complain(str(error))
    server = Server(settings, on_started=stand)
    server.run()
    stop_tracing()
    return 0 if server.started else EXIT_STARTUP


def _wrong_settings(error: ValidationError) -> list[str]:
    """A line each, with the variable's name and without its value (it may be a key)."""
    faults = error.errors(include_input=False, include_url=False)
    return [f"PENSTOCK_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in faults]


def _complain(message: str) -> int:
    print(f"penstock api: {message}", file=sys.stderr)  # noqa: T201
    return EXIT_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
