"""How each server is started, where its own environment is, and how that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.worker.bars import MLX_LM, MLX_OPENAI_SERVER, OURS, VLLM_MLX
from bench.worker.model import CACHE, ROOT
from bench.worker.process import SideFailed
from mlxctl.control.backend import require_backend

VLLM_MLX_PINS = Path(__file__).with_name("vllm-mlx.txt")
MLX_OPENAI_INSTALL = ROOT / "tests" / "e2e" / "mlx-openai-server" / "install.sh"
MLX = "0.32.4"
GPU_WHEELS = {"cuda": f"mlx[cuda12]=={MLX}", "metal": f"mlx=={MLX}"}


@dataclass(frozen=True, slots=True)
class Server:
    """`arguments` from the model's folder and the port; `home` None: it runs in this Python."""

    name: str
    program: tuple[str, ...]
    arguments: Callable[[Path, int, Path], Sequence[str]]
    request_model: str
    packages: tuple[str, ...]
    home: Path | None = None
    preload: bool = True

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python" if self.home else Path(sys.executable)

    def argv(self, model: Path, port: int, scratch: Path) -> list[str]:
        """Raises `SideFailed` when it is not installed."""
        if not self.python.exists():
            raise SideFailed("not installed; see python -m bench worker --install-peers")
        first = [str(self.home / "bin" / self.program[0])] if self.home else [sys.executable, "-m", self.program[0]]
        return [*first, *self.program[1:], *self.arguments(model, port, scratch)]


def _listen(port: int) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(port)]


SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Server(
            OURS,
            ("mlxctl", "worker"),
            lambda model, port, _: ["--model", str(model), *_listen(port)],
            request_model="default_model",
            packages=("mlx", "mlx-lm"),
            preload=False,  # it opens OpenBLAS by itself
        ),
        Server(
            MLX_LM,
            ("mlx_lm", "server"),
            lambda model, port, _: ["--model", str(model), *_listen(port)],
            request_model="default_model",
            packages=("mlx", "mlx-lm"),
        ),
        Server(
            VLLM_MLX,
            ("vllm-mlx", "serve"),
            lambda model, port, _: [
                *(str(model), "--continuous-batching", "--offline", "--served-model-name", "measured"),
                *_listen(port),
            ],
            request_model="measured",
            packages=("vllm-mlx", "mlx", "mlx-lm"),
            home=CACHE / "vllm-mlx",
        ),
        Server(
            MLX_OPENAI_SERVER,
            ("mlx-openai-server", "launch"),
            lambda model, port, scratch: [
                *("--model-path", str(model), "--model-type", "lm", "--served-model-name", "measured"),
                *("--no-log-file", "--prompt-cache-dir", str(scratch / "prompt-cache")),
                *_listen(port),
            ],
            request_model="measured",
            packages=("mlx-openai-server", "mlx", "mlx-lm"),
            home=CACHE / "mlx-openai-server",
        ),
    )
}


def versions(server: Server) -> dict[str, str]:
    """Of the packages that matter, as its own Python sees them; empty where it is not installed."""
    if not server.python.exists():
        return {}
    code = (
        "import json,sys;from importlib.metadata import version as v;print(json.dumps({n:v(n) for n in sys.argv[1:]}))"
    )
    ran = subprocess.run(
        [str(server.python), "-c", code, *server.packages], capture_output=True, text=True, timeout=60, check=True
    )
    return dict(json.loads(ran.stdout))


def install() -> None:
    """Both foreign servers, each into a virtual environment below the cache, on the MLX backend of this Python."""
    vllm = CACHE / "vllm-mlx"
    openai = CACHE / "mlx-openai-server"
    subprocess.run(["sh", str(MLX_OPENAI_INSTALL), str(openai)], check=True)
    if not (vllm / "bin" / "vllm-mlx").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(vllm)], check=True)
        pip(vllm, "install", "--no-deps", "-r", str(VLLM_MLX_PINS))
    if (wheel := GPU_WHEELS.get(require_backend())) is not None:
        for home in (vllm, openai):
            pip(home, "uninstall", "--yes", "mlx-cpu")
            pip(home, "install", wheel)
    for server in SERVERS.values():
        print(server.name, versions(server))


def pip(home: Path, *words: str) -> None:
    subprocess.run([str(home / "bin" / "python"), "-m", "pip", words[0], "--quiet", *words[1:]], check=True)
