"""How fast `status` and `list --json` are, with forty registered models and three running, beside bare imports."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.table import alternate, show
from tests.fakes.home import Home, free_base

BARE = "import typer, rich.console, rich.table"
BAR = 1.6
ROUNDS = 15


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        home = Home(Path(root), free_base()).with_engine()
        home.hub_cache.mkdir()
        for number in range(40):
            home.model(f"model-{number}", port=home.base + number if number < 3 else None)
        try:
            for number in range(3):
                loaded = home.run("load", f"mlx-model-{number}", str(home.base + number))
                assert loaded.code == 0, loaded
            measure(home)
        finally:
            home.stop_everything()


def measure(home: Home) -> None:
    mlxctl = str(Path(sys.executable).with_name("mlxctl"))

    def timed(*argv: str) -> float:
        begun = time.perf_counter()
        subprocess.run(argv, env=home.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begun

    sides = {
        "bare imports": lambda: timed(sys.executable, "-c", BARE),
        "mlxctl status": lambda: timed(mlxctl, "status"),
        "mlxctl status --json": lambda: timed(mlxctl, "status", "--json"),
        "mlxctl list --json": lambda: timed(mlxctl, "list", "--json"),
    }
    rows = alternate(sides, ROUNDS)
    show(
        "start: forty registered models, three running",
        rows,
        "bare imports",
        {name: BAR for name in sides if name.startswith("mlxctl")},
    )
