"""The HTTP client: Penstock's API as Python calls that return its JSON. Knows the wire, and nothing behind it.

A call that may be repeated safely (a GET, or a POST with an idempotency key) is repeated when the connection breaks
or the API asks for patience (429, 502 to 504). A refused connection is reported at once, unless this API has answered
before: then it is starting again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from cli.errors import ApiRefused, ApiUnreachable, UsageError

Json = dict[str, Any]
PATIENCE_STATUSES = frozenset({429, 502, 503, 504})
MAX_TRIES = 5
MAX_TRIES_WHEN_KNOWN = 12
"""Tries in a row at an API that has answered before: about 35 seconds."""
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
        self.has_answered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.http.close()

    def submit(self, job: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Submit one job and return it. The key makes a repeated call harmless; one is drawn if none is given."""
        return self._post("/v1/jobs", job, idempotency_key or uuid4().hex)

    def job(self, job_id: str) -> Json:
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(
        self, *, state: str | None = None, batch_id: str | None = None, limit: int = 20, after: str | None = None
    ) -> Json:
        """One page, newest first: `{"data": […], "has_more": bool}`."""
        return self._page("/v1/jobs", limit, after, state=state, batch_id=batch_id)

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

    def delete_job(self, job_id: str) -> Json:
        """Erase a job that has ended. Repeating it is harmless."""
        return self._json("DELETE", f"/v1/jobs/{job_id}")

    def batch(self, batch_id: str) -> Json:
        return self._json("GET", f"/v1/batches/{batch_id}")

    def create_batch(self, batch: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Start a batch of an uploaded file. The key makes a repeated call harmless; one is drawn if none is given."""
        return self._post("/v1/batches", batch, idempotency_key or uuid4().hex)

    def batches(self, *, limit: int = 20, after: str | None = None) -> Json:
        """One page, newest first: `{"data": […], "has_more": bool}`."""
        return self._page("/v1/batches", limit, after)

    def cancel_batch(self, batch_id: str) -> Json:
        return self._json("POST", f"/v1/batches/{batch_id}/cancel")

    def retry_batch(self, batch_id: str) -> Json:
        """Queue again what failed or expired. Repeating it is harmless: what is queued is not queued twice."""
        return self._json("POST", f"/v1/batches/{batch_id}/retry")

    def files(self, *, limit: int = 20, after: str | None = None, purpose: str | None = None) -> Json:
        """One page, newest first: `{"data": […], "has_more": bool}`."""
        return self._page("/v1/files", limit, after, purpose=purpose)

    def file(self, file_id: str) -> Json:
        return self._json("GET", f"/v1/files/{file_id}")

    def delete_file(self, file_id: str) -> Json:
        return self._json("DELETE", f"/v1/files/{file_id}")

    def create_webhook(self, webhook: Mapping[str, Any]) -> Json:
        """Have ends told to a URL. The reply is the only one that holds the secret that signs them."""
        return self._post("/v1/webhooks", webhook, uuid4().hex)

    def webhooks(self, *, limit: int = 20, after: str | None = None) -> Json:
        """One page: `{"data": […], "has_more": bool}`."""
        return self._page("/v1/webhooks", limit, after)

    def change_webhook(self, webhook_id: str, changes: Mapping[str, Any]) -> Json:
        """Change what is named. Repeating it is harmless."""
        return self._json("POST", f"/v1/webhooks/{webhook_id}", json=dict(changes))

    def delete_webhook(self, webhook_id: str) -> Json:
        return self._json("DELETE", f"/v1/webhooks/{webhook_id}")

    def test_webhook(self, webhook_id: str) -> Json:
        """Send it an event; returns the delivery."""
        return self._json("POST", f"/v1/webhooks/{webhook_id}/test")

    def deliveries(self, webhook_id: str, *, limit: int = 20, after: str | None = None) -> Json:
        """What was told to a webhook, newest first."""
        return self._page(f"/v1/webhooks/{webhook_id}/deliveries", limit, after)

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

    def _page(self, path: str, limit: int, after: str | None, **more: Any) -> Json:
        asked = {**more, "limit": limit, "after": after}
        return self._json("GET", path, params={name: value for name, value in asked.items() if value is not None})

    def _json(self, method: str, path: str, **request: Any) -> Json:
        return self.parsed(self.persist(lambda: self.http.request(method, path, **request)))

    def parsed(self, reply: httpx.Response) -> Json:
        """The JSON object of a reply."""
        try:
            body = reply.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ApiRefused(reply.status_code, f"{self.url} does not answer like Penstock's API (no JSON object).")
        return body

    def persist(self, once: Callable[[], httpx.Response]) -> httpx.Response:
        """The reply of a request that is repeated while that can help. Raises for an error reply."""
        for failures in itertools.count(1):
            try:
                reply = once()
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise ApiUnreachable(self.url, reason_of(error)) from error
            except httpx.TransportError as error:
                is_absent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not self.has_answered
                if is_absent or failures >= (MAX_TRIES_WHEN_KNOWN if self.has_answered else MAX_TRIES):
                    raise ApiUnreachable(self.url, reason_of(error)) from error
                self.pause(backoff_seconds(failures))
                continue
            self.has_answered = True
            hopeless = reply.headers.get("x-should-retry") == "false"
            if reply.status_code not in PATIENCE_STATUSES or failures >= MAX_TRIES or hopeless:
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
