"""What a model says to a prompt that it reads alone: mlx-lm's own caches, one row, the likeliest token every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model


@dataclass(slots=True)
class Walk:
    """A prompt's caches after the last token that was fed; the last of `drawn` has not been fed yet."""

    caches: list[Any]
    drawn: list[int]


class SingleRuns:
    """The oracle that batches are held against. Answers are kept, and go on from where they stopped."""

    def __init__(self, folder: Path) -> None:
        self.model, config = load_model(folder)
        self.vocab_size: int = config["vocab_size"]
        self._walks: dict[tuple[int, ...], Walk] = {}

    def answer(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` likeliest tokens after `prompt`, one after the other."""
        walk = self._walks.get(tuple(prompt))
        if walk is None:
            caches = list(make_prompt_cache(self.model))
            walk = self._walks[tuple(prompt)] = Walk(caches, [self._likeliest(prompt, caches)])
        while len(walk.drawn) < count:
            walk.drawn.append(self._likeliest(walk.drawn[-1:], walk.caches))
        return walk.drawn[:count]

    def until(self, prompt: Sequence[int], count: int, stops: frozenset[int]) -> tuple[list[int], int | None]:
        """The answer up to its first stop token, which is not part of it, and that token; None: there is none."""
        drawn = self.answer(prompt, count)
        place = next((place for place, token in enumerate(drawn) if token in stops), None)
        return (drawn, None) if place is None else (drawn[:place], drawn[place])

    def prompt(self, seed: int, length: int) -> tuple[int, ...]:
        """Random tokens, the same for the same seed; a longer one begins with the shorter."""
        tokens = np.random.default_rng(seed).integers(1, self.vocab_size, size=4096)
        return tuple(tokens[:length].tolist())

    def _likeliest(self, fed: Sequence[int], caches: list[Any]) -> int:
        return int(mx.argmax(self.model(mx.array([list(fed)]), cache=caches)[0, -1]))
