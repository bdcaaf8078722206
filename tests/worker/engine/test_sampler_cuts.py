"""Temperature, top_k, top_p and min_p against a plain account of them, row by row and by the numbers drawn."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.engine import candidates
from mlxctl.worker.engine.candidates import LIKELIEST, SHORTLIST, WHOLE, shortlist_length
from mlxctl.worker.engine.noise import counter_keys, gumbel
from mlxctl.worker.engine.sampler import Sampler
from mlxctl.worker.types import Sampling
from tests.fakes.sampling import Row, chi_square_is_plausible, distribution, kept

DRAWS = 20_000
TURNS = 40
SLOPE = np.linspace(2.0, -2.0, 24)


def drawn(logits, rows):
    return [token for token, _ in Sampler().draw(mx.array(logits), rows).read()]


@pytest.mark.parametrize(
    "rules",
    [
        Sampling(),
        Sampling(temperature=0.3),
        Sampling(temperature=5.0),
        Sampling(top_k=5),
        Sampling(top_p=0.6),
        Sampling(min_p=0.2),
        Sampling(temperature=2.0, min_p=0.3),
        Sampling(top_k=10, top_p=0.7),
        Sampling(temperature=0.8, top_k=20, top_p=0.95, min_p=0.05),
        Sampling(top_k=24),
        Sampling(top_k=500, top_p=0.999),
    ],
    ids=repr,
)
def test_tokens_come_as_often_as_they_should(rules):
    logits = np.random.default_rng(1).permutation(SLOPE).astype(np.float32)
    rows = [Row(rules, draw_seed=seed) for seed in range(DRAWS)]
    counts = np.bincount(drawn(np.tile(logits, (DRAWS, 1)), rows), minlength=logits.size)
    expected = distribution(logits, rows[0])
    assert (counts[expected == 0] == 0).all()
    assert chi_square_is_plausible(counts, expected * DRAWS)


def test_positions_of_one_row_are_independent_draws():
    logits = np.tile(np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32)), (DRAWS, 1))
    rows = [Row(tokens=[0] * 1, draw_seed=5) for _ in range(DRAWS)]
    for position, row in enumerate(rows):
        row.tokens = range(position + 1)  # type: ignore[assignment]  # only its length counts here
    tokens = np.array(drawn(logits, rows))
    assert chi_square_is_plausible(np.bincount(tokens, minlength=4), np.array([0.4, 0.3, 0.2, 0.1]) * DRAWS)
    pairs = np.bincount(tokens[:-1] * 4 + tokens[1:], minlength=16)
    assert chi_square_is_plausible(pairs, np.outer([0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]) * (DRAWS - 1))


def test_a_thousand_unlikely_tokens_together_get_their_share():
    shares = np.concatenate([[0.95], np.full(1000, 0.05 / 1000)])
    logits = np.tile(np.log(shares).astype(np.float32), (4000, 1))
    tokens = np.array(drawn(logits, [Row(draw_seed=seed) for seed in range(4000)]))
    assert chi_square_is_plausible([(tokens == 0).sum(), (tokens > 0).sum()], [3800, 200])


RULES = st.builds(
    Sampling,
    temperature=st.sampled_from([0.05, 0.5, 0.7, 1.0, 1.3, 4.0]),
    top_k=st.sampled_from([0, 0, 2, 3, 17, 40, 1000, 5000]),
    top_p=st.sampled_from([1.0, 1.0, 0.05, 0.31, 0.5, 0.87, 0.95, 0.999]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.113, 0.5]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rules=st.lists(RULES, min_size=1, max_size=9),
    vocab=st.sampled_from([2, 31, 64, 300]),
    number=st.integers(0, 2**32),
    spread=st.sampled_from([0.5, 3.0, 8.0]),
    dtype=st.sampled_from([mx.float32, mx.bfloat16, mx.float16]),
)
def test_every_row_draws_what_the_account_says(rules, vocab, number, spread, dtype):
    """The same noise, cut in float64 with full sorts: the very same token, but for what rounding may decide."""
    logits = mx.array(np.random.default_rng(number).normal(0, spread, (len(rules), vocab)).astype(np.float32))
    logits = logits.astype(dtype)
    rows = [
        Row(rule, draw_seed=number + turn * len(rules) + place, tokens=[0] * (place + 1))
        for turn in range(TURNS)
        for place, rule in enumerate(rules)
    ]
    keys = mx.array(counter_keys([row.draw_seed for row in rows], [len(row.tokens) for row in rows]))
    noise = np.array(gumbel(keys, mx.arange(vocab, dtype=mx.uint32)[None]), dtype=np.float64)
    raw = np.array(logits.astype(mx.float32), dtype=np.float64)
    tokens = np.array([token for token, _ in Sampler().draw(mx.tile(logits, (TURNS, 1)), rows).read()])
    for place, rule in enumerate(rules):
        mine = slice(place, None, len(rules))
        told = choices_of(raw[place], noise[mine], rule)
        assert all(token in choices for token, choices in zip(tokens[mine].tolist(), told, strict=True)), rule


def choices_of(logits, noise, rules):
    """Each turn's winner, for cuts a hair lower and a hair higher: two tokens at most where a cut is met exactly."""
    winners = [set() for _ in noise]
    for hair in (-2e-6, 0.0, 2e-6):
        near = Sampling(
            temperature=rules.temperature,
            top_k=rules.top_k,
            top_p=rules.top_p if rules.top_p == 1.0 else rules.top_p * (1 + hair),
            min_p=rules.min_p * (1 + hair),
        )
        left = kept(logits, near)
        for turn, choices in enumerate(winners):
            scores = np.where(left, logits / rules.temperature + noise[turn], -np.inf)
            best = scores.max()
            choices |= set(np.nonzero(scores >= best - 2e-5 * max(1.0, abs(best)))[0].tolist())
    return winners


@pytest.mark.parametrize(
    ("rules", "vocab", "length"),
    [
        (Sampling(temperature=0.0, top_p=0.5), 50_000, LIKELIEST),
        (Sampling(temperature=-1.0), 50_000, LIKELIEST),
        (Sampling(top_k=1), 50_000, LIKELIEST),
        (Sampling(top_p=0.0), 50_000, LIKELIEST),
        (Sampling(min_p=1.0), 50_000, LIKELIEST),
        (Sampling(), 50_000, WHOLE),
        (Sampling(min_p=0.1), 50_000, WHOLE),
        (Sampling(top_k=-1), 50_000, WHOLE),
        (Sampling(top_k=50_000), 50_000, WHOLE),
        (Sampling(top_p=0.9), 50_000, SHORTLIST),
        (Sampling(top_k=40), 50_000, SHORTLIST),
        (Sampling(top_k=1024), 50_000, SHORTLIST),
        (Sampling(top_k=1025), 50_000, 2048),
        (Sampling(top_k=40_000), 50_000, 50_000),
        (Sampling(top_p=0.9), 300, 300),
    ],
    ids=repr,
)
def test_how_many_tokens_a_draw_can_touch(rules, vocab, length):
    assert shortlist_length(rules, vocab) == length


def test_a_large_top_k_is_exact_beyond_the_shortlist():
    vocab, rules = 4096, Sampling(temperature=50.0, top_k=3000)
    logits = np.random.default_rng(3).permutation(np.linspace(5, -5, vocab)).astype(np.float32)
    tokens = drawn(np.tile(logits, (500, 1)), [Row(rules, draw_seed=seed) for seed in range(500)])
    allowed = set(np.nonzero(kept(logits.astype(np.float64), rules))[0].tolist())
    assert len(allowed) == 3000
    assert set(tokens) <= allowed
    assert len(set(tokens) - set(np.argsort(-logits)[:SHORTLIST].tolist())) > 100


def test_a_nucleus_is_cut_at_the_shortlist_and_its_mass_is_of_everything():
    """Flat logits: 90 % of 4,096 equal tokens would be 3,687. With 1,100 tokens, 50 % of them fit in the list."""
    flat = np.zeros((300, 4096), dtype=np.float32)
    tokens = drawn(flat, [Row(Sampling(top_p=0.9), draw_seed=seed) for seed in range(300)])
    assert len(set(tokens)) > 200
    logits = np.linspace(1.0, -1.0, 1100)
    rows = [Row(Sampling(top_p=0.5), draw_seed=seed) for seed in range(2000)]
    tokens = drawn(np.tile(logits.astype(np.float32), (2000, 1)), rows)
    nucleus = np.count_nonzero(kept(logits, rows[0].sampling))
    assert nucleus - 30 < max(tokens) < nucleus


def test_equally_likely_tokens_stay_or_go_together():
    logits = np.array([[2.0, 1.0, 1.0, 1.0, 0.0]], dtype=np.float32)
    for rules, expected in (
        (Sampling(top_k=2), {0, 1, 2, 3}),
        (Sampling(top_p=0.5), {0, 1, 2, 3}),
        (Sampling(top_k=2, top_p=0.3), {0}),
    ):
        tokens = drawn(np.repeat(logits, 400, axis=0), [Row(rules, draw_seed=seed) for seed in range(400)])
        assert set(tokens) == expected


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-5, 1e-9, 1e-45])
@pytest.mark.parametrize("rules", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}], ids=repr)
def test_the_coldest_draws_are_the_argmax(temperature, rules):
    logits = np.random.default_rng(0).normal(0, 30, (6, 200)).astype(np.float32)
    rows = [Row(Sampling(temperature=temperature, **rules), draw_seed=seed) for seed in range(6)]
    assert drawn(logits, rows) == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("rules", [Sampling(temperature=1e30), Sampling(temperature=1e30, top_k=3)], ids=repr)
def test_the_hottest_draws_are_even(rules):
    logits = np.tile(np.array([9.0, 8.0, 7.0, -np.inf], dtype=np.float32), (3000, 1))
    counts = np.bincount(drawn(logits, [Row(rules, draw_seed=seed) for seed in range(3000)]), minlength=4)
    assert chi_square_is_plausible(counts, [1000, 1000, 1000, 0])


def test_slices_of_a_large_batch_draw_as_the_whole(monkeypatch):
    logits = np.random.default_rng(8).normal(0, 1, (13, 500)).astype(np.float32)
    rows = [Row(Sampling(min_p=0.01 * place), draw_seed=place) for place in range(13)]
    whole = {}
    for cells in (1, 500, 2600, 6499, 6500):
        monkeypatch.setattr(candidates, "CELLS_IN_CACHE", cells)
        whole[cells] = drawn(logits, rows)
    assert len({tuple(tokens) for tokens in whole.values()}) == 1
