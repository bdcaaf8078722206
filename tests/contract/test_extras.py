"""What `pyproject.toml` asks for can be had: every extra has a solution, and the two backends exclude each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACOS, LINUX = "aarch64-apple-darwin", "x86_64-manylinux_2_35"
MACOS_RELEASE = "15.0"
"""uv by itself resolves for an older macOS; mlx has wheels for 14 and newer only."""
ABSENT = None

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """uv, which resolves for a platform that is not this one; installed through pip where it is not there."""
    # a pyenv shim named uv can exist and still fail, so uv is asked and not only looked for
    if shutil.which("uv") and subprocess.run(["uv", "--version"], capture_output=True, check=False).returncode == 0:
        return ("uv",)
    venv = tmp_path_factory.mktemp("uv")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", "uv"], check=True)
    return (str(venv / "bin" / "uv"),)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what uv reads, so that no lock or environment is written into the repository."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "mlxctl/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def run(uv: Sequence[str], project: Path) -> Run:
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environ |= {"MACOSX_DEPLOYMENT_TARGET": MACOS_RELEASE, "UV_PYTHON_DOWNLOADS": "never"}

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*uv, *argv], cwd=project, env=environ, capture_output=True, text=True, check=False)

    return run


def resolved(run: Run, extras: Sequence[str], platform: str, *options: str) -> dict[str, str]:
    """Versions by package: what `pip install mlxctl[extras]` would bring on `platform`."""
    asked = [word for extra in extras for word in ("--extra", extra)]
    flags = ["--quiet", "--no-header", "--no-annotate", "--python-version", "3.12", "--python-platform", platform]
    done = run("pip", "compile", *flags, *options, *asked, "pyproject.toml")
    assert done.returncode == 0, done.stderr
    return dict(line.split("==") for line in done.stdout.splitlines())


OURS = {"huggingface-hub": "2.", "mlx-lm": "0.32."}
BESIDE = {"huggingface-hub": "1.", "mlx-lm": "0.31.", "mlx-openai-server": "1.8."}
"""What mlx-openai-server makes of the two, within our own bounds."""
NO_CONFIG = "--no-config"
"""Leaves out [tool.uv], as whoever installs the wheel does."""


@pytest.mark.parametrize(
    ("story", "extras", "platform", "options", "expected"),
    [
        ("a Mac", (), MACOS, (NO_CONFIG,), {**OURS, "mlx-metal": "0.32.", "mlx-cpu": ABSENT}),
        ("the second engine", ("mlx-openai-server",), MACOS, (NO_CONFIG,), {**BESIDE, "mflux": "0.17."}),
        ("and in a checkout", ("cpu", "mlx-openai-server"), MACOS, (), {**BESIDE, "mflux": "0.17.", "mlx-cpu": ABSENT}),
        ("Linux", ("cpu",), LINUX, (NO_CONFIG,), {**OURS, "mlx-cpu": "0.32.", "mlx-cuda-12": ABSENT}),
        ("NVIDIA", ("cuda",), LINUX, (NO_CONFIG,), {**OURS, "mlx-cuda-12": "0.32.", "mlx-cpu": ABSENT}),
        (
            "the second engine on Linux, from a checkout",
            ("cpu", "mlx-openai-server"),
            LINUX,
            (),
            {**BESIDE, "mlx": "0.32.", "mlx-cpu": "0.32.", "mflux": ABSENT},
        ),
    ],
)
def test_what_an_extra_brings(
    run: Run,
    story: str,
    extras: Sequence[str],
    platform: str,
    options: Sequence[str],
    expected: dict[str, str | None],
) -> None:
    versions = resolved(run, extras, platform, *options)
    for package, beginning in expected.items():
        if beginning is ABSENT:
            assert package not in versions, story
        else:
            assert versions.get(package, "").startswith(beginning), (story, package, versions.get(package))


def test_the_two_backends_exclude_each_other(run: Run, project: Path) -> None:
    """`uv sync` goes by `conflicts`. pip and `uv pip` do not know it, so `load` looks again."""
    path = project / "pyproject.toml"
    # a lock for Linux alone: uv finds none for all platforms at once, as mflux holds mlx back on a Mac
    path.write_text(
        path.read_text().replace("[tool.uv]\n", "[tool.uv]\nenvironments = [\"sys_platform == 'linux'\"]\n")
    )
    locked = run("lock")
    assert locked.returncode == 0, locked.stderr
    for extras, code in (("cpu",), 0), (("cuda",), 0), (("cpu", "cuda"), 2):
        flags = [f"--extra={extra}" for extra in extras]
        done = run("export", "--frozen", "--no-emit-project", "--no-hashes", *flags)
        assert done.returncode == code, (extras, done.stderr)
    assert "`cpu` and `cuda` are incompatible" in done.stderr, "the last pair"
    synced = run("sync", "--frozen", "--dry-run", "--extra=cpu", "--extra=cuda")
    assert (synced.returncode, "`cpu` and `cuda` are incompatible" in synced.stderr) == (2, True), synced.stderr


def test_the_lock_holds_the_newest_that_we_allow() -> None:
    """The bounds are wide for the sake of mlx-openai-server; what we test with is not."""
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    for package, beginning in OURS.items():
        assert pins[package].startswith(beginning), (package, pins[package])
