"""Fault F19: `mlxctl ensure` killed, interrupted or failed at every step of a conversion, with the real command line.

The bar: no folder that could be taken for a model fails validation, the orphaned converter ends, a rerun succeeds.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mlxctl.control.convert import PARTIAL
from mlxctl.control.weights import problems_of
from tests.fakes import converter
from tests.fakes.home import Home
from tests.parts import absent

ROOT = Path(__file__).parents[2]
MODEL, ID = "base", "mlx-base"


def converting(home: Home, *flags: str) -> Home:
    """The same home with the fake converter as MLX_CONVERT_CMD; `flags` are its faults."""
    python = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.fakes.converter"]
    command = f"{shlex.join(python)} {{src}} {{dest}} {shlex.join(flags)}"
    return Home(home.root, home.base, {**home.environ, "MLX_CONVERT_CMD": command})


@pytest.fixture
def source(home: Home) -> Path:
    return home.model(MODEL, register=False, mlx=False)


def partials(home: Home) -> list[Path]:
    return list(home.hub_cache.glob(f"{PARTIAL}*"))


def converters(home: Home) -> list[psutil.Process]:
    """Converters that work below this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        argv = process.info["cmdline"] or []
        if "tests.fakes.converter" in argv and any(word.startswith(str(home.hub_cache)) for word in argv):
            found.append(process)
    return found


def models_of(home: Home) -> list[Path]:
    """Every folder of the hub cache that a scan could take for a model."""
    marks = {mark.parent for name in ("config.json", "*.safetensors") for mark in home.hub_cache.rglob(name)}
    return sorted(folder for folder in marks if PARTIAL not in str(folder.relative_to(home.hub_cache)))


def expect_no_false_model(home: Home) -> None:
    for folder in models_of(home):
        assert [problem.message for problem in problems_of(folder)] == []
    for entry in home.registry().models.values():
        assert list(problems_of(Path(entry.cache_path))) == []


def reach_step(home: Home, child: subprocess.Popen[str], step: int) -> None:
    log = home.root / "state" / "logs" / f"convert-{ID}.log"
    deadline = time.monotonic() + 30
    while not (log.exists() and f"step {step} of" in log.read_text()):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "the converter did not come so far"
        time.sleep(0.01)


def end(child: subprocess.Popen[str], number: int) -> int:
    child.send_signal(number)
    child.communicate(timeout=30)
    return child.returncode


def expect_rerun_succeeds(home: Home, source: Path, *flags: str) -> None:
    again = converting(home, "--mark", "rerun").run("ensure", str(source), "--json", *flags)
    assert again.code == 0, again
    assert again.data["converted"] is True
    folder = Path(home.registry().models[ID].cache_path)
    assert json.loads((folder / "config.json").read_text())["mark"] == "rerun"
    assert models_of(home) == [folder]
    assert partials(home) == []
    assert converters(home) == []
    expect_no_false_model(home)


@pytest.mark.parametrize("step", range(converter.STEPS))
def test_killed_at_every_step_of_the_converter(home: Home, source: Path, step: int) -> None:
    child = converting(home, "--stop-at", str(step)).start("ensure", str(source), "--json")
    reach_step(home, child, step)
    assert end(child, signal.SIGKILL) == -signal.SIGKILL
    expect_no_false_model(home)
    assert models_of(home) == []
    assert ID not in home.registry().models
    orphans = converters(home)
    assert len(orphans) == 1, "SIGKILL gives nobody the chance to end the converter"
    expect_rerun_succeeds(home, source)
    assert not orphans[0].is_running() or orphans[0].status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux" or bool(absent("strace")), reason="absent: strace (make test-deps)")
@pytest.mark.parametrize(
    ("call", "existing", "times"), [("rename", False, 2), ("renameat2", True, 1), ("rename", True, 0)]
)
def test_killed_at_every_rename_after_the_conversion(
    home: Home, source: Path, call: str, existing: bool, times: int
) -> None:
    """The moments that no converter decides: put in place, changed places with an older one, registered."""
    flags = ["--convert", "force"] if existing else []
    if existing:
        assert converting(home, "--mark", "old").run("ensure", str(source)).code == 0
    for number in range(1, times + 2):
        kill = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        ended = subprocess.run(
            [
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                *kill,
                sys.executable,
                "-m",
                "mlxctl",
                "ensure",
                str(source),
                *flags,
            ],
            env=converting(home, "--mark", "new").env(),
            capture_output=True,
            check=False,
            timeout=60,
        ).returncode
        assert ended == (-signal.SIGKILL if number <= times else 0)
        expect_no_false_model(home)
        marks = [json.loads((folder / "config.json").read_text())["mark"] for folder in models_of(home)]
        if existing:
            assert marks == (["old"] if number <= times else ["new"]), "the old one stays until the new one is there"
    expect_rerun_succeeds(home, source, "--convert", "force")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_interrupted_it_leaves_nothing(home: Home, source: Path, number: signal.Signals) -> None:
    child = converting(home, "--stop-at", "4").start("ensure", str(source), "--json")
    reach_step(home, child, 4)
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert json.loads(out)["errors"][0]["code"] == "interrupted"
    assert err == ""
    assert partials(home) == models_of(home) == converters(home) == []
    assert home.registry().models == {}
    expect_rerun_succeeds(home, source)


@pytest.mark.parametrize(
    ("fault", "code", "exit_code", "told"),
    [
        (("--fail-at", "4"), "conversion_failed", 7, r"failed with exit code 1"),
        (("--full-at", "4"), "disk_full", 6, r"no room on the disk to convert mlx-base"),
        (("--torn",), "conversion_failed", 7, r"left no whole model: .*00003-of-00003.safetensors is torn: \d+ bytes"),
    ],
    ids=["it fails", "the disk is full", "it tears a shard"],
)
@pytest.mark.parametrize("existing", [False, True], ids=["the first conversion", "over an existing one"])
def test_a_failed_conversion_changes_nothing(
    home: Home, source: Path, fault: tuple[str, ...], code: str, exit_code: int, told: str, existing: bool
) -> None:
    if existing:
        assert converting(home, "--mark", "old").run("ensure", str(source)).code == 0
    before = home.registry().text()
    failed = converting(home, *fault).run("ensure", str(source), "--json", "--convert", "force")
    assert (failed.code, failed.error["code"]) == (exit_code, code)
    assert re.search(told, failed.error["message"])
    assert failed.error["hint"]
    if "--torn" not in fault:
        assert failed.error["detail"][-2].startswith("step 4 of")
    assert home.registry().text() == before
    assert [json.loads((folder / "config.json").read_text())["mark"] for folder in models_of(home)] == (
        ["old"] if existing else []
    )
    assert partials(home) == converters(home) == []


def test_the_old_conversion_serves_until_the_new_one_is_whole(home: Home, source: Path) -> None:
    assert converting(home, "--mark", "old").run("ensure", str(source)).code == 0
    entry = home.registry().models[ID]
    child = converting(home, "--mark", "new", "--stop-at", "6").start("ensure", ID, "--convert", "force")
    reach_step(home, child, 6)
    (folder,) = models_of(home)
    assert str(folder) == entry.cache_path
    assert json.loads((folder / "config.json").read_text())["mark"] == "old"
    assert end(child, signal.SIGKILL) == -signal.SIGKILL
    assert json.loads((folder / "config.json").read_text())["mark"] == "old"
    assert home.registry().models[ID] == entry
    expect_rerun_succeeds(home, source, "--convert", "force")


def test_a_second_ensure_waits_for_the_first_and_takes_what_it_made(home: Home, source: Path) -> None:
    first = converting(home, "--mark", "first", "--pause", "0.2").start("ensure", str(source), "--json")
    reach_step(home, first, 1)
    second = converting(home, "--mark", "second").run("ensure", str(source), "--json")
    out, _ = first.communicate(timeout=30)
    assert (first.returncode, second.code) == (0, 0)
    told = json.loads(out)["data"]
    assert (told["converted"], second.data["converted"]) == (True, False)
    assert second.data["model"] == told["model"]
    expect_no_false_model(home)
    assert partials(home) == []
