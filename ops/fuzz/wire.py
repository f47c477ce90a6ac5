"""One hostile request as bytes on a socket, and what its answer has to be. A client library would tidy it up first."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

ANSWER_SECONDS = 30.0
JSON = {"Content-Type": "application/json"}
_FIRST_SERVER_ERROR = 500
_CLIENT_ERRORS = range(400, 500)


@dataclass(frozen=True, slots=True)
class Attack:
    """`field`: the one that a refusal has to name. `broken_http`: it is none, so that the server itself may refuse it
    in its own words, or hang up. `refused`: it must not be taken."""

    kind: str
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    field: str | None = None
    refused: bool = False
    broken_http: bool = False

    def as_bytes(self, host: str) -> bytes:
        """The whole request. Headers that it brings itself are left as they are."""
        headers = {"Host": host, "Connection": "close", "Content-Length": str(len(self.body)), **self.headers}
        if "Transfer-Encoding" in self.headers and "Content-Length" not in self.headers:
            del headers["Content-Length"]
        head = f"{self.method} {self.path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers.items())
        return head.encode("latin-1", "replace") + b"\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(url: str, attack: Attack) -> Answer | None:
    """The answer; None: the server hung up without one. Raises TimeoutError when it keeps silent."""
    address = urlsplit(url)
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=ANSWER_SECONDS) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has read everything
            connection.sendall(attack.as_bytes(address.netloc))
        try:
            reply = HTTPResponse(connection, method=attack.method)
            reply.begin()
            return Answer(reply.status, reply.headers.get("Content-Type", ""), reply.read())
        except TimeoutError:
            raise
        except (HTTPException, OSError):
            return None


def fault_of(attack: Attack, answer: Answer | None) -> str | None:
    """What is wrong with an answer; None: nothing is."""
    if answer is None:
        return None if attack.broken_http else "no answer"
    if answer.status >= _FIRST_SERVER_ERROR:
        return f"status {answer.status}"
    if answer.status not in _CLIENT_ERRORS:
        return "it was taken" if attack.refused else None
    return _fault_of_refusal(attack, answer)


def _fault_of_refusal(attack: Attack, answer: Answer) -> str | None:
    try:
        error = answer.json["error"]
        whole = set(error) == {"message", "type", "param", "code"} and bool(error["message"])
    except (ValueError, KeyError, TypeError):
        return None if attack.broken_http else f"status {answer.status} without an error of our shape"
    if not whole:
        return "an error without all of its four keys"
    if attack.field is not None and attack.field not in str(error["param"]):
        return f"the error names {error['param']!r}, not {attack.field!r}"
    return None
