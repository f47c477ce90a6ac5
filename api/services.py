"""What every request shares: the store, the queue's producing side, Redis, and the models that are served."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fastapi import Request
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from api.announcing import Announcer
from api.batch_watching import BatchWatches
from api.key_ring import KeyRing
from api.models import Catalog
from api.rates import Buckets
from jobs.database import open_engine
from jobs.events import EventReader, EventWriter, open_async_redis, open_redis
from jobs.files import Vault
from jobs.queue import Publisher, make_app
from jobs.settings import Settings
from jobs.store import Store


@dataclass
class Services:
    """The shared parts of one process. `closing` is set when the server begins to stop: streams end then."""

    settings: Settings
    store: Store
    redis: Redis
    async_redis: AsyncRedis
    announcer: Announcer
    catalog: Catalog
    reader: EventReader
    vault: Vault
    watches: BatchWatches
    keys: KeyRing
    buckets: Buckets
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def open(cls, settings: Settings) -> Services:
        """Make all parts. None connects yet: a service that is down is found out by the request that needs it."""
        store = Store(open_engine(settings.resolved_database_url), settings=settings)
        client = open_redis(settings.resolved_redis_url)
        async_client = open_async_redis(settings.resolved_redis_url)
        vault = Vault.open(settings)
        announcer = Announcer(store, Publisher(make_app(settings), store.traces_of), EventWriter(client))
        return cls(
            settings=settings,
            store=store,
            redis=client,
            async_redis=async_client,
            announcer=announcer,
            catalog=Catalog(store, settings),
            reader=EventReader(async_client),
            vault=vault,
            watches=BatchWatches(store),
            keys=KeyRing(store, settings),
            buckets=Buckets(client),
        )

    async def close(self) -> None:
        self.closing.set()
        await self.watches.aclose()
        await self.reader.aclose()
        await self.async_redis.aclose()
        await asyncio.to_thread(self.announcer.close)
        self.redis.close()
        self.store.engine.dispose()


def services(request: Request) -> Services:
    """The shared parts, for FastAPI's `Depends`."""
    parts = request.app.state.services
    if not isinstance(parts, Services):
        raise TypeError("the application has not started")
    return parts
