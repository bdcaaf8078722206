"""Downloads by a real child process that is killed, interrupted, starved of disk and doubled (fault F18).

The bar: what is on disk is never fetched again, and nothing unfinished ever passes for a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlxctl.control.cache import scan
from mlxctl.control.snapshots import check_snapshot, find_snapshot
from tests.fakes.download_world import REPO, SHARD, SHARDS, WANTED_BYTES, World, download_world
from tests.fakes.hub import Hub
from tests.fakes.hub_faults import Cut, Fault, Resize, Slow, Stall, Status

CHILD = """
import resource, signal, sys
from pathlib import Path
from mlxctl.control.hub import Patience, download
from mlxctl.core.errors import MlxctlError
from mlxctl.core.report import Silent

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
url, repo, cache, largest, stall = sys.argv[1:]
if largest != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
try:
    patience = Patience(stall_s=float(stall), tries=3, backoff_s=0.01)
    print(download(repo, Path(cache), Silent(), endpoint=url, patience=patience).path)
except MlxctlError as error:
    print(error.code)
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


def begin(hub: Hub, repo: str, cache: Path, *, largest_file: int = 0, stall_s: float = 0.5) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", CHILD, hub.url, repo, str(cache), str(largest_file), str(stall_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def end(child: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, what it printed); anything on stderr is a failure."""
    try:
        told, complaint = child.communicate(timeout=30)
    finally:
        child.kill()
    assert complaint == ""
    return child.returncode, told.strip()


def wait_until(happened: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert child.poll() is None, "the child ended before its time"
        assert time.monotonic() < deadline, "the child did not come so far"
        time.sleep(0.001)


def partial_sizes(world: World) -> list[int]:
    return [world.partial(name).stat().st_size if world.partial(name).exists() else 0 for name in SHARDS]


def kill(child: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    child.send_signal(number)
    child.communicate(timeout=30)


def expect_no_model(cache: Path, repo: str) -> None:
    """None of the ways to ask for the model takes a part for the whole."""
    assert find_snapshot(cache, repo) is None
    assert scan(cache).models == ()
    assert not list(cache.glob("models--*/refs/*"))
    assert not list(cache.glob("models--*/snapshots/*/*"))


BIG = "acme/big"
BIG_SHARDS = tuple(f"model-{n:05}-of-00005.safetensors" for n in range(1, 6))
BIG_SHARD = 42_000_000
KILLS = 10


@pytest.fixture(scope="module")
def big_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """210 MB in five shards; slowed so that what waits in a killed child's socket is little."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / BIG
    folder.mkdir(parents=True)
    for seed, name in enumerate(BIG_SHARDS):
        (folder / name).write_bytes(random.Random(seed).randbytes(BIG_SHARD))
    weight_map = {f"layers.{n}": name for n, name in enumerate(BIG_SHARDS)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    with Hub(root, Slow("*.safetensors", bytes_per_s=40_000_000)) as hub:
        yield hub


def test_ten_kills_cost_no_byte_that_had_arrived(big_hub: Hub, tmp_path: Path) -> None:
    size = len(BIG_SHARDS) * BIG_SHARD
    here = 0
    for point in sorted(random.Random(18).sample(range(1, size), KILLS)):
        child = begin(big_hub, BIG, tmp_path)
        wait_until(lambda point=point: big_hub.sent() >= point, child)  # type: ignore[misc]
        kill(child)
        expect_no_model(tmp_path, BIG)
        before, here = here, sum(blob.stat().st_size for blob in tmp_path.glob("models--*/blobs/*"))
        assert here >= before, "what was here is still here"
    code, path = end(begin(big_hub, BIG, tmp_path))
    assert code == 0
    files = {file.name: file for file in big_hub.files(BIG) or ()}
    check_snapshot(Path(path), {name: file.size for name, file in files.items()})
    for name in BIG_SHARDS:
        assert hashlib.sha256((Path(path) / name).read_bytes()).hexdigest() == files[name].sha256
    assert [model.path for model in scan(tmp_path).models] == [Path(path)]
    assert not list(tmp_path.rglob("*.incomplete")), "no kill left an orphan"
    assert size <= big_hub.sent("*.safetensors") <= size * 1.1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with download_world(tmp_path) as world:
        yield world


FIRST = f"{REPO}/{SHARDS[0]}"


@pytest.mark.parametrize(
    ("story", "fault", "told", "again"),
    [
        ("5xx", Status(FIRST, 503, times=None), (8, "hub_failed"), SHARD),
        ("stall at 99 %", Stall(FIRST, at=SHARD * 99 // 100, times=None), (8, "hub_failed"), SHARD // 100),
        ("truncated shard", Cut(FIRST, at=SHARD // 2, times=None), (8, "hub_failed"), SHARD // 2),
        ("wrong size", Resize(FIRST, by=1), (8, "hub_checksum"), SHARD),
    ],
)
def test_a_fault_ends_the_child_and_a_rerun_resumes(
    world: World, story: str, fault: Fault, told: tuple[int, str], again: int
) -> None:
    world.hub.break_with(fault)
    assert end(begin(world.hub, REPO, world.cache)) == told, story
    expect_no_model(world.cache, REPO)
    world.hub.break_with()
    code, path = end(begin(world.hub, REPO, world.cache))
    assert code == 0
    assert Path(path).name == world.hub.sha(REPO)
    assert world.hub.sent(FIRST) == again, story
    world.expect_whole(world.download())


def test_a_full_disk_keeps_what_fits(world: World) -> None:
    assert end(begin(world.hub, REPO, world.cache, largest_file=1_000_000)) == (6, "disk_full")
    expect_no_model(world.cache, REPO)
    kept = sum(partial_sizes(world))
    assert kept >= 1_000_000
    world.hub.break_with()
    assert end(begin(world.hub, REPO, world.cache))[0] == 0
    assert world.hub.sent("*.safetensors") == 2 * SHARD - kept
    world.expect_whole(world.download())


def test_ctrl_c_ends_a_stalled_download_within_a_second(world: World) -> None:
    stall = Stall("*.safetensors", at=900_000, times=None)
    world.hub.break_with(stall, Slow("*.json", 1000))
    child = begin(world.hub, REPO, world.cache, stall_s=30)
    wait_until(lambda: partial_sizes(world) == [900_000, 900_000], child)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    code, _ = end(child)
    assert (code, time.monotonic() - begun < 1.0) == (130, True)
    expect_no_model(world.cache, REPO)
    assert partial_sizes(world) == [900_000, 900_000]


def test_two_downloads_at_once_fetch_each_byte_once(world: World) -> None:
    world.hub.break_with(Slow("*.safetensors", bytes_per_s=1_500_000))
    children = [begin(world.hub, REPO, world.cache) for _ in range(2)]
    (code, path), other = (end(child) for child in children)
    assert (code, path) == other
    assert code == 0
    assert world.hub.sent() == WANTED_BYTES
    world.expect_whole(world.download())


def test_the_lock_of_a_killed_download_is_free(world: World) -> None:
    stall = Stall("*.safetensors", at=900_000, seconds=30, times=2)
    world.hub.break_with(stall)
    holder = begin(world.hub, REPO, world.cache)
    wait_until(lambda: partial_sizes(world) == [900_000, 900_000], holder)
    heir = begin(world.hub, REPO, world.cache)
    wait_until(lambda: len(world.hub.requests(path="/api/*")) == 2, heir)
    kill(holder)
    code, _ = end(heir)
    assert code == 0
    assert world.hub.sent("*.safetensors") == 2 * SHARD
    world.expect_whole(world.download())
