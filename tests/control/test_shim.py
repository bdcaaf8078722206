"""The shim between mlxctl and a model: what it writes, how it bounds it, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxctl.control.host import SHIM
from mlxctl.control.logs import last_lines
from tests.fakes.starter import eventually, gone

MB = 1 << 20
STARTER = """
import subprocess, sys, time
shim = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
print(shim.pid, shim.stdout.readline().decode(), flush=True)
time.sleep(600)
"""


@dataclass
class Bench:
    """One shim, its log and its exit record. `pids` are ended when the test is over."""

    folder: Path
    pids: list[int] = field(default_factory=list)
    shims: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "mlx-8120.log"

    @property
    def record(self) -> Path:
        return self.folder / "8120.exit.json"

    def argv(self, *command: str, max_bytes: int = MB, files: int = 3, log: Path | None = None) -> list[str]:
        fixed = [sys.executable, "-I", "-S", str(SHIM), "a-stamp", str(self.record), str(log or self.log)]
        return [*fixed, str(max_bytes), str(files), "--", *command]

    def start(self, *command: str, **limits: Any) -> tuple[subprocess.Popen[str], int]:
        """(the shim, the pid of what it started)."""
        shim = subprocess.Popen(
            self.argv(*command, **limits), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert shim.stdout is not None
        with shim.stdout:
            word, pid = shim.stdout.readline().split()
        assert word == "pid"
        self.pids.append(int(pid))
        self.shims.append(shim)
        return shim, int(pid)

    def python(self, code: str, **limits: Any) -> tuple[subprocess.Popen[str], int]:
        return self.start(sys.executable, "-u", "-c", code, **limits)

    def told(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.record.read_text())
        return record

    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("mlx-8120.log*"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for pid in bench.pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for shim in bench.shims:
        shim.kill()
        shim.wait()


ENDS = {
    "in order": ("pass", 0, None, "exit code 0"),
    "an exit code": ("import sys; sys.exit(3)", 3, None, "exit code 3"),
    "an exception": ("1 / 0", 1, None, "exit code 1"),
    "a segmentation fault": ("import os; os.kill(os.getpid(), 11)", None, "SIGSEGV", "SIGSEGV"),
    "out of memory": ("import os; os.kill(os.getpid(), 9)", None, "SIGKILL", "SIGKILL"),
    "an abort": ("import os; os.abort()", None, "SIGABRT", "SIGABRT"),
    "a code like a signal's": ("import os; os._exit(137)", 137, None, "exit code 137"),
}


@pytest.mark.parametrize(("code", "number", "name", "told"), ENDS.values(), ids=ENDS.keys())
def test_how_it_ended_is_recorded(bench: Bench, code: str, number: int | None, name: str | None, told: str) -> None:
    begun = time.time()
    shim, pid = bench.python(code)
    assert shim.wait(10) == 0
    record = bench.told()
    assert {key: record[key] for key in ("stamp", "pid", "code", "signal")} == {
        "stamp": "a-stamp",
        "pid": pid,
        "code": number,
        "signal": name,
    }
    assert begun - 1 <= record["at"] <= time.time()
    assert bench.log.read_text().endswith(f"\nmlxctl: process {pid} ended: {told}\n")
    assert sorted(path.name for path in bench.folder.iterdir()) == ["8120.exit.json", "mlx-8120.log"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_to_the_models_group_does_not_reach_the_shim(bench: Bench, number: signal.Signals) -> None:
    shim, pid = bench.python("import signal, time; print(repr(signal.getsignal(signal.SIGTERM))); time.sleep(60)")
    assert os.getsid(pid) == pid != os.getsid(shim.pid)
    eventually(lambda: bench.log.read_text())
    assert "SIG_DFL" in bench.log.read_text(), "the shim ignores signals, its model does not"
    os.killpg(pid, number)
    assert shim.wait(10) == 0
    # Python turns SIGINT into an exception of its own, and ends by the same signal
    assert bench.told()["signal"] == number.name


def test_the_shim_itself_cannot_be_asked_to_go(bench: Bench) -> None:
    shim, pid = bench.python("import time; time.sleep(60)")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        os.kill(shim.pid, number)
    time.sleep(0.1)
    assert shim.poll() is None
    os.kill(pid, signal.SIGKILL)
    assert shim.wait(10) == 0
    assert bench.told()["signal"] == "SIGKILL"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Permission denied"),
        (lambda path: path.write_text("#!/bin/sh\n"), "Permission denied"),
        (lambda path: (path.write_bytes(b"\0\1\2"), path.chmod(0o755)), "Exec format error"),
    ],
    ids=["absent", "a folder", "not executable", "no program"],
)
def test_what_cannot_be_executed_is_told_in_one_line(bench: Bench, make: Callable[[Path], object], why: str) -> None:
    program = bench.folder / "engine"
    make(program)
    done = subprocess.run(bench.argv(str(program)), capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (127, f"error {program}: {why}\n", "")
    assert not bench.record.exists()


def test_it_outlives_who_started_it(bench: Bench) -> None:
    model = bench.argv(sys.executable, "-u", "-c", "import time\nfor n in range(9): print('line', n); time.sleep(0.05)")
    starter = subprocess.Popen([sys.executable, "-c", STARTER, *model], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout:
        shim, _, pid = starter.stdout.readline().split()
    bench.pids += [int(shim), int(pid)]
    starter.kill()
    starter.wait()
    eventually(bench.record.exists)
    assert bench.told()["code"] == 0
    assert "line 8" in bench.log.read_text()


def test_it_lives_on_when_nobody_reads_the_pid(bench: Bench) -> None:
    """The starter was killed after it had started the shim and before it could read the answer."""
    unread, answer = os.pipe()
    os.close(unread)
    command = (sys.executable, "-u", "-c", "import time; time.sleep(0.2); print('still here')")
    shim = subprocess.Popen(bench.argv(*command), stdout=answer, stderr=subprocess.PIPE, start_new_session=True)
    os.close(answer)
    assert shim.stderr is not None
    with shim.stderr:
        complaint = shim.stderr.read()
    assert (shim.wait(10), complaint) == (0, b"")
    assert bench.told()["code"] == 0
    assert "still here" in bench.log.read_text()


def test_a_grandchild_that_keeps_the_pipe_open_does_not_hold_the_shim(bench: Bench) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print('grandchild', child.pid)"
    )
    shim, _ = bench.python(code)
    begun = time.monotonic()
    assert shim.wait(10) == 0
    assert time.monotonic() - begun < 5
    word, pid = bench.log.read_text().split()[:2]
    assert word == "grandchild"
    bench.pids.append(int(pid))
    assert not gone(int(pid))
    assert bench.told()["code"] == 0


def test_a_model_that_closes_its_output_is_waited_for(bench: Bench) -> None:
    shim, _ = bench.python("import os, time; os.close(1); os.close(2); time.sleep(0.3); os._exit(5)")
    assert psutil.Process(shim.pid).cpu_times().user < 1
    assert shim.wait(10) == 0
    assert bench.told()["code"] == 5


def test_a_flood_of_output_stays_bounded_and_its_end_is_kept(bench: Bench) -> None:
    line = "x" * 99
    flood = f"import os\nfor n in range(50): os.write(1, ('{line}\\n' * {MB // 100}).encode())\nprint('the last line')"
    shim, pid = bench.python(flood + "\nimport time; time.sleep(60)", max_bytes=MB, files=3)
    eventually(lambda: last_lines(bench.log, 1) == ("the last line",), within_s=30)
    sizes = {path.name: path.stat().st_size for path in bench.logs()}
    assert list(sizes) == ["mlx-8120.log", "mlx-8120.log.1", "mlx-8120.log.2", "mlx-8120.log.3"]
    assert all(size <= MB for size in sizes.values()), sizes
    assert sizes["mlx-8120.log.1"] > MB - 65536, "a log is full before it is rotated"
    assert psutil.Process(shim.pid).memory_info().rss <= 12 * MB
    os.killpg(pid, signal.SIGKILL)
    assert shim.wait(10) == 0
    assert last_lines(bench.log, 3)[0] == "the last line"


def test_rotation_loses_no_byte_while_it_has_room(bench: Bench) -> None:
    numbers = "".join(f"{number}\n" for number in range(4000))
    shim, pid = bench.python("for n in range(4000): print(n, flush=True)", max_bytes=8000, files=9)
    assert shim.wait(30) == 0
    whole = "".join(path.read_text() for path in reversed(bench.logs()))
    assert whole == f"{numbers}\nmlxctl: process {pid} ended: exit code 0\n"


def test_a_log_of_an_earlier_run_is_continued_and_counted(bench: Bench) -> None:
    bench.log.write_text("old\n" * 250)
    shim, _ = bench.python("print('n' * 50)", max_bytes=1020, files=2)
    assert shim.wait(10) == 0
    assert (bench.folder / "mlx-8120.log.1").read_text() == "old\n" * 250
    assert bench.log.read_text().startswith("n" * 50)


@pytest.mark.parametrize("log", ["/dev/full", "missing/folder/mlx.log"], ids=["a full disk", "no folder"])
def test_a_log_that_cannot_be_written_never_blocks_the_model(bench: Bench, log: str) -> None:
    if not Path(log).is_char_device() and log.startswith("/dev"):
        log = "missing/folder/mlx.log"
    shim, _ = bench.python("print('x' * 3_000_000); import os; os._exit(7)", log=bench.folder / log)
    assert shim.wait(10) == 0
    assert bench.told()["code"] == 7


def test_a_record_that_cannot_be_written_ends_the_shim_all_the_same(bench: Bench) -> None:
    bench.record.mkdir()
    shim, _ = bench.python("pass")
    assert shim.wait(10) == 0
    assert "ended: exit code 0" in bench.log.read_text()
