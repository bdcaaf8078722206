"""The wheel carries everything: built, installed into an empty environment, and run from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(dist.glob("mlxctl-*.whl"))


def installed(wheel: Path, venv: Path) -> Path:
    """The `mlxctl` of an environment that holds the wheel and what it asks for, at the versions of the lock."""
    plain = venv.with_suffix(".txt")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    plain.write_text("\n".join(line.removesuffix(" \\") for line in lines if not line.startswith("    --hash")))
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--no-compile"]
    done = subprocess.run([*pip, "--quiet", "-c", str(plain), str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return venv / "bin" / "mlxctl"


def test_the_wheel_runs_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    mlxctl = installed(wheel, tmp_path / "venv")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "200"}

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(mlxctl), *argv], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    version = run("--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "mlxctl"), version
    planned = run("quickstart", "--dry-run")
    assert planned.returncode == 0, planned
    assert "SmolLM2" in planned.stdout + planned.stderr
    assert run("status").returncode == 0
    # no MLX backend is in there, and whoever needs one is told in one line
    folder = tmp_path / "models--x"
    asked = run("quickstart")
    if sys.platform == "linux":
        assert asked.returncode == 7, asked
        assert "no MLX backend is installed" in asked.stderr
        assert "pip install 'mlxctl[cpu]'" in asked.stderr
    assert not folder.exists()


def test_the_wheel_carries_templates_and_boot_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("templates", "launchd"):
        wanted = {f"mlxctl/_assets/{folder}/{path.name}" for path in (ROOT / folder).iterdir()}
        assert wanted <= set(names), wanted - set(names)
    assert "mlxctl/_assets/registry.example.json" in names
    assert not [name for name in names if name.startswith("tests/")]
