"""Runs in a process whose path holds one version of OpenAI's client: makes the calls that come in, a line each."""

from __future__ import annotations

import json
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import openai


def main() -> None:
    client = openai.OpenAI(max_retries=int(sys.argv[1]), timeout=30)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"result": _called(client, asked)}
        except openai.OpenAIError as error:
            answer = {"error": _told(error)}
        print(json.dumps(answer), flush=True)


def _called(client: Any, asked: dict[str, Any]) -> Any:
    if asked["method"] == "version":
        return openai.__version__
    options = asked["options"]
    if "path" in options:
        options["file"] = Path(options.pop("path"))
    method = reduce(getattr, asked["method"].split("."), client)
    result = method(*asked["args"], **options)
    if asked["method"].endswith(".stream"):  # the helper that puts a stream together
        with result as stream:
            events = [event.model_dump() for event in stream]
            return {"events": events, "final": stream.get_final_response().model_dump()}
    if asked["every"]:
        return [item.model_dump() for item in result]
    return result.text if asked["method"].endswith(".content") else result.model_dump()


def _told(error: openai.OpenAIError) -> dict[str, Any]:
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
        "param": getattr(error, "param", None),
        "body": getattr(error, "body", None),
    }


main()
