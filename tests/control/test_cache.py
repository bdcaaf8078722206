"""What a scan finds in a cache folder, and what it says of the rest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxctl.control.cache import CachedModel, CacheScan, scan
from tests.fakes.download_world import QUICK
from tests.fakes.hub import Hub
from tests.fakes.hub_faults import Cut

OLD, NEW = "a" * 40, "b" * 40
MODEL = {"config.json": b"{}", "model.safetensors": b"weights"}
INDEX = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode()


def put(cache: Path, repo: str, sha: str, files: dict[str, bytes], *, ref: str | None = None, age: float = 0) -> Path:
    """Blobs and a snapshot that links them, as huggingface_hub lays them out. `age` in seconds."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    for name, content in files.items():
        blob, pointer = folder / "blobs" / f"{sha[:4]}-{name.replace('/', '-')}", folder / "snapshots" / sha / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        os.utime(blob, (time.time() - age,) * 2)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    if ref:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(sha)
    return folder


def test_a_model_as_it_is_told(tmp_path: Path) -> None:
    folder = put(tmp_path, "acme/tiny-4bit", OLD, MODEL, ref="main")
    model = CachedModel("acme/tiny-4bit", folder / "snapshots" / OLD, OLD, folder, 9)
    assert scan(tmp_path) == CacheScan((model,), ())


@pytest.mark.parametrize("where", ["none", "file/none"])
def test_no_cache_no_models(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    assert scan(tmp_path / where) == scan(tmp_path / "file") == CacheScan()


def test_models_come_by_name_whatever_else_is_there(tmp_path: Path) -> None:
    for repo in ("zeta/b", "acme/c", "acme/a"):
        put(tmp_path, repo, OLD, MODEL, ref="main")
    (tmp_path / "datasets--acme--rows" / "snapshots" / OLD).mkdir(parents=True)
    (tmp_path / "datasets--acme--broken").mkdir()
    (tmp_path / "registry.json").write_text("{}")
    (tmp_path / "registry.backups").mkdir()
    (tmp_path / ".locks").mkdir()
    found = scan(tmp_path)
    assert [model.repo_id for model in found.models] == ["acme/a", "acme/c", "zeta/b"]
    assert found.warnings == (), "the registry and datasets are not broken models"


@pytest.mark.parametrize(
    ("story", "files", "is_model"),
    [
        ("config and weights", MODEL, True),
        ("GGUF needs no config", {"tiny-Q4.gguf": b"GGUF"}, True),
        ("GGUF in a folder", {"Q4/tiny.gguf": b"GGUF"}, True),
        ("no weights", {"config.json": b"{}", "tokenizer.json": b"{}"}, False),
        ("no config", {"model.safetensors": b"w"}, False),
        ("a config of something below", {"vae/config.json": b"{}", "vae/model.safetensors": b"w"}, False),
        ("weights that MLX does not read", {"config.json": b"{}", "pytorch_model.bin": b"w"}, False),
    ],
)
def test_what_counts_as_a_model(tmp_path: Path, story: str, files: dict[str, bytes], is_model: bool) -> None:
    put(tmp_path, "acme/tiny", OLD, files, ref="main")
    assert bool(scan(tmp_path).models) is is_model, story
    assert scan(tmp_path).warnings == ()


@pytest.mark.parametrize(
    ("story", "arrange", "sha", "size"),
    [
        ("main, although another is newer", lambda c: (put(c, "acme/t", OLD, MODEL, ref="main", age=60),
         put(c, "acme/t", NEW, {**MODEL, "x.txt": b"four"})), OLD, 9),
        ("the newest without main", lambda c: (put(c, "acme/t", OLD, MODEL, age=60, ref="v1"),
         put(c, "acme/t", NEW, {**MODEL, "x.txt": b"four"})), NEW, 13),
        ("main holds only a config", lambda c: (put(c, "acme/t", OLD, MODEL, age=60),
         put(c, "acme/t", NEW, {"config.json": b"{}"}, ref="main")), OLD, 9),
        ("main lacks a shard", lambda c: (put(c, "acme/t", OLD, MODEL, age=60), put(c, "acme/t", NEW, {
         "config.json": b"{}", "model-1-of-2.safetensors": b"w", "model.safetensors.index.json": INDEX}, ref="main")),
         OLD, 9),
    ],
)  # fmt: skip
def test_which_snapshot_stands_for_a_model(
    tmp_path: Path, story: str, arrange: Callable[[Path], object], sha: str, size: int
) -> None:
    arrange(tmp_path)
    (model,) = scan(tmp_path).models
    assert (model.sha, model.size_bytes) == (sha, size), story
    assert model.path == model.repo_folder / "snapshots" / sha


def dangle(cache: Path) -> None:
    put(cache, "acme/broken", OLD, MODEL, ref="main")
    next((cache / "models--acme--broken" / "blobs").glob("*safetensors")).unlink()


@pytest.mark.parametrize(
    ("story", "arrange", "words"),
    [
        ("a blob is gone", dangle, "Blob missing"),
        ("a ref to nowhere", lambda c: (put(c, "acme/broken", OLD, MODEL) and (c / "models--acme--broken/refs").mkdir())
         or (c / "models--acme--broken/refs/main").write_text(NEW), "missing commit hashes"),
        ("no snapshots at all", lambda c: (c / "models--acme--broken").mkdir(), "Snapshots dir doesn't exist"),
        ("a file where a model belongs", lambda c: (c / "models--acme--broken").write_text(""), "not a directory"),
        ("a shard too few", lambda c: put(c, "acme/broken", OLD, {"config.json": b"{}", "model-1-of-2.safetensors":
         b"w", "model.safetensors.index.json": INDEX}), "model-2-of-2.safetensors is missing"),
        ("a torn index", lambda c: put(c, "acme/broken", OLD, {**MODEL, "model.safetensors.index.json": b"{"}),
         "cannot be read"),
    ],
)  # fmt: skip
def test_a_broken_entry_is_a_warning_and_hides_no_other(
    tmp_path: Path, story: str, arrange: Callable[[Path], object], words: str
) -> None:
    put(tmp_path, "acme/good", OLD, MODEL, ref="main")
    arrange(tmp_path)
    found = scan(tmp_path)
    assert [model.repo_id for model in found.models] == ["acme/good"], story
    (warning,) = found.warnings
    assert words in warning


def test_a_ref_that_is_no_text_spoils_the_scan_but_raises_nothing(tmp_path: Path) -> None:
    put(tmp_path, "acme/tiny", OLD, MODEL, ref="main")
    (tmp_path / "models--acme--tiny" / "refs" / "main").write_bytes(b"\xff\xfe")
    found = scan(tmp_path)
    assert found.models == ()
    assert "cannot be scanned" in found.warnings[0]


def test_a_download_that_did_not_finish_is_told_as_such(tmp_path: Path) -> None:
    from mlxctl.control.hub import download
    from mlxctl.core.errors import Upstream
    from mlxctl.core.report import Silent

    source = tmp_path / "root" / "acme" / "tiny"
    source.mkdir(parents=True)
    for name, content in MODEL.items():
        (source / name).write_bytes(content)
    cache = tmp_path / "cache"
    with Hub(tmp_path / "root", Cut("*.safetensors", at=3, times=None)) as hub:
        with pytest.raises(Upstream):
            download("acme/tiny", cache, Silent(), endpoint=hub.url, patience=QUICK)
        assert scan(cache) == CacheScan(warnings=("acme/tiny: its download did not finish; run it again, it resumes",))
        hub.break_with()
        snapshot = download("acme/tiny", cache, Silent(), endpoint=hub.url, patience=QUICK)
    found = scan(cache)
    assert [(model.path, model.sha, model.size_bytes) for model in found.models] == [(snapshot.path, snapshot.sha, 9)]
    assert found.warnings == ()
