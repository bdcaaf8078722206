"""Shared by every test: nothing of the machine's own settings leaks in, and nothing that a test started stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.home import Home, free_base

OWN_PREFIXES = ("MLX", "HF_", "HUGGINGFACE", "GATEWAY_", "STUDIO_", "LLM__", "OPTILLM", "HANDLES_PATH")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(OWN_PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path, free_base())
    made.hub_cache.mkdir()
    yield made
    made.stop_everything()
