"""Loading: the trial's verdict, budgets from flags or from the machine, and a context that fits into the memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxctl.worker.config import EngineConfig
from mlxctl.worker.engine import load as loading
from mlxctl.worker.engine.decoder import PaddedDecoder, SingleDecoder
from mlxctl.worker.engine.lanes import capacity_for
from mlxctl.worker.engine.load import CACHE_MOST, load
from mlxctl.worker.engine.self_test import PASSED, Verdict
from mlxctl.worker.types import Drawn, Ended, Generation, Priority, Sampling
from tests.fakes.tiny_models import CONTEXT, TINY_KINDS, TinyKind
from tests.worker.engine.driving import Tiny

MB = 1_000_000


def config(tiny: Tiny, **more: Any) -> EngineConfig:
    return EngineConfig(tiny.folder, **({"block_tokens": 16, "cache_bytes": 20 * MB, "kv_bytes": 50 * MB} | more))


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_a_model_as_it_is_loaded_for_real_answers_a_crowd_like_single_runs(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind
) -> None:
    model = tiny(kind)
    engine = load(config(model, max_batch=4))
    facts = engine.facts
    # the trial did not degrade
    assert (facts.decoder, facts.prefix_cache) == ("grouped", True)
    assert facts.self_test == {"grouped": PASSED, "restore": PASSED}
    # two of them outgrow lanes of 256 columns beside each other
    asked = [
        Generation(f"r{number}", model.prompt(number, length), count, Sampling(0.0), n=n, priority=priority)
        for number, (length, count, n, priority) in enumerate(
            [
                (185, 80, 1, Priority.NORMAL),
                (188, 76, 1, Priority.NORMAL),
                (330, 12, 1, Priority.LOW),
                (40, 12, 2, Priority.HIGH),
                (40, 9, 1, Priority.HIGH),
                (1, 9, 1, Priority.NORMAL),
            ]
        )
    ]
    said: dict[tuple[str, int], list[int]] = {}
    coming, ended, capacities = list(asked), 0, set()
    while coming or not engine.loop.is_idle:
        if coming and (not engine.loop.intake or engine.loop.is_idle):
            engine.loop.submit(coming.pop(0))
        for event in engine.loop.step():
            if isinstance(event, Drawn):
                said.setdefault((event.request_id, event.index), []).append(event.token)
            ended += isinstance(event, Ended)
        capacities |= {group.capacity for group in engine.loop.batch.decoder.groups}
    counts = engine.loop.outbox.counts
    assert ended == counts.finished == 7
    assert counts.largest_batch == 4
    assert counts.forks == 1
    assert counts.preemptions > 0
    assert {256, 384, 576} <= capacities
    for generation in asked:
        for index in range(generation.n):
            expected = model.runs.answer(generation.prompt, generation.max_tokens)
            assert said[generation.request_id, index] == expected, generation.request_id
    assert engine.store is not None
    engine.store.check_integrity()
    assert (engine.store.referenced, engine.loop.ledger.reserved) == (0, 0)


def test_the_facts_are_those_of_the_folder(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("gpt_oss")
    facts = load(config(model)).facts
    assert (facts.model_type, facts.vocab_size, facts.context_length) == ("gpt_oss", model.vocab_size, CONTEXT)
    assert facts.path == str(model.folder)
    size = (model.folder / "model.safetensors").stat().st_size
    assert 0.95 * size <= facts.weight_bytes <= size
    assert facts.kv_bytes_per_token == model.layout.full_bytes_per_token


@pytest.mark.parametrize("cached", [True, False])
def test_the_prefix_cache_has_the_budget_that_was_asked_for_or_is_not_there(
    tiny: Callable[[TinyKind], Tiny], cached: bool
) -> None:
    engine = load(config(tiny("llama"), cache_bytes=3 * MB if cached else 0))
    assert engine.facts.prefix_cache is cached
    assert (engine.store.budget_bytes if engine.store else 0) == (3 * MB if cached else 0)


def test_budgets_come_from_the_machine_where_nobody_says_otherwise(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "memory_for_models", lambda: 10_000 * MB)
    engine = load(config(tiny("llama"), cache_bytes=None, kv_bytes=None))
    left = 10_000 * MB - engine.facts.weight_bytes
    assert engine.store is not None
    assert engine.store.budget_bytes == int(0.2 * left)
    assert engine.loop.ledger.budget == int(0.6 * left)
    monkeypatch.setattr(loading, "memory_for_models", lambda: 10_000_000 * MB)
    engine = load(config(tiny("llama"), cache_bytes=None, kv_bytes=None))
    assert engine.store is not None
    assert engine.store.budget_bytes == CACHE_MOST


@pytest.mark.parametrize("kv_bytes", [400_000, 900_000, 2 * MB])
def test_a_context_is_no_longer_than_one_row_may_become(tiny: Callable[[TinyKind], Tiny], kv_bytes: int) -> None:
    model = tiny("llama")
    engine = load(config(model, kv_bytes=kv_bytes))
    context = engine.facts.context_length
    assert context < CONTEXT
    assert engine.loop.ledger.fits(context)
    assert not engine.loop.ledger.fits(context + 1)
    # counted in whole lanes, as they are laid
    assert engine.loop.ledger.row_bytes(context) == capacity_for(context) * model.layout.full_bytes_per_token


def test_a_shorter_context_can_be_asked_for_and_a_longer_one_cannot(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    assert load(config(model, context_length=512)).facts.context_length == 512
    assert load(config(model, context_length=100_000)).facts.context_length == CONTEXT


def test_without_batching_rows_run_one_after_the_other(tiny: Callable[[TinyKind], Tiny]) -> None:
    engine = load(config(tiny("gemma3"), batching=False))
    assert engine.facts.decoder == engine.loop.batch.decoder.name == "single"
    assert engine.facts.self_test == {"single": PASSED, "restore": PASSED}


@pytest.mark.parametrize("decoder", [PaddedDecoder, SingleDecoder])
def test_the_verdict_of_the_trial_is_obeyed(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch, decoder: type
) -> None:
    def trial(model: Any, layout: Any, vocab_size: int, *, batching: bool) -> Verdict:
        return Verdict(lambda: decoder(model), decoder.name, False, {"restore": "logits differ"})

    monkeypatch.setattr(loading, "try_model", trial)
    model = tiny("llama")
    engine = load(config(model))
    assert engine.loop.batch.decoder.name == engine.facts.decoder == decoder.name
    assert engine.store is None
    assert not engine.facts.prefix_cache
    # without lanes nothing is rounded up
    assert engine.loop.ledger.row_bytes(10) == 10 * model.layout.full_bytes_per_token


def test_other_weights_or_settings_are_another_revision(tiny: Callable[[TinyKind], Tiny], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("llama").folder, tmp_path / "copy")
    before = loading.revision_of(folder, None)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"rope_theta": 5000.0}))
    assert loading.revision_of(folder, None) != before
