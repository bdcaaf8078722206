"""The cache's folders: which files are wanted, when a snapshot counts as whole, and how links and refs are made."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mlxctl.control.snapshots import (
    check_snapshot,
    file_size,
    find_snapshot,
    has_weights,
    is_complete,
    link,
    plan_files,
    read_listing,
    repo_folder,
    write_listing,
    write_ref,
)
from mlxctl.core.errors import NotReady

REPO = "acme/tiny"
OLD, NEW = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("story", "names", "patterns", "wanted"),
    [
        ("small files of a text model", "config.json chat_template.jinja merges.txt tokenizer.model tokenizer.tiktoken "
         "modeling_x.py", None, "all"),
        ("not what only people read", "README.md LICENSE .gitattributes picture.png", None, ""),
        ("not other frameworks' weights", "pytorch_model.bin tf_model.h5 model.onnx model.pth", None, ""),
        ("a template in a folder", "additional_chat_templates/rag.jinja", None, "all"),
        ("shards at the top, not their copies below", "model-1-of-2.safetensors model-2-of-2.safetensors "
         "original/model.safetensors", None, "model-1-of-2.safetensors model-2-of-2.safetensors"),
        ("mlx-lm's names before Mistral's", "consolidated.safetensors model.safetensors", None, "model.safetensors"),
        ("other names where there are no better ones", "weights.safetensors", None, "all"),
        ("a folder where the top holds none", "transformer/model.safetensors", None, "all"),
        ("GGUF beside safetensors", "model.safetensors tiny-Q4.gguf", None, "model.safetensors"),
        ("GGUF alone: the most exact", "tiny-Q4_0.gguf sub/tiny-Q8_0.gguf README.md", None, "sub/tiny-Q8_0.gguf"),
        ("all parts of it", "a.Q8_0-00001-of-00002.gguf a.Q8_0-00002-of-00002.gguf a.Q4_K_M.gguf", None,
         "a.Q8_0-00001-of-00002.gguf a.Q8_0-00002-of-00002.gguf"),
        ("half precision before single", "a.f32.gguf a.f16.gguf mmproj-a.bf16.gguf", None, "a.f16.gguf"),
        ("names that tell nothing", "b.gguf a.gguf", None, "a.gguf"),
        ("patterns replace all that", "config.json tiny-Q4.gguf tiny-Q8.gguf", ["*Q4*"], "tiny-Q4.gguf"),
        ("a folder as pattern", "a/x a/b/y c/z", ["a/"], "a/x a/b/y"),
        ("no pattern at all", "config.json", [], ""),
    ],
)  # fmt: skip
def test_which_files_are_wanted(story: str, names: str, patterns: list[str] | None, wanted: str) -> None:
    expected = names.split() if wanted == "all" else wanted.split()
    assert plan_files(names.split(), patterns) == tuple(sorted(expected)), story


@pytest.mark.parametrize(
    ("names", "weights"), [([], False), (["config.json"], False), (["a.gguf"], True), (["m.safetensors", "x"], True)]
)
def test_weights(names: list[str], weights: bool) -> None:
    assert has_weights(names) is weights


def fill(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def index(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"layer{i}": shard for i, shard in enumerate(shards)}}).encode()


@pytest.mark.parametrize(
    ("story", "files", "sizes", "flaw"),
    [
        ("all there", {"config.json": b"{}", "m": b"123"}, {"config.json": 2, "m": 3}, None),
        ("no sizes, nothing to say", {}, {}, None),
        ("a file is not there", {"m": b"123"}, {"config.json": 2, "m": 3}, "config.json is missing"),
        ("a file is short", {"m": b"12"}, {"m": 3}, "m is missing or not whole"),
        ("a file is long", {"m": b"1234"}, {"m": 3}, "m is missing or not whole"),
        ("three files", {}, {"c": 1, "a": 1, "b": 1}, "a and 2 more is missing"),
        ("both shards", {"model.safetensors.index.json": index("s1", "s2", "s1"), "s1": b"", "s2": b""}, {}, None),
        ("the hub lacks a shard too", {"model.safetensors.index.json": index("s1", "s2"), "s1": b"1"}, {"s1": 1}, "s2"),
        ("a shard is short", {"model.safetensors.index.json": index("s1"), "s1": b"1"}, {"s1": 2}, "s1"),
        ("the index is torn", {"model.safetensors.index.json": b'{"weight_map": {"a"'}, {}, "cannot be read"),
        ("the index is another thing", {"model.safetensors.index.json": b"[1]"}, {}, "cannot be read"),
        ("the index has no map", {"model.safetensors.index.json": b"{}"}, {}, "cannot be read"),
        ("the index is binary", {"model.safetensors.index.json": b"\xff\xfe\x00"}, {}, "cannot be read"),
    ],
)
def test_when_a_snapshot_is_whole(
    tmp_path: Path, story: str, files: dict[str, bytes], sizes: dict[str, int], flaw: str | None
) -> None:
    path = fill(tmp_path / "models--acme--tiny" / "snapshots" / OLD, files)
    path.mkdir(parents=True, exist_ok=True)
    if flaw is None:
        check_snapshot(path, sizes)
        return
    with pytest.raises(NotReady, match=flaw) as caught:
        check_snapshot(path, sizes)
    assert caught.value.code == "bad_model", story


def test_a_link_to_nothing_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"four")
    assert [file_size(tmp_path / name) for name in ("dangling", "folder", "none", "file")] == [None, None, None, 4]


def listing(cache: Path, sha: str, sizes: Mapping[str, int]) -> None:
    """As huggingface_hub 2 keeps it."""
    files = {name: {"size": size, "blob_id": "0" * 40} for name, size in sizes.items()}
    folder = repo_folder(cache, REPO) / "trees"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{sha}.json").write_text(json.dumps({"format_version": 1, "files": files}))


MODEL = {"config.json": b"{}", "model.safetensors": b"weights"}


def listing_of_ours(cache: Path, sha: str, sizes: Mapping[str, int]) -> None:
    write_listing(repo_folder(cache, REPO), sha, sizes)


@pytest.mark.parametrize("note", [listing, listing_of_ours])
@pytest.mark.parametrize(
    ("story", "files", "listed", "patterns", "complete"),
    [
        ("as listed", MODEL, {"config.json": 2, "model.safetensors": 7, "README.md": 9}, None, True),
        ("a wanted file is missing", MODEL, {"config.json": 2, "model.safetensors": 7, "merges.txt": 9}, None, False),
        ("a wanted file is short", MODEL, {"config.json": 2, "model.safetensors": 8}, None, False),
        ("listed, but without weights", {"config.json": b"{}"}, {"config.json": 2}, None, False),
        ("without weights, as asked", {"config.json": b"{}"}, {"config.json": 2, "m": 7}, ["*.json"], True),
        ("no listing: config and weights", MODEL, None, None, True),
        ("no listing: no config", {"model.safetensors": b"w"}, None, None, False),
        ("no listing: no weights", {"config.json": b"{}"}, None, None, False),
        ("no listing: GGUF needs no config", {"tiny.gguf": b"GGUF"}, None, None, True),
        ("no listing: a shard too few", {**MODEL, "model.safetensors.index.json": index("s1")}, None, None, False),
        ("no listing: nothing", {}, None, None, False),
    ],
)
def test_when_the_cache_has_a_model(
    tmp_path: Path,
    story: str,
    files: dict[str, bytes],
    listed: dict[str, int] | None,
    patterns: list[str] | None,
    complete: bool,
    note: Callable[[Path, str, Mapping[str, int]], None],
) -> None:
    fill(repo_folder(tmp_path, REPO) / "snapshots" / OLD, files)
    if listed is not None:
        note(tmp_path, OLD, listed)
    assert is_complete(tmp_path, REPO, OLD, patterns) is complete, story


LISTED = {"config.json": 2, "sub/a [1].txt": 0}


@pytest.mark.parametrize(
    ("story", "noted", "sizes"),
    [
        (
            "the library's",
            {"format_version": 1, "files": {"m": {"size": 7, "blob_id": "0", "xet_hash": "1"}}},
            {"m": 7},
        ),
        ("ours", {"format_version": 0, "files": {"m": {"size": 7}}}, {"m": 7}),
        ("a later format", {"format_version": 2, "files": {"m": {"size": 7}}}, {}),
        ("no version", {"files": {"m": {"size": 7}}}, {}),
        ("no size", {"format_version": 1, "files": {"m": {}}}, {}),
        ("a list", [], {}),
        ("nothing", None, {}),
    ],
)
def test_a_listing_is_read_or_passed_over(tmp_path: Path, story: str, noted: object, sizes: dict[str, int]) -> None:
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / f"{OLD}.json").write_text(json.dumps(noted))
    assert read_listing(tmp_path, OLD) == sizes, story
    assert read_listing(tmp_path, NEW) == {}


def test_a_listing_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    fill(tmp_path, {f"trees/{OLD}.json": b'{"format_version": 1, "files": {"m"'})
    assert read_listing(tmp_path, OLD) == {}
    write_listing(tmp_path, OLD, LISTED)
    assert read_listing(tmp_path, OLD) == LISTED
    assert [path.name for path in (tmp_path / "trees").iterdir()] == [f"{OLD}.json"]


def test_the_library_s_listing_stays(tmp_path: Path) -> None:
    listing(tmp_path, OLD, {"m": 7})
    write_listing(repo_folder(tmp_path, REPO), OLD, LISTED)
    assert read_listing(repo_folder(tmp_path, REPO), OLD) == {"m": 7}


def ref(cache: Path, name: str, sha: str) -> None:
    fill(repo_folder(cache, REPO), {f"refs/{name}": sha.encode()})


def tear(cache: Path, sha: str) -> None:
    (repo_folder(cache, REPO) / "snapshots" / sha / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("story", "arrange", "revision", "found"),
    [
        ("main", lambda cache: ref(cache, "main", OLD), None, OLD),
        ("a branch", lambda cache: ref(cache, "refs/pr/1", OLD), "refs/pr/1", OLD),
        ("a commit", lambda cache: None, OLD, OLD),
        ("no refs: the newest", lambda cache: None, None, NEW),
        ("main is torn: another one", lambda cache: (ref(cache, "main", NEW), tear(cache, NEW)), None, OLD),
        ("a torn commit is not replaced", lambda cache: tear(cache, OLD), OLD, None),
        ("a branch we lack", lambda cache: ref(cache, "main", OLD), "v2", None),
        ("a ref to nowhere", lambda cache: ref(cache, "v2", "c" * 40), "v2", None),
        ("a ref that is empty", lambda cache: ref(cache, "v2", ""), "v2", None),
        ("a ref that climbs", lambda cache: ref(cache, "v2", "../.."), "v2", None),
    ],
)
def test_which_snapshot_stands_for_a_revision(
    tmp_path: Path, story: str, arrange: Callable[[Path], object], revision: str | None, found: str | None
) -> None:
    for age, sha in ((60, OLD), (0, NEW)):
        path = fill(repo_folder(tmp_path, REPO) / "snapshots" / sha, MODEL)
        os.utime(path, (time.time() - age,) * 2)
    arrange(tmp_path)
    os.utime(repo_folder(tmp_path, REPO) / "snapshots" / NEW)
    snapshot = find_snapshot(tmp_path, REPO, revision)
    assert (snapshot and snapshot.sha) == found, story
    if snapshot:
        assert snapshot.path == snapshot.repo_folder / "snapshots" / snapshot.sha


def test_an_empty_cache_has_nothing(tmp_path: Path) -> None:
    assert find_snapshot(tmp_path / "none", REPO) is None


def test_links_lead_to_blobs_and_mend_what_is_broken(tmp_path: Path) -> None:
    folder = fill(tmp_path, {"blobs/one": b"1", "blobs/two": b"2"})
    snapshot = folder / "snapshots" / OLD
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "sub" / "b").symlink_to("gone")
    (snapshot / "kept").write_bytes(b"no blob of mine is here")
    for _ in range(2):
        link(folder, OLD, {"config.json": "one", "sub/b": "two", "kept": "three"})
        assert (snapshot / "config.json").readlink() == Path("../../blobs/one")
        assert (snapshot / "sub" / "b").readlink() == Path("../../../blobs/two")
        assert (snapshot / "kept").read_bytes() == b"no blob of mine is here"


def test_the_config_is_linked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path, {"blobs/one": b"1"})
    made: list[str] = []
    monkeypatch.setattr(Path, "symlink_to", lambda path, target: made.append(path.name))
    link(folder, OLD, {"config.json": "one", "a.json": "one", "z.safetensors": "one"})
    assert made[-1] == "config.json"
    assert len(made) == 3


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_a_disk_without_links_gets_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(path: Path, target: str) -> None:
        raise OSError(code, "no links here")

    folder = fill(tmp_path, {"blobs/one": b"1"})
    monkeypatch.setattr(Path, "symlink_to", refuse)
    link(folder, OLD, {"config.json": "one"})
    assert (folder / "snapshots" / OLD / "config.json").read_bytes() == b"1"
    assert not (folder / "blobs" / "one").exists()


def test_another_failure_to_link_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    folder = fill(tmp_path, {"blobs/one": b"1"})
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(OSError, match="full"):
        link(folder, OLD, {"config.json": "one"})
    assert (folder / "blobs" / "one").exists()


def test_refs_are_replaced_whole_and_only_when_they_change(tmp_path: Path) -> None:
    write_ref(tmp_path, "main", OLD)
    write_ref(tmp_path, "refs/pr/1", OLD)
    write_ref(tmp_path, OLD, OLD)
    before = (tmp_path / "refs" / "main").stat().st_ino
    write_ref(tmp_path, "main", OLD)
    assert (tmp_path / "refs" / "main").stat().st_ino == before
    write_ref(tmp_path, "main", NEW)
    files = {p.relative_to(tmp_path / "refs").as_posix(): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"main": NEW, "refs/pr/1": OLD}
