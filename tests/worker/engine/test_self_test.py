"""The trial at load: a model is batched only if its batch says what its rows say alone."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from mlxctl.worker.engine import self_test
from mlxctl.worker.engine.decoder import PaddedDecoder
from mlxctl.worker.engine.lanes import LaneGroup
from mlxctl.worker.engine.self_test import PASSED, try_model
from tests.fakes.tiny_models import TINY_KINDS, TinyKind
from tests.worker.engine.driving import Tiny


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes in which every row overlooks its own last token but one."""
    honest = LaneGroup._step

    def shifted(group: LaneGroup, columns: int):
        step = honest(group, columns)
        seen = mx.arange(step.visible) != step.visible - 2
        mask = mx.broadcast_to(seen[None, None, None], (len(group.rows), 1, 1, step.visible))
        step.mask = mask if step.mask is None else mx.logical_and(mask, step.mask)
        return step

    monkeypatch.setattr(LaneGroup, "_step", shifted)


def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A padded batch in which rows answer for each other."""
    honest = PaddedDecoder.forward
    monkeypatch.setattr(PaddedDecoder, "forward", lambda decoder, tokens: honest(decoder, tokens)[::-1])


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_a_sound_model_runs_in_lanes_and_is_restored_from_blocks(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind
) -> None:
    model = tiny(kind)
    verdict = try_model(model.model, model.layout, model.vocab_size)
    assert (verdict.decoder, verdict.prefix_cache) == ("grouped", True)
    assert verdict.report == {"grouped": PASSED, "restore": PASSED}
    assert verdict.make_decoder().name == "grouped"


def test_a_model_that_lanes_do_not_fit_falls_back_to_the_padded_batch(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    blind(monkeypatch)
    model = tiny("llama")
    verdict = try_model(model.model, model.layout, model.vocab_size)
    assert verdict.decoder == "padded"
    assert verdict.report["grouped"].startswith("logits differ by ")
    assert verdict.report["padded"] == verdict.report["restore"] == PASSED


def test_a_model_that_cannot_be_batched_at_all_runs_row_by_row(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    blind(monkeypatch)
    deaf(monkeypatch)
    model = tiny("gpt_oss")
    verdict = try_model(model.model, model.layout, model.vocab_size)
    assert verdict.decoder == "single"
    assert "differ" in verdict.report["grouped"]
    assert "differ" in verdict.report["padded"]
    assert verdict.report["single"] == PASSED


def test_a_model_whose_batch_raises_is_told_with_what_it_raised(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: object) -> None:
        raise AttributeError("'LaneCache' object has no attribute 'keys'")

    monkeypatch.setattr(LaneGroup, "begin_step", raising)
    model = tiny("gemma3")
    verdict = try_model(model.model, model.layout, model.vocab_size)
    assert verdict.decoder == "padded"
    assert verdict.report["grouped"] == "AttributeError: 'LaneCache' object has no attribute 'keys'"


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_blocks_that_come_back_wrong_are_not_used(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = self_test.restore

    def forgetful(layout, model, match):
        caches = honest(layout, model, match)
        for cache in caches:
            if hasattr(cache, "keys"):
                cache.keys = mx.zeros_like(cache.keys)
            else:
                cache.cache = [mx.zeros_like(array) for array in cache.cache]
        return caches

    monkeypatch.setattr(self_test, "restore", forgetful)
    model = tiny(kind)
    verdict = try_model(model.model, model.layout, model.vocab_size)
    assert (verdict.decoder, verdict.prefix_cache) == ("grouped", False)
    assert verdict.report["restore"].startswith("logits differ by ")


def test_who_wants_no_batching_gets_none(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    verdict = try_model(model.model, model.layout, model.vocab_size, batching=False)
    assert verdict.decoder == "single"
    assert set(verdict.report) == {"single", "restore"}
