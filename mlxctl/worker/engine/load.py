"""Loads a model from its folder and works out what it needs: memory per token, context, budgets."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxctl.worker.config import GB, EngineConfig
from mlxctl.worker.engine.batch import Batch
from mlxctl.worker.engine.chains import Chains
from mlxctl.worker.engine.lanes import capacity_for
from mlxctl.worker.engine.layout import Layout, measure_layout
from mlxctl.worker.engine.loop import StepLoop
from mlxctl.worker.engine.machine import bound_spare, memory_for_models
from mlxctl.worker.engine.sampler import Sampler
from mlxctl.worker.engine.self_test import Verdict, try_model
from mlxctl.worker.folder import read_config
from mlxctl.worker.kv.blocks import BlockStore
from mlxctl.worker.scheduler.ledger import Ledger
from mlxctl.worker.types import ModelFacts

DEFAULT_CONTEXT = 4096
CACHE_PART, CACHE_MOST = 0.2, 8 * GB
KV_PART = 0.6
"""Of what the weights leave: the parts that sealed blocks and running rows may take unless a flag says otherwise."""


@dataclass(frozen=True, slots=True)
class Loaded:
    loop: StepLoop
    facts: ModelFacts
    store: BlockStore | None


def load(config: EngineConfig) -> Loaded:
    """Load, try and measure the model. Raises what mlx-lm raises for a folder that is none: `ValueError`, `OSError`…"""
    from mlx_lm.utils import load_adapters, load_model

    bound_spare()
    described = read_config(config.model)
    if described.get("model_file") and not config.trust_remote_code:
        raise ValueError(
            f"the model brings code of its own ({described['model_file']}), which --trust-remote-code allows"
        )
    # mlx-lm before 0.32 ran such code without being asked, and has no word for it
    words = {"trust_remote_code": config.trust_remote_code} if asks_before_it_runs(load_model) else {}
    model, described = load_model(config.model, **words)
    if config.adapter is not None:
        model = load_adapters(model, str(config.adapter))
        model.eval()
    layout = measure_layout(model)
    vocab_size = _vocab_size(model)
    verdict = try_model(model, layout, vocab_size, batching=config.batching)
    return _put_together(config, model, described, layout, vocab_size, verdict)


def asks_before_it_runs(load_model: Any) -> bool:
    return "trust_remote_code" in inspect.signature(load_model).parameters


def _put_together(
    config: EngineConfig, model: Any, described: dict[str, Any], layout: Layout, vocab_size: int, verdict: Verdict
) -> Loaded:
    weight_bytes = sum(array.nbytes for array in _weights(model))
    left = max(memory_for_models() - weight_bytes, GB // 4)
    cache_bytes = config.cache_bytes if config.cache_bytes is not None else min(int(left * CACHE_PART), CACHE_MOST)
    kv_bytes = config.kv_bytes if config.kv_bytes is not None else int(left * KV_PART)

    def row_bytes(tokens: int) -> int:
        return layout.row_bytes(capacity_for(tokens) if verdict.decoder == "grouped" else tokens)

    context = min(config.context_length or 1 << 40, _context_length(described))
    context = _longest_that_fits(context, row_bytes, kv_bytes)
    store = None
    if verdict.prefix_cache and cache_bytes > 0:
        store = BlockStore(
            block_tokens=config.block_tokens,
            budget_bytes=cache_bytes,
            window_tokens=layout.window,
            needs_state=layout.has_state,
            revision=revision_of(config.model, config.adapter),
        )
    loop = StepLoop(
        model,
        config,
        context_length=context,
        batch=Batch(verdict.make_decoder, Sampler()),
        chains=Chains(model, layout, store),
        ledger=Ledger(kv_bytes, row_bytes),
    )
    facts = ModelFacts(
        path=str(config.model),
        model_type=str(described.get("model_type", "")),
        context_length=context,
        vocab_size=vocab_size,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=layout.full_bytes_per_token,
        decoder=verdict.decoder,
        prefix_cache=store is not None,
        self_test=verdict.report,
    )
    return Loaded(loop, facts, store)


def revision_of(folder: Path, adapter: Path | None) -> str:
    """A fingerprint of what is computed with: the same tokens give the same cache only under the same weights."""
    digest = hashlib.blake2b(digest_size=16)
    for place in (folder, adapter):
        for path in sorted(place.glob("*")) if place else []:
            if path.suffix in (".safetensors", ".json", ".npz"):
                found = path.stat()
                digest.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def context_length_of(config: dict[str, Any]) -> int | None:
    """What a model's config.json says of the longest text that it was made for."""
    for part in (config, config.get("text_config"), config.get("llm_config")):
        if isinstance(part, dict):
            for key in ("max_position_embeddings", "max_sequence_length", "seq_length", "n_positions", "n_ctx"):
                if isinstance(part.get(key), int) and part[key] > 0:
                    return int(part[key])
    return None


def _context_length(described: dict[str, Any]) -> int:
    return context_length_of(described) or DEFAULT_CONTEXT


def _longest_that_fits(context: int, row_bytes: Any, budget: int) -> int:
    """The most tokens that a row may have, so that one row alone always fits."""
    low, high = 1, context
    while low < high:
        middle = (low + high + 1) // 2
        if row_bytes(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def _weights(model: Any) -> list[Any]:
    from mlx.utils import tree_flatten

    return [array for _, array in tree_flatten(model.parameters())]


def _vocab_size(model: Any) -> int:
    import mlx.core as mx

    return int(model(mx.array([[0]])).shape[-1])
