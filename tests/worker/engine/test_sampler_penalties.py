"""Bias and penalties: against a plain account, step by step, and without trouble from strange ids or long prompts."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.engine.penalties import FIRST_SLOTS, SPARE_LEDGERS, Ledger, Penalties, edits_logits
from mlxctl.worker.engine.sampler import Sampler
from mlxctl.worker.types import Sampling
from tests.fakes.sampling import Row, chi_square_is_plausible, distribution, edited

VOCAB = 90
TOKEN = st.integers(0, VOCAB - 1)
RULES = st.builds(
    Sampling,
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.7]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.6, -1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.4, -0.2]),
    logit_bias=st.lists(st.tuples(TOKEN, st.sampled_from([-100.0, -0.5, 2.0, 100.0])), max_size=4).map(tuple),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rules=st.lists(RULES, min_size=1, max_size=6),
    prompts=st.lists(st.lists(TOKEN, min_size=1, max_size=80), min_size=6, max_size=6),
    steps=st.lists(st.lists(TOKEN, min_size=6, max_size=6), max_size=5),
    number=st.integers(0, 2**32),
    dtype=st.sampled_from([mx.float32, mx.bfloat16]),
)
def test_every_step_is_edited_as_the_account_says(rules, prompts, steps, number, dtype):
    rows = [
        Row(rule, tokens=list(prompt), num_prompt=len(prompt)) for rule, prompt in zip(rules, prompts, strict=False)
    ]
    penalties, rng = Penalties(), np.random.default_rng(number)
    for step in [[], *steps]:
        for row, token in zip(rows, step, strict=False):
            row.tokens.append(token)
        logits = mx.array(rng.normal(0, 3, (len(rows), VOCAB)).astype(np.float32)).astype(dtype)
        before = np.array(logits.astype(mx.float32))
        out = np.array(penalties.edit(logits, rows).astype(mx.float32))
        for place, row in enumerate(rows):
            np.testing.assert_allclose(out[place], edited(before[place], row), rtol=1e-5, atol=1e-5)
        assert np.array_equal(np.array(logits.astype(mx.float32)), before)


@pytest.mark.parametrize(
    ("rules", "edits"),
    [
        (Sampling(), False),
        (Sampling(temperature=0.0, top_p=0.5, top_k=3, min_p=0.1, seed=4, logprobs=3), False),
        (Sampling(repetition_penalty=1.1), True),
        (Sampling(presence_penalty=-0.1), True),
        (Sampling(frequency_penalty=0.1), True),
        (Sampling(logit_bias=((1, 0.5),)), True),
    ],
    ids=repr,
)
def test_what_edits(rules, edits):
    assert edits_logits(rules) == edits


def test_presence_and_frequency_leave_the_prompt_alone_and_repetition_does_not():
    flat = mx.full((3, 4), 2.0)
    rows = [
        Row(Sampling(presence_penalty=1.0), tokens=[0, 0, 1], num_prompt=2),
        Row(Sampling(frequency_penalty=0.5), tokens=[0, 1, 1, 1], num_prompt=1),
        Row(Sampling(repetition_penalty=2.0), tokens=[0, 0, 1], num_prompt=2),
    ]
    assert Penalties().edit(flat, rows).tolist() == [[2, 1, 2, 2], [2, 0.5, 2, 2], [1, 1, 2, 2]]


def test_nothing_said_yet_gives_the_logits_back_as_they_are():
    logits = mx.zeros((2, 4), dtype=mx.bfloat16)
    rows = [Row(Sampling(presence_penalty=1.0)), Row(Sampling())]
    assert Penalties().edit(logits, rows) is logits


@pytest.mark.parametrize("token", [-1, VOCAB, VOCAB + 3, 10**6])
def test_an_id_outside_the_vocabulary_edits_nobody(token):
    rules = Sampling(logit_bias=((token, 9.0),), repetition_penalty=2.0, frequency_penalty=1.0)
    rows = [Row(rules, tokens=[token, 5, token], num_prompt=1), Row(Sampling(), tokens=[token])]
    out = np.array(Penalties().edit(mx.ones((2, VOCAB)), rows))
    expected = np.ones((2, VOCAB))
    expected[0, 5] = -0.5
    assert np.array_equal(out, expected)


def test_biases_for_one_token_add_up():
    out = Penalties().edit(mx.zeros((1, 4)), [Row(Sampling(logit_bias=((2, 1.5), (2, 1.0))))])
    assert out.tolist() == [[0, 0, 2.5, 0]]


@pytest.mark.parametrize("prompt", [1, FIRST_SLOTS - 1, FIRST_SLOTS, FIRST_SLOTS + 1, 5 * FIRST_SLOTS])
def test_a_ledger_that_followed_equals_one_that_starts_now(prompt):
    """A row comes back from preemption with all its tokens at once."""
    rules = Sampling(
        repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.1, logit_bias=((3, 1.0), (7, -1.0))
    )
    tokens = np.random.default_rng(0).integers(0, 1000, prompt + 200).tolist()
    followed = Ledger(rules, 1000)
    for end in range(prompt, len(tokens) + 1, 3):
        followed.follow(tokens[:end], prompt)
    followed.follow(tokens, prompt)
    fresh = Ledger(rules, 1000)
    fresh.follow(tokens, prompt)
    for ledger in (followed, fresh):
        assert len(set(ledger.columns()[0].tolist())) == ledger.columns()[0].size == len({3, 7, *tokens})
    by_id = [{column[0]: column[1:] for column in zip(*led.columns(), strict=True)} for led in (followed, fresh)]
    assert by_id[0] == by_id[1]


def test_ledgers_of_rows_that_left_are_dropped_and_live_ones_kept():
    penalties, rules = Penalties(), Sampling(frequency_penalty=1.0)
    stays = Row(rules, tokens=[1, 2], num_prompt=1)
    for number in range(3 * SPARE_LEDGERS):
        rows = [stays, Row(rules, tokens=[number % 5, 3], num_prompt=1)]
        penalties.edit(mx.zeros((2, 5)), rows)
        stays.tokens.append(4)
    assert len(penalties._ledgers) == 2 + SPARE_LEDGERS
    assert penalties._ledgers[id(stays.tokens)][0] is stays.tokens
    assert penalties.edit(mx.zeros((1, 5)), [stays]).tolist() == [[0, 0, -1, 0, -3.0 * SPARE_LEDGERS]]


def test_penalties_change_what_is_drawn():
    logits = np.array([1.5, 1.0, 0.5, 0.0, -0.5], dtype=np.float32)
    rules = Sampling(
        temperature=0.8, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.3, logit_bias=((4, 1.0),)
    )
    rows = [Row(rules, tokens=[1, 0, 0, 3], num_prompt=1, draw_seed=seed) for seed in range(8000)]
    drawn = Sampler().draw(mx.array(np.tile(logits, (8000, 1))), rows).read()
    counts = np.bincount([token for token, _ in drawn], minlength=5)
    assert chi_square_is_plausible(counts, distribution(logits, rows[0]) * 8000)
    assert not chi_square_is_plausible(counts, distribution(logits, Row(Sampling(temperature=0.8))) * 8000)


def test_a_bias_forces_or_forbids_a_greedy_token():
    logits = mx.array([[5.0, 1.0, 0.0]] * 3)
    biases = [(), ((0, -100.0),), ((2, 100.0),)]
    rows = [Row(Sampling(temperature=0.0, logit_bias=bias)) for bias in biases]
    assert [token for token, _ in Sampler().draw(logits, rows).read()] == [0, 1, 2]
