"""Rows, matchers and a plain numpy account of what a draw should be, to hold the vectorised sampler against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlxctl.worker.types import Matcher, Sampling


@dataclass(eq=False)
class Row:
    """A row of the batch, as the engine has them."""

    sampling: Sampling = field(default_factory=Sampling)
    tokens: list[int] = field(default_factory=lambda: [0])
    num_prompt: int = 1
    draw_seed: int = 0
    matcher: Matcher | None = None


class Allowing:
    """A matcher that always allows the same tokens; `vocab_size` may be smaller than the logits are wide."""

    is_done = False

    def __init__(self, allowed: set[int], vocab_size: int) -> None:
        self.allowed, self.vocab_size = allowed, vocab_size

    def accept(self, token: int) -> bool:
        return token in self.allowed

    def fill_mask(self, row: Any) -> None:
        words = np.zeros(-(-self.vocab_size // 32), dtype=np.uint32)
        for token in self.allowed:
            words[token // 32] |= np.uint32(1 << token % 32)
        row[: words.size] = words.view(np.int32)


def edited(logits: Any, row: Row) -> Any:
    """Float64 [V] after mask, bias, and the penalties on tokens read and said."""
    out = np.array(logits, dtype=np.float64)
    if isinstance(row.matcher, Allowing):
        out[[token for token in range(out.size) if token not in row.matcher.allowed]] = -np.inf
    rules = row.sampling
    for token, bias in rules.logit_bias:
        out[token] += bias
    for token in set(row.tokens):
        out[token] = out[token] * rules.repetition_penalty if out[token] < 0 else out[token] / rules.repetition_penalty
    said = row.tokens[row.num_prompt :]
    for token in set(said):
        out[token] -= rules.presence_penalty + rules.frequency_penalty * said.count(token)
    return out


def softmax(logits: Any) -> Any:
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def kept(logits: Any, rules: Sampling) -> Any:
    """Bool [V]: the tokens that temperature, top_k, top_p and min_p leave, equally likely ones together."""
    scaled = logits / rules.temperature
    left = np.ones(scaled.size, dtype=bool)
    if 0 < rules.top_k < scaled.size:
        left &= scaled >= np.sort(scaled)[-rules.top_k]
    shares = softmax(np.where(left, scaled, -np.inf))
    if rules.top_p < 1.0:
        likelier = np.array([shares[shares > share].sum() for share in shares])
        left &= likelier < rules.top_p
    return left & (shares >= rules.min_p * shares.max())


def distribution(logits: Any, row: Row) -> Any:
    """[V]: the probability of each token as the next one."""
    values = edited(logits, row)
    if row.sampling.is_greedy:
        return (np.arange(values.size) == values.argmax()).astype(float)
    return softmax(np.where(kept(values, row.sampling), values / row.sampling.temperature, -np.inf))


def chi_square_is_plausible(counts: Any, expected: Any, z: float = 4.5) -> bool:
    """Pearson's test; False for what chance brings about three times in a million. Cells under 5 are pooled."""
    counts, expected = np.ravel(counts).astype(float), np.ravel(expected).astype(float)
    if counts[expected == 0].any():
        return False
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = max(1, counts.size - 1)
    # Wilson and Hilferty: the cube root of a chi-square variable is nearly normal
    limit = freedom * (1 - 2 / (9 * freedom) + z * np.sqrt(2 / (9 * freedom))) ** 3
    return bool(statistic <= limit)
