"""Which MLX backend this Python has, and the BLAS that makes the CPU one bearable."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mlxctl.core.errors import NotReady

KINDS = {"mlx_metal-": "metal", "mlx_cpu-": "cpu", "mlx_cuda": "cuda"}
"""How the distributions of MLX's backends begin, and what they are."""

_INSTALL = "run `make setup`, or `pip install 'mlxctl[cpu]'` (no GPU) or `'mlxctl[cuda]'` (NVIDIA)"


def installed_backends(path: Sequence[str] = sys.path) -> set[str]:
    """Which of "metal", "cpu" and "cuda" are installed in the folders of `path`.

    Their folder listings suffice; `importlib.metadata` would read the metadata of every package there is.
    """
    return {
        kind
        for folder in path
        for name in _names_in(folder)
        for prefix, kind in KINDS.items()
        if name.startswith(prefix)
    }


def _names_in(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder or ".") if name.endswith(".dist-info")]
    except OSError:
        return []


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
