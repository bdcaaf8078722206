"""Downloads from a hub that works, from one that breaks in every way we know, and from none."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from huggingface_hub import constants, snapshot_download

from mlxctl.control import hub as hub_module
from mlxctl.control.blobs import PARTIAL_SUFFIX, BlobStore
from mlxctl.control.hub import Patience, Snapshot, check_disk, download, human
from mlxctl.control.snapshots import find_snapshot
from mlxctl.core.errors import MlxctlError
from tests.fakes.hub import Hub
from tests.fakes.hub_faults import Corrupt, Cut, Fault, Gated, NoRange, Private, Resize, Slow, Stall, Status
from tests.fakes.reporter import Recorder

REPO = "acme/tiny"
SHARD = 1_500_000
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SMALL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 4000,
    "empty.txt": b"",
    "extra/notes [1].txt": b"a folder, a space and brackets",
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
}
UNWANTED = {"README.md": b"for people", "original/model.safetensors": b"the same weights once more"}
WANTED_BYTES = 2 * SHARD + sum(map(len, SMALL.values()))
QUICK = Patience(stall_s=0.4, tries=3, backoff_s=0.01, lock_s=0.6, metadata_s=1.0)


@dataclass
class World:
    """A hub, a cache that starts empty, and what the last download told."""

    hub: Hub
    cache: Path
    source: Path
    reporter: Recorder = field(default_factory=Recorder)

    def download(self, **options: Any) -> Snapshot:
        self.reporter = Recorder()
        given = {"endpoint": self.hub.url, "patience": QUICK, **options}
        return download(REPO, self.cache, self.reporter, **given)

    def refused(self, **options: Any) -> MlxctlError:
        with pytest.raises(MlxctlError) as caught:
            self.download(**options)
        assert caught.value.hint, "an error says what to do next"
        return caught.value

    @property
    def store(self) -> BlobStore:
        name = "models--acme--tiny"
        return BlobStore(self.cache / name / "blobs", self.cache / ".locks" / name)

    def etag(self, name: str) -> str:
        return next(file.etag for file in self.hub.files(REPO) or () if file.name == name)

    def partial(self, name: str) -> Path:
        return self.store.partial(self.etag(name))

    def begin(self, name: str, content: bytes) -> None:
        """Leave a partial as an earlier run would."""
        self.store.blobs.mkdir(parents=True, exist_ok=True)
        self.partial(name).write_bytes(content)

    def expect_whole(self, snapshot: Snapshot) -> None:
        for name in (*SHARDS, *SMALL):
            assert (snapshot.path / name).read_bytes() == (self.source / name).read_bytes(), name
        assert not [path for path in snapshot.path.rglob("*") if path.name in ("README.md", "original")]
        assert (snapshot.repo_folder / "refs" / "main").read_text() == snapshot.sha == self.hub.sha(REPO)
        assert not list(self.cache.rglob("*.incomplete"))
        for task in self.reporter.tasks:
            assert (task.done, task.finished, task.unit) == (task.total, True, "bytes")

    def expect_nothing_usable(self) -> None:
        assert find_snapshot(self.cache, REPO) is None
        assert not (self.cache / "models--acme--tiny" / "refs").exists()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    source = tmp_path / "root" / REPO
    for name, content in (SMALL | UNWANTED).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    for seed, name in enumerate(SHARDS):
        (source / name).write_bytes(random.Random(seed).randbytes(SHARD))
    with Hub(tmp_path / "root") as hub:
        yield World(hub, tmp_path / "cache", source)


def test_a_fresh_download_takes_one_request_a_file_and_two_more(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    snapshot = world.download()
    world.expect_whole(snapshot)
    assert snapshot.path == snapshot.repo_folder / "snapshots" / snapshot.sha
    assert snapshot.repo_folder == world.cache / "models--acme--tiny"
    assert (snapshot.path / SHARDS[0]).resolve().name == world.etag(SHARDS[0])
    assert [(task.title, task.total) for task in world.reporter.tasks] == [("downloading acme/tiny", WANTED_BYTES)]
    assert world.hub.sent() == WANTED_BYTES
    full = [name for name, content in SMALL.items() if content]
    assert len(world.hub.requests()) == len(SHARDS) + len(full) + 2
    assert capfd.readouterr() == ("", ""), "the terminal is the reporter's"


def test_a_complete_model_costs_one_question(world: World) -> None:
    first = world.download()
    world.hub.break_with()
    assert world.download() == first
    assert [request.path for request in world.hub.requests()] == [f"/api/models/{REPO}"]
    assert world.reporter.tasks == world.reporter.notes == []


def test_what_the_library_downloaded_is_complete_for_us_and_the_other_way_round(world: World) -> None:
    theirs = snapshot_download(REPO, cache_dir=world.cache, endpoint=world.hub.url)
    world.hub.break_with()
    ours = world.download()
    assert str(ours.path) == theirs
    assert world.hub.sent() == 0
    assert snapshot_download(REPO, cache_dir=world.cache, local_files_only=True) == theirs
    assert world.store.lock(world.etag(SHARDS[0])).exists(), "the library locks the same file as we do"


@dataclass(frozen=True)
class Weathered:
    """A fault that a download survives: how many bytes of the first shard the hub sent over all."""

    story: str
    faults: tuple[Fault, ...]
    sent: int = SHARD
    notes: int = 0
    options: dict[str, Any] = field(default_factory=dict)


FIRST = f"{REPO}/{SHARDS[0]}"


@pytest.mark.parametrize(
    "case",
    [
        Weathered("the hub is down for two requests", (Status(FIRST, 503, times=2),)),
        Weathered("every file fails once", (Status(f"{REPO}/*", 500, times=7),)),
        Weathered("the hub asks for patience", (Status(FIRST, 429),)),
        Weathered("the description fails twice", (Status("api:*", 502, times=2),)),
        Weathered("the description stalls", (Stall("api:*"),)),
        Weathered("the listing stalls", (Stall("tree:*"),), notes=1),
        Weathered("the listing fails", (Status("tree:*", 404),), notes=1),
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


def test_a_gated_repository_names_its_page_and_the_variable(world: World) -> None:
    world.hub.break_with(Gated("*"))
    hint = world.refused().hint
    assert f"{world.hub.url}/{REPO}" in hint
    assert "HF_TOKEN" in hint


@pytest.mark.parametrize(
    ("repo", "words"), [("acme/none", "has no repository acme/none"), ("a b/c", "no repository's name"), ("", "''")]
)
def test_names_that_the_hub_does_not_know(world: World, repo: str, words: str) -> None:
    with pytest.raises(MlxctlError, match=words) as caught:
        download(repo, world.cache, Recorder(), endpoint=world.hub.url, patience=QUICK)
    assert (caught.value.code, caught.value.exit_code) == ("unknown_repo", 4)


def test_the_token_goes_with_every_request(world: World) -> None:
    world.download(token="hf_mine")
    assert {request.authorization for request in world.hub.requests()} == {"Bearer hf_mine"}


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


def test_offline_asks_nobody(world: World) -> None:
    assert world.refused(offline=True).code == "hub_offline"
    assert world.hub.requests() == ()
    snapshot = world.download()
    world.hub.break_with()
    assert world.download(offline=True) == world.download(offline=True, revision=snapshot.sha) == snapshot
    (snapshot.path / SHARDS[1]).unlink()
    assert world.refused(offline=True).code == "hub_offline"
    assert world.hub.requests() == ()


def test_the_library_s_own_offline_switch_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert world.refused().code == "hub_offline"
    assert world.hub.requests() == ()


@pytest.mark.parametrize(
    "fault", [None, Status("api:*", 500, None), Stall("api:*", times=None), Private("*"), Status("api:*", 403, None)]
)
def test_a_hub_that_does_not_answer_leaves_what_is_here(world: World, fault: Fault | None) -> None:
    snapshot = world.download()
    if fault:
        world.hub.break_with(fault)
    begun = time.monotonic()
    assert world.download(**({} if fault else {"endpoint": "http://127.0.0.1:9"})) == snapshot
    assert time.monotonic() - begun < 2, "one try, no backoff"
    (note,) = world.reporter.notes
    assert note.endswith("using the copy in the cache")


def test_a_hub_that_is_not_there(world: World) -> None:
    error = world.refused(endpoint="http://127.0.0.1:9")
    assert (error.code, error.exit_code) == ("hub_failed", 8)


def test_the_old_commit_serves_until_the_new_one_is_whole(world: World) -> None:
    old = world.download()
    (world.source / SHARDS[1]).write_bytes(b"n" * SHARD)
    world.hub.break_with(Cut("*-00002-*", at=1000, times=None))
    assert world.refused().code == "hub_failed"
    assert world.download(offline=True) == old
    assert (old.repo_folder / "refs" / "main").read_text() == old.sha
    world.hub.break_with()
    new = world.download()
    world.expect_whole(new)
    assert world.hub.sent(f"{REPO}/{SHARDS[0]}") == 0, "what both commits share is not fetched again"
    assert world.download(offline=True) == new != old
    assert world.download(offline=True, revision=old.sha) == old


@pytest.mark.parametrize(
    ("free", "enough"), [(WANTED_BYTES + 10**9, True), (WANTED_BYTES + 10**9 - 1, False), (0, False)]
)
def test_disk_space_is_looked_at_first(world: World, monkeypatch: pytest.MonkeyPatch, free: int, enough: bool) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    if enough:
        world.expect_whole(world.download())
        return
    error = world.refused()
    assert (error.code, error.exit_code) == ("disk_full", 6)
    assert f"needs 3.0 MB (and 1.0 GB to spare), but {human(free)} are free" in error.message
    assert world.hub.sent() == 0


def test_a_download_that_needs_nothing_asks_for_no_space(tmp_path: Path) -> None:
    check_disk(tmp_path / "nowhere", 0)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.safetensors"], {*SHARDS, "original/model.safetensors"}),
        (["config.json", "extra/"], {"config.json", "extra/notes [1].txt"}),
    ],
)
def test_patterns_choose_the_files(world: World, patterns: Sequence[str], names: set[str]) -> None:
    snapshot = world.download(allow_patterns=patterns)
    assert {p.relative_to(snapshot.path).as_posix() for p in snapshot.path.rglob("*") if p.is_file()} == names
    assert find_snapshot(world.cache, REPO) is None, "a part is not the model"
    assert world.download(allow_patterns=patterns, offline=True) == snapshot


def test_an_index_that_names_a_shard_too_many(world: World) -> None:
    (world.source / "model.safetensors.index.json").write_text(
        '{"weight_map": {"c": "model-00003-of-00002.safetensors"}}'
    )
    error = world.refused()
    assert (error.code, error.exit_code) == ("bad_model", 7)
    assert "model-00003-of-00002.safetensors" in error.message
    world.expect_nothing_usable()


def test_a_repository_without_weights_is_refused_before_the_first_byte(world: World) -> None:
    for path in world.source.rglob("*.safetensors"):
        path.unlink()
    assert world.refused().code == "bad_model"
    assert world.hub.sent() == 0


def test_files_beyond_plain_http_are_left_to_the_library(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = SimpleNamespace(**{**vars(constants), "MAX_HTTP_DOWNLOAD_SIZE": SHARD - 1})
    monkeypatch.setattr(hub_module, "constants", ours)
    world.expect_whole(world.download())
    assert world.reporter.tasks[0].total == WANTED_BYTES
    assert world.hub.requests("HEAD", f"*/{SHARDS[0]}"), "the library asks before it fetches"


def test_what_the_library_cannot_fetch_either_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", SHARD - 1)
    error = world.refused()
    assert error.code == "hub_failed"
    assert "too large" in error.message
    world.expect_nothing_usable()


def test_a_cache_that_cannot_be_written(world: World) -> None:
    world.cache.mkdir()
    (world.cache / "models--acme--tiny").write_text("a file where the folder belongs")
    error = world.refused()
    assert error.code == "unexpected"
    assert "cannot be written" in error.message


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (3 * 10**6, "3.0 MB"),
        (75.2e9, "75.2 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_for_people(size: float, words: str) -> None:
    assert human(size) == words
