"""mlx-openai-server for real under `mlxctl load`, in an environment of its own, found on PATH or through uv."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mlxctl.control.probe import ask
from tests.e2e.conftest import TEST_CACHE
from tests.fakes.home import Home

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

INSTALL = Path(__file__).parent / "mlx-openai-server" / "install.sh"


@pytest.fixture(scope="session")
def server_venv() -> Path:
    venv = TEST_CACHE / "mlx-openai-server"
    venv.parent.mkdir(exist_ok=True)
    done = subprocess.run(["sh", str(INSTALL), str(venv)], capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return venv


def test_found_on_path_it_serves_experimental_ports(home: Home, server_venv: Path, tiny_gguf: Path) -> None:
    home = Home(home.root, home.base, {"PATH": f"{server_venv / 'bin'}{os.pathsep}{os.environ['PATH']}"})
    loaded = home.run("load", str(tiny_gguf), "auto", "--name", "tiny", "--json", timeout_s=300)
    assert loaded.code == 0, loaded
    assert loaded.data["engine"] == "mlx-openai-server"
    assert loaded.data["request_model"] == "mlx-tiny"
    port = loaded.data["port"]
    served = ask("127.0.0.1", port, "/v1/models", timeout_s=10).body["data"]
    assert [model["id"] for model in served] == ["mlx-tiny"]
    said = home.run("chat", "mlx-tiny", "Hello", "--max-tokens", "5", "--temperature", "0", "--json")
    assert said.code == 0, said
    # a random model may end whenever it likes
    assert 1 <= said.data["tokens"] <= 5
    row = next(row for row in home.run("status", "--json").data["ports"] if row["port"] == port)
    assert (row["phase"], row["requests"]) == ("ready", 0)
    assert row["memory_bytes"] > 100 << 20
    stamp = home.site().states.read(port).stamp
    assert home.run("unload", str(port)).code == 0
    assert home.site().host.stamped(stamp) == []


def test_found_through_uv_and_the_launch_project(home: Home, server_venv: Path, tiny_gguf: Path) -> None:
    uv = shutil.which("uv") or str(server_venv / "bin" / "uv")
    assert Path(uv).exists(), "install.sh brings uv where the machine has none"
    # alone in its folder: install.sh puts the server beside it, which would be found on PATH then
    only_uv = home.root / "bin"
    only_uv.mkdir()
    (only_uv / "uv").symlink_to(uv)
    project = home.root / "launch-project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mlx-launch"\nversion = "1"\nrequires-python = ">=3.11"\n'
    )
    home = Home(
        home.root,
        home.base,
        {
            "PATH": f"{only_uv}{os.pathsep}{os.environ['PATH']}",
            "MLXCTL_LAUNCH_PROJECT": str(project),
            "UV_PROJECT_ENVIRONMENT": str(server_venv),
            "UV_NO_SYNC": "1",
        },
    )
    loaded = home.run("load", str(tiny_gguf), "auto", "--name", "tiny", "--json", timeout_s=300)
    assert loaded.code == 0, loaded
    assert loaded.data["engine"] == "mlx-openai-server"
    argv = home.site().states.read(loaded.data["port"]).argv
    assert argv[1:4] == ("run", "--project", str(project))
    stamp = home.site().states.read(loaded.data["port"]).stamp
    assert home.run("unload", "mlx-tiny").code == 0
    assert home.site().host.stamped(stamp) == []
