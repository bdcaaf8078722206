"""Small registries for tests of the store, and questions to ask of what a write left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control.store import RegistryStore
from mlxctl.core.errors import MlxctlError
from mlxctl.core.registry import ModelEntry


def entry(name: str, port: int | None = None, **more: Any) -> ModelEntry:
    return ModelEntry(repo_id=f"org/{name}", model_id=f"mlx-{name}", cache_path=f"/models/{name}", port=port, **more)


def add(store: RegistryStore, *names: str) -> None:
    for name in names:
        store.update(lambda registry, name=name: registry.with_entry(entry(name)))


def refused(change: Callable[[], object]) -> MlxctlError:
    with pytest.raises(MlxctlError) as caught:
        change()
    assert caught.value.message and caught.value.hint
    return caught.value


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
