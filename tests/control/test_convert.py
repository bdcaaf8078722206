"""A conversion in its folder: whole in its place, or nothing, and what is said when it cannot be done."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlxctl.control import convert as convert_module
from mlxctl.control.convert import (
    DISK_MARGIN,
    PARTIAL,
    Conversion,
    convert,
)
from mlxctl.control.host import STAMP_VARIABLE
from mlxctl.control.site import Site
from mlxctl.control.weights import problems_of
from mlxctl.core.errors import MlxctlError
from tests.fakes.home import Home
from tests.fakes.reporter import Recorder

ROOT = Path(__file__).parents[2]
FAKE = f"{sys.executable} -m tests.fakes.converter {{src}} {{dest}}"


def site_with(home: Home, command: str) -> tuple[Site, Recorder]:
    recorder = Recorder()
    site = Home(home.root, home.base, {"MLX_CONVERT_CMD": command, "PYTHONPATH": str(ROOT)}).site(reporter=recorder)
    return site, recorder


@pytest.fixture
def source(home: Home) -> Path:
    return home.model("a folder with spaces", register=False, mlx=False)


def failed(change: Callable[[], object]) -> MlxctlError:
    with pytest.raises(MlxctlError) as caught:
        change()
    assert caught.value.hint
    return caught.value


def leftovers(home: Home) -> list[str]:
    return [path.name for path in home.hub_cache.iterdir() if path.name.startswith((PARTIAL, "converted--"))]


def test_a_conversion_is_whole_in_its_place_and_tells_how_far_it_is(home: Home, source: Path) -> None:
    site, recorder = site_with(home, FAKE + " --pause 0.06")
    folder = convert(site, "mlx-a", "org/a", source, Conversion(bits=4))
    assert folder == home.hub_cache / "converted--mlx-a"
    assert list(problems_of(folder)) == []
    assert '"--q-bits", "4"' in (folder / "config.json").read_text()
    assert leftovers(home) == ["converted--mlx-a"]
    (task,) = recorder.tasks
    assert (task.title, task.unit, task.finished) == ("Converting mlx-a", "bytes", True)
    assert 0 < task.highest <= 20_000
    assert "step 6 of 7" in (home.root / "state" / "logs" / "convert-mlx-a.log").read_text()


def test_the_converter_may_not_use_the_network_and_carries_a_stamp(home: Home, source: Path) -> None:
    script = home.root / "conv.py"
    script.write_text("import os, sys; sys.exit(os.environ['HF_HUB_OFFLINE'] + ' ' + os.environ['MLXCTL_STAMP'])")
    site, _ = site_with(home, f"{sys.executable} {script}")
    error = failed(lambda: convert(site, "mlx-a", "org/a", source, Conversion()))
    offline, stamp = error.detail[-1].split()
    assert offline == "1"
    assert len(stamp) == 16


LONG = "print(*range(40), sep=chr(10)); raise SystemExit('ValueError: no such thing')"
COMMANDS = {
    "it fails": (f'{sys.executable} -c "{LONG}"', "conversion_failed", 7, "failed with exit code 1"),
    "it is killed": (
        f'{sys.executable} -c "import os; os.abort()"',
        "conversion_failed",
        7,
        "failed with exit code -6",
    ),
    "there is no such program": (
        "/no/such/converter {src}",
        "conversion_failed",
        7,
        "cannot run /no/such/converter: No such",
    ),
    "it writes nothing": (
        f"{sys.executable} -c pass",
        "conversion_failed",
        7,
        "left no whole model: the model's folder",
    ),
    "it tears a shard": (FAKE + " --torn", "conversion_failed", 7, "left no whole model: .* is torn"),
    "it meets a full disk": (FAKE + " --full-at 3", "disk_full", 6, "no room on the disk to convert mlx-a"),
    "the command is nonsense": ("conv {model}", "bad_setting", 2, "cannot be understood"),
}


@pytest.mark.parametrize(("command", "code", "exit_code", "told"), COMMANDS.values(), ids=COMMANDS.keys())
def test_a_conversion_that_fails_leaves_nothing(
    home: Home, source: Path, command: str, code: str, exit_code: int, told: str
) -> None:
    site, recorder = site_with(home, command)
    with pytest.raises(MlxctlError, match=told) as caught:
        convert(site, "mlx-a", "org/a", source, Conversion())
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert leftovers(home) == []
    assert all(task.finished for task in recorder.tasks)


def test_a_failure_shows_the_last_lines_and_where_the_rest_is(home: Home, source: Path) -> None:
    site, _ = site_with(home, COMMANDS["it fails"][0])
    error = failed(lambda: convert(site, "mlx-a", "org/a", source, Conversion()))
    assert error.detail == (*(str(number) for number in range(29, 40)), "ValueError: no such thing")
    log = home.root / "state" / "logs" / "convert-mlx-a.log"
    assert str(log) in error.hint
    assert log.read_text().startswith("0\n1\n")


def test_a_disk_without_room_is_refused_before_the_converter_runs(
    home: Home, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, recorder = site_with(home, FAKE)
    usage = shutil.disk_usage(home.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=DISK_MARGIN))
    error = failed(lambda: convert(site, "mlx-a", "org/a", source, Conversion()))
    assert (error.code, error.exit_code) == ("disk_full", 6)
    assert "the conversion needs about 1.1 GB" in error.message and "1.1 GB are free" in error.message
    assert recorder.tasks == []
    assert leftovers(home) == []


def test_leftovers_of_a_killed_run_go_and_its_converter_ends(home: Home, source: Path) -> None:
    site, _ = site_with(home, FAKE)
    mine, others = (home.hub_cache / f"{PARTIAL}{name}--0123456789abcdef" for name in ("mlx-a", "mlx-a-b"))
    for folder in (mine, others):
        (folder / "model").mkdir(parents=True)
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    orphan = subprocess.Popen(sleeper, env={**os.environ, STAMP_VARIABLE: "0123456789abcdef"})
    stranger = subprocess.Popen(sleeper, env={**os.environ, STAMP_VARIABLE: "another"})
    try:
        convert(site, "mlx-a", "org/a", source, Conversion())
        assert orphan.wait(5) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()
    assert not mine.exists()
    assert others.exists(), "another model's conversion may be under way"


@pytest.mark.parametrize("exchanges", [True, False], ids=["names are exchanged", "the system cannot exchange names"])
def test_a_new_conversion_takes_the_place_of_the_old(
    home: Home, source: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(convert_module, "_exchange", lambda *_: False)
    for mark in ("old", "new"):
        site, _ = site_with(home, f"{FAKE} --mark {mark}")
        folder = convert(site, "mlx-a", "org/a", source, Conversion())
        assert f'"mark": "{mark}"' in (folder / "config.json").read_text()
        assert leftovers(home) == ["converted--mlx-a"]


def test_a_cache_that_cannot_be_written(home: Home, source: Path) -> None:
    site, _ = site_with(home, FAKE)
    blocked = home.root / "file"
    blocked.write_text("")
    site = replace(site, settings=replace(site.settings, hub_cache=blocked / "hub"))
    error = failed(lambda: convert(site, "mlx-a", "org/a", source, Conversion()))
    assert (error.code, error.exit_code) == ("registry_read_only", 9)
    assert str(blocked / "hub") in error.message
