"""Every setting of every role: one object, read from `PENSTOCK_*` environment variables, or from the files that
`PENSTOCK_*_FILE` name (`jobs.setting_files`).

Durations end in `_seconds`; sizes in `_bytes`; counts of tokens in `_tokens`.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from jobs.setting_files import SettingFiles


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "penstock"


class Settings(BaseSettings):
    """What an operator can turn. Field `slots` is the environment variable `PENSTOCK_SLOTS`, and so on."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="forbid")

    home: Path = Field(default_factory=_default_home, description="Where embedded parts keep their files.")
    database_url: str = Field(default="", description="SQLAlchemy URL; empty: SQLite in `home`.")
    database_password: str = Field(
        default="",
        description="Put into `database_url`, so that a secret may come alone (PENSTOCK_DATABASE_PASSWORD_FILE).",
    )
    redis_url: str = Field(default="", description="Redis URL; empty: the socket `penstock up` serves in `home`.")

    # The API
    host: str = Field(default="127.0.0.1", description="Where the API listens.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8000, description="The API's port; 0 takes a free one under `penstock up`."
    )
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Keys that callers send as bearer tokens, with commas between; `penstock keys` makes others.",
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=8 * 1024 * 1024, description="Largest body of a request; uploads of files have a limit of their own."
    )
    max_requests: Annotated[int, Field(ge=1)] = Field(
        default=512, description="Requests that wait for an answer at once; as many live completions beside them."
    )
    max_held_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=64 * 1024 * 1024, description="Bodies of requests that are held at once."
    )
    max_jobs_per_request: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="Jobs in one `POST /v1/jobs`. More of them are a file."
    )
    key_requests_per_minute: Annotated[int | None, Field(ge=1)] = Field(
        default=None, description="Limit of an API key that has none of its own; none: no limit. So the next three."
    )
    key_queued_tokens: Annotated[int | None, Field(ge=1)] = Field(
        default=None, description="Prompt tokens and max_tokens of all that an owner has queued or running."
    )
    key_open_batches: Annotated[int | None, Field(ge=1)] = Field(
        default=None, description="Batches that an owner has open at a time."
    )
    key_batch_lines: Annotated[int | None, Field(ge=1)] = Field(default=None, description="Lines of one batch.")
    key_cache_seconds: Annotated[float, Field(ge=0, le=60)] = Field(
        default=2.0, description="So long a process of the API goes on without asking the database for a key again."
    )
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Names under which a proxy on this machine serves an API that asks for no key."
    )
    header_seconds: Annotated[float, Field(gt=0)] = Field(
        default=10.0, description="A request's headers must have come within so long."
    )
    body_grace_seconds: Annotated[float, Field(gt=0)] = Field(
        default=30.0, description="So long a request's body may keep the API waiting, and a second more a KiB of it."
    )
    stalled_reader_seconds: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="A caller that takes nothing of its reply for so long is cut off."
    )
    silent_retry_seconds: Annotated[float, Field(ge=0)] = Field(
        default=600.0, description="So long a client's own retry of a create is recognised by its identical body."
    )

    # Files and batches
    files_url: str = Field(
        default="", description="Where files are stored, as fsspec writes it (`s3://bucket/prefix`); empty: in `home`."
    )
    max_file_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=16 * 1024**3, description="Largest file that can be uploaded."
    )
    max_line_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=8 * 1024 * 1024, description="Longest line of a file; a longer one ends in the batch's error file."
    )
    max_batch_lines: Annotated[int, Field(ge=1)] = Field(default=10_000_000, description="Lines of one file.")
    max_completion_window_seconds: Annotated[float, Field(gt=0)] = Field(
        default=30 * 24 * 3600.0, description="Longest `completion_window` of a batch."
    )
    file_interval_seconds: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="How often the files of a running batch grow."
    )
    key_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="JSON: share of the dispatch window by owner; 1 where nothing is said."
    )

    # What is kept
    keep_jobs_seconds: Annotated[float | None, Field(gt=0)] = Field(
        default=None,
        description="So long prompt and text of an ended job are kept, of a line since its batch's end; none: until "
        "somebody deletes them.",
    )

    # Webhooks
    webhook_allow_private: bool = Field(default=False, description="Deliver to loopback and private addresses too.")
    webhook_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        default=15.0, description="Time for one attempt to deliver, looking the name up included."
    )
    webhook_max_attempts: Annotated[int, Field(ge=1)] = Field(
        default=12, description="Attempts to deliver one event, over about a day."
    )

    # The model and the engine
    model: str = Field(default="phi-3-mini", description="demo | phi-3-mini | hf:OWNER/REPO/FILE.gguf | a path.")
    model_revision: str | None = Field(default=None, description="Revision of a hub model; recorded either way.")
    slots: Annotated[int, Field(ge=1, le=256)] = Field(
        default=16, description="Generations that one worker runs at a time."
    )
    context_tokens: Annotated[int | None, Field(ge=16)] = Field(
        default=None,
        description="Context of one slot; none: what the model was trained for and memory allows.",
    )
    chunk_tokens: Annotated[int, Field(ge=64, le=8192)] = Field(
        default=256, description="Prompt tokens prefilled between two tokens of what is written; part of the recipe."
    )
    tile_rows: Annotated[int, Field(ge=1, le=64)] = Field(
        default=16,
        description="Decode calls are padded to a multiple of this many rows, or of twice as many until they are "
        "proven to be exact; part of the recipe.",
    )
    threads: Annotated[int | None, Field(ge=1)] = Field(default=None, description="None: every core.")
    sampling_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Threads that draw tokens. More help only where there are grammars, log-probabilities or draws "
        "in numpy, many slots, and cores to spare.",
    )
    kv_type: Literal["f16", "q8_0"] = Field(
        default="f16", description="How attention's cache is stored; `q8_0` halves its memory. Part of the recipe."
    )
    flash_attention: bool = Field(default=True, description="Fused attention kernels. Part of the recipe.")
    attention: Literal["auto", "penstock", "llama.cpp"] = Field(
        default="auto",
        description="Whose attention runs on processors: `penstock`, Penstock's own or no start; `llama.cpp`; auto: "
        "its own where it can be had. It needs f16 cells and flash attention. Part of the recipe.",
    )
    gpu_layers: int = Field(default=0, description="Layers on the GPU; -1 means all of them.")
    main_gpu: Annotated[int, Field(ge=0)] = Field(
        default=0, description="The GPU that holds the model, or the small parts of one that is split."
    )
    tensor_split: Annotated[tuple[float, ...], NoDecode] = Field(
        default=(), description="Parts of the model on each GPU, as in 3,1; none: llama.cpp decides by free memory."
    )
    spare_cells_mib: Annotated[int, Field(ge=0)] = Field(
        default=512,
        description="Memory for cells outside the slots: shared beginnings of prompts, and paused sequences. 0: off.",
    )
    prefix_sharing: Literal["owner", "everyone"] = Field(
        default="owner",
        description="Whose jobs share the beginnings of their prompts, which are computed once. With `everyone` a "
        "caller can find out by the time to the first token whether another's prompt began alike.",
    )
    reserve_slots: Annotated[int, Field(ge=0)] = Field(
        default=2, description="Lanes beside the slots, for interactive jobs: each is decoded by itself, at full speed."
    )

    # Leases, retries, draining
    lease_seconds: Annotated[float, Field(gt=0)] = Field(
        default=30.0, description="So long a worker that says nothing keeps its jobs. Then they are queued again."
    )
    max_attempts: Annotated[int, Field(ge=1)] = Field(
        default=3, description="Tries before a job fails, unless the job says otherwise."
    )
    retry_backoff_seconds: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="The pause before another attempt is drawn below this bound, which doubles with each failure.",
    )
    retry_backoff_max_seconds: Annotated[float, Field(ge=0)] = Field(
        default=60.0, description="The bound grows no further than this."
    )
    drain_seconds: Annotated[float, Field(ge=0)] = Field(
        default=30.0,
        description="So long a stopping worker finishes what it runs; it gives back the rest, which costs no attempt.",
    )

    # Dispatch
    dispatch_interval_seconds: Annotated[float, Field(gt=0)] = Field(
        default=0.5,
        description="Longest pause between two rounds of the dispatcher; twice as long, up to a second, while there is "
        "nothing to do, and three times as long, up to a second and a half, while no job waits.",
    )
    dispatch_window: Annotated[int, Field(ge=1)] = Field(
        default=256,
        description="Batch lines published and not yet ended. At least so many; where the slots of the living workers "
        "need more, four for each of them, up to 8192: about 8 MB of Redis.",
    )
    republish_after_seconds: Annotated[float, Field(gt=0)] = Field(
        default=15.0,
        description="A queued job whose message has not been taken for so long is published again.",
    )
    leader_seconds: Annotated[float, Field(gt=0)] = Field(
        default=6.0, description="How long a silent leading dispatcher keeps its office."
    )

    # Events
    event_interval_seconds: Annotated[float, Field(ge=0)] = Field(
        default=0.05, description="New text of a job is collected for so long before it is told."
    )
    snapshot_seconds: Annotated[float, Field(gt=0)] = Field(
        default=3600.0, description="How long a job's text so far stays in Redis after its newest piece."
    )

    # Flower
    flower_host: str = Field(default="127.0.0.1", description="Where Flower listens.")
    flower_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=5555, description="Flower's port; 0 takes a free one under `penstock up`."
    )
    flower_basic_auth: str = Field(
        default="", description="`USER:PASSWORD` for Flower's page; needed on any address beyond loopback."
    )
    flower_db: Path | None = Field(default=None, description="Where Flower keeps its history; none: in `home`.")

    # Seeing
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least grave message that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="Lines of JSON, or lines for people; auto: the latter on a terminal."
    )
    metrics_port: Annotated[int | None, Field(ge=0, le=65535)] = Field(
        default=None, description="Where a worker or a dispatcher serves `/metrics`; none: nowhere."
    )
    metrics_host: str = Field(default="127.0.0.1", description="Where a worker's or a dispatcher's metrics listen.")
    metrics_key: str = Field(default="", description="What a scraper sends as its bearer token. It opens nothing else.")
    tracing: bool = Field(default=False, description="Send traces where OTEL_EXPORTER_OTLP_ENDPOINT says.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then files, then variables. One setting from file and variable is refused."""
        return init_settings, SettingFiles(settings_cls), env_settings

    @field_validator("tensor_split", mode="before")
    @classmethod
    def _split_parts(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("api_keys", "trusted_hosts", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        """By commas or, as a file of them has it, by lines."""
        keys = re.split(r"[,\n]", value) if isinstance(value, str) else None
        return value if keys is None else tuple(key.strip() for key in keys if key.strip())

    @cached_property
    def model_name(self) -> str:
        """What callers call the model: a path is known by its file's name, and shows nothing else of this machine."""
        is_path = self.model not in ("demo", "phi-3-mini") and not self.model.startswith("hf:")
        return Path(self.model).name if is_path else self.model

    @property
    def suits_own_attention(self) -> bool:
        """Whether Penstock's own attention does what is set: half floats, fused, on a processor."""
        return self.gpu_layers == 0 and self.flash_attention and self.kv_type == "f16"

    @cached_property
    def resolved_database_url(self) -> str:
        """SQLAlchemy URL of the database, embedded default and password filled in."""
        if self.database_url and self.database_password:
            from sqlalchemy.engine import make_url

            return (
                make_url(self.database_url).set(password=self.database_password).render_as_string(hide_password=False)
            )
        return self.database_url or f"sqlite:///{self.home.absolute() / 'penstock.db'}"

    @cached_property
    def redis_socket(self) -> Path:
        """Unix socket of the embedded Redis. A path must stay under 108 bytes (sun_path)."""
        return self.home.absolute() / "redis.sock"

    @cached_property
    def resolved_redis_url(self) -> str:
        """redis-py's URL: `redis://…` or `unix:///abs/path.sock?db=0`."""
        return self.redis_url or f"unix://{self.redis_socket}?db=0"

    @cached_property
    def broker_url(self) -> str:
        """kombu's URL for the same Redis: it spells a socket `redis+socket:///abs/path.sock?virtual_host=0`."""
        url = self.resolved_redis_url
        if not url.startswith("unix://"):
            return url
        path, _, query = url.removeprefix("unix://").partition("?")
        database = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair).get("db", "0")
        return f"redis+socket://{path}?virtual_host={database}"
