"""Which MLX backend a Python has, and the BLAS library that its CPU backend should use."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxctl.control.backend import blas_environment, installed_backends, require_backend
from mlxctl.core.errors import NotReady


@pytest.mark.parametrize(
    ("distributions", "backends"),
    [
        ((), set()),
        (("mlx-0.32.4", "mlx_lm-0.32.2", "numpy-2.0"), set()),
        (("mlx_cpu-0.32.4",), {"cpu"}),
        (("mlx_metal-0.32.4",), {"metal"}),
        (("mlx_cuda-0.30.1",), {"cuda"}),
        (("mlx_cuda_12-0.32.4",), {"cuda"}),
        (("mlx_cuda_13-0.32.4", "mlx_cpu-0.32.4"), {"cuda", "cpu"}),
        (("mlx_cpux-1.0",), set()),
    ],
)
def test_backends_are_known_by_their_distributions(
    tmp_path: Path, distributions: tuple[str, ...], backends: set[str]
) -> None:
    for name in distributions:
        (tmp_path / f"{name}.dist-info").mkdir()
    (tmp_path / "mlx_cpu-code").mkdir()
    assert installed_backends([str(tmp_path / "absent"), str(tmp_path)]) == backends


def test_this_python_has_exactly_one() -> None:
    assert len(installed_backends()) == 1
    assert require_backend() in {"cpu", "cuda", "metal"}


@pytest.mark.parametrize(
    ("backends", "told"),
    [(set(), "no MLX backend is installed"), ({"cpu", "cuda"}, "both MLX backends, cpu and cuda")],
)
def test_none_and_two_are_refused(backends: set[str], told: str) -> None:
    with pytest.raises(NotReady, match=told) as caught:
        require_backend(backends)
    assert (caught.value.code, caught.value.exit_code) == ("no_backend", 7)
    assert "\n" not in caught.value.message
    assert "install" in caught.value.hint


@pytest.mark.parametrize("backend", ["cpu", "cuda", "metal"])
def test_one_is_taken(backend: str) -> None:
    assert require_backend({backend}) == backend


def openblas(lib: Path, *names: str, machine: str = "x86_64") -> Path:
    folder = lib / f"{machine}-linux-gnu" / "openblas-pthread"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


BLAS, LAPACK = "libblas.so.3", "liblapack.so.3"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_openblas_is_preloaded_before_what_was_preloaded_already(tmp_path: Path, machine: str) -> None:
    folder = openblas(tmp_path, BLAS, LAPACK, machine=machine)
    both = f"{folder / BLAS}:{folder / LAPACK}"
    assert blas_environment("", "linux", tmp_path) == {"LD_PRELOAD": both}
    assert blas_environment("libjemalloc.so", "linux", tmp_path) == {"LD_PRELOAD": f"{both}:libjemalloc.so"}


@pytest.mark.parametrize(
    ("names", "platform"), [((), "linux"), ((BLAS,), "linux"), ((LAPACK,), "linux"), ((BLAS, LAPACK), "darwin")]
)
def test_where_openblas_is_not_whole_nothing_is_set(tmp_path: Path, names: tuple[str, ...], platform: str) -> None:
    openblas(tmp_path, *names)
    assert blas_environment("", platform, tmp_path) == {}
