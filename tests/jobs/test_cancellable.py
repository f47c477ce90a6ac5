"""Whoever is cancelled while Redis is asked leaves, although the way in which redis-py sends may forget the cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from jobs.events import EventReader, open_async_redis


class Forgetful:
    """Sends as redis-py does, and forgets one cancel, as `asyncio.wait_for` does when it comes as the sending ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._send = AbstractConnection.send_packed_command
        self.sent = asyncio.Event()
        self._armed = False
        forgetful = self

        async def send(connection: AbstractConnection, *words: Any, **named: Any) -> None:
            await forgetful._send(connection, *words, **named)
            await forgetful._linger()

        monkeypatch.setattr(AbstractConnection, "send_packed_command", send)

    def arm(self) -> None:
        """Whoever sends next lingers until it is cancelled, and goes on."""
        self._armed = True

    async def _linger(self) -> None:
        if self._armed:
            self._armed = False
            self.sent.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Forgetful], Awaitable[None]]], None]:
    async def bounded(scenario: Callable[[Forgetful], Awaitable[None]]) -> None:
        async with asyncio.timeout(20):
            await scenario(Forgetful(monkeypatch))

    return lambda scenario: asyncio.run(bounded(scenario))


def test_a_forgotten_cancel_is_remembered_and_the_connection_serves_on(
    redis_url: str, run: Callable[..., None]
) -> None:
    async def scenario(forgetful: Forgetful) -> None:
        async with open_async_redis(redis_url) as client:
            await client.ping()
            forgetful.arm()
            task = asyncio.create_task(client.echo("of the one who left"))
            await forgetful.sent.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.echo("of the next one") == b"of the next one"

    run(scenario)


def test_what_a_cancelled_task_sends_afterwards_is_sent(redis_url: str, run: Callable[..., None]) -> None:
    async def scenario(_: Forgetful) -> None:
        async with open_async_redis(redis_url) as client:

            async def leave() -> bool:
                try:
                    await asyncio.Event().wait()
                finally:
                    answers.append(await client.ping())

            answers: list[bool] = []
            task = asyncio.create_task(leave())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert answers == [True]

    run(scenario)


def test_a_reader_whose_cancel_was_forgotten_is_followed_no_more(redis_url: str, run: Callable[..., None]) -> None:
    async def scenario(forgetful: Forgetful) -> None:
        reader = EventReader(open_async_redis(redis_url))
        events = reader.follow("job_1", tell_listening=True)
        await anext(events)
        again = reader.follow("job_1", tell_listening=True)  # its channel is subscribed: it asks for the snapshot
        forgetful.arm()
        task = asyncio.create_task(anext(again))
        await forgetful.sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await events.aclose()
        assert reader._followed() == []
        await reader.aclose()

    run(scenario)


def test_a_server_that_stops_while_it_subscribes_stops(redis_url: str, run: Callable[..., None]) -> None:
    async def scenario(forgetful: Forgetful) -> None:
        reader = EventReader(open_async_redis(redis_url))
        forgetful.arm()
        task = asyncio.create_task(anext(reader.follow("job_1", tell_listening=True)))
        await forgetful.sent.wait()
        await reader.aclose()
        with pytest.raises(Exception, match="stopping"):
            await task

    run(scenario)
