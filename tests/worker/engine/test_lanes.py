"""Lanes: rows join, leave and grow without touching their neighbours; a window goes round."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.engine.lanes import GROWTH, HEADROOM, ROUNDING, SMALLEST, LaneGroup, capacity_for

HEADS, WIDTH, WINDOW = 2, 4, 8


def keys_of(row: int, tokens: range) -> np.ndarray:
    """Keys that tell whose they are and of which token: [1, heads, tokens, width]."""
    told = np.array([row * 1000 + token for token in tokens], dtype=np.float32)
    return np.broadcast_to(told[None, None, :, None], (1, HEADS, len(tokens), WIDTH)).copy()


def parts(row: int, length: int):
    """One full layer, and one with a window in its lane's own order."""
    full = mx.array(keys_of(row, range(length)))
    held = range(max(0, length - WINDOW), length)
    ring = np.zeros((1, HEADS, min(length, WINDOW), WIDTH), dtype=np.float32)
    for token in held:
        ring[:, :, token % WINDOW] = row * 1000 + token
    return [(None, full, -full), (WINDOW, mx.array(ring), -mx.array(ring))]


def tokens_in(group: LaneGroup, row: int, layer: int) -> list[int]:
    _, keys, values = group.parts(row)[layer]
    told = np.array(keys)[0, 0, :, 0]
    assert np.array_equal(told, -np.array(values)[0, 0, :, 0])
    assert all(int(number) // 1000 == row for number in told)
    return [int(number) % 1000 for number in told]


def step(group: LaneGroup) -> None:
    """Every row gets its next token."""
    group.begin_step()
    new = np.concatenate(
        [keys_of(row, range(length, length + 1)) for row, length in zip(group.rows, group.lengths, strict=True)]
    )
    for layer in range(2):
        group.write(layer, mx.array(new), -mx.array(new))
    group.end_step()


@pytest.mark.parametrize("tokens", [0, 1, 64, 191, 192, 193, 500, 2048, 131_072])
def test_a_lane_has_room_for_a_while_and_not_for_ever(tokens):
    capacity = capacity_for(tokens)
    assert capacity >= max(SMALLEST, tokens + HEADROOM)
    assert capacity % ROUNDING == 0
    assert capacity <= max(SMALLEST, GROWTH * (tokens + HEADROOM) + ROUNDING)


def test_a_row_is_found_again_as_it_was_laid_down():
    group = LaneGroup(16)
    for row, length in ((1, 5), (2, 12), (3, 1)):
        group.add(row, length, parts(row, length))
    assert tokens_in(group, 1, 0) == [0, 1, 2, 3, 4]
    assert tokens_in(group, 2, 0) == list(range(12))
    # the window holds the last eight, token 8 in column 0
    assert tokens_in(group, 2, 1) == [8, 9, 10, 11, 4, 5, 6, 7]
    assert tokens_in(group, 3, 1) == [0]


def test_uneven_rows_are_written_each_in_its_own_column():
    group = LaneGroup(32)
    group.add(1, 3, parts(1, 3))
    group.add(2, 10, parts(2, 10))
    for _ in range(6):
        step(group)
    assert group.lengths == [9, 16]
    assert tokens_in(group, 1, 0) == list(range(9))
    assert sorted(tokens_in(group, 1, 1)) == list(range(1, 9))
    assert tokens_in(group, 2, 0) == list(range(16))
    assert sorted(tokens_in(group, 2, 1)) == list(range(8, 16))


def test_who_leaves_takes_nobody_along_and_the_memory_shrinks():
    group = LaneGroup(16)
    for row in range(1, 9):
        group.add(row, row, parts(row, row))
    full = group.nbytes
    for row in (1, 8, 3, 5, 2):
        group.remove(row)
    assert sorted(group.rows) == [4, 6, 7]
    for row in group.rows:
        assert tokens_in(group, row, 0) == list(range(row))
    assert group.nbytes <= full / 2
    assert group.lanes <= 2 * len(group.rows)


def test_what_a_row_may_look_at_is_what_it_holds():
    group = LaneGroup(16)
    group.add(1, 3, parts(1, 3))
    group.add(2, 10, parts(2, 10))
    group.begin_step()
    full, ring = group.steps[None], group.steps[WINDOW]
    assert (full.visible, ring.visible) == (11, 8)
    assert np.array(full.mask).reshape(2, -1).sum(axis=1).tolist() == [4, 11]
    assert np.array(ring.mask).reshape(2, -1).sum(axis=1).tolist() == [4, 8]


def test_rows_of_one_length_need_no_mask():
    group = LaneGroup(16)
    for row in (1, 2):
        group.add(row, 5, parts(row, 5))
    group.begin_step()
    assert [step.mask for step in group.steps.values()] == [None, None]
    assert group.steps[None].columns == [5, 5]


def test_attention_over_lanes_is_attention_over_each_row_alone():
    mx.random.seed(1)
    group, alone = LaneGroup(32), []
    for row, length in ((1, 4), (2, 19), (3, 7)):
        kept = [mx.random.normal((1, HEADS, length, WIDTH)) for _ in range(2)]
        alone.append(kept)
        group.add(row, length, [(None, *kept)])
    queries = mx.random.normal((3, 2 * HEADS, 1, WIDTH))
    new = mx.random.normal((3, HEADS, 1, WIDTH))
    group.begin_step()
    group.write(0, new, new)
    told = group.attend(0, queries, 0.5, None, None)
    narrowed = group.attend(0, queries, 0.5, 6, None)
    for row, (keys, values) in enumerate(alone):
        keys, values = (mx.concatenate([old, new[row : row + 1]], axis=2) for old in (keys, values))
        query = queries[row : row + 1]
        expected = mx.fast.scaled_dot_product_attention(query, keys, values, scale=0.5)
        assert np.allclose(np.array(told[row]), np.array(expected[0]), atol=1e-5)
        expected = mx.fast.scaled_dot_product_attention(query, keys[:, :, -6:], values[:, :, -6:], scale=0.5)
        assert np.allclose(np.array(narrowed[row]), np.array(expected[0]), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "step"]), st.integers(0, 9)), max_size=25))
def test_whatever_comes_and_goes_every_row_keeps_its_own(story):
    group, number = LaneGroup(64), 0
    for verb, choice in story:
        if verb == "add":
            number += 1
            group.add(number, choice + 1, parts(number, choice + 1))
        elif verb == "remove" and group.rows:
            group.remove(group.rows[choice % len(group.rows)])
        elif verb == "step" and group.rows:
            step(group)
    for row, length in zip(group.rows, group.lengths, strict=True):
        assert tokens_in(group, row, 0) == list(range(length))
        assert sorted(tokens_in(group, row, 1)) == list(range(max(0, length - WINDOW), length))
