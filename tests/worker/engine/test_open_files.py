"""The limit of open files survives mlx-lm, in a process of its own since no process could undo what is tried here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TRIED = """
import resource
from mlxctl.worker.engine.open_files import open_files_kept
before = resource.getrlimit(resource.RLIMIT_NOFILE)
own = resource.setrlimit
with open_files_kept():
    {what}
assert resource.setrlimit is own
print(resource.getrlimit(resource.RLIMIT_NOFILE) == before, resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


@pytest.mark.parametrize(
    ("what", "core"),
    [
        ("from mlxctl.worker.engine.load import load; import sys; sys.modules['mlx_lm.utils']", -1),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))", -1),
        ("resource.setrlimit(resource.RLIMIT_CORE, (0, 0))", 0),
    ],
)
def test_only_the_limit_of_open_files_is_kept(what: str, core: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIED.format(what=what)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept, told = done.stdout.split()
    assert kept == "True"
    assert core == -1 or int(told) == core
