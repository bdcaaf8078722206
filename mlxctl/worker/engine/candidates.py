"""A draw among the likeliest tokens of a row: top_k, top_p and min_p as thresholds over a short sorted list."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlxctl.worker.engine.noise import gumbel
from mlxctl.worker.types import Sampling

SHORTLIST = 1024
"""Tokens among which top_p draws at most. A nucleus wider than this is cut there; a larger top_k widens the list."""
WHOLE, LIKELIEST = 0, 1
CELLS_IN_CACHE = 400_000
"""On a CPU noise for more tokens at once leaves the caches, and a row costs twice as much."""


def shortlist_length(sampling: Sampling, vocab_size: int) -> int:
    """How many of the likeliest tokens a draw can touch: 1 is the argmax, `WHOLE` stands for the vocabulary.

    It follows from the request alone, so that a row's list does not depend on the rows beside it.
    """
    if sampling.is_greedy or sampling.top_k == 1 or sampling.top_p <= 0.0 or sampling.min_p >= 1.0:
        return LIKELIEST
    top_k = sampling.top_k if 0 < sampling.top_k < vocab_size else 0
    if not top_k and sampling.top_p >= 1.0:
        return WHOLE
    return min(vocab_size, max(SHORTLIST, 1 << (top_k - 1).bit_length()))


def column(values: Sequence[float]) -> mx.array:
    """Float32 [B, 1]."""
    return mx.array(np.array(values, dtype=np.float32)[:, None])


def draw_among_likeliest(scaled: mx.array, keys: mx.array, rules: Sequence[Sampling], length: int) -> mx.array:
    """int32 [B]. scaled: logits over temperature, float32 [B, V]; rules: one for each row.

    Each cut keeps the tokens that are exactly as likely as the last one kept. top_p measures what top_k has left; where
    there is no top_k, the mass of the tokens beyond the list counts too.
    """
    vocab_size = scaled.shape[1]
    ids = mx.argpartition(scaled, vocab_size - length, axis=-1)[:, vocab_size - length :]
    values = mx.take_along_axis(scaled, ids, axis=-1)
    order = mx.argsort(-values, axis=-1)
    ids, values = mx.take_along_axis(ids, order, axis=-1), mx.take_along_axis(values, order, axis=-1)
    counts = [rule.top_k if 0 < rule.top_k < vocab_size else 0 for rule in rules]
    if any(counts):
        last = mx.array([[(count or length) - 1] for count in counts])
        values = mx.where(values >= mx.take_along_axis(values, last, axis=-1), values, -mx.inf)
    lowest = values[:, :1] + mx.log(column([rule.min_p for rule in rules]))
    if any(rule.top_p < 1.0 for rule in rules):
        mass = _mass(scaled, values, counts)
        likelier = mx.cumsum(mx.exp(values - mass), axis=-1, inclusive=False)
        # the sum's rounding must not cut a row that asked for everything
        within = likelier < column([rule.top_p if rule.top_p < 1.0 else np.inf for rule in rules])
        lowest = mx.maximum(lowest, mx.min(mx.where(within, values, mx.inf), axis=-1, keepdims=True))
    noise = gumbel(keys, ids.astype(mx.uint32))
    drawn = mx.argmax(mx.where(values >= lowest, values + noise, -mx.inf), axis=-1, keepdims=True)
    return mx.take_along_axis(ids, drawn, axis=-1)[:, 0].astype(mx.int32)


def _mass(scaled: mx.array, values: mx.array, counts: list[int]) -> mx.array:
    """Logarithm of the mass that top_p is a share of, [B, 1]: what top_k has left, else the whole vocabulary's."""
    if all(counts):
        return mx.logsumexp(values, axis=-1, keepdims=True)
    everything = mx.logsumexp(scaled, axis=-1, keepdims=True)
    if not any(counts):
        return everything
    return mx.where(column(counts) > 0, mx.logsumexp(values, axis=-1, keepdims=True), everything)


def draw_among_all(scaled: mx.array, keys: mx.array, rules: Sequence[Sampling]) -> mx.array:
    """int32 [B], over the whole vocabulary and without a sort: temperature and min_p. Arguments as above."""
    if any(rule.min_p > 0.0 for rule in rules):
        lowest = mx.max(scaled, axis=-1, keepdims=True) + mx.log(column([rule.min_p for rule in rules]))
        scaled = mx.where(scaled >= lowest, scaled, -mx.inf)
    ids = mx.arange(scaled.shape[1], dtype=mx.uint32)[None]
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    step = max(1, CELLS_IN_CACHE // scaled.shape[1]) if on_cpu else len(rules)
    drawn = [
        mx.argmax(scaled[start : start + step] + gumbel(keys[start : start + step], ids), axis=-1)
        for start in range(0, len(rules), step)
    ]
    return mx.concatenate(drawn).astype(mx.int32)
