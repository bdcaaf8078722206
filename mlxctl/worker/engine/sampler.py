"""Draws the next token of every row of a batch at once, each row by its own request's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlxctl.worker.engine.candidates import (
    LIKELIEST,
    WHOLE,
    column,
    draw_among_all,
    draw_among_likeliest,
    shortlist_length,
)
from mlxctl.worker.engine.logprobs import Ranked, rank
from mlxctl.worker.engine.noise import counter_keys
from mlxctl.worker.engine.penalties import Penalties, edits_logits
from mlxctl.worker.types import Matcher, Sampling, TokenLogprobs

COLDEST = 1e-5
"""The lowest temperature that is divided by; colder ones are this cold, which is the argmax but for near ties."""


class SamplerRow(Protocol):
    """One row of the decode batch. `tokens`: prompt and what was drawn so far, appended to by the engine."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def num_prompt(self) -> int: ...
    @property
    def draw_seed(self) -> int: ...
    @property
    def matcher(self) -> Matcher | None: ...


@dataclass(frozen=True, slots=True)
class Draw:
    """A step's tokens, not yet computed. tokens: int32 [B]."""

    tokens: mx.array
    ranked: Ranked | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """Everything that `read` needs; to be evaluated together."""
        return [self.tokens, *(self.ranked.arrays if self.ranked else [])]

    def read(self) -> list[tuple[int, TokenLogprobs | None]]:
        """Token and, where asked for, log-probabilities of each row. Waits for the device."""
        mx.eval(self.arrays)
        told = self.ranked.read() if self.ranked else {}
        return [(int(token), told.get(index)) for index, token in enumerate(np.array(self.tokens))]


class Sampler:
    """Keeps what rows have said so far, from step to step. Used by the engine thread alone."""

    def __init__(self) -> None:
        self._penalties = Penalties()

    def draw(self, logits: mx.array, rows: Sequence[SamplerRow]) -> Draw:
        """Build the graph of one draw; nothing is computed yet. logits: [B, V], any float type, one row for each.

        Order: grammar mask, bias, penalties, temperature, top_k, top_p, min_p. A row whose grammar allows nothing gets
        token 0, which its matcher will not accept.
        """
        allowed = logits
        if any(row.matcher is not None for row in rows):
            allowed = _forbid(logits, rows)
        if any(edits_logits(row.sampling) for row in rows):
            allowed = self._penalties.edit(allowed, rows)
        tokens = _draw_groups(allowed, rows)
        return Draw(tokens, rank(logits, tokens, [row.sampling.logprobs for row in rows]))


def _forbid(logits: mx.array, rows: Sequence[SamplerRow]) -> mx.array:
    """-inf wherever a row's grammar does not allow the token, columns beyond the grammar's vocabulary included."""
    vocab_size = logits.shape[1]
    words = np.full((len(rows), -(-vocab_size // 32)), -1, dtype=np.int32)
    for index, row in enumerate(rows):
        if row.matcher is not None:
            words[index] = 0
            row.matcher.fill_mask(words[index])
    bits = (mx.array(words)[:, :, None] >> mx.arange(32, dtype=mx.int32)) & 1
    allowed = bits.reshape(len(rows), -1)[:, :vocab_size].astype(mx.bool_)
    return mx.where(allowed, logits.astype(mx.float32), -mx.inf)


def _draw_groups(logits: mx.array, rows: Sequence[SamplerRow]) -> mx.array:
    """Rows that need the same work are drawn together, at most a few groups a batch."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(shortlist_length(row.sampling, logits.shape[1]), []).append(index)
    if len(groups) == 1:
        return _draw_group(logits, rows, next(iter(groups)))
    parts = [
        _draw_group(logits[mx.array(members)], [rows[index] for index in members], length)
        for length, members in groups.items()
    ]
    places = np.argsort(np.concatenate([np.array(members) for members in groups.values()]))
    return mx.concatenate(parts)[mx.array(places)]


def _draw_group(logits: mx.array, rows: Sequence[SamplerRow], length: int) -> mx.array:
    if length == LIKELIEST:
        return mx.argmax(logits, axis=-1).astype(mx.int32)
    keys = mx.array(counter_keys([row.draw_seed for row in rows], [len(row.tokens) for row in rows]))
    scaled = logits.astype(mx.float32) / column([max(row.sampling.temperature, COLDEST) for row in rows])
    samplings = [row.sampling for row in rows]
    if length == WHOLE:
        return draw_among_all(scaled, keys, samplings)
    return draw_among_likeliest(scaled, keys, samplings, length)
