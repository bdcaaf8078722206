"""The walls between the rooms: import-linter's contracts hold, and each of them would notice a breach."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")

ROOMS = "Rooms"
PURE = "core is pure"
ENGINE = "Only the worker's engine touches MLX"
VERBS = "Nouns do not import verbs"

BREACHES = [
    ("core/ports.py", "mlxctl.control.host", ROOMS),
    ("control/host.py", "mlxctl.ui.cli.edge", ROOMS),
    ("control/host.py", "mlxctl.worker", ROOMS),
    ("control/host.py", "mlxctl.router", ROOMS),
    ("worker/__init__.py", "mlxctl.control.host", ROOMS),
    ("client/__init__.py", "mlxctl.control.site", ROOMS),
    ("router/__init__.py", "mlxctl.ui.cli", ROOMS),
    ("core/registry.py", "subprocess", PURE),
    ("core/registry.py", "os", PURE),
    ("core/report.py", "time", PURE),
    ("core/settings.py", "httpx", PURE),
    ("control/convert.py", "mlx_lm", ENGINE),
    ("ui/cli/app.py", "mlx", ENGINE),
    ("control/lifecycle.py", "mlxctl.control.commands.load", VERBS),
]
"""A file, what it may not import, and the contract that says so."""


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package in `folder`, which comes before an installed one."""
    return subprocess.run(
        [sys.executable, str(LINT), "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def copy_of_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "mlxctl", folder / "mlxctl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def plant(folder: Path, file: str, text: str) -> None:
    with (folder / "mlxctl" / file).open("a", encoding="utf-8") as opened:
        opened.write(f"\n{text}\n")


@pytest.fixture(scope="module")
def breached(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy with every breach of the table planted."""
    folder = copy_of_package(tmp_path_factory.mktemp("breached"))
    for file, target, _contract in BREACHES:
        plant(folder, file, f"import {target}")
    done = lint(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def told_of(report: str, contract: str) -> str:
    """The part of a report about the one broken contract."""
    broken = report.split("Broken contracts\n")[1]
    starts = sorted(broken.index(f"\n{name}") for name in (ROOMS, PURE, ENGINE, VERBS))
    start = broken.index(f"\n{contract}")
    return broken[start : next((other for other in starts if other > start), len(broken))]


def test_the_rooms_keep_to_themselves() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(("file", "target", "contract"), BREACHES, ids=[f"{f} {t}" for f, t, _ in BREACHES])
def test_a_breach_is_noticed_by_its_contract(breached: str, file: str, target: str, contract: str) -> None:
    source = ".".join(["mlxctl", *Path(file).with_suffix("").parts]).removesuffix(".__init__")
    assert f"{source} -> {target} (" in told_of(breached, contract)


def test_an_import_for_types_alone_is_no_breach(tmp_path: Path) -> None:
    folder = copy_of_package(tmp_path)
    plant(
        folder, "core/ports.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mlxctl.control.host"
    )
    done = lint(folder)
    assert done.returncode == 0, done.stdout + done.stderr
