"""Drives a step loop by hand: a clock that only work moves on, what was told to whom, and what must always hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import load_model

from mlxctl.worker.config import EngineConfig
from mlxctl.worker.engine.batch import Batch
from mlxctl.worker.engine.chains import Chains
from mlxctl.worker.engine.decoder import Decoder, PaddedDecoder, SingleDecoder
from mlxctl.worker.engine.grouped import GroupedDecoder
from mlxctl.worker.engine.lanes import capacity_for
from mlxctl.worker.engine.layout import Layout, measure_layout
from mlxctl.worker.engine.loop import StepLoop
from mlxctl.worker.engine.prefill import Prefill
from mlxctl.worker.engine.sampler import Sampler
from mlxctl.worker.kv.blocks import BlockStore
from mlxctl.worker.scheduler.ledger import Ledger
from mlxctl.worker.types import Drawn, Ended, Event, Failed, Generation, Prefilled, Sampling, TokenLogprobs
from tests.fakes.single_runs import SingleRuns

GREEDY = Sampling(temperature=0.0)
BLOCK_TOKENS = 16
DECODERS = ("grouped", "padded", "single")
TOKEN_S, STEP_S = 0.001, 0.01
"""What the clock of `CostedModel` shows for each token of a prompt, and for a decode step of any size."""


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class CostedModel:
    """A model whose calls take time on a clock of ours, and which can be made to fail."""

    def __init__(self, model: Any, clock: Clock) -> None:
        self._model, self._clock = model, clock
        self.read: list[int] = []
        """The tokens of each prompt chunk."""
        self.fails: Callable[[mx.array], bool] = lambda tokens: False

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        if self.fails(tokens):
            raise RuntimeError("[metal] out of memory")
        self._clock.now_s += TOKEN_S * tokens.shape[1] if tokens.shape[1] > 1 else STEP_S
        if tokens.shape[1] > 1:
            self.read.append(tokens.shape[1])
        return self._model(tokens, cache=cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@dataclass(frozen=True, slots=True)
class Tiny:
    """A tiny model, loaded once for all tests of a session, and the oracle of its answers."""

    kind: str
    folder: Path
    model: Any
    layout: Layout
    runs: SingleRuns

    @classmethod
    def load(cls, kind: str, folder: Path) -> Tiny:
        model, _ = load_model(folder)
        return cls(kind, folder, model, measure_layout(model), SingleRuns(folder))

    @property
    def vocab_size(self) -> int:
        return self.runs.vocab_size

    def prompt(self, seed: int, length: int) -> tuple[int, ...]:
        return self.runs.prompt(seed, length)


def make_decoder(name: str, model: Any, layout: Layout) -> Decoder:
    if name == "grouped":
        return GroupedDecoder(model, layout)
    return PaddedDecoder(model) if name == "padded" else SingleDecoder(model)


def build(
    tiny: Tiny,
    decoder: str = "grouped",
    *,
    kv_tokens: int | None = None,
    kv_bytes: int = 1 << 40,
    cache_bytes: int | None = 1 << 40,
    block_tokens: int = BLOCK_TOKENS,
    context_length: int = 4096,
    revision: str = "",
    **settings: Any,
) -> Driver:
    """A loop over `tiny` with a clock of its own. `kv_tokens`: room for so many tokens, counted without rounding up to
    lanes; `cache_bytes` None: no block store.
    """
    clock = Clock()
    model = CostedModel(tiny.model, clock)
    layout = tiny.layout

    def row_bytes(tokens: int) -> int:
        if kv_tokens is not None:
            return tokens
        return layout.row_bytes(capacity_for(tokens) if decoder == "grouped" else tokens)

    store = None
    if cache_bytes is not None:
        store = BlockStore(
            block_tokens=block_tokens,
            budget_bytes=cache_bytes,
            window_tokens=layout.window,
            needs_state=layout.has_state,
            revision=revision,
        )
    loop = StepLoop(
        model,
        EngineConfig(tiny.folder, block_tokens=block_tokens, **settings),
        context_length=context_length,
        batch=Batch(lambda: make_decoder(decoder, model, layout), Sampler()),
        chains=Chains(model, layout, store),
        ledger=Ledger(kv_bytes if kv_tokens is None else kv_tokens, row_bytes),
        clock=clock,
    )
    return Driver(loop, store, clock, model)


@dataclass
class Driver:
    """What was asked and told, by request and choice. Every step checks what must always hold."""

    loop: StepLoop
    store: BlockStore | None
    clock: Clock
    model: CostedModel
    asked: dict[str, Generation] = field(default_factory=dict)
    tokens: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    logprobs: dict[tuple[str, int], list[TokenLogprobs | None]] = field(default_factory=dict)
    ended: dict[tuple[str, int], Ended] = field(default_factory=dict)
    failed: dict[str, Failed] = field(default_factory=dict)
    prefilled: dict[str, list[Prefilled]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def submit(self, request_id: str, prompt: Sequence[int], max_tokens: int, **rest: Any) -> Generation:
        generation = Generation(request_id, tuple(prompt), max_tokens, **{"sampling": GREEDY, **rest})
        self.asked[request_id] = generation
        for index in range(generation.n):
            self.tokens[request_id, index] = []
            self.logprobs[request_id, index] = []
        self.loop.submit(generation)
        return generation

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.take(self.loop.step())
            self.check()

    def run(self, most: int = 3000) -> None:
        """Until nobody is left."""
        self.run_until(lambda: self.loop.is_idle, most)
        # what an abort of the last ones left to tell
        self.take(self.loop.outbox.take())

    def run_until(self, condition: Callable[[], bool], most: int = 3000) -> None:
        for _ in range(most):
            if condition():
                return
            self.step()
        raise AssertionError(f"{most} steps, and it has not come to pass: {self.loop.outbox.counts}")

    def take(self, events: list[Event]) -> None:
        for event in events:
            self.events.append(event)
            assert event.request_id in self.asked, event
            assert event.request_id not in self.failed, f"{event} after the request had failed"
            if isinstance(event, Prefilled):
                self._take_prefilled(event)
            elif isinstance(event, Failed):
                self.failed[event.request_id] = event
            else:
                key = event.request_id, event.index
                assert key not in self.ended, f"{event} after the choice had ended"
                if isinstance(event, Drawn):
                    self.tokens[key].append(event.token)
                    self.logprobs[key].append(event.logprobs)
                else:
                    self.ended[key] = event

    def _take_prefilled(self, event: Prefilled) -> None:
        assert event.total == len(self.asked[event.request_id].prompt)
        assert 0 <= event.cached <= event.done < event.total
        self.prefilled.setdefault(event.request_id, []).append(event)

    # what must always hold

    def check(self) -> None:
        loop = self.loop
        everyone = [*loop.batch.rows, *loop.intake.sequences()]
        assert len({id(row) for row in everyone}) == len(everyone)
        assert not any(row.ended for row in everyone)
        assert loop.ledger.reserved == sum(row.reserved for row in everyone) <= loop.ledger.budget
        assert len(loop.batch.rows) + loop.intake.rows_to_come <= loop.config.max_batch
        for row in loop.batch.rows:
            assert row.cached <= len(row.tokens) <= loop.context_length
            assert row.reserved >= loop.ledger.row_bytes(row.cached)
        if self.store is not None:
            self.store.check_integrity()
            assert self.store.referenced == sum(row.lease is not None for row in everyone)
            assert self.store.bytes <= self.store.budget_bytes

    def check_drained(self) -> None:
        """Nobody is left, and nothing of theirs but sealed blocks."""
        assert self.loop.is_idle
        assert self.loop.batch.rows == []
        assert self.loop.ledger.reserved == 0
        if self.store is not None:
            assert self.store.referenced == 0
        open_choices = set(self.tokens) - set(self.ended)
        assert {request_id for request_id, _ in open_choices} <= set(self.failed)

    def check_answers(self, runs: SingleRuns) -> None:
        """Every greedy answer, and as much of it as there is where it was cut short, is the single run's."""
        for (request_id, index), drawn in self.tokens.items():
            asked = self.asked[request_id]
            assert asked.sampling.is_greedy
            expected, stop = runs.until(asked.prompt, asked.max_tokens, asked.stop_tokens)
            ended = self.ended.get((request_id, index))
            if ended is None or ended.reason == "aborted":
                assert drawn == expected[: len(drawn)], (request_id, index)
                continue
            assert drawn == expected, (request_id, index, first_difference(drawn, expected))
            assert (ended.reason, ended.stop_token) == (("length", None) if stop is None else ("stop", stop))

    # where a request is just now

    def is_waiting(self, request_id: str) -> bool:
        return any(job.generation.request_id == request_id for job in self.loop.intake.waiting)

    def reading(self, request_id: str) -> Prefill | None:
        found = (one for one in self.loop.intake.reading if one.job.generation.request_id == request_id)
        return next(found, None)

    def is_running(self, request_id: str) -> bool:
        return any(row.generation.request_id == request_id for row in self.loop.batch.rows)

    def said(self, request_id: str, index: int = 0) -> list[int]:
        return self.tokens[request_id, index]


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    pairs = enumerate(zip(one, other, strict=False))
    return next(
        (place for place, (a, b) in pairs if a != b), None if len(one) == len(other) else min(len(one), len(other))
    )
