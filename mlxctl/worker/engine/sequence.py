"""One choice that is being written, and the job of getting it into the batch."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from mlxctl.worker.types import Generation, Matcher, Priority, Sampling

GOLDEN = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1


def draw_seed(seed: int | None, index: int) -> int:
    """64 bits from which a choice's noise comes: the same for the same seed and index, on any day and in any batch."""
    if seed is None:
        return random.getrandbits(64)
    mixed = (seed & WORD) ^ ((index + 1) * GOLDEN & WORD)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    return mixed ^ (mixed >> 31)


@dataclass(slots=True, eq=False)
class Sequence:
    """A row of the batch. The last of `tokens` is fed next."""

    generation: Generation
    index: int
    tokens: list[int]
    draw_seed: int
    waiting_since_s: float
    number: int
    """The order of arrival."""
    matcher: Matcher | None = None
    waited_s: float = 0.0
    """How long it waited before it was in the batch, the last time included."""
    cached: int = 0
    """Tokens in its cache: all but the last, or all of them while the next step is under way."""
    admitted: int = 0
    """The number of the admission: the higher, the later it came into the batch."""
    reserved: int = 0
    """Bytes of KV that are set aside for it."""
    lease: Any = None
    """The last sealed block of its chain, held by one reference."""
    sealed: int = 0
    """Tokens up to which its blocks are sealed."""
    sealing: bool = True
    """False once the cache had no room for a block of its chain."""
    ended: bool = False

    @classmethod
    def of(cls, generation: Generation, index: int, now_s: float, number: int) -> Sequence:
        matcher = generation.grammar.matcher() if generation.grammar else None
        seed = draw_seed(generation.sampling.seed, index)
        return cls(generation, index, list(generation.prompt), seed, now_s, number, matcher)

    @property
    def priority(self) -> Priority:
        return self.generation.priority

    @property
    def sampling(self) -> Sampling:
        return self.generation.sampling

    @property
    def num_prompt(self) -> int:
        return len(self.generation.prompt)

    @property
    def num_drawn(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def most_tokens(self) -> int:
        """The most that it can ever hold."""
        return self.num_prompt + self.generation.max_tokens


@dataclass(slots=True, eq=False)
class Job:
    """Sequences with the same tokens so far, waiting for their cache: a new request's choices, or one preempted row."""

    sequences: list[Sequence]
    resumed: bool = False

    @property
    def generation(self) -> Generation:
        return self.sequences[0].generation

    @property
    def priority(self) -> Priority:
        return self.generation.priority

    def waited_s(self, now_s: float) -> float:
        """How long its sequences have waited in all, the reading of their prompts included."""
        leader = self.sequences[0]
        return leader.waited_s + max(0.0, now_s - leader.waiting_since_s)

    @property
    def number(self) -> int:
        return self.sequences[0].number

    @property
    def tokens(self) -> list[int]:
        return self.sequences[0].tokens

    @property
    def target(self) -> int:
        """Tokens that the cache must hold before the job can join: the last one is fed by the first step."""
        return len(self.tokens) - 1
