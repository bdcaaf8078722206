"""Which MLX backend this Python has, and the BLAS that makes the CPU one bearable."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from mlxctl.core.errors import NotReady

_INSTALL = "run `make setup`, or `pip install 'mlxctl[cpu]'` (no GPU) or `'mlxctl[cuda]'` (NVIDIA)"


def installed_backends(names: Iterable[str] | None = None) -> set[str]:
    """Which of "metal", "cpu" and "cuda" are installed. `names` are distribution names; default: this Python's."""
    if names is None:
        names = (name for d in metadata.distributions() if (name := d.metadata["Name"]))
    kinds = {"mlx-metal": "metal", "mlx-cpu": "cpu"}
    lowered = {name.lower().replace("_", "-") for name in names}
    return {kinds[name] for name in lowered & kinds.keys()} | (
        {"cuda"} if any(n.startswith("mlx-cuda") for n in lowered) else set()
    )


def require_backend(backends: set[str] | None = None) -> str:
    """The one backend that MLX will use. Raises `NotReady` when there is none, or two that break each other."""
    found = installed_backends() if backends is None else backends
    if not found:
        raise NotReady("no_backend", "no MLX backend is installed in this Python", _INSTALL)
    if {"cpu", "cuda"} <= found:
        raise NotReady(
            "no_backend",
            "both MLX backends, cpu and cuda, are installed; together they break",
            "pip uninstall one of mlx-cpu and mlx-cuda",
        )
    return next(iter(sorted(found)))


def blas_environment(current: str = "", platform: str = sys.platform, lib: Path = Path("/usr/lib")) -> dict[str, str]:
    """What to set so that MLX's CPU backend uses OpenBLAS; empty where it is absent. `current` is LD_PRELOAD as it is.

    The CPU wheel ships reference BLAS, which is about ten times slower in prefill.
    """
    if platform != "linux":
        return {}
    for folder in sorted(lib.glob("*-linux-gnu/openblas-pthread")):
        libraries = [folder / "libblas.so.3", folder / "liblapack.so.3"]
        if all(path.exists() for path in libraries):
            return {"LD_PRELOAD": ":".join([*map(str, libraries), *([current] if current else [])])}
    return {}
