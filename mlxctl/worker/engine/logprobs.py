"""Log-probabilities under the model's own distribution: raw logits, before bias, penalties, masks and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlxctl.worker.types import TokenLogprobs

WIDTH = 32
"""Alternatives that are ranked, so that equally likely ones are told in one order however many were asked for."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Lazy arrays for the rows that asked. `members`: their places in the batch; `asked`: alternatives for each."""

    members: tuple[int, ...]
    asked: tuple[int, ...]
    drawn: mx.array
    ids: mx.array | None
    values: mx.array | None

    @property
    def arrays(self) -> list[mx.array]:
        return [array for array in (self.drawn, self.ids, self.values) if array is not None]

    def read(self) -> dict[int, TokenLogprobs]:
        """By place in the batch. Waits for the device."""
        drawn = np.array(self.drawn)
        if self.ids is None or self.values is None:
            return {member: TokenLogprobs(float(value)) for member, value in zip(self.members, drawn, strict=True)}
        ids, values = np.array(self.ids), np.array(self.values)
        told = {}
        for row, (member, count) in enumerate(zip(self.members, self.asked, strict=True)):
            order = np.lexsort((ids[row], -values[row]))[:count]
            top = tuple(zip(ids[row][order].tolist(), values[row][order].tolist(), strict=True))
            told[member] = TokenLogprobs(float(drawn[row]), top)
        return told


def rank(logits: mx.array, tokens: mx.array, asked: Sequence[int | None]) -> Ranked | None:
    """logits: [B, V] as the model gave them; tokens: int32 [B]; asked: alternatives per row, None: nothing at all."""
    members = tuple(index for index, count in enumerate(asked) if count is not None)
    if not members:
        return None
    counts = tuple(count for count in asked if count is not None)
    if len(members) < len(asked):
        places = mx.array(members)
        logits, tokens = logits[places], tokens[places]
    raw = logits.astype(mx.float32)
    whole = mx.logsumexp(raw, axis=-1, keepdims=True)
    drawn = (mx.take_along_axis(raw, tokens[:, None], axis=-1) - whole)[:, 0]
    if not any(counts):
        return Ranked(members, counts, drawn, None, None)
    vocab_size = raw.shape[1]
    width = min(vocab_size, max(WIDTH, 1 << (max(counts) - 1).bit_length()))
    ids = mx.argpartition(raw, vocab_size - width, axis=-1)[:, vocab_size - width :]
    return Ranked(members, counts, drawn, ids, mx.take_along_axis(raw, ids, axis=-1) - whole)
