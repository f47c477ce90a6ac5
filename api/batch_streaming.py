"""One reader's stream of a batch: its finished lines from a cursor on, how far it is, and its end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

import structlog

from api.batch_shapes import FINAL
from api.batch_watching import BatchWatch
from api.errors import SERVER, error_body
from api.services import Services
from api.streaming import PING, frame
from api.wire import BatchObject
from jobs.errors import InvalidRequest, NotFound, StoreUnavailable

log = structlog.get_logger("penstock.api")

PING_SECONDS = 15.0
WAIT_SECONDS = 1.0
"""How soon a reader that has nothing to read notices that the server stops."""
_CURSOR = re.compile("[0-9]{1,10}")


def parse_cursor(text: str, param: str) -> int:
    """Raises InvalidRequest."""
    if not _CURSOR.fullmatch(text):
        raise InvalidRequest(f"{param}: must be the id of the last line received, such as 42.", param=param)
    return int(text)


async def batch_frames(parts: Services, batch_id: str, owner: str | None, after: int) -> AsyncGenerator[bytes]:
    """Everything past the cursor `after`, until the batch has ended or the server stops."""
    try:
        async with parts.watches.follow(batch_id, owner) as watch:
            async for piece in _followed(parts, watch, after):
                yield piece
    except (StoreUnavailable, NotFound) as error:
        log.warning("stream broken", batch_id=batch_id, error=type(error).__name__)
        yield _broken("The batch cannot be read right now; it goes on.", error.code)


async def _followed(parts: Services, watch: BatchWatch, after: int) -> AsyncGenerator[bytes]:
    clock = asyncio.get_running_loop().time
    told, ping_at = "", clock() + PING_SECONDS
    while not parts.closing.is_set():
        version, batch, num_ends = watch.version, watch.batch, watch.num_ends
        lines = await watch.lines(after)
        for line in lines:
            yield frame("line", line.text, id=line.end_number)
        # Numbers may be missing: lines that ended and were queued again.
        after = lines[-1].end_number if lines else max(after, num_ends)
        if after < num_ends:
            continue
        progress = _progress(batch)
        if progress != told:
            told = progress
            yield frame("progress", progress)
        if batch.status in FINAL and watch.version == version:
            yield frame("end", batch.model_dump_json())
            return
        await watch.changed(version, WAIT_SECONDS)
        if clock() >= ping_at:
            ping_at = clock() + PING_SECONDS
            yield PING
    yield _broken("The server is stopping; the batch goes on.", "server_stopping")


def _progress(batch: BatchObject) -> str:
    return batch.model_dump_json(
        include={"id", "status", "request_counts", "counts", "usage", "output_file_id", "error_file_id"}
    )


def _broken(message: str, code: str) -> bytes:
    """The last frame of a stream that cannot go on: it must never look finished."""
    return frame("error", error_body(f"{message} Connect again to resume.", type=SERVER, param=None, code=code))
