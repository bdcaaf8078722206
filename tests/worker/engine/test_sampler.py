"""Whole draws: a row gets the same tokens alone, in any company, at any place and after a pause; masks hold."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.engine.sampler import Sampler
from mlxctl.worker.types import Sampling
from tests.fakes.sampling import Allowing, Row, chi_square_is_plausible, distribution

VOCAB = 257
STEPS = 25
MIX = [
    Sampling(temperature=0.0),
    Sampling(seed=1),
    Sampling(temperature=0.7, top_p=0.9),
    Sampling(top_k=40, min_p=0.02),
    Sampling(temperature=1.4, min_p=0.05, logprobs=2),
    Sampling(temperature=0.9, top_k=50, top_p=0.8, presence_penalty=0.5, frequency_penalty=0.2),
    Sampling(temperature=0.0, repetition_penalty=1.3, logit_bias=((3, 4.0),)),
    Sampling(temperature=1.2, top_p=0.95, repetition_penalty=1.1, logprobs=0),
]


def model(tokens):
    """Logits [V] that follow from what was said, as a model's do."""
    rng = np.random.default_rng([len(tokens), *tokens[-3:]])
    return rng.normal(0, 2, VOCAB).astype(np.float32)


def fresh_rows():
    rows = [Row(rules, tokens=[7, place], num_prompt=2, draw_seed=1000 + place) for place, rules in enumerate(MIX)]
    rows[1].matcher = Allowing(set(range(0, VOCAB, 2)), VOCAB)
    rows[3].matcher = Allowing(set(range(100, 180)), VOCAB)
    return rows


def step(sampler, rows):
    logits = mx.array(np.stack([model(row.tokens) for row in rows]))
    for row, (token, _) in zip(rows, sampler.draw(logits, rows).read(), strict=True):
        row.tokens.append(token)


@pytest.fixture(scope="module")
def alone():
    """What each row says when nobody is beside it."""
    rows = fresh_rows()
    for row in rows:
        sampler = Sampler()
        for _ in range(STEPS):
            step(sampler, [row])
    said = [row.tokens[2:] for row in rows]
    assert len({tuple(tokens) for tokens in said}) == len(rows)
    return said


def test_together_as_alone(alone):
    rows, sampler = fresh_rows(), Sampler()
    for _ in range(STEPS):
        step(sampler, rows)
    assert [row.tokens[2:] for row in rows] == alone


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_in_any_company_at_any_place_and_after_pauses(alone, data):
    """Rows join, leave, change places and move to another sampler, which is what preemption looks like from here."""
    rows, sampler = fresh_rows(), Sampler()
    while any(len(row.tokens) < 2 + STEPS for row in rows):
        unfinished = [row for row in rows if len(row.tokens) < 2 + STEPS]
        company = data.draw(st.lists(st.sampled_from(unfinished), min_size=1, unique=True))
        if data.draw(st.booleans()):
            sampler = Sampler()
        for _ in range(data.draw(st.integers(1, 8))):
            company = [row for row in company if len(row.tokens) < 2 + STEPS]
            if company:
                step(sampler, company)
    assert [row.tokens[2:] for row in rows] == alone


def test_one_seed_twice_is_one_answer_and_another_seed_another():
    answers = []
    for seed in (5, 5, 6):
        row, sampler = Row(Sampling(), draw_seed=seed), Sampler()
        for _ in range(STEPS):
            step(sampler, [row])
        answers.append(row.tokens)
    assert answers[0] == answers[1] != answers[2]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_a_greedy_batch_takes_the_likeliest(dtype):
    logits = mx.random.normal((5, 1000), key=mx.random.key(3)).astype(dtype)
    draw = Sampler().draw(logits, [Row(Sampling(temperature=0.0)) for _ in range(5)])
    assert draw.tokens.dtype == mx.int32
    assert draw.read() == [(token, None) for token in mx.argmax(logits, axis=-1).tolist()]


@pytest.mark.parametrize("rules", MIX, ids=repr)
def test_tokens_are_int32_and_in_the_order_of_the_rows(rules):
    """One token per row has all the mass, so the order shows."""
    logits = np.full((9, 64), -200.0, dtype=np.float32)
    logits[np.arange(9), np.arange(9) * 7] = 200.0
    rows = [Row([rules, MIX[0], MIX[2]][place % 3], tokens=[63], draw_seed=place) for place in range(9)]
    draw = Sampler().draw(mx.array(logits), rows)
    assert draw.tokens.dtype == mx.int32 and draw.tokens.shape == (9,)
    assert [token for token, _ in draw.read()] == [place * 7 for place in range(9)]


def test_mixed_rows_keep_their_own_distributions():
    """Each row of a batch of unlike ones draws as its own rules say, over many steps."""
    draws, logits = 3000, np.random.default_rng(5).normal(0, 1.5, (len(MIX), 20)).astype(np.float32)
    rows = [
        Row(rules, tokens=[3, 4, 5], num_prompt=2, draw_seed=place + 100 * turn)
        for turn in range(draws)
        for place, rules in enumerate(MIX)
    ]
    tokens = np.array([token for token, _ in Sampler().draw(mx.array(np.tile(logits, (draws, 1))), rows).read()])
    for place in range(len(MIX)):
        counts = np.bincount(tokens[place :: len(MIX)], minlength=20)
        assert chi_square_is_plausible(counts, distribution(logits[place], rows[place]) * draws), MIX[place]


@pytest.mark.parametrize("width", [1, 31, 32, 33, 64, 100])
@pytest.mark.parametrize(
    "rules", [Sampling(temperature=0.0), Sampling(), Sampling(top_p=0.9), Sampling(top_k=3)], ids=repr
)
def test_only_allowed_tokens_are_drawn_and_none_of_the_padding(rules, width):
    """A grammar knows `width` tokens; the logits are 100 wide, and the padding would be likeliest."""
    logits = np.random.default_rng(2).normal(0, 1, (300, 100)).astype(np.float32)
    logits[:, width:] += 50.0
    allowed = set(range(0, width, 3))
    rows = [Row(rules, draw_seed=seed, matcher=Allowing(allowed, width)) for seed in range(300)]
    tokens = [token for token, _ in Sampler().draw(mx.array(logits), rows).read()]
    assert set(tokens) <= allowed
    assert len(set(tokens)) > min(len(allowed) - 1, 3)


def test_a_free_row_beside_a_bound_one_is_left_alone():
    logits = mx.array(np.random.default_rng(0).normal(0, 1, (3, 70)).astype(np.float32))
    free = Row(Sampling(temperature=0.0))
    bound = [Row(Sampling(temperature=0.0), matcher=Allowing({token}, 70)) for token in (69, 0)]
    drawn = Sampler().draw(logits, [bound[0], free, bound[1]]).read()
    assert [token for token, _ in drawn] == [69, mx.argmax(logits[1]).item(), 0]


@pytest.mark.parametrize(
    "rules", [Sampling(temperature=0.0), Sampling(), Sampling(top_p=0.9), Sampling(top_k=3)], ids=repr
)
def test_a_grammar_that_allows_nothing_gets_a_token_that_it_refuses(rules):
    row = Row(rules, matcher=Allowing(set(), 40))
    ((token, _),) = Sampler().draw(mx.zeros((1, 40)), [row]).read()
    assert 0 <= token < 40
    assert not row.matcher.accept(token)


def test_a_single_allowed_token_is_drawn_however_unlikely():
    logits = np.zeros((200, 50), dtype=np.float32)
    logits[:, 17] = -1e4
    for rules in (Sampling(), Sampling(top_p=0.1), Sampling(min_p=0.9, temperature=0.1)):
        rows = [Row(rules, draw_seed=seed, matcher=Allowing({17}, 50)) for seed in range(200)]
        assert {token for token, _ in Sampler().draw(mx.array(logits), rows).read()} == {17}


def test_the_logits_are_not_changed():
    logits = mx.array(np.random.default_rng(1).normal(0, 1, (len(MIX), VOCAB)).astype(np.float32))
    before = np.array(logits)
    Sampler().draw(logits, fresh_rows()).read()
    assert np.array_equal(before, np.array(logits))
