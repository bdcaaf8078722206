"""The fake converter writes a whole model, and each of its faults does what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlxctl.control.weights import problems_of
from tests.fakes import converter
from tests.fakes.models import write_model


def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    write_model(folder / "src", mlx=False)
    (folder / "src" / "tokenizer.json").write_text("{}")
    argv = [sys.executable, "-m", "tests.fakes.converter", str(folder / "src"), str(folder / "dest"), *flags]
    return subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False, timeout=30)


def test_it_leaves_a_whole_model_and_notes_what_it_was_told(tmp_path: Path) -> None:
    done = run(tmp_path, "--mark", "first", "--quantize", "--q-bits", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"step {number} of {converter.STEPS}" for number in range(converter.STEPS)]
    assert list(problems_of(tmp_path / "dest")) == []
    config = json.loads((tmp_path / "dest" / "config.json").read_text())
    assert (config["mark"], config["flags"]) == ("first", ["--quantize", "--q-bits", "4"])
    assert (tmp_path / "dest" / "tokenizer.json").is_file()


@pytest.mark.parametrize("number", range(1, converter.STEPS - 1))
def test_no_folder_is_whole_before_the_last_shard(tmp_path: Path, number: int) -> None:
    done = run(tmp_path, "--fail-at", str(number))
    assert (done.returncode, done.stderr) == (1, "ValueError: model type unheard-of not supported\n")
    assert any(problems_of(tmp_path / "dest"))


def test_a_full_disk_and_a_torn_shard(tmp_path: Path) -> None:
    full = run(tmp_path / "full", "--full-at", "3")
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    torn = run(tmp_path / "torn", "--torn")
    assert torn.returncode == 0
    assert [problem.code for problem in problems_of(tmp_path / "torn" / "dest")] == ["bad_model"]


def test_it_is_as_slow_as_it_is_asked_to_be(tmp_path: Path) -> None:
    begun = time.monotonic()
    assert run(tmp_path, "--pause", "0.05").returncode == 0
    assert time.monotonic() - begun >= 0.05 * converter.STEPS
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.fakes.converter",
                str(tmp_path / "src"),
                str(tmp_path / "b"),
                "--stop-at",
                "2",
            ],
            capture_output=True,
            cwd=Path(__file__).parents[2],
            check=False,
            timeout=2,
        )
    assert caught.value.stdout is not None and caught.value.stdout.splitlines()[-1] == b"step 2 of 7"
