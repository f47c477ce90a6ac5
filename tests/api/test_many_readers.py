"""A thousand readers on one API process: all get the whole text, and what they cost is bounded."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from jobs.events import EventWriter, job_channel
from jobs.records import AttemptRef, NewJob, Succeeded
from jobs.states import JobState, Priority
from tests.api.stage import MODEL, Stage, claim, generation
from tests.api.test_server import Process, start_process
from tests.support.services import wait_until

__all__ = ["start_process"]  # a fixture

NUM_READERS, NUM_JOBS, NUM_PIECES = 1000, 4, 12
NUM_SLEEPERS = 8
NUM_LONG_PIECES, LONG_PIECE = 80, "The puck flies, and the crowd holds its breath. " * 1000
PIECE = "Skates carve the ice ❄️ " * 80
BYTES_A_READER = 256 * 1024
"""Of the API's memory, at most: its connection, its tasks, what waits for it, and the text (46 KiB) twice over."""
NUM_CONNECTIONS = 40
"""To Redis, at most, whatever the readers: one for all subscriptions, a few for snapshots."""
DEADLINE_SECONDS = 120.0


@pytest.fixture
def many_files() -> Iterator[None]:
    """Each connection is a file, here and in the process that is started now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class Teller:
    """Plays a worker's part in one job: says it piece by piece."""

    stage: Stage
    ref: AttemptRef
    text: str = ""

    @property
    def writer(self) -> EventWriter:
        return self.stage.writer

    def say(self, piece: str) -> None:
        self.text += piece
        assert self.writer.text([(self.ref.job_id, self.ref.number, len(self.text), piece, self.text)])

    def end(self) -> None:
        self.stage.store.finish(self.ref, Succeeded(generation(self.text)))
        assert self.writer.end(self.ref.job_id, JobState.SUCCEEDED)


class Connection:
    """One reader, on a socket of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._rest = b""
        self.text = ""
        self.last: str | None = None
        self.resets = 0

    @classmethod
    async def open(cls, url: str, path: str, *, window_bytes: int | None = None) -> Connection:
        """`window_bytes`: what the kernel takes in for a reader that does not read, about."""
        address = urlsplit(url)
        raw = socket.socket()
        if window_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (address.hostname, address.port))
        limit = 2**16 if window_bytes is None else window_bytes
        connection = cls(*await asyncio.open_connection(sock=raw, limit=limit))
        connection._writer.write(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        head = await connection._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return connection

    async def frame(self) -> tuple[str, Any] | None:
        """The next whole frame; None when the stream has closed."""
        while b"\n\n" not in self._rest:
            size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
            if size == 0:
                return None
            self._rest += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        block, _, self._rest = self._rest.partition(b"\n\n")
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
        return fields["event"], json.loads(fields["data"])

    async def until(self, event: str) -> None:
        """Take frames up to the first of a kind, or to the end of the stream."""
        while (told := await self.frame()) is not None:
            self.last, data = told
            if self.last == "reset":
                self.text, self.resets = "", self.resets + 1
            if self.last == "text":
                self.text += data["text"]
                assert data["seq"] == len(self.text), "a gap or a repeat"
            if self.last == event:
                return

    def close(self) -> None:
        self._writer.close()


def tellers(stage: Stage, num_jobs: int) -> list[Teller]:
    made = stage.store.submit(_jobs(num_jobs))
    return [Teller(stage, claim(stage.store, job_id)) for job_id in made.ids]


def _jobs(num_jobs: int) -> list[Any]:
    job = NewJob(model=MODEL, parameters={}, prompt="ice", seed=7, num_prompt_tokens=2, priority=Priority.INTERACTIVE)
    return [job] * num_jobs


def run(scenario: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await scenario

    asyncio.run(bounded())


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("many_files")
def test_a_thousand_readers_get_the_whole_text_for_a_bounded_price(
    set_stage: Callable[..., Stage], start_process: Callable[..., Process]
) -> None:
    process, stage = start_process(), set_stage()
    url, memory = process.url(), psutil.Process(process.process.pid).memory_info
    told = tellers(stage, NUM_JOBS)
    others = {client["id"] for client in stage.redis.client_list()}  # the Redis is that of other tests, too

    async def read() -> None:
        one = await Connection.open(url, f"/v1/jobs/{told[0].ref.job_id}/events")
        before = memory().rss
        paths = [f"/v1/jobs/{told[number % NUM_JOBS].ref.job_id}/events" for number in range(NUM_READERS)]
        readers = [one] + [await Connection.open(url, path) for path in paths[1:]]
        sleepers = [await Connection.open(url, path, window_bytes=4096) for path in paths[:NUM_SLEEPERS]]
        reading = [asyncio.create_task(reader.until("end")) for reader in readers]
        await asyncio.to_thread(subscribed, stage, told)
        peak = connections = 0
        for _ in range(NUM_PIECES):
            for teller in told:
                await asyncio.to_thread(teller.say, PIECE)
            ours = [client for client in stage.redis.client_list() if client["id"] not in others]
            peak, connections = max(peak, memory().rss), max(connections, len(ours))
        for teller in told:
            await asyncio.to_thread(teller.end)
        await asyncio.gather(*reading)  # while the sleepers have read nothing
        peak = max(peak, memory().rss)
        following = [client for client in stage.redis.client_list(_type="pubsub") if client["id"] not in others]
        assert len(following) == 1, "one subscription for all of them"
        await asyncio.gather(*(sleeper.until("end") for sleeper in sleepers))
        for number, reader in enumerate([*readers, *sleepers]):
            teller = told[number % NUM_JOBS] if number < NUM_READERS else told[(number - NUM_READERS) % NUM_JOBS]
            assert (reader.last, reader.resets) == ("end", 0)
            assert reader.text == teller.text
            reader.close()
        assert peak - before < NUM_READERS * BYTES_A_READER, f"{(peak - before) >> 20} MiB"
        assert connections < NUM_CONNECTIONS

    run(read())


@pytest.mark.timeout(180)
def test_readers_that_sleep_through_a_long_text_hold_nobody_up_and_wake_to_all_of_it(
    set_stage: Callable[..., Stage], start_process: Callable[..., Process]
) -> None:
    """More than any buffer on the way takes: the server holds it back for them, and bounded."""
    process, stage = start_process(), set_stage()
    url, memory = process.url(), psutil.Process(process.process.pid).memory_info
    (teller,) = tellers(stage, 1)
    path = f"/v1/jobs/{teller.ref.job_id}/events"

    async def read() -> None:
        sleepers = [await Connection.open(url, path, window_bytes=4096) for _ in range(NUM_SLEEPERS)]
        awake = await Connection.open(url, path)
        reading = asyncio.create_task(awake.until("end"))
        await asyncio.to_thread(subscribed, stage, [teller])
        before = memory().rss
        for _ in range(NUM_LONG_PIECES):
            await asyncio.to_thread(teller.say, LONG_PIECE)
        await asyncio.to_thread(teller.end)
        await reading
        assert (awake.last, awake.text == teller.text) == ("end", True), "while the others have read nothing"
        peak = memory().rss
        await asyncio.gather(*(sleeper.until("end") for sleeper in sleepers))
        assert {(sleeper.last, sleeper.resets, sleeper.text == teller.text) for sleeper in sleepers} == {
            ("end", 0, True)
        }
        for connection in (awake, *sleepers):
            connection.close()
        assert peak - before < NUM_SLEEPERS * 6 * len(teller.text), f"{(peak - before) >> 20} MiB"

    run(read())


def subscribed(stage: Stage, told: list[Teller]) -> None:
    channels = [job_channel(teller.ref.job_id) for teller in told]
    wait_until(lambda: all(num for _, num in stage.redis.pubsub_numsub(*channels)), 20)
