"""The tiny models, loaded once a session, and lanes so short that rows outgrow them all the time."""

from __future__ import annotations

from collections.abc import Callable

from mlxctl.worker.engine.blas import open_fast_blas

open_fast_blas()

import pytest  # noqa: E402

from mlxctl.worker.engine import lanes, loop  # noqa: E402
from mlxctl.worker.scheduler import pace  # noqa: E402
from tests.fakes.tiny_models import TinyKind, tiny_model  # noqa: E402
from tests.worker.engine.driving import Tiny  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TinyKind], Tiny]:
    loaded: dict[TinyKind, Tiny] = {}

    def give(kind: TinyKind) -> Tiny:
        if kind not in loaded:
            loaded[kind] = Tiny.load(kind, tiny_model(kind, tmp_path_factory.mktemp(kind)))
        return loaded[kind]

    return give


@pytest.fixture
def short_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes of 16, 32, 48, 80, 128 … columns: shorter than a window, and outgrown after a few tokens."""
    monkeypatch.setattr(lanes, "SMALLEST", 16)
    monkeypatch.setattr(lanes, "ROUNDING", 16)
    monkeypatch.setattr(lanes, "HEADROOM", 4)


@pytest.fixture
def little_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows reserve room for a few tokens at a time, so that memory runs out under them; prompts are read a little at a
    time, also while nobody streams.
    """
    monkeypatch.setattr(loop, "SET_ASIDE_TOKENS", 8)
    monkeypatch.setattr(pace, "LONGEST_S", 0.03)
    monkeypatch.setattr(pace, "FIRST_CHUNK", 32)
