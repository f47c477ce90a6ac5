"""A whole system of real processes with everything on that looks at it: metrics, traces, debug logs, Flower."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.ops.running import free_port
from tests.seeing.spans import Receiver
from tests.support.services import wait_until
from tests.support.system import Role, System

FLOWER = ("tests", "a-password")
METRICS_KEY = "a-key-of-scrapers"


class Wiretap:
    """Every command that Redis is given, as it is given it."""

    def __init__(self, url: str) -> None:
        self.commands: list[str] = []
        self._client = redis.Redis.from_url(url, socket_timeout=None)  # it may hear nothing for a while
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._begun.wait(10)

    def _run(self) -> None:
        with self._client.monitor() as monitor:
            self._begun.set()
            try:
                for command in monitor.listen():
                    self.commands.append(command["command"])
            except (redis.RedisError, OSError, ValueError):
                return


class Watched(System):
    """`start_all_roles`, then `scrape`, `flower`, `spans`, `tap`."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, model: Path | str, spans: Receiver) -> None:
        self.spans = spans
        self.ports = {name: free_port() for name in ("dispatcher", "worker", "flower")}
        super().__init__(
            folder,
            database_url,
            redis_url,
            model,
            log_level="debug",
            log_format="json",
            tracing=True,
            metrics_key=METRICS_KEY,
            flower_port=self.ports["flower"],
            flower_basic_auth=":".join(FLOWER),
            webhook_allow_private=True,
        )
        self.tap = Wiretap(redis_url)

    def start_all_roles(self) -> None:
        traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.spans.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        self.api = self.start_api(**traces)
        self.dispatcher = self.start_dispatcher(PENSTOCK_METRICS_PORT=str(self.ports["dispatcher"]), **traces)
        self.worker = self.start_worker_process(PENSTOCK_METRICS_PORT=str(self.ports["worker"]), **traces)
        self.flower_role = self.start_flower()
        self.wait_until_serving()
        self.worker.wait_until_it_says(" ready.")

    def start_flower(self) -> Role:
        role = self.start("ops.flower")
        wait_until(lambda: self.flower_answers(role), 30)
        return role

    def flower_answers(self, role: Role) -> bool:
        assert role.alive, role.said()
        try:
            return self.flower("/healthcheck").status_code == 200
        except httpx.TransportError:
            return False

    def flower(self, path: str, auth: tuple[str, str] | None = FLOWER, **query: Any) -> httpx.Response:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.ports['flower']}", timeout=20, trust_env=False) as client:
            return client.get(path, params=query, auth=auth)

    def scrape(self, role: str) -> str:
        """What a role's `/metrics` says."""
        port = self.settings.port if role == "api" else self.ports[role]
        url = f"http://127.0.0.1:{port}/metrics"
        reply = httpx.get(url, headers={"Authorization": f"Bearer {METRICS_KEY}"}, timeout=20, trust_env=False)
        assert reply.status_code == 200, reply.text
        return reply.text
