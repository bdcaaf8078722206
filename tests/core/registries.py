"""Registries for these tests: as the seed wrote them, and out of a few entries."""

from __future__ import annotations

import json
from typing import Any

from mlxctl.core.registry import ModelEntry, Registry, parse_registry

PATH = "/hub/registry.json"


def seed_entry(**changes: Any) -> dict[str, Any]:
    """An entry as the seed wrote it, with fields of its later versions that we do not know."""
    return {
        "max_output_tokens": 64000,
        "repo_id": "mlx-community/gpt-oss-120b-MXFP4-Q4",
        "vllm": {"profile": "fast", "tool_choice_mode": "auto", "memory_fraction": 0.9},
        "model_id": "mlx-gpt-oss-120b-mxfp4-q4",
        "cache_path": "/hub/models--mlx-community--gpt-oss-120b-MXFP4-Q4/snapshots/abc",
        "format": "mlx",
        "og_path": None,
        "port": 8100,
        "request_params": {"reasoning_effort": "low"},
        "startup_timeout_seconds": 900,
        "note": "größte",
        **changes,
    }


def seed(**changes: Any) -> dict[str, Any]:
    entry = seed_entry(**changes)
    return {
        "comment": "mine",
        "models": {entry["model_id"]: entry, "mlx-b": seed_entry(model_id="mlx-b", repo_id="org/b", port=None)},
        "version": 1,
        "lanes": {"8100": {"health_state": "serving"}},
    }


def parsed(document: Any) -> Registry:
    return parse_registry(json.dumps(document), PATH)


def entry(model_id: str, port: int | None = None, **more: Any) -> ModelEntry:
    given = {"repo_id": f"org/{model_id.removeprefix('mlx-')}", "cache_path": "/m", **more}
    return ModelEntry(model_id=model_id, port=port, **given)


def registry_of(*entries: ModelEntry) -> Registry:
    return Registry({each.model_id: each for each in entries})
