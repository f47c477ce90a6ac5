"""The HTTP client: Penstock's API as Python calls that return its JSON. Knows the wire, and nothing behind it.

A call that may be repeated safely (a GET, or a POST with an idempotency key) is repeated when the connection breaks
or the API asks for patience (429, 503). A refused connection is reported at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from cli.errors import ApiRefused, ApiUnreachable, UsageError

Json = dict[str, Any]
PATIENCE_STATUSES = frozenset({429, 503})
MAX_TRIES = 5
MAX_PAUSE_SECONDS = 30.0
PAGE_JOBS = 100


class Client:
    """One API at `url`. `pause` is called with the seconds to wait between tries; tests pass their own."""

    def __init__(self, url: str, api_key: str | None = None, *, pause: Callable[[float], object] = time.sleep) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(60.0, connect=5.0)
        try:
            proxied = not is_loopback(self.url)
            self.http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=proxied)
        except httpx.InvalidURL as error:
            raise UsageError(f"--api: {url!r} is no URL ({error}).") from error
        self.pause = pause

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.http.close()

    def submit(self, job: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Submit one job and return it. The key makes a repeated call harmless; one is drawn if none is given."""
        return self._post("/v1/jobs", job, idempotency_key or uuid4().hex)

    def submit_many(self, jobs: Sequence[Mapping[str, Any]], *, batch_id: str | None, idempotency_key: str) -> Json:
        """Submit up to 1,000 jobs, all or none, as a new batch or more lines of `batch_id`. Returns the list reply."""
        body: Json = {"jobs": list(jobs)} | ({"batch_id": batch_id} if batch_id else {})
        return self._post("/v1/jobs", body, idempotency_key)

    def job(self, job_id: str) -> Json:
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(
        self, *, state: str | None = None, batch_id: str | None = None, limit: int = 20, after: str | None = None
    ) -> Json:
        """One page, newest first: `{"data": […], "has_more": bool}`."""
        asked = {"state": state, "batch_id": batch_id, "limit": limit, "after": after}
        return self._json("GET", "/v1/jobs", params={name: value for name, value in asked.items() if value is not None})

    def every_job(self, *, batch_id: str) -> Iterator[Json]:
        """All jobs of a batch, newest first, a page at a time."""
        after: str | None = None
        while True:
            page = self.jobs(batch_id=batch_id, limit=PAGE_JOBS, after=after)
            yield from page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            after = page["data"][-1]["id"]

    def cancel(self, job_id: str) -> Json:
        return self._json("POST", f"/v1/jobs/{job_id}/cancel")

    def replay(self, job_id: str, *, in_batch: bool = False) -> Json:
        """Queue a replay; the new job."""
        priority = "batch" if in_batch else "interactive"
        return self._json("POST", f"/v1/jobs/{job_id}/replay", params={"priority": priority})

    def batch(self, batch_id: str) -> Json:
        return self._json("GET", f"/v1/batches/{batch_id}")

    def cancel_batch(self, batch_id: str) -> Json:
        return self._json("POST", f"/v1/batches/{batch_id}/cancel")

    def ready(self) -> tuple[bool, Json]:
        """Whether the system takes jobs and runs them, and what the API says about it. Never raises."""
        try:
            reply = self.http.get("/health/ready", timeout=5.0)
            body = reply.json()
        except (httpx.HTTPError, ValueError):
            return False, {}
        body = body if isinstance(body, dict) else {}
        return reply.status_code == httpx.codes.OK and body.get("status") == "ok", body

    def _post(self, path: str, body: Mapping[str, Any], key: str) -> Json:
        return self._json("POST", path, json=body, headers={"Idempotency-Key": key})

    def _json(self, method: str, path: str, **request: Any) -> Json:
        reply = self._send(method, path, **request)
        try:
            body = reply.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ApiRefused(reply.status_code, f"{self.url} does not answer like Penstock's API (no JSON object).")
        return body

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """One request, repeated while that is safe and can help. Raises for an error reply."""
        for failures in range(1, MAX_TRIES + 1):
            try:
                reply = self.http.request(method, path, **request)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise ApiUnreachable(self.url, reason_of(error)) from error
            except httpx.TransportError as error:
                if failures == MAX_TRIES:
                    raise ApiUnreachable(self.url, reason_of(error)) from error
                self.pause(backoff_seconds(failures))
                continue
            if reply.status_code not in PATIENCE_STATUSES or failures == MAX_TRIES:
                raise_for_error(reply)
                return reply
            self.pause(asked_pause_seconds(reply) or backoff_seconds(failures))
        raise AssertionError("unreachable: the last try returns or raises")


def backoff_seconds(failures: int) -> float:
    """0.25, 0.5, 1, 2, 4, then 5, after so many failures in a row."""
    return min(0.125 * 2.0**failures, 5.0)


def is_loopback(url: str) -> bool:
    """Whether a proxy from the environment would be wrong for `url`."""
    return (httpx.URL(url).host or "localhost") in {"localhost", "127.0.0.1", "::1"}


def asked_pause_seconds(reply: httpx.Response) -> float | None:
    """The reply's `Retry-After` in seconds, bounded; None if it has none that can be read."""
    try:
        return min(max(float(reply.headers["Retry-After"]), 0.0), MAX_PAUSE_SECONDS)
    except (KeyError, ValueError):
        return None


def reason_of(error: Exception) -> str:
    """A few words for a broken connection."""
    if isinstance(error, httpx.TimeoutException):
        return "timed out"
    return "connection refused" if "refused" in str(error).lower() else str(error) or type(error).__name__


def raise_for_error(reply: httpx.Response) -> None:
    """Turn an error reply into `ApiRefused`; what has no OpenAI shape is named by its status."""
    if reply.is_success:
        return
    try:
        error = reply.json()["error"]
        message, code, param = str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code, param = f"the API answered {reply.status_code} {reply.reason_phrase}.", None, None
    raise ApiRefused(reply.status_code, message, code=code, param=param)
