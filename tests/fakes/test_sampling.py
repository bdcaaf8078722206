"""The account that the sampler is held against, checked by hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from mlxctl.worker.types import Sampling
from tests.fakes.sampling import Allowing, Row, chi_square_is_plausible, distribution, edited, kept

HALVES = np.log([0.5, 0.25, 0.125, 0.0625, 0.0625])


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Sampling(), [0, 1, 2, 3, 4]),
        (Sampling(top_k=2), [0, 1]),
        (Sampling(top_k=4), [0, 1, 2, 3, 4]),
        (Sampling(top_p=0.5), [0]),
        (Sampling(top_p=0.51), [0, 1]),
        (Sampling(top_p=0.9), [0, 1, 2, 3, 4]),
        (Sampling(top_k=2, top_p=0.6), [0]),
        (Sampling(top_k=2, top_p=0.7), [0, 1]),
        (Sampling(min_p=0.3), [0, 1]),
        (Sampling(min_p=0.2), [0, 1, 2]),
        (Sampling(temperature=0.5, min_p=0.2), [0, 1]),
    ],
)
def test_kept(rules, expected):
    assert np.nonzero(kept(HALVES, rules))[0].tolist() == expected


def test_edits_come_in_order():
    rules = Sampling(
        logit_bias=((0, 3.0), (2, -1.0)), repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25
    )
    row = Row(rules, tokens=[0, 2, 1, 1], num_prompt=2)
    assert edited([1.0, 1.0, 0.0, 7.0], row).tolist() == [2.0, 0.5 - 1.0, -2.0, 7.0]


def test_greedy_and_masked():
    row = Row(Sampling(temperature=0.0), matcher=Allowing({1, 2}, 3))
    assert distribution([9.0, 1.0, 2.0, 9.0], row).tolist() == [0, 0, 1, 0]


def test_a_matcher_writes_bits():
    words = np.full(3, -1, dtype=np.int32)
    Allowing({0, 31, 33}, 64).fill_mask(words)
    assert words.view(np.uint32).tolist() == [1 | 1 << 31, 2, 0xFFFFFFFF]


@pytest.mark.parametrize(
    ("counts", "expected", "plausible"),
    [
        ([50, 50], [50, 50], True),
        ([60, 40], [50, 50], True),
        ([90, 10], [50, 50], False),
        ([100, 1], [100, 0], False),
        ([1000, 4, 0, 3], [1000, 2, 2, 3], True),
        ([900, 40, 40, 27], [1000, 2, 2, 3], False),
    ],
)
def test_chi_square(counts, expected, plausible):
    assert chi_square_is_plausible(counts, expected) == plausible
