"""Random numbers that follow from a row's seed, its position and a token's id, and from nothing else: not from the
batch, the row's place in it, or what was drawn before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

STEP = np.uint64(0x9E3779B97F4A7C15)
WORD = (1 << 64) - 1


def counter_keys(seeds: Sequence[int], positions: Sequence[int]) -> NDArray[np.uint32]:
    """[B, 2] key words of B draws. Seeds count modulo 2**64; neighbouring seeds and positions have unlike keys."""
    mixed = _mix(np.array([seed & WORD for seed in seeds], dtype=np.uint64))
    mixed = _mix(mixed + np.array(positions, dtype=np.uint64) * STEP)
    return np.ascontiguousarray(mixed).view(np.uint32).reshape(-1, 2)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's step."""
    words = words + STEP
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def token_bits(keys: mx.array, ids: mx.array) -> mx.array:
    """32 random bits per token id, uint32 [B, n]. keys: uint32 [B, 2]; ids: uint32 [1, n] or [B, n]."""
    bits = (ids * 0x9E3779B1) ^ keys[:, 0:1]
    bits = (bits ^ (bits >> 16)) * 0x85EBCA6B
    bits = (bits ^ (bits >> 13)) * 0xC2B2AE35
    bits = (bits ^ (bits >> 16)) + keys[:, 1:2]
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)


def gumbel(keys: mx.array, ids: mx.array) -> mx.array:
    """Standard Gumbel noise, float32 [B, n], always finite: from -2.9 to 22.9. Shapes as for `token_bits`."""
    return _gumbel_for(mx.default_device().type)(keys, ids)


def _gumbel(keys: mx.array, ids: mx.array) -> mx.array:
    # An exponential by inversion, whose logarithm is the noise. High noise comes from bits near zero, where float32
    # tells all 2**32 of them apart: so unlikely tokens, which win by high noise alone, win as often as they should.
    # The series is log1p's, which as a function of its own costs four times the logarithm.
    uniform = mx.minimum((token_bits(keys, ids).astype(mx.float32) + 0.5) * 2.0**-32, 1.0 - 2.0**-24)
    exponential = mx.where(uniform < 2.0**-11, uniform + uniform * uniform * 0.5, -mx.log(1.0 - uniform))
    return -mx.log(exponential)


@cache
def _gumbel_for(device: mx.DeviceType) -> Callable[[mx.array, mx.array], mx.array]:
    # one kernel instead of twenty on a GPU; on a CPU the fused one loses MLX's vector loops and is slower
    if device != mx.DeviceType.gpu:
        return _gumbel
    fused: Callable[[mx.array, mx.array], mx.array] = mx.compile(_gumbel)
    return fused
