"""A small sharded model on a fake hub, a cache, and the questions that download tests ask of both."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control.blobs import BlobStore
from mlxctl.control.hub import Patience, Snapshot, download
from mlxctl.control.snapshots import find_snapshot
from mlxctl.core.errors import MlxctlError
from tests.fakes.hub import Hub
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


@contextmanager
def download_world(folder: Path) -> Iterator[World]:
    source = folder / "root" / REPO
    for name, content in (SMALL | UNWANTED).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    for seed, name in enumerate(SHARDS):
        (source / name).write_bytes(random.Random(seed).randbytes(SHARD))
    with Hub(folder / "root") as hub:
        yield World(hub, folder / "cache", source)
