"""Log-probabilities: of the model's own distribution, for the rows that asked, as many as they asked for."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxctl.worker.engine.logprobs import WIDTH, rank
from mlxctl.worker.engine.sampler import Sampler
from mlxctl.worker.types import Sampling, TokenLogprobs
from tests.fakes.sampling import Allowing, Row, softmax

VOCAB = 200


def told(logits, rows):
    return Sampler().draw(logits, rows).read()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("asked", [(None,), (0,), (5,), (None, 3, 0, None, 20, 1), (20, 20), (0, 0, None), (50, 2)])
def test_each_row_gets_what_it_asked_for(asked, dtype):
    logits = mx.array(np.random.default_rng(4).normal(0, 2, (len(asked), VOCAB)).astype(np.float32)).astype(dtype)
    exact = np.log([softmax(row) for row in np.array(logits.astype(mx.float32), dtype=np.float64)])
    rows = [Row(Sampling(logprobs=count), draw_seed=place) for place, count in enumerate(asked)]
    for place, ((token, logprobs), count) in enumerate(zip(told(logits, rows), asked, strict=True)):
        if count is None:
            assert logprobs is None
            continue
        assert logprobs.logprob == pytest.approx(exact[place, token], abs=1e-5)
        assert len(logprobs.top) == count
        best = np.lexsort((np.arange(VOCAB), -exact[place]))[:count]
        assert [one for one, _ in logprobs.top] == best.tolist()
        assert [value for _, value in logprobs.top] == pytest.approx(exact[place, best].tolist(), abs=1e-5)


def test_plain_numbers_come_out():
    """Not numpy's: they go straight into JSON."""
    ((token, logprobs),) = told(mx.zeros((1, 4)), [Row(Sampling(logprobs=2))])
    assert type(token) is int and type(logprobs) is TokenLogprobs and type(logprobs.logprob) is float
    assert [tuple(map(type, pair)) for pair in logprobs.top] == [(int, float)] * 2


def test_all_of_them_sum_to_one():
    logits = mx.random.normal((2, 37), key=mx.random.key(1)) * 3
    rows = [Row(Sampling(logprobs=37, temperature=0.0)), Row(Sampling(logprobs=37, temperature=2.0))]
    for token, logprobs in told(logits, rows):
        assert sum(np.exp(value) for _, value in logprobs.top) == pytest.approx(1.0, abs=1e-5)
        assert dict(logprobs.top)[token] == pytest.approx(logprobs.logprob, abs=1e-6)
        assert len(dict(logprobs.top)) == 37


def test_they_are_of_the_raw_logits_whatever_the_request_changes():
    logits = mx.array([[3.0, 2.0, 1.0, 0.0]])
    plain = told(logits, [Row(Sampling(temperature=0.0, logprobs=4))])[0][1]
    strange = Sampling(
        temperature=0.01, top_k=1, repetition_penalty=3.0, presence_penalty=2.0, logit_bias=((0, -100.0),), logprobs=4
    )
    row = Row(strange, tokens=[1, 1], num_prompt=1, matcher=Allowing({2, 3}, 4))
    token, logprobs = told(logits, [row])[0]
    assert token == 2
    assert logprobs.top == plain.top
    assert logprobs.logprob == pytest.approx(plain.logprob - 2.0)


@pytest.mark.parametrize("beside", [0, 5, 20, WIDTH, WIDTH + 1, 150])
def test_equals_are_told_in_the_order_of_their_ids_whoever_stands_beside(beside):
    logits = np.zeros((2, VOCAB), dtype=np.float32)
    logits[0, 160:] = -1.0
    logits[0, [9, 77, 150, 151, 152, 153, 154]] = 1.0
    rows = [Row(Sampling(logprobs=3)), Row(Sampling(logprobs=beside))]
    assert [token for token, _ in told(mx.array(logits), rows)[0][1].top] == [9, 77, 150]


def test_nobody_asked_costs_nothing():
    assert rank(mx.zeros((2, 4)), mx.array([0, 1]), [None, None]) is None
    draw = Sampler().draw(mx.zeros((2, 4)), [Row(), Row()])
    assert draw.arrays == [draw.tokens]


def test_arrays_are_all_that_read_needs():
    for asked, count in ((0, 2), (1, 4)):
        draw = Sampler().draw(mx.zeros((2, 4)), [Row(Sampling(logprobs=asked)), Row()])
        assert len(draw.arrays) == count
        mx.async_eval(draw.arrays)
        assert [logprobs is None for _, logprobs in draw.read()] == [False, True]
