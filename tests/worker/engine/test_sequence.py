"""One choice and its seed: the same noise for the same seed and index, other noise for any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxctl.worker.engine.sequence import Job, Sequence, draw_seed
from mlxctl.worker.types import Generation, Priority, Sampling

SEEDS = st.integers(-(1 << 70), 1 << 70)


@given(SEEDS, st.integers(0, 127))
def test_a_seed_gives_the_same_64_bits_every_time(seed: int, index: int) -> None:
    bits = draw_seed(seed, index)
    assert 0 <= bits < 1 << 64
    assert draw_seed(seed, index) == bits
    assert draw_seed(seed + (1 << 64), index) == bits


@given(st.integers(0, (1 << 64) - 1))
def test_the_choices_of_one_seed_differ(seed: int) -> None:
    assert len({draw_seed(seed, index) for index in range(64)}) == 64


def test_neighbouring_seeds_have_nothing_in_common() -> None:
    """About half of all bits differ, for every pair of neighbours."""
    for seed in range(200):
        differing = (draw_seed(seed, 0) ^ draw_seed(seed + 1, 0)).bit_count()
        assert 10 <= differing <= 54
    assert len({draw_seed(seed, index) for seed in range(100) for index in range(10)}) == 1000


def test_without_a_seed_every_draw_is_new() -> None:
    assert len({draw_seed(None, 0) for _ in range(50)}) == 50


class Counting:
    """A grammar that counts its matchers."""

    def __init__(self) -> None:
        self.matchers: list[object] = []

    def matcher(self) -> object:
        self.matchers.append(object())
        return self.matchers[-1]


def test_a_choice_begins_with_its_prompt_and_a_matcher_of_its_own() -> None:
    grammar = Counting()
    asked = Generation("a", (4, 5, 6), 10, Sampling(seed=1), n=2, priority=Priority.LOW, grammar=grammar)
    rows = [Sequence.of(asked, index, 3.0, 7) for index in range(2)]
    assert [row.matcher for row in rows] == grammar.matchers
    assert rows[0].draw_seed != rows[1].draw_seed
    assert (rows[0].num_prompt, rows[0].num_drawn, rows[0].most_tokens) == (3, 0, 13)
    rows[0].tokens.append(9)
    assert (rows[0].num_drawn, rows[1].num_drawn, rows[0].num_prompt) == (1, 0, 3)
    assert asked.prompt == (4, 5, 6)
    assert rows[0].priority is Priority.LOW


def test_rows_are_told_apart_by_identity() -> None:
    asked = Generation("a", (1,), 1, Sampling(seed=1))
    one, other = (Sequence.of(asked, 0, 0.0, 1) for _ in range(2))
    assert one != other
    assert one in {one}
    assert other not in {one}


@pytest.mark.parametrize(("waited", "since", "now", "total"), [(0, 0, 5, 5), (7, 10, 12, 9), (3, 10, 9, 3)])
def test_waiting_adds_up_over_every_time_in_line(waited: float, since: float, now: float, total: float) -> None:
    row = Sequence.of(Generation("a", (1, 2), 1), 0, since, 1)
    row.waited_s = waited
    assert Job([row]).waited_s(now) == total


def test_a_job_speaks_for_its_first_sequence() -> None:
    asked = Generation("a", (1, 2, 3), 4, n=3, priority=Priority.HIGH)
    job = Job([Sequence.of(asked, index, 0.0, 5) for index in range(3)])
    # the last token is fed by the first step
    assert (job.target, job.number, job.priority) == (2, 5, Priority.HIGH)
    assert job.tokens is job.sequences[0].tokens
    assert job.generation is asked
