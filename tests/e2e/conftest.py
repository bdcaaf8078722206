"""Real parts: a real small model behind a local hub, kept between runs so that only the first one builds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxctl.control.gguf import dequantize
from mlxctl.control.sample import fetch_sample
from mlxctl.control.site import Site
from mlxctl.core.report import Silent
from mlxctl.core.settings import load_settings
from tests.fakes.gguf_files import write_tiny_llama_gguf
from tests.fakes.home import Home

ROOT = Path(__file__).parents[2]
TEST_CACHE = Path(os.environ.get("MLXCTL_TEST_CACHE") or ROOT / ".test-cache")
REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def sample() -> Path:
    """The GGUF file of the real model, fetched the way quickstart does."""
    environ = {**os.environ, "MLXCTL_CACHE_DIR": str(TEST_CACHE), "MLXCTL_STATE_DIR": str(TEST_CACHE / "state")}
    return fetch_sample(Site(load_settings(environ, platform=sys.platform), environ))


@pytest.fixture(scope="session")
def hub_root(sample: Path) -> Path:
    """A folder of repositories with the real model in it, in half precision as its makers publish it."""
    root = TEST_CACHE / "hub-root"
    repo = root / REPO
    if not repo.exists():
        staged = repo.with_name(f".{repo.name}")
        shutil.rmtree(staged, ignore_errors=True)
        repo.parent.mkdir(parents=True, exist_ok=True)
        dequantize(sample, staged, Silent())
        staged.rename(repo)
    return root


@dataclass(frozen=True)
class Hub:
    url: str


@pytest.fixture
def hub(hub_root: Path) -> Iterator[Hub]:
    """The local hub server, as a process of its own."""
    argv = [sys.executable, "-m", "tests.fakes.hub", "--root", str(hub_root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            yield Hub(server.stdout.readline().split()[-1])
        finally:
            server.kill()


@pytest.fixture
def real_home(home: Home, hub: Hub) -> Home:
    """A home whose hub is the local one; engines are the real ones."""
    return Home(home.root, home.base, {"HF_ENDPOINT": hub.url, "MLXCTL_STOP_GRACE_S": "10"})


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of two layers: answers nonsense, but quickly."""
    path = tmp_path_factory.mktemp("tiny") / "Tiny.F16.gguf"
    write_tiny_llama_gguf(path)
    return path
