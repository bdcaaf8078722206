"""Every decoder, for every kind of cache: rows come and go, and each gets the logits that it gets alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache, make_prompt_cache

from mlxctl.worker.engine.attention import attend_over_lanes
from mlxctl.worker.engine.decoder import Decoder
from mlxctl.worker.engine.grouped import MAX_GROUPS, GroupedDecoder
from mlxctl.worker.engine.layout import Kind, Layout, arrays_of
from tests.fakes.tiny_models import TINY_KINDS, TinyKind
from tests.worker.engine.driving import DECODERS, Tiny, make_decoder

CLOSE = 2e-3
"""Logits are a few units large; rounding in a batch differs by less than this, a wrong cache by far more."""


class Row:
    """A prompt and what is fed after it; the decoders know it by identity alone."""

    def __init__(self, tiny: Tiny, seed: int, length: int) -> None:
        self.tiny, self.prompt, self.fed = tiny, tiny.prompt(seed, length), 0

    def caches(self, held: int | None = None) -> list[Any]:
        """mlx-lm's own, after `held` tokens; None: all but the prompt's last."""
        caches = make_prompt_cache(self.tiny.model)
        tokens = self.tokens[: len(self.prompt) - 1 if held is None else held]
        if tokens:
            self.tiny.model(mx.array([tokens]), cache=caches)
            mx.eval(arrays_of(caches))
        return caches

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.tiny.runs.answer(self.prompt, 40)]

    @property
    def held(self) -> int:
        return len(self.prompt) - 1 + self.fed

    def next_token(self) -> int:
        return self.tokens[self.held]

    def logits_alone(self) -> np.ndarray:
        """After the token that was fed last, without any cache."""
        return np.array(self.tiny.model(mx.array([self.tokens[: self.held]]))[0, -1])


def held_by(leaf: Any, layer: Kind, tokens: int) -> list[mx.array]:
    """The arrays of one layer after so many tokens, in the order of time."""
    if layer is Kind.STATE:
        return list(leaf.cache)
    if layer is Kind.FULL:
        return [leaf.keys[:, :, :tokens], leaf.values[:, :, :tokens]]
    held = min(tokens, leaf.max_size)
    return [leaf._temporal_order(part)[:, :, -held:] for part in (leaf.keys, leaf.values)]


def join(decoder: Decoder, row: Row) -> None:
    decoder.admit(row, row.caches(row.held), row.held)


def step(decoder: Decoder, *, check: bool = False) -> None:
    rows = list(decoder.rows)
    logits = np.array(decoder.forward(mx.array([row.next_token() for row in rows])))
    for row, told in zip(rows, logits, strict=True):
        row.fed += 1
        assert told.argmax() == row.tokens[row.held]
        if check:
            assert np.abs(told - row.logits_alone()).max() < CLOSE


@pytest.mark.usefixtures("short_lanes")
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_rows_come_and_go_and_each_gets_its_own_logits(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, name: str
) -> None:
    model = tiny(kind)
    decoder = make_decoder(name, model.model, model.layout)
    rows = [Row(model, 40 + length, length) for length in (1, 4, 16, 32, 46, 1)]
    leaving = {8: rows[0], 11: rows[3], 12: rows[1]}
    for number in range(18):
        if number % 2 == 0 and number // 2 < len(rows):
            join(decoder, rows[number // 2])
        if number in leaving:
            decoder.remove(leaving[number])
        step(decoder, check=number % 6 == 5)
    assert set(decoder.rows) == {rows[2], rows[4], rows[5]}
    assert rows[2].fed > 10
    for row in list(decoder.rows):
        decoder.remove(row)
    assert decoder.rows == []


@pytest.mark.usefixtures("short_lanes")
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_what_is_taken_out_is_what_mlx_lm_would_hold_and_goes_on_alone(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, name: str
) -> None:
    model = tiny(kind)
    decoder = make_decoder(name, model.model, model.layout)
    rows = [Row(model, 60 + length, length) for length in (1, 12, 41)]
    for row in rows:
        join(decoder, row)
    for _ in range(9):
        step(decoder)
    # in front of the others, so that somebody has to move up
    decoder.remove(rows[0])
    for row in rows[1:]:
        taken, own = decoder.extract(row), row.caches(row.held)
        for leaf, expected, layer in zip(taken, own, model.layout.kinds, strict=True):
            pairs = list(zip(held_by(leaf, layer, row.held), held_by(expected, layer, row.held), strict=True))
            assert layer is Kind.STATE or leaf.offset == expected.offset == row.held
            for one, other in pairs:
                assert one.shape == other.shape
                assert np.abs(np.array(one) - np.array(other)).max() < CLOSE
        alone = make_decoder("single", model.model, model.layout)
        alone.admit(row, taken, row.held)
        for _ in range(4):
            step(alone, check=True)


@pytest.mark.usefixtures("short_lanes")
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_a_row_that_leaves_and_comes_back_before_the_next_step_is_not_mistaken_for_itself(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind
) -> None:
    model = tiny(kind)
    decoder = GroupedDecoder(model.model, model.layout)
    row, other = Row(model, 1, 20), Row(model, 2, 21)
    join(decoder, row)
    for _ in range(3):
        step(decoder)
    # as after a preemption whose cause was cancelled at once
    decoder.remove(row)
    join(decoder, row)
    for _ in range(3):
        step(decoder)
    join(decoder, other)
    for _ in range(3):
        step(decoder, check=True)
    taken = decoder.extract(row)
    decoder.remove(row)
    decoder.admit(row, taken, row.held)
    step(decoder, check=True)


@pytest.mark.usefixtures("short_lanes")
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_all_lengths_at_once_lie_in_few_groups_and_move_up_as_they_grow(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind
) -> None:
    model = tiny(kind)
    decoder = GroupedDecoder(model.model, model.layout)
    rows = [Row(model, 80 + length, length) for length in (2, 12, 28, 44, 75, 120, 9, 27)]
    first: dict[Row, int] = {}
    for row in rows:
        join(decoder, row)
        assert len(decoder.groups) <= MAX_GROUPS
        first[row] = next(group.capacity for group in decoder.groups if row in group.rows)
    for number in range(24):
        step(decoder, check=number == 20)
        assert [group.capacity for group in decoder.groups] == sorted({group.capacity for group in decoder.groups})
        for group in decoder.groups:
            assert max(group.lengths) < group.capacity
            assert group.lengths == [row.held for row in group.rows]
    now = {row: group.capacity for group in decoder.groups for row in group.rows}
    assert set(now) == set(rows)
    assert sum(now[row] > first[row] for row in rows) >= 4


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_lanes_that_nobody_needs_are_given_back(tiny: Callable[[TinyKind], Tiny], kind: TinyKind) -> None:
    model = tiny(kind)
    decoder = GroupedDecoder(model.model, model.layout)
    assert decoder.nbytes == 0
    rows = [Row(model, length, length) for length in (3, 5, 7, 9, 210, 215, 4, 6)]
    for row in rows:
        join(decoder, row)
    step(decoder)
    full = decoder.nbytes
    assert full >= sum(model.layout.row_bytes(row.held) for row in rows)
    for row in rows[:7]:
        decoder.remove(row)
    step(decoder)
    assert decoder.nbytes <= full / 4
    assert decoder.nbytes <= 1.5 * model.layout.row_bytes(256)


@pytest.mark.parametrize("name", ["grouped", "padded"])
def test_the_graph_of_recurrent_states_does_not_grow_with_the_answer(
    tiny: Callable[[TinyKind], Tiny], name: str, tmp_path
) -> None:
    model = tiny("qwen3_next")
    decoder = make_decoder(name, model.model, model.layout)
    # a row without a cache brings the padding that mlx-lm then counts down for ever
    for number in range(3):
        join(decoder, Row(model, number, 1 + 2 * number))

    def waiting() -> int:
        """Lines of the graph that all caches together still wait for."""
        leaves = [leaf for leaf in decoder._caches if isinstance(leaf, ArraysCache)]
        assert leaves
        mx.export_to_dot(str(tmp_path / "graph.dot"), *arrays_of(leaves))
        return len((tmp_path / "graph.dot").read_text().splitlines())

    sizes = []
    for number in range(120):
        mx.eval(decoder.forward(mx.array([7 + number, 8, 9])))
        if number % 40 == 39:
            sizes.append(waiting())
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[0] < 200


def test_lanes_refuse_what_they_cannot_hold(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    odd = Layout((Kind.FULL, Kind.OTHER, Kind.FULL), (), 1, 0, 0)
    with pytest.raises(ValueError, match="do not fit into lanes"):
        GroupedDecoder(model.model, odd)
    lane = GroupedDecoder(model.model, model.layout)._caches[0]
    assert not isinstance(lane, KVCache)
    assert lane.make_mask(1, window_size=8) == 8
    assert lane.make_mask(1) is None
    for wrong in ({"count": 2}, {"count": 1, "return_array": True}):
        with pytest.raises(ValueError, match="one token a row"):
            lane.make_mask(**wrong)


def test_a_model_without_mlx_lms_attention_is_told_apart() -> None:
    class Part:
        """A module of no model."""

    class Model:
        def modules(self):
            return [Part(), Part()]

    Part.__module__ = Model.__module__ = "json"
    assert not attend_over_lanes(Model())


def test_asking_twice_wraps_attention_once(tiny: Callable[[TinyKind], Tiny]) -> None:
    import mlx_lm.models.llama as llama

    model = tiny("llama")
    assert attend_over_lanes(model.model)
    wrapped = llama.scaled_dot_product_attention
    assert attend_over_lanes(model.model)
    assert llama.scaled_dot_product_attention is wrapped
