"""Downloads from a hub that works, from one that refuses, and from none."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, snapshot_download

from mlxctl.control import hub as hub_module
from mlxctl.control.hub import check_disk, download
from mlxctl.control.memory import human_bytes
from mlxctl.control.snapshots import find_snapshot
from mlxctl.core.errors import MlxctlError
from tests.fakes.download_world import QUICK, REPO, SHARD, SHARDS, SMALL, WANTED_BYTES, World, download_world
from tests.fakes.hub_faults import Cut, Fault, Gated, Private, Stall, Status
from tests.fakes.reporter import Recorder


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with download_world(tmp_path) as world:
        yield world


def test_a_fresh_download_takes_one_request_a_file_and_one_more(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    snapshot = world.download()
    world.expect_whole(snapshot)
    assert snapshot.path == snapshot.repo_folder / "snapshots" / snapshot.sha
    assert snapshot.repo_folder == world.cache / "models--acme--tiny"
    assert (snapshot.path / SHARDS[0]).resolve().name == world.etag(SHARDS[0])
    assert [(task.title, task.total) for task in world.reporter.tasks] == [("Downloading acme/tiny", WANTED_BYTES)]
    assert world.hub.sent() == WANTED_BYTES
    full = [name for name, content in SMALL.items() if content]
    assert len(world.hub.requests()) == len(SHARDS) + len(full) + 1
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


def test_a_disk_without_links_holds_each_file_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: str) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    snapshot = world.download()
    world.expect_whole(snapshot)
    assert not (snapshot.path / SHARDS[0]).is_symlink()
    assert not list(world.store.blobs.iterdir())
    world.hub.break_with()
    assert world.download() == snapshot
    assert world.hub.sent() == 0


def test_twins_on_a_disk_without_links_both_get_their_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: str) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    (world.source / "twin.json").write_bytes(SMALL["tokenizer.json"])
    monkeypatch.setattr(Path, "symlink_to", refuse)
    snapshot = world.download()
    world.expect_whole(snapshot)
    assert (snapshot.path / "twin.json").read_bytes() == SMALL["tokenizer.json"]


def test_the_library_brings_what_we_did_not_want(world: World) -> None:
    snapshot = world.download()
    world.hub.break_with()
    assert snapshot_download(REPO, cache_dir=world.cache, endpoint=world.hub.url) == str(snapshot.path)
    assert (snapshot.path / "README.md").read_bytes() == (world.source / "README.md").read_bytes()
    assert world.hub.sent(f"{REPO}/{SHARDS[0]}") == 0
    assert world.download(offline=True, allow_patterns=["README.md"]) == snapshot


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
    assert time.monotonic() - begun < 2
    assert fault is None or world.hub.strikes(fault) == 1, "one try will do"
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
    assert f"needs 3.0 MB (and 1.0 GB to spare), but {human_bytes(free)} are free" in error.message
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
    assert world.refused(allow_patterns=["README.md"], offline=True).code == "hub_offline"


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


def test_what_the_hub_refuses_the_library_has_the_same_code(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = SimpleNamespace(**{**vars(constants), "MAX_HTTP_DOWNLOAD_SIZE": SHARD - 1})
    monkeypatch.setattr(hub_module, "constants", ours)
    world.hub.break_with(Status(f"*/{SHARDS[0]}", 403, None))
    assert world.refused().code == "gated_repo"
    world.expect_nothing_usable()


def test_files_that_are_left_to_the_library_are_missed_until_they_are_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Config and index are in place before; without the index only the listing tells of the second shard."""
    (world.source / "model.safetensors.index.json").unlink()
    (world.source / SHARDS[1]).write_bytes(b"n" * (SHARD + 1))
    ours = SimpleNamespace(**{**vars(constants), "MAX_HTTP_DOWNLOAD_SIZE": SHARD})
    monkeypatch.setattr(hub_module, "constants", ours)
    world.hub.break_with(Status(f"*/{SHARDS[1]}", 403, None))
    assert world.refused().code == "gated_repo"
    assert (world.cache / "models--acme--tiny/snapshots" / world.hub.sha(REPO) / "config.json").is_file()
    world.expect_nothing_usable()


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
