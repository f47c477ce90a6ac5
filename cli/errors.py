"""What can go wrong in a command: one line for a person, and the exit status.

    CliError
    ├── UsageError          what was typed, or a file that was named, cannot be used   (exit status 2)
    ├── ApiUnreachable      nothing answers at the API's address
    ├── ApiRefused          the API answered with an error; carries its status, code and field
    ├── StartFailed         a part of the system cannot start; carries the last lines of its log
    └── Interrupted         somebody stopped the command; the message says what goes on without it (exit status 130)

No message holds a prompt or a completion.
"""

from __future__ import annotations

from collections.abc import Sequence


class CliError(Exception):
    """Root of the tree: its text is the one line that a person sees."""

    exit_status = 1


class UsageError(CliError):
    """The command line or an input file is wrong; nothing was sent."""

    exit_status = 2


class ApiUnreachable(CliError):
    """No answer from `url`."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"nothing answers at {url} ({reason}). Start the system with `penstock up`, "
            "or say where it is with --api or PENSTOCK_API."
        )
        self.url = url


class ApiRefused(CliError):
    """An error reply in OpenAI's shape. `param` names the field, dotted; None where no field is at fault."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        field = f" (field: {param})" if param and param not in message else ""
        super().__init__(f"{message}{field}")
        self.status = status
        self.code = code
        self.param = param


class StartFailed(CliError):
    """`log_lines` are the last lines that the failed part wrote."""

    def __init__(self, message: str, log_lines: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *(f"  | {line}" for line in log_lines)]))
        self.log_lines = tuple(log_lines)


class Interrupted(CliError):
    """Ctrl-C, or a signal like it, while a command sent or waited."""

    exit_status = 130
