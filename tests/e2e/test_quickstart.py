"""`mlxctl quickstart`: a question answered by the real model, twice, and everything gone after the unload."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import TEST_CACHE
from tests.fakes.home import Home

pytestmark = pytest.mark.e2e


def test_quickstart_answers_and_the_second_run_finds_everything(home: Home, sample: Path) -> None:
    home = Home(home.root, home.base, {"MLXCTL_CACHE_DIR": str(TEST_CACHE)})
    first = home.run("quickstart", "--json", timeout_s=300)
    assert first.code == 0, first
    assert "Paris" in first.data["answer"]
    assert first.data["port"] == home.base + 20
    assert first.data["tokens_per_s"] > 0
    assert first.data["engine"] == "worker"
    second = home.run("quickstart", "--question", "What is the capital of France?")
    assert second.code == 0, second
    assert "Paris" in second.out
    for told in ("tokens/s", "curl http://127.0.0.1:", f"mlxctl unload {home.base + 20}"):
        assert told in second.out + second.err
    assert home.run("unload", "mlx-smollm2-135m-instruct").code == 0
    assert sample.exists()


def test_dry_run_writes_nothing(home: Home) -> None:
    before = sorted(home.root.rglob("*"))
    planned = home.run("quickstart", "--dry-run", "--json")
    assert planned.code == 0
    assert "download" in planned.data["steps"][0]
    assert sorted(home.root.rglob("*")) == before
