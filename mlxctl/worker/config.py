"""What a worker is told when it starts: one frozen table, made from its command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxctl.worker.types import Priority

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine thread needs. Sizes in bytes and tokens; None: worked out from the machine and the model."""

    model: Path
    adapter: Path | None = None
    trust_remote_code: bool = False
    context_length: int | None = None
    batching: bool = True
    max_batch: int = 32
    max_queue: int = 256
    block_tokens: int = 64
    cache_bytes: int | None = None
    kv_bytes: int | None = None
    prefill_tokens: int = 2048
    """Tokens of one prefill chunk while nobody is streaming."""
    stall_ms: int = 250
    """The longest pause that a prefill chunk may bring into the running streams."""
    decode_share: float = 0.5
    """The part of the time that decoding gets while prompts are read."""
    ageing_s: float = 30.0
    """A waiting request rises by one class after each of these."""
    integrity: bool = False
    """Check the block store whenever the engine goes idle. For tests."""


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What the HTTP side needs."""

    engine: EngineConfig
    host: str = "127.0.0.1"
    port: int = 8100
    served_model_name: str = ""
    api_keys: dict[str, Priority] = field(default_factory=dict)
    """Empty: no key is asked for. Each key has the priority that its requests get by default."""
    default_priority: Priority = Priority.NORMAL
    max_output_tokens: int | None = None
    chat_template: str = ""
    """A family's name, a file, or the text itself. Empty: the model's own."""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    request_params: dict[str, Any] = field(default_factory=dict)
    """What a request that does not say otherwise gets, by OpenAI's names; also `chat_template_kwargs`."""
    max_body_bytes: int = 32 * 1024 * 1024
    keep_alive_s: float = 5.0
    """Silence in a stream after which a comment is sent."""
    drain_timeout_s: float = 30.0
    metrics: bool = True
    log_level: str = "info"
