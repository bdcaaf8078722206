"""What `mlxctl load` adds to starting the same server by hand, both up to the first answered completion."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.table import alternate, show
from mlxctl.control.backend import blas_environment
from mlxctl.control.probe import ask, chat_payload, is_chat_answer
from tests.fakes.home import Home, free_base

BAR = 1.05
ROUNDS = 7
CACHE = Path(os.environ.get("MLXCTL_TEST_CACHE") or Path(__file__).parents[1] / ".test-cache")


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        home = Home(Path(root), free_base(), {"MLXCTL_CACHE_DIR": str(CACHE)})
        home.hub_cache.mkdir()
        try:
            first = home.run("quickstart", "--json", timeout_s=600)
            assert first.code == 0, first
            home.run("unload-all", "--yes")
            entry = home.registry().models[first.data["model_id"]]
            sides = {
                "by hand": lambda: by_hand(home, entry.cache_path),
                "mlxctl load": lambda: by_mlxctl(home, entry.model_id),
            }
            rows = alternate(sides, ROUNDS)
            show(
                "load: SmolLM2-135M float32, mlx_lm.server, to the first completion",
                rows,
                "by hand",
                {"mlxctl load": BAR},
            )
        finally:
            home.stop_everything()


def by_hand(home: Home, model: str) -> float:
    """Seconds from starting the server until it has answered the same tiny question that mlxctl asks."""
    port = home.base + 39
    argv = [sys.executable, "-m", "mlx_lm", "server", "--model", model, "--host", "127.0.0.1", "--port", str(port)]
    environ = {**home.env(), "HF_HUB_OFFLINE": "1", **blas_environment()}
    begun = time.perf_counter()
    server = subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not is_chat_answer(
            ask("127.0.0.1", port, "/v1/chat/completions", chat_payload("default_model"), timeout_s=60)
        ):
            time.sleep(0.01)
        return time.perf_counter() - begun
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def by_mlxctl(home: Home, model_id: str) -> float:
    mlxctl = str(Path(sys.executable).with_name("mlxctl"))
    begun = time.perf_counter()
    subprocess.run(
        [mlxctl, "load", model_id, "auto", "--json", "--engine", "mlx-lm"],
        env=home.env(),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    seconds = time.perf_counter() - begun
    home.run("unload-all", "--yes")
    return seconds
