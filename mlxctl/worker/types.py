"""The words in which the HTTP side, the scheduler and the engine speak to each other. Plain data, no MLX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol

from mlxctl.worker.errors import RequestError


class Priority(IntEnum):
    """Smaller goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request's tokens are drawn. `logprobs` None: not asked for; k: the k likeliest beside the drawn one."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= 0.0


class Matcher(Protocol):
    """One choice's walk through a grammar. Used by the engine thread alone."""

    def accept(self, token: int) -> bool:
        """Advance by one token. False: the grammar does not allow it, or it has ended."""
        ...

    def fill_mask(self, row: Any) -> None:
        """Write the allowed next tokens into `row`, a numpy int32 array of ceil(vocabulary / 32) bit words."""
        ...

    @property
    def is_done(self) -> bool: ...

    @property
    def error(self) -> str:
        """Why the grammar cannot go on, when it broke off; empty otherwise."""
        ...


class Grammar(Protocol):
    """A compiled grammar; each choice of a request gets a matcher of its own."""

    def matcher(self) -> Matcher: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine is asked for: `n` continuations of one prompt.

    `stop_tokens` end a choice and are not handed out as text. `salt` keeps the cache of one tenant from another's.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    n: int = 1
    priority: Priority = Priority.NORMAL
    stop_tokens: frozenset[int] = frozenset()
    grammar: Grammar | None = None
    salt: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms. `top` is sorted from the likeliest down."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Prefilled:
    """`done` of `total` prompt tokens are in the cache, `cached` of them from before. Sent at the start and a chunk."""

    request_id: str
    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token of choice `index`. A stop token is told by `Ended`, and never drawn."""

    request_id: str
    index: int
    token: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Choice `index` is over: `stop` at a stop token or the grammar's end, `length` at max_tokens or the context."""

    request_id: str
    index: int
    reason: Literal["stop", "length", "aborted"]
    stop_token: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The whole request is over, by an error."""

    request_id: str
    error: RequestError


Event = Prefilled | Drawn | Ended | Failed
Deliver = Callable[[list[Event]], None]
"""Called by the engine thread, once a step, with everything that the step brought."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of the loaded model. `decoder`: `grouped`, `padded` or `single`, as the self-test allowed."""

    path: str
    model_type: str
    context_length: int
    vocab_size: int
    weight_bytes: int
    kv_bytes_per_token: int
    decoder: str = ""
    prefix_cache: bool = True
    self_test: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Counts:
    """What the engine has done since its start. They only grow."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    drawn_tokens: int = 0
    finished: int = 0
    aborted: int = 0
    preemptions: int = 0
    forks: int = 0
    largest_batch: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A look at the engine, cheap enough for every health request."""

    phase: Literal["loading", "ready", "draining", "failed", "stopped"] = "loading"
    error: str = ""
    running: int = 0
    prefilling: int = 0
    waiting: int = 0
    last_progress_s: float = 0.0
    """Seconds since a token was drawn or a chunk read, 0 when idle."""
    totals: Counts = field(default_factory=Counts)
    cache_bytes: int = 0
    cache_budget_bytes: int = 0
    cache_blocks: int = 0
    kv_bytes: int = 0
    kv_reserved_bytes: int = 0
    kv_budget_bytes: int = 0
    mlx_active_bytes: int = 0
    mlx_peak_bytes: int = 0


class Engine(Protocol):
    """The only door to the engine thread. Every method may be called from any thread, and none blocks."""

    def submit(self, generation: Generation) -> None:
        """Queue it, or raise `QueueFull`, `Unavailable` or `InvalidRequest` (it can never fit) at once."""
        ...

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End one choice, or all of them. Unknown ids are ignored: the request may just have ended."""
        ...

    def drain(self) -> None:
        """Refuse new requests; finish those at hand."""
        ...

    def stats(self) -> EngineStats: ...

    def facts(self) -> ModelFacts | None:
        """None until the model is loaded."""
        ...
