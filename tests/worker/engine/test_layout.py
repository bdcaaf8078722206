"""What a model keeps between tokens is found out by looking, and its weight is that of the arrays themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from mlxctl.worker.engine.layout import Kind, Layout, arrays_of, kind_of, leaves, measure_layout, new_caches, rebuild
from tests.fakes.tiny_models import TINY_KINDS, WINDOW, TinyKind
from tests.worker.engine.driving import Tiny


class OtherOrder(KVCache):
    """Keeps its tokens in an order of its own."""


@pytest.mark.parametrize(
    ("cache", "kind"),
    [
        (KVCache(), Kind.FULL),
        (RotatingKVCache(max_size=8), Kind.WINDOW),
        (ArraysCache(2), Kind.STATE),
        # what keeps its first tokens for ever has no order that lanes know
        (RotatingKVCache(max_size=8, keep=4), Kind.OTHER),
        (ChunkedKVCache(8), Kind.OTHER),
        (QuantizedKVCache(), Kind.OTHER),
        (OtherOrder(), Kind.OTHER),
        (object(), Kind.OTHER),
    ],
)
def test_a_cache_is_known_by_its_exact_type(cache: Any, kind: Kind) -> None:
    assert kind_of(cache) is kind


FULL, WINDOWED, STATE = Kind.FULL, Kind.WINDOW, Kind.STATE


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [
        ("llama", (FULL, FULL, FULL)),
        ("gpt_oss", (WINDOWED, FULL, WINDOWED, FULL)),
        ("gemma3", (WINDOWED, FULL, WINDOWED, FULL)),
        ("qwen3_next", (STATE, FULL, STATE, FULL)),
    ],
)
def test_each_family_is_measured(tiny: Callable[[TinyKind], Tiny], kind: TinyKind, kinds: tuple[Kind, ...]) -> None:
    model = tiny(kind)
    layout = model.layout
    assert layout.kinds == kinds
    assert layout.windows == (WINDOW,) * kinds.count(WINDOWED)
    assert layout.window == (WINDOW if WINDOWED in kinds else 0)
    assert layout.has_state is (STATE in kinds)
    assert layout.divisible
    # two heads of keys and values of sixteen float32 a layer
    per_layer = 2 * 2 * 16 * 4
    assert layout.full_bytes_per_token == kinds.count(FULL) * per_layer
    assert layout.window_bytes_per_token == kinds.count(WINDOWED) * per_layer
    assert (layout.state_bytes > 0) is layout.has_state


@pytest.mark.parametrize("kind", TINY_KINDS)
@pytest.mark.parametrize("tokens", [5, WINDOW, 90])
def test_a_row_weighs_what_its_arrays_weigh(tiny: Callable[[TinyKind], Tiny], kind: TinyKind, tokens: int) -> None:
    model = tiny(kind)
    caches = new_caches(model.model)
    for token in model.prompt(1, tokens):
        model.model(mx.array([[token]]), cache=caches)
    weight = 0
    for leaf in leaves(caches):
        if isinstance(leaf, ArraysCache):
            weight += leaf.nbytes
        else:
            held = min(tokens, getattr(leaf, "max_size", tokens))
            weight += leaf.keys[:, :, :held].nbytes + leaf.values[:, :, :held].nbytes
    assert model.layout.row_bytes(tokens) == weight


@pytest.mark.parametrize(
    ("layout", "weights"),
    [
        (Layout((FULL,), (), 10, 0, 0), {0: 0, 1: 10, 100: 1000}),
        (Layout((WINDOWED, FULL), (8,), 10, 3, 0), {4: 52, 8: 104, 9: 114, 100: 1024}),
        (Layout((STATE, FULL), (), 10, 0, 500), {0: 500, 7: 570}),
        (Layout((WINDOWED, WINDOWED), (8, 20), 0, 4, 0), {8: 32, 20: 80, 50: 80}),
    ],
)
def test_windows_stop_growing_and_states_never_do(layout: Layout, weights: dict[int, int]) -> None:
    assert {tokens: layout.row_bytes(tokens) for tokens in weights} == weights


class Chunked:
    """A model whose second cache fits into no block."""

    def make_cache(self) -> list[Any]:
        return [KVCache(), ChunkedKVCache(8)]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        shape = (1, 2, tokens.shape[1], 4)
        for leaf in cache:
            leaf.update_and_fetch(mx.ones(shape), mx.ones(shape))
        return mx.zeros((1, tokens.shape[1], 10))


def test_a_cache_that_nobody_knows_is_counted_as_if_it_grew_with_every_token() -> None:
    layout = measure_layout(Chunked())
    assert layout.kinds == (FULL, Kind.OTHER)
    assert not layout.divisible
    assert layout.full_bytes_per_token >= 2 * (2 * 4 * 4) * 2


def test_lists_of_caches_are_opened_and_built_again() -> None:
    one, two, three = KVCache(), RotatingKVCache(max_size=4), ArraysCache(2)
    nested = [CacheList(one, CacheList(two)), three]
    assert leaves(nested) == [one, two, three]
    others = [KVCache(), KVCache(), KVCache()]
    built = rebuild(nested, iter(others))
    assert leaves(built) == others
    assert isinstance(built[0], CacheList)
    assert isinstance(built[0][1], CacheList)


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_all_arrays_are_found_and_nothing_else(tiny: Callable[[TinyKind], Tiny], kind: TinyKind) -> None:
    model = tiny(kind)
    caches = make_prompt_cache(model.model)
    assert arrays_of(caches) == []
    model.model(mx.array([[1, 2, 3]]), cache=caches)
    found = arrays_of(caches)
    # keys and values, or the convolution and the recurrent state
    assert len(found) == 2 * len(caches)
    assert all(isinstance(array, mx.array) for array in found)
