"""Memory that is set aside before it is used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxctl.worker.scheduler.ledger import Ledger


def ledger(budget: int = 100) -> Ledger:
    # rows come in steps of ten tokens, a byte each
    return Ledger(budget, lambda tokens: -(-tokens // 10) * 10)


@pytest.mark.parametrize(
    ("tokens", "rows", "fits"), [(1, 1, True), (100, 1, True), (101, 1, False), (50, 2, True), (51, 2, False)]
)
def test_what_could_never_run_is_known_at_once(tokens, rows, fits):
    assert ledger().fits(tokens, rows) is fits


def test_room_is_taken_and_given_back():
    books = ledger()
    assert books.reserve(25, rows=2) == 30
    assert books.reserved == 60
    assert books.reserve(41) is None
    assert books.reserved == 60
    assert books.reserve(40) == 40
    books.release(30)
    assert books.reserve(30) == 30
    assert books.reserved == 100


def test_a_row_grows_by_steps_and_never_shrinks():
    books = ledger()
    held = books.reserve(10)
    assert books.grow(held, 10) == 10
    assert books.grow(held, 11) == 20
    assert books.reserved == 20
    assert books.grow(20, 5) == 20
    assert books.reserve(80) == 80
    assert books.grow(20, 21) is None
    assert books.reserved == 100


@pytest.mark.parametrize(("freed", "room"), [(0, False), (29, False), (30, True), (90, True)])
def test_it_is_known_beforehand_whether_giving_way_would_help(freed, room):
    books = ledger()
    books.reserve(90)
    assert books.has_room(40, 1, freed) is room
    assert books.reserved == 90


@given(st.lists(st.tuples(st.sampled_from(["reserve", "grow", "release"]), st.integers(1, 60), st.integers(1, 3))))
def test_the_sum_of_what_is_held_is_what_is_reserved_and_within_the_budget(steps):
    books, held = ledger(), []
    for verb, tokens, rows in steps:
        if verb == "reserve":
            each = books.reserve(tokens, rows)
            held += [each] * rows if each is not None else []
        elif verb == "grow" and held:
            held[0] = books.grow(held[0], tokens) or held[0]
        elif verb == "release" and held:
            books.release(held.pop())
        assert books.reserved == sum(held) <= books.budget
