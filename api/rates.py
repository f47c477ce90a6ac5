"""The rate of requests of a key: a bucket of tokens in Redis, which all processes of the API share.

    penstock:rate:{key id}      hash      {tokens, at}: what was left at an instant of Redis' own clock, in seconds

A bucket holds a minute's requests and fills evenly. One script takes a token and says what is left. While Redis is
away nobody is refused: a limit that is off for a while is better than an API that is. The outcome goes to the caller in
OpenAI's `x-ratelimit-*` headers, on every reply (`LimitHeaders`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from fastapi import Request
from redis import Redis
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import Refusal

log = structlog.get_logger("penstock.api")

QUIET_SECONDS = 1.0
"""After a failure Redis is not asked for so long: requests must not wait for it one by one."""
_HEADERS, _LATE = "penstock.limit_headers", "penstock.limits_late"
MINUTE = 60.0

_TAKE = """
local capacity, rate = tonumber(ARGV[1]), tonumber(ARGV[1]) / 60
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local filled = math.max(0, now - (tonumber(held[2]) or now)) * rate
local tokens = math.min(capacity, (tonumber(held[1]) or capacity) + filled)
local taken = 0
if tokens >= 1 then
    tokens, taken = tokens - 1, 1
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], 61000)
return {taken, string.format('%.6f', tokens)}
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """`allowed`: there was a token. `left`: after that; a fraction is one that fills."""

    allowed: bool
    left: float
    capacity: int

    @property
    def seconds_to_next(self) -> float:
        """Until one request more is allowed."""
        return max(0.0, (1.0 - self.left) * MINUTE / self.capacity)

    @property
    def seconds_to_full(self) -> float:
        return max(0.0, (self.capacity - self.left) * MINUTE / self.capacity)


class Buckets:
    """The buckets of all keys. Any thread may call."""

    def __init__(self, redis: Redis, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._take = redis.register_script(_TAKE)
        self._monotonic = monotonic
        self._quiet_until = 0.0
        self._failing = False

    def take(self, key_id: str, per_minute: int) -> Taken | None:
        """Take a token; None when Redis cannot say."""
        if self._monotonic() < self._quiet_until:
            return None
        try:
            allowed, left = self._take(keys=[f"penstock:rate:{key_id}"], args=[per_minute])
        except (RedisError, OSError) as error:
            self._note(error)
            return None
        self._note(None)
        return Taken(bool(allowed), float(left), per_minute)

    def _note(self, error: Exception | None) -> None:
        """Log once when an outage begins, and once when it is over."""
        if error is not None:
            self._quiet_until = self._monotonic() + QUIET_SECONDS
            if not self._failing:
                log.warning("rates_not_counted", error=type(error).__name__, next="requests go on without a rate limit")
        elif self._failing:
            log.info("rates_counted_again")
        self._failing = error is not None


def charge(request: Request, buckets: Buckets, key_id: str, per_minute: int) -> None:
    """Count a request against its key. Raises Refusal."""
    taken = buckets.take(key_id, per_minute)
    if taken is None:
        return
    note_limit(request, "requests", per_minute, math.floor(taken.left), taken.seconds_to_full)
    if not taken.allowed:
        seconds = max(1, math.ceil(taken.seconds_to_next))
        raise Refusal(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"requests_per_minute: the limit of this API key is {per_minute}; try again in {seconds} s.",
            code="rate_limit_exceeded",
            param="requests_per_minute",
            kind="requests",
            headers={"Retry-After": str(seconds)},
        )


def note_limit(request: Request, kind: str, limit: int, left: int, reset_seconds: float | None = None) -> None:
    """Have the reply tell of a limit, as OpenAI's do: `kind` is `requests` or `tokens`."""
    headers = request.scope.setdefault(_HEADERS, {})
    headers[f"x-ratelimit-limit-{kind}"] = str(limit)
    headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, left))
    if reset_seconds is not None:
        headers[f"x-ratelimit-reset-{kind}"] = f"{math.ceil(reset_seconds * 1000)}ms"


def note_late(request: Request, note: Callable[[], object]) -> None:
    """Call `note`, in a thread, when the reply is about to begin: it may want to tell what the request has changed."""
    request.scope[_LATE] = note


class LimitHeaders:
    """ASGI: puts what `note_limit` was told on the reply, whoever makes it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        noted: dict[str, str] = {}
        scope[_HEADERS] = noted

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                if _LATE in scope and message["status"] < HTTPStatus.BAD_REQUEST:
                    await run_in_threadpool(scope[_LATE])
                headers = MutableHeaders(scope=message)
                for name, value in noted.items():
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, told)
