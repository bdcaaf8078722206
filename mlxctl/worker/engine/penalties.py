"""Edits of single logits: a request's bias, and the penalties on tokens that its row has read or said."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxctl.worker.types import Sampling

SPARE_LEDGERS = 32
FIRST_SLOTS = 64


class EditedRow(Protocol):
    """A row of the batch. `tokens` is one list that only grows; its first `num_prompt` are the prompt."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def num_prompt(self) -> int: ...


def edits_logits(sampling: Sampling) -> bool:
    return bool(
        sampling.logit_bias
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
    )


class Ledger:
    """The tokens of one row whose logits change, and by how much; it follows the row from step to step.

    Each token has one slot in four parallel arrays: its id, what is added first, the repetition penalty (1 where the
    token was not seen), and what is taken away last.
    """

    def __init__(self, sampling: Sampling, vocab_size: int) -> None:
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._slots: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._followed = 0
        self._ids = np.zeros(FIRST_SLOTS, dtype=np.int32)
        self._bias = np.zeros(FIRST_SLOTS, dtype=np.float32)
        self._repetition = np.ones(FIRST_SLOTS, dtype=np.float32)
        self._minus = np.zeros(FIRST_SLOTS, dtype=np.float32)
        for token, bias in sampling.logit_bias:
            if self._is_known(token):
                slot = self._slot(token)
                self._bias[slot] += bias

    def follow(self, tokens: list[int], num_prompt: int) -> None:
        """Take in what was appended since the last call."""
        start, self._followed = self._followed, len(tokens)
        if self._sampling.repetition_penalty != 1.0:
            for token in set(tokens[start:]):
                if self._is_known(token):
                    slot = self._slot(token)
                    self._repetition[slot] = self._sampling.repetition_penalty
        if self._sampling.presence_penalty or self._sampling.frequency_penalty:
            for token in tokens[max(start, num_prompt) :]:
                if self._is_known(token):
                    self._count(token)

    def columns(self) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """ids (each once), bias, repetition penalty, subtrahend; each [slots], good until the next `follow`."""
        used = len(self._slots)
        return self._ids[:used], self._bias[:used], self._repetition[:used], self._minus[:used]

    def _is_known(self, token: int) -> bool:
        # an id outside the row would edit its neighbour in the batch
        return 0 <= token < self._vocab_size

    def _count(self, token: int) -> None:
        count = self._counts[token] = self._counts.get(token, 0) + 1
        slot = self._slot(token)
        self._minus[slot] = self._sampling.presence_penalty + count * self._sampling.frequency_penalty

    def _slot(self, token: int) -> int:
        """The token's place in the arrays, which this may replace by longer ones: ask before touching them."""
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == self._ids.size:
            self._ids, self._bias = np.tile(self._ids, 2), np.pad(self._bias, (0, slot))
            self._repetition = np.pad(self._repetition, (0, slot), constant_values=1.0)
            self._minus = np.pad(self._minus, (0, slot))
        self._ids[slot] = token
        return slot


class Penalties:
    """The ledgers of the rows at hand."""

    def __init__(self) -> None:
        self._ledgers: OrderedDict[int, tuple[list[int], Ledger]] = OrderedDict()

    def edit(self, logits: mx.array, rows: Sequence[EditedRow]) -> mx.array:
        """Float32 [B, V] with every row's edits: bias, then repetition, then presence and frequency."""
        vocab_size = logits.shape[1]
        places, biases, repetitions, subtrahends = [], [], [], []
        for index, row in enumerate(rows):
            if not edits_logits(row.sampling):
                continue
            ids, bias, repetition, minus = self._ledger(row, vocab_size).columns()
            places.append(ids + np.int32(index * vocab_size))
            biases.append(bias)
            repetitions.append(repetition)
            subtrahends.append(minus)
        self._drop_idle(len(rows))
        if not any(place.size for place in places):
            return logits
        where = mx.array(np.concatenate(places))
        factor = mx.array(np.concatenate(repetitions))
        edited = logits.astype(mx.float32).reshape(-1)
        values = edited[where] + mx.array(np.concatenate(biases))
        values = mx.where(values < 0, values * factor, values / factor) - mx.array(np.concatenate(subtrahends))
        edited[where] = values
        return edited.reshape(logits.shape)

    def _ledger(self, row: EditedRow, vocab_size: int) -> Ledger:
        # the list is kept beside its ledger, so that no other row's can come to have the same id
        held = self._ledgers.pop(id(row.tokens), None)
        ledger = held[1] if held else Ledger(row.sampling, vocab_size)
        ledger.follow(row.tokens, row.num_prompt)
        self._ledgers[id(row.tokens)] = (row.tokens, ledger)
        return ledger

    def _drop_idle(self, batch: int) -> None:
        while len(self._ledgers) > batch + SPARE_LEDGERS:
            self._ledgers.popitem(last=False)
