"""The download that is left to huggingface_hub: it moves, it falls silent, it fails, and it never draws."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError
from tqdm.contrib.concurrent import thread_map

from mlxctl.control import hub_library
from mlxctl.control.hub_library import _Bars, finish, silence
from mlxctl.core.errors import MlxctlError, Upstream
from tests.fakes.download_world import REPO, SHARD, SHARDS, World, download_world
from tests.fakes.hub_faults import Slow, Stall, Status
from tests.fakes.reporter import RecordedTask


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with download_world(tmp_path) as world:
        yield world


def run(world: World, task: RecordedTask, **options: Any) -> Path:
    given = {"left": SHARD, "token": None, "endpoint": world.hub.url, "silence_s": 5.0, **options}
    finish(REPO, world.hub.sha(REPO), SHARDS[:1], world.cache, task, **given)
    return world.cache / "models--acme--tiny" / "snapshots" / world.hub.sha(REPO) / SHARDS[0]


@pytest.fixture
def task() -> RecordedTask:
    return RecordedTask("rest", SHARD, "bytes")


def test_it_fetches_what_is_named_and_passes_the_bytes_on(
    world: World, task: RecordedTask, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(world, task).read_bytes() == (world.source / SHARDS[0]).read_bytes()
    assert (task.done, task.highest) == (SHARD, SHARD)
    assert world.hub.sent() == SHARD, "the other shard was not named"
    assert capfd.readouterr() == ("", "")


def test_what_its_bars_did_not_count_is_made_up_for_at_the_end(world: World, task: RecordedTask) -> None:
    run(world, task)
    run(world, task, left=7)
    assert task.done == SHARD + 7


@pytest.mark.parametrize(
    ("desc", "counted"),
    [
        ("Reconstructing (incomplete total...)", 7),  # huggingface_hub 2: what reaches the disk
        ("Downloading bytes", 0),  # 2: what crosses the network
        ("Downloading (incomplete total...)", 7),  # 1: its only bar of bytes
        ("Fetching 3 files", 0),
    ],
)
def test_of_all_bars_one_counts(task: RecordedTask, desc: str, counted: int) -> None:
    bars = _Bars(task)
    with bars(desc=desc, total=0, unit="B") as bar:
        bar.update(7)
        bar.update(None)
    assert (task.done, bars.written) == (counted, counted)
    assert (bars.stirred(), bars.stirred()) == (True, False)


def test_the_threads_of_releases_1_take_the_bars_for_tqdm(
    task: RecordedTask, capfd: pytest.CaptureFixture[str]
) -> None:
    bars = _Bars(task)
    assert thread_map(str, [1, 2, 3], desc="Fetching 3 files", tqdm_class=bars, max_workers=2) == ["1", "2", "3"]
    assert list(bars(iter("ab"), total=2)) == ["a", "b"], "as older releases of tqdm walk through"
    assert bars.stirred()
    assert capfd.readouterr() == ("", "")


def test_a_slow_file_is_no_silence(world: World, task: RecordedTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    world.hub.break_with(Slow("*.safetensors", bytes_per_s=1_500_000))
    run(world, task, silence_s=0.3)
    assert task.done == SHARD


@pytest.mark.parametrize("fault", [Stall("*:*"), Stall("*.safetensors", at=1000, times=None)])
def test_silence_is_not_waited_for_for_ever(world: World, task: RecordedTask, fault: Stall) -> None:
    world.hub.break_with(fault)
    with pytest.raises(Upstream, match="fell silent") as caught:
        run(world, task, silence_s=0.3)
    assert caught.value.code == "hub_failed"
    world.hub.break_with()


def test_its_failures_come_through(world: World, task: RecordedTask) -> None:
    world.hub.break_with(Status("*.safetensors", 403, times=None))
    with pytest.raises(OSError, match=r"403|locate the file") as caught:
        run(world, task)
    assert isinstance(caught.value.__cause__ or caught.value, HfHubHTTPError)


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (ValueError("too large\nfor this"), "hub_failed", "huggingface_hub: too large"),
        (RuntimeError(""), "hub_failed", "huggingface_hub: RuntimeError"),
    ],
)
def test_its_other_errors_get_a_code(
    world: World, task: RecordedTask, monkeypatch: pytest.MonkeyPatch, raised: Exception, code: str, words: str
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise raised

    monkeypatch.setattr(hub_library, "snapshot_download", fail)
    with pytest.raises(MlxctlError, match=words) as caught:
        run(world, task)
    assert caught.value.code == code


def test_the_library_is_kept_from_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    silence()
    logging.getLogger("huggingface_hub.file_download").error("not for people")
    with warnings.catch_warnings():
        silence()
        warnings.warn_explicit("nor this", UserWarning, "f.py", 1, module="huggingface_hub.file_download")
    assert capfd.readouterr() == ("", "")
