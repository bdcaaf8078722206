"""The main job with real parts: load a real model on a fixed port, chat with it, kill it, stop it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from mlxctl.control.probe import ask
from tests.e2e.conftest import REPO
from tests.fakes.home import Home

pytestmark = pytest.mark.e2e


def curl(base_url: str, model: str, question: str) -> str:
    """What a person without mlxctl would type."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 20}
    argv = [
        "curl",
        "-sS",
        f"{base_url}/chat/completions",
        "-H",
        "Content-Type: application/json",
        "-d",
        json.dumps(body),
    ]
    answer = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout)
    return str(answer["choices"][0]["message"]["content"])


def port_row(home: Home, port: int) -> dict[str, object]:
    rows = home.run("status", "--json").data["ports"]
    return next(row for row in rows if row["port"] == port)


def can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    return True


@pytest.mark.parametrize("engine", ["worker", "mlx-lm"])
def test_load_chat_kill_and_stop(real_home: Home, tiny_gguf: Path, engine: str) -> None:
    home, first, second = real_home, real_home.base + 20, real_home.base + 21

    loaded = home.run("load", REPO, "auto", "--engine", engine, "--json", timeout_s=300)
    assert loaded.code == 0, loaded
    assert loaded.data["engine"] == engine
    assert loaded.data["port"] == first
    assert loaded.data["model_id"] == "mlx-smollm2-135m-instruct"
    assert "Paris" in curl(loaded.data["base_url"], loaded.data["request_model"], "What is the capital of France?")

    # the organisation is not pre-converted, so the base weights and the conversion lie side by side
    entry = home.registry().models["mlx-smollm2-135m-instruct"]
    assert Path(entry.cache_path).name == "converted--mlx-smollm2-135m-instruct"
    assert entry.og_path == str(home.hub_cache / "models--HuggingFaceTB--SmolLM2-135M-Instruct")
    assert not list(home.hub_cache.glob(".partial-*"))
    assert home.run("verify").code == 0

    # another model, from a .gguf file this time, gets the next port
    other = home.run("load", str(tiny_gguf), "auto", "--engine", engine, "--name", "tiny", "--json", timeout_s=300)
    assert (other.code, other.data["port"]) == (0, second), other

    # a second load of the first is no second process
    again = home.run("load", REPO, "auto", "--engine", engine, "--json")
    assert again.data["pid"] == loaded.data["pid"]

    said = home.run("chat", "mlx-smollm2-135m-instruct", "What is the capital of France?", "--temperature", "0")
    assert "Paris" in said.out
    assert "tokens/s" in said.err

    # killed behind our back: status tells the truth, and reconcile heals
    os.kill(loaded.data["pid"], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(loaded.data["pid"])] if psutil.pid_exists(loaded.data["pid"]) else [], timeout=5)
    row = port_row(home, first)
    assert (row["phase"], row["pid"], row["last_exit"]) == ("failed", None, "SIGKILL")
    healed = home.run("reconcile", "--restart", "--json")
    assert healed.data["findings"][0]["action"] == "restart", healed
    pid = port_row(home, first)["pid"]
    assert isinstance(pid, int) and pid != loaded.data["pid"]

    # unload leaves no process and a free port
    stamp = home.site().states.read(first).stamp
    assert home.run("unload", str(first)).code == 0
    assert not psutil.pid_exists(pid)
    assert home.site().host.stamped(stamp) == []
    assert can_bind(first)
    assert port_row(home, second)["phase"] == "ready"
    assert home.run("unload-all", "--yes", "--json").data["unloaded"][0]["port"] == second


@pytest.mark.parametrize("engine", ["worker", "mlx-lm"])
def test_a_model_that_cannot_be_loaded_leaves_the_old_one_serving(
    real_home: Home, tiny_gguf: Path, engine: str
) -> None:
    """Replace on a team port with the real server, which listens but cannot load weights that do not fit."""
    home = Home(real_home.root, real_home.base, {**real_home.environ, "MLXCTL_ENGINE": engine})
    port = str(home.base)
    assert home.run("load", str(tiny_gguf), port, "--name", "good", timeout_s=300).code == 0
    ensured = home.run("ensure", str(tiny_gguf), "--name", "bad", "--json", timeout_s=300)
    config = Path(ensured.data["model"]["cache_path"]) / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": ', '"hidden_size": 1'))
    failed = home.run("load", "mlx-bad", port, "--json", timeout_s=300)
    assert failed.code == 7, failed
    assert failed.error["code"] == "died"
    assert any("Error" in line for line in failed.error["detail"]), failed.error
    assert "mlx-good serves on port" in failed.error["hint"]
    assert ask("127.0.0.1", home.base, "/health", timeout_s=5).status == 200
    assert port_row(home, home.base)["model_id"] == "mlx-good"


def test_offline_means_no_network(home: Home) -> None:
    """Nothing listens at the hub's address: had a request been tried, the error would be another."""
    offline = Home(home.root, home.base, {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"})
    refused = offline.run("load", REPO, "auto", "--json")
    assert (refused.code, refused.error["code"]) == (8, "hub_offline")
    assert not home.registry().models
