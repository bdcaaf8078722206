"""Caches are cut into blocks and put together again: wherever a chain can be restored, the answer goes on unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache, make_prompt_cache

from mlxctl.worker.engine.capture import capture, restore
from mlxctl.worker.engine.layout import Kind, Layout, arrays_of
from mlxctl.worker.kv.blocks import Block, BlockStore
from tests.fakes.tiny_models import TINY_KINDS, WINDOW, TinyKind
from tests.worker.engine.driving import Tiny

LENGTH, DRAWN = 77, 4


def feed(tiny: Tiny, caches: list[Any], tokens: tuple[int, ...]) -> None:
    tiny.model(mx.array([list(tokens)]), cache=caches)
    mx.eval(arrays_of(caches))


def store_for(tiny: Tiny, block_tokens: int) -> BlockStore:
    return BlockStore(
        block_tokens=block_tokens,
        budget_bytes=1 << 40,
        window_tokens=tiny.layout.window,
        needs_state=tiny.layout.has_state,
    )


def sealed(tiny: Tiny, prompt: tuple[int, ...], block_tokens: int, *, states: bool = True) -> BlockStore:
    """A prompt that is read and sealed block by block, and its rest as a tail."""
    store, caches, parent = store_for(tiny, block_tokens), make_prompt_cache(tiny.model), None
    for start in range(0, len(prompt), block_tokens):
        tokens = prompt[start : start + block_tokens]
        feed(tiny, caches, tokens)
        payload = capture(tiny.layout, caches, start, start + len(tokens), state=states)
        assert payload is not None
        held: Block | None = parent
        parent = store.seal(parent, tokens, payload)
        assert parent is not None
        if held is not None:
            store.release(held)
    if parent is not None:
        store.release(parent)
    return store


@pytest.mark.parametrize("block_tokens", [8, 16, 32])
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_every_boundary_is_a_place_to_go_on_from(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, block_tokens: int
) -> None:
    model = tiny(kind)
    prompt = model.prompt(block_tokens, LENGTH)
    store = sealed(model, prompt, block_tokens)
    boundaries = [*range(block_tokens, LENGTH, block_tokens), LENGTH]
    for boundary in boundaries:
        match = store.match(prompt, boundary)
        assert match.length == boundary
        caches = restore(model.layout, model.model, match)
        # a token that was never read after this prompt, then what is likeliest
        text = (*prompt[:boundary], 7)
        drawn, fed = [], 7
        for _ in range(DRAWN):
            fed = int(mx.argmax(model.model(mx.array([[fed]]), cache=caches)[0, -1]))
            drawn.append(fed)
        assert drawn == model.runs.answer(text, DRAWN), boundary
        store.release(match.last)
        # what was restored is not changed by going on
        again = restore(model.layout, model.model, match)
        assert int(mx.argmax(model.model(mx.array([[7]]), cache=again)[0, -1])) == drawn[0]
    store.check_integrity()
    assert store.referenced == 0


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_a_long_chunk_after_a_restore_is_read_as_if_nothing_had_happened(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind
) -> None:
    model = tiny(kind)
    prompt = model.prompt(5, LENGTH)
    store = sealed(model, prompt[:48], 16)
    caches = restore(model.layout, model.model, store.match(prompt, 48))
    logits = model.model(mx.array([prompt[48:]]), cache=caches)[0, -1]
    assert int(mx.argmax(logits)) == model.runs.answer(prompt, 1)[0]


@pytest.mark.parametrize(("kind", "kept"), [("llama", "f"), ("gpt_oss", "fw"), ("gemma3", "fw"), ("qwen3_next", "fs")])
def test_a_payload_has_the_parts_of_its_family_and_says_what_they_weigh(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, kept: str
) -> None:
    model, caches = tiny(kind), make_prompt_cache(tiny(kind).model)
    feed(model, caches, model.prompt(1, 16))
    layout = model.layout
    payload = capture(layout, caches, 0, 16, state=True)
    assert payload is not None
    assert payload.full_bytes == 16 * layout.full_bytes_per_token
    assert (payload.window is not None, payload.state is not None) == ("w" in kept, "s" in kept)
    assert payload.window_bytes == 16 * layout.window_bytes_per_token
    assert payload.state_bytes == layout.state_bytes
    # keys and values of all layers of one shape lie in one array
    assert len(payload.full) == 1
    assert sum(len(places) for places, _ in payload.full) == 2 * layout.kinds.count(Kind.FULL)
    without = capture(layout, caches, 0, 16, state=False)
    assert without is not None
    assert (without.state, without.state_bytes) == (None, 0)


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma3"])
def test_a_window_that_has_moved_on_is_left_out_and_such_a_block_is_no_place_to_go_on_from(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind
) -> None:
    model = tiny(kind)
    prompt = model.prompt(9, 64)
    caches = make_prompt_cache(model.model)
    feed(model, caches, prompt)
    # a single token is where mlx-lm lets go of what is older than the window
    feed(model, caches, (5,))
    store, parent = store_for(model, 16), None
    for start in range(0, 64, 16):
        payload = capture(model.layout, caches, start, start + 16, state=False)
        assert payload is not None
        assert payload.full is not None
        assert (payload.window is not None) is (start >= 65 - WINDOW)
        assert payload.window_bytes == (0 if payload.window is None else 16 * model.layout.window_bytes_per_token)
        parent = store.seal(parent, prompt[start : start + 16], payload)
    # only the last block has its window, and two are needed
    assert store.known_length(prompt, 64) == 0


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_tokens_that_are_not_there_are_not_captured(tiny: Callable[[TinyKind], Tiny], kind: TinyKind) -> None:
    model, caches = tiny(kind), make_prompt_cache(tiny(kind).model)
    assert capture(model.layout, caches, 0, 1, state=False) is None
    feed(model, caches, model.prompt(1, 10))
    assert capture(model.layout, caches, 0, 10, state=False) is not None
    assert capture(model.layout, caches, 8, 11, state=False) is None


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_what_is_sealed_does_not_change_when_the_row_goes_on(tiny: Callable[[TinyKind], Tiny], kind: TinyKind) -> None:
    model, caches = tiny(kind), make_prompt_cache(tiny(kind).model)
    feed(model, caches, model.prompt(1, 16))
    payload = capture(model.layout, caches, 0, 16, state=True)
    assert payload is not None
    arrays = [array for part in (payload.full, payload.window or ()) for _, array in part] + list(payload.state or ())
    before = [np.array(array) for array in arrays]
    for token in model.prompt(2, 30):
        feed(model, caches, (token,))
    assert all(np.array_equal(np.array(array), kept) for array, kept in zip(arrays, before, strict=True))


def test_nothing_restored_is_an_empty_cache(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("gpt_oss")
    match = store_for(model, 16).match((1, 2, 3), 3)
    assert all(cache.offset == 0 and cache.keys is None for cache in restore(model.layout, model.model, match))


class Nested:
    """A model with two shapes of keys, a window, and caches in lists."""

    def make_cache(self) -> list[Any]:
        return [CacheList(KVCache(), RotatingKVCache(max_size=8)), KVCache(), CacheList(CacheList(KVCache()))]


def test_nested_caches_and_several_shapes_come_back_in_their_places() -> None:
    layout = Layout((Kind.FULL, Kind.WINDOW, Kind.FULL, Kind.FULL), (8,), 0, 0, 0)
    caches, source = Nested().make_cache(), np.random.default_rng(1)
    flat = [caches[0][0], caches[0][1], caches[1], caches[2][0][0]]
    shapes = [(2, 4, 4), (2, 4, 4), (1, 6, 3), (2, 4, 4)]
    fed = [
        [mx.array(source.normal(size=(1, heads, 12, width)).astype(np.float32)) for width in widths]
        for heads, *widths in shapes
    ]
    for leaf, (keys, values) in zip(flat, fed, strict=True):
        leaf.update_and_fetch(keys, values)
    store = BlockStore(block_tokens=4, budget_bytes=1 << 30, window_tokens=8)
    parent = None
    for start in range(0, 12, 4):
        payload = capture(layout, caches, start, start + 4, state=True)
        assert payload is not None
        parent = store.seal(parent, tuple(range(start, start + 4)), payload)
    # keys and values of one shape together: two kinds of slabs besides that of width three
    assert payload.full is not None
    assert [len(places) for places, _ in payload.full] == [4, 1, 1]
    back = restore(layout, Nested(), store.match(tuple(range(12)), 12))
    assert [type(cache) for cache in back] == [CacheList, KVCache, CacheList]
    found = [back[0][0], back[0][1], back[1], back[2][0][0]]
    for leaf, (keys, values) in zip(found, fed, strict=True):
        held = min(12, getattr(leaf, "max_size", 12))
        assert leaf.offset == 12
        assert np.array_equal(np.array(leaf.keys), np.array(keys[:, :, -held:]))
        assert np.array_equal(np.array(leaf.values), np.array(values[:, :, -held:]))
