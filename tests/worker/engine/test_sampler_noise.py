"""The noise behind every draw: even, independent of its neighbours, and the same for the same key for ever."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxctl.worker.engine.noise import _gumbel, counter_keys, gumbel, token_bits
from tests.fakes.sampling import chi_square_is_plausible

VOCAB = 1 << 15
KNOWN_KEYS = [[1293516399, 2802244911], [1546707924, 3326019116], [1299924519, 3108947616], [1299924519, 3108947616]]
KNOWN_BITS = [[2284264293, 2885232850, 4047408460], [2128662649, 3266893527, 323798906]]


def bits_of(seeds, positions, ids=VOCAB):
    keys = mx.array(counter_keys(seeds, positions))
    wanted = mx.arange(ids, dtype=mx.uint32)[None] if isinstance(ids, int) else mx.array(ids, dtype=mx.uint32)
    return np.array(token_bits(keys, wanted))


SERIES = {
    "ids under one key": lambda: bits_of([7], [100])[0],
    "ids under a zero seed": lambda: bits_of([0], [0])[0],
    "positions of one token": lambda: bits_of([7] * VOCAB, range(VOCAB), [[11]])[:, 0],
    "seeds of one token": lambda: bits_of(range(VOCAB), [3] * VOCAB, [[0]])[:, 0],
    "seeds that differ in high bits": lambda: bits_of([n << 49 for n in range(VOCAB)], [3] * VOCAB, [[5]])[:, 0],
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_every_byte_is_even_and_its_neighbour_another_draw(name, shift):
    byte = SERIES[name]() >> shift & 0xFF
    assert chi_square_is_plausible(np.bincount(byte, minlength=256), np.full(256, VOCAB / 256))
    for lag in (1, 2, 64):
        pairs = (byte[:-lag] >> 4).astype(int) * 16 + (byte[lag:] >> 4)
        assert chi_square_is_plausible(np.bincount(pairs, minlength=256), np.full(256, pairs.size / 256))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (([5], [9]), ([5], [10])),
        (([5], [9]), ([6], [9])),
        (([5], [9]), ([5 + 0x9E3779B97F4A7C15], [8])),
        (([5], [9]), ([5 | 1 << 63], [9])),
        (([0], [1]), ([1], [0])),
    ],
)
def test_neighbouring_keys_share_half_of_their_bits_by_chance(left, right):
    """Also where seed and position could make up for each other."""
    differing = np.unpackbits((bits_of(*left) ^ bits_of(*right)).view(np.uint8)).reshape(-1, 32)
    assert np.abs(differing.mean(axis=0) - 0.5).max() < 0.02
    assert chi_square_is_plausible(
        np.bincount(differing.sum(axis=1), minlength=33), VOCAB * np.array(binomial(32)), z=5
    )


def binomial(n):
    row = [1.0]
    for _ in range(n):
        row = [(left + right) / 2 for left, right in zip([0, *row], [*row, 0], strict=True)]
    return row


def test_the_same_for_ever():
    """A seed that somebody wrote down must give the same answer with the next version."""
    keys = counter_keys([0, 1, -1, 2**64 - 1], [0, 5, 7, 7])
    assert keys.dtype == np.uint32
    assert keys[2].tolist() == keys[3].tolist()
    assert keys.tolist() == KNOWN_KEYS
    assert bits_of([0, 1], [0, 5], 3).tolist() == KNOWN_BITS


def test_a_subset_of_ids_gets_the_noise_it_has_among_all():
    keys = mx.array(counter_keys([1, 2], [3, 4]))
    everything = np.array(gumbel(keys, mx.arange(5000, dtype=mx.uint32)[None]))
    some = np.array([[4000, 0, 17], [3, 3, 4999]], dtype=np.uint32)
    assert np.array_equal(np.array(gumbel(keys, mx.array(some))), np.take_along_axis(everything, some.astype(int), 1))


def test_gumbel_is_what_the_bits_say():
    bits = bits_of(range(20), [1] * 20)
    keys = mx.array(counter_keys(range(20), [1] * 20))
    noise = np.array(gumbel(keys, mx.arange(VOCAB, dtype=mx.uint32)[None]), dtype=np.float64)
    uniform = np.minimum((bits.astype(np.float64) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    expected = -np.log(-np.log1p(-uniform))
    # float32 rounds the low end coarsely, where only losers are
    low = uniform > 0.999
    np.testing.assert_allclose(noise[~low], expected[~low], atol=1e-4)
    np.testing.assert_allclose(noise[low], expected[low], atol=0.1)
    assert abs(noise.mean() - np.euler_gamma) < 0.01
    assert abs(noise.var() - np.pi**2 / 6) < 0.02
    assert noise.min() >= -2.9 and noise.max() <= 22.9


@pytest.mark.parametrize("share", [2.0**-12, 2.0**-20, 2.0**-26])
def test_high_noise_is_as_rare_as_it_should_be(share):
    """Unlikely tokens win by it. Bits are given instead of drawn, so that the far tail can be seen at all."""
    bits = mx.array(np.array([[int(share * 2**32) - 1, int(share * 2**32)]], dtype=np.uint32))
    noise = noise_from(bits)[0]
    expected = -np.log(-np.log1p(-share))
    assert noise[1] < expected < noise[0]
    np.testing.assert_allclose(noise, expected, atol=1.0 / (share * 2**32))


def test_noise_is_finite_at_both_ends_of_the_bits():
    noise = noise_from(mx.array(np.array([[0, 2**32 - 1]], dtype=np.uint32)))[0]
    assert 22.8 < noise[0] < 22.9
    assert -2.9 < noise[1] < -2.8


def noise_from(bits):
    """The noise of given bits: the mixing is run backwards, to the ids that lead to them under a key of zeros."""
    values = np.array(bits, dtype=np.uint64)
    word = np.uint64(0xFFFFFFFF)

    def unshift(value, by):
        out = value
        for _ in range(32 // by):
            out = value ^ (out >> np.uint64(by))
        return out

    def divide(value, factor):
        return value * np.uint64(pow(factor, -1, 2**32)) & word

    values = divide(unshift(values, 16), 0x846CA68B)
    values = divide(unshift(values, 15), 0x7FEB352D)
    values = unshift(unshift(values, 16), 16)
    values = divide(values, 0xC2B2AE35)
    values = divide(unshift(values, 13), 0x85EBCA6B)
    ids = divide(unshift(values, 16), 0x9E3779B1)
    zeros = mx.zeros((ids.shape[0], 2), dtype=mx.uint32)
    wanted = mx.array(ids.astype(np.uint32))
    assert np.array_equal(np.array(token_bits(zeros, wanted)), np.array(bits))
    return np.array(gumbel(zeros, wanted), dtype=np.float64)


def test_a_fused_kernel_gives_the_same_noise():
    """What a GPU runs; compiled here for whatever device there is."""
    keys = mx.array(counter_keys([1, 2, 3], [9, 9, 9]))
    ids = mx.arange(2048, dtype=mx.uint32)[None]
    np.testing.assert_allclose(
        np.array(mx.compile(_gumbel)(keys, ids)), np.array(_gumbel(keys, ids)), rtol=1e-5, atol=1e-5
    )
