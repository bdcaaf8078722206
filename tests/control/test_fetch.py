"""Every way in which a hub is known to break while it sends, and what is on disk afterwards."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from huggingface_hub import get_session

from mlxctl.control.blobs import PARTIAL_SUFFIX, Torn
from mlxctl.control.fetch import HTTPError, Patience, TransportError, body_extent, is_transient
from mlxctl.control.hub import Snapshot
from tests.fakes.download_world import REPO, SHARD, SHARDS, WANTED_BYTES, World, download_world
from tests.fakes.hub_faults import Corrupt, Cut, Fault, Gated, NoRange, Private, Resize, Slow, Stall, Status

FIRST = f"{REPO}/{SHARDS[0]}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with download_world(tmp_path) as world:
        yield world


@dataclass(frozen=True)
class Weathered:
    """A fault that a download survives: how many bytes of the first shard the hub sent over all."""

    story: str
    faults: tuple[Fault, ...]
    sent: int = SHARD
    notes: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        Weathered("the hub is down for two requests", (Status(FIRST, 503, times=2),)),
        Weathered("several files fail once", (Status(FIRST, 500), Status("*-00002-*"), Status("*/config.json"))),
        Weathered("the hub asks for patience", (Status(FIRST, 429),)),
        Weathered("the description fails twice", (Status("api:*", 502, times=2),)),
        Weathered("the description stalls", (Stall("api:*"),)),
        Weathered("cut once", (Cut(FIRST, at=700_001),)),
        Weathered("cut at 99 %", (Cut(FIRST, at=SHARD - 1),)),
        Weathered("cut before the first byte", (Cut(FIRST, at=0),)),
        Weathered(
            "cut thrice where it moved on", (Cut(FIRST, at=1), Cut(FIRST, at=1_200_000), Cut(FIRST, at=1_400_000))
        ),
        Weathered("stall at 99 %", (Stall(FIRST, at=SHARD * 99 // 100),)),
        Weathered("stall before the first byte", (Stall(FIRST, at=0),)),
        Weathered("a wrong byte", (Corrupt(FIRST, at=SHARD // 2),), sent=2 * SHARD, notes=1),
        Weathered("a wrong byte in a small file", (Corrupt(f"{REPO}/config.json"),), notes=1),
        Weathered("no ranges after a cut", (Cut(FIRST, at=500_000), NoRange("*")), sent=SHARD + 500_000),
        Weathered("a licence that was accepted", (Gated(f"{REPO}/*"),), options={"token": "hf_accepted"}),
        Weathered("a repository of our own", (Private("*"),), options={"token": "hf_owner"}),
    ],
    ids=lambda case: case.story,
)
def test_faults_that_a_download_survives(world: World, case: Weathered, capfd: pytest.CaptureFixture[str]) -> None:
    world.hub.break_with(*case.faults)
    snapshot = world.download(**case.options)
    world.expect_whole(snapshot)
    assert world.hub.sent(FIRST) == case.sent
    assert len(world.reporter.notes) == case.notes
    for fault in case.faults:
        assert isinstance(fault, (Gated, Private)) or world.hub.strikes(fault) == (fault.times or 1)
    assert capfd.readouterr() == ("", "")


def test_the_errors_are_those_of_the_library_s_own_session() -> None:
    spoken = sys.modules[type(get_session()).__module__]
    assert (HTTPError, TransportError) == (spoken.HTTPError, spoken.TransportError)
    assert is_transient(spoken.ReadTimeout("slow"))
    assert not is_transient(spoken.InvalidURL("nonsense"))
    assert not is_transient(OSError("disk"))


@dataclass(frozen=True)
class Fatal:
    """A fault that ends a download. `kept`: bytes of the first shard that stay; `strikes`: how often it struck."""

    story: str
    fault: Fault
    code: str
    words: str
    kept: int | None = None
    strikes: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        Fatal("down for good", Status(FIRST, 503, None), "hub_failed", "503", kept=0, strikes=3),
        Fatal("no description", Status("api:*", 500, None), "hub_failed", "500", strikes=3),
        Fatal("silent description", Stall("api:*", times=None), "hub_failed", "timed out", strikes=3),
        Fatal("a portal in between", Status("api:*", 200, None), "hub_failed", REPO, strikes=1),
        Fatal("a file that is gone", Status(FIRST, 410, None), "hub_failed", "410", kept=0, strikes=1),
        Fatal("always cut", Cut(FIRST, 700_001, None), "hub_failed", SHARDS[0], kept=700_001),
        Fatal("always silent", Stall(FIRST, 700_001, times=None), "hub_failed", "timed out", kept=700_001),
        Fatal("always wrong", Corrupt(FIRST, times=None), "hub_checksum", "checksum", strikes=2),
        Fatal(
            "a small file wrong", Corrupt(f"{REPO}/config.json", times=None), "hub_checksum", "config.json", strikes=2
        ),
        Fatal("more announced", Resize(FIRST, by=100), "hub_checksum", "announced 1500100 bytes but has 1500000"),
        Fatal("less announced", Resize(FIRST, by=-100), "hub_checksum", "announced 1499900 bytes but has 1500000"),
        Fatal("a licence", Gated(f"{REPO}/*"), "gated_repo", "permission"),
        Fatal("another's token", Gated(f"{REPO}/*"), "gated_repo", "permission", options={"token": "hf_other"}),
        Fatal("private", Private("*"), "unknown_repo", REPO),
        Fatal("no such branch", Slow("nothing", 1), "unknown_repo", "v9", options={"revision": "v9"}),
    ],
    ids=lambda case: case.story,
)
def test_faults_that_end_a_download(world: World, case: Fatal, capfd: pytest.CaptureFixture[str]) -> None:
    world.hub.break_with(case.fault)
    error = world.refused(**case.options)
    assert error.code == case.code
    assert case.words in error.message
    world.expect_nothing_usable()
    assert all(task.finished for task in world.reporter.tasks)
    if case.kept is not None:
        assert world.partial(SHARDS[0]).stat().st_size == case.kept
    if case.code == "hub_checksum":
        assert not world.partial(SHARDS[0]).exists() or world.partial(SHARDS[0]).stat().st_size < SHARD
    if case.strikes is not None:
        assert world.hub.strikes(case.fault) == case.strikes
    assert capfd.readouterr() == ("", "")

    # the fault gone, the same command goes on from what is there
    here = case.kept or 0
    world.hub.break_with()
    world.expect_whole(world.download())
    assert world.hub.sent(FIRST) <= SHARD - here


def test_a_resume_fetches_the_rest_and_says_so(world: World) -> None:
    content = (world.source / SHARDS[0]).read_bytes()
    world.begin(SHARDS[0], content[:1_000_000])
    world.expect_whole(world.download())
    assert world.reporter.notes == ["resuming: 1.0 MB of 3.0 MB already here"]
    assert [task.total for task in world.reporter.tasks] == [WANTED_BYTES - 1_000_000]
    assert world.hub.sent(FIRST) == SHARD - 1_000_000
    (request,) = world.hub.requests(path=f"*/{SHARDS[0]}")
    assert (request.status, request.range) == (206, "bytes=1000000-")


def test_a_partial_that_only_lacks_its_name_needs_no_request(world: World) -> None:
    world.begin(SHARDS[0], (world.source / SHARDS[0]).read_bytes())
    world.expect_whole(world.download())
    assert world.hub.requests(path=f"*/{SHARDS[0]}") == ()


def test_a_partial_beyond_the_end_of_the_file_is_not_asked_about_for_ever(world: World) -> None:
    world.begin(SHARDS[0], (world.source / SHARDS[0]).read_bytes())
    world.hub.break_with(Resize(FIRST, by=100))
    assert world.refused().code == "hub_checksum"
    assert [request.status for request in world.hub.requests(path=f"*/{SHARDS[0]}")] == [416, 200]


def test_one_failure_stops_the_other_threads(world: World) -> None:
    world.hub.break_with(Status(FIRST, 404, None), Slow(f"{REPO}/{SHARDS[1]}", bytes_per_s=300_000))
    begun = time.monotonic()
    assert world.refused().code == "hub_failed"
    assert time.monotonic() - begun < 2, "the other shard would take five seconds"
    kept = world.partial(SHARDS[1]).stat().st_size
    time.sleep(0.5)
    assert world.partial(SHARDS[1]).stat().st_size == kept < SHARD


@pytest.mark.parametrize("size", [1000, SHARD, SHARD + 1])
def test_a_partial_of_other_bytes_is_thrown_away(world: World, size: int) -> None:
    world.begin(SHARDS[0], b"?" * size)
    world.expect_whole(world.download())
    assert any("again from the start" in note for note in world.reporter.notes)
    assert world.reporter.tasks[0].lowest >= -size


def test_strays_go_and_what_is_not_ours_stays(world: World) -> None:
    world.begin("config.json", b"")
    blobs = world.store.blobs
    stray, held = blobs / f"{'0' * 64}{PARTIAL_SUFFIX}", blobs / f"{'1' * 64}{PARTIAL_SUFFIX}"
    theirs = blobs / f"{'2' * 64}.0a1b2c3d.incomplete"
    for path in (stray, held, theirs):
        path.write_bytes(b"x")
    world.store.locks.mkdir(parents=True)
    with FileLock(world.store.lock("1" * 64)):
        world.download()
    assert [path.exists() for path in (stray, held, theirs)] == [False, True, True]


def test_a_lock_file_that_nobody_holds_stops_nobody(world: World) -> None:
    world.store.locks.mkdir(parents=True)
    for name in SHARDS:
        world.store.lock(world.etag(name)).write_text("99999")
    world.expect_whole(world.download())
    assert world.reporter.notes == []


def test_a_download_waits_for_the_other_and_takes_what_it_brought(world: World) -> None:
    store, etag = world.store, world.etag(SHARDS[0])
    store.locks.mkdir(parents=True)
    store.blobs.mkdir(parents=True)
    result: list[Snapshot] = []
    with FileLock(store.lock(etag)):
        waiting = threading.Thread(target=lambda: result.append(world.download()))
        waiting.start()
        for size in range(10):  # longer than lock_s, but it grows
            time.sleep(0.1)
            (store.blobs / f"{etag}.0a1b2c3d.incomplete").write_bytes(b"x" * size)
        assert world.reporter.notes == [f"another download fetches {SHARDS[0]}; waiting for it"]
        (store.blobs / f"{etag}.0a1b2c3d.incomplete").unlink()
        store.whole(etag).write_bytes((world.source / SHARDS[0]).read_bytes())
    waiting.join(10)
    world.expect_whole(result[0])
    assert world.hub.sent(FIRST) == 0


def test_a_lock_whose_holder_does_nothing_is_named(world: World) -> None:
    store, etag = world.store, world.etag(SHARDS[0])
    store.locks.mkdir(parents=True)
    with FileLock(store.lock(etag)):
        error = world.refused()
    assert error.code == "model_busy"
    assert str(store.lock(etag)) in error.hint
    world.expect_whole(world.download())


def test_a_folder_without_flock_gets_a_soft_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(self: FileLock) -> None:
        raise NotImplementedError("use SoftFileLock instead")

    monkeypatch.setattr(FileLock, "_acquire", unsupported)
    world.expect_whole(world.download())


@pytest.mark.parametrize(
    ("status", "headers", "extent"),
    [
        (200, {"Content-Length": "10"}, (0, 10)),
        (200, {}, (0, None)),
        (200, {"Content-Length": "7", "Content-Encoding": "gzip"}, (0, None)),
        (206, {"Content-Range": "bytes 5-9/10", "Content-Length": "5"}, (5, 10)),
        (206, {"Content-Range": "bytes 5-9/*"}, (5, None)),
    ],
)
def test_what_part_of_a_file_an_answer_holds(
    status: int, headers: dict[str, str], extent: tuple[int, int | None]
) -> None:
    assert body_extent(status, headers) == extent


@pytest.mark.parametrize("told", ["", "bytes */10", "lines 1-2/3"])
def test_a_part_that_does_not_say_which_is_not_trusted(told: str) -> None:
    with pytest.raises(Torn):
        body_extent(206, {"Content-Range": told})


def test_patience_doubles_up_to_a_limit_and_borrows_the_library_s_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Patience().pause(failures) for failures in (1, 2, 3, 4, 5, 6, 60)] == [0.5, 1, 2, 4, 8, 8, 8]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 77)
    assert (Patience().stall, Patience(stall_s=3).stall) == (77, 3)
