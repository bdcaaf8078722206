"""The blob folder of a cached repository: whole blobs, our partials of them, and who may write which.

huggingface_hub's own download names its partial file anew each time and holds 10 MB in memory before it writes, so a
kill loses the whole shard. Here a partial keeps its name and has every byte that arrived.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mlxctl.control.snapshots import file_size
from mlxctl.core.errors import Refused

if TYPE_CHECKING:
    from hashlib import _Hash

PARTIAL_SUFFIX = ".mlxctl.incomplete"
REREAD = 1 << 20
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
RESUMES = "run the same command again: it resumes where it stopped"


class Torn(Exception):
    """The bytes are not those that the hub announced."""


def no_room(name: str) -> Refused:
    return Refused("disk_full", f"no space left on the disk while writing {name}", f"free some space, then {RESUMES}")


@dataclass(frozen=True, slots=True)
class Blob:
    """One file to fetch. `etag` is its SHA-256 when `lfs`, else git's blob id; `here` counts its bytes on disk."""

    name: str
    url: str
    size: int
    etag: str
    lfs: bool
    here: int = 0


@dataclass(frozen=True, slots=True)
class BlobStore:
    """Where a repository's blobs lie. `locks` is huggingface_hub's own folder: its downloads and ours take turns."""

    blobs: Path
    locks: Path

    def whole(self, etag: str) -> Path:
        return self.blobs / etag

    def partial(self, etag: str) -> Path:
        return self.blobs / f"{etag}{PARTIAL_SUFFIX}"

    def lock(self, etag: str) -> Path:
        return self.locks / f"{etag}.lock"

    def has(self, etag: str, size: int) -> bool:
        return file_size(self.whole(etag)) == size

    def written(self, etag: str) -> int:
        """Bytes of every unfinished file of a blob, whoever writes it."""
        return sum(file_size(path) or 0 for path in self.blobs.glob(f"{etag}*.incomplete"))

    def remove_strays(self, wanted: Collection[str]) -> None:
        """Delete our partials that nothing will finish: of another commit, or of a blob that is already whole."""
        for partial in self.blobs.glob(f"*{PARTIAL_SUFFIX}"):
            etag = partial.name.removesuffix(PARTIAL_SUFFIX)
            if etag in wanted and not self.whole(etag).exists():
                continue
            try:
                with FileLock(self.lock(etag), timeout=0, mode=0o664):
                    partial.unlink(missing_ok=True)
            except (Timeout, NotImplementedError):
                continue


class Partial:
    """A blob's bytes so far, written without a buffer so that a kill loses none, and their running digest."""

    def __init__(self, path: Path, blob: Blob, advance: Callable[[int], None]) -> None:
        self.path = path
        self.blob = blob
        self.size = 0
        self._advance = advance
        self._digest = self._fresh_digest()
        self._file = path.open("ab", buffering=0)

    def _fresh_digest(self) -> _Hash:
        if self.blob.lfs:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.blob.size, usedforsecurity=False)

    def reread(self, check_stop: Callable[[], None]) -> None:
        """Take in what an earlier run left."""
        with self.path.open("rb") as file:
            while chunk := file.read(REREAD):
                check_stop()
                self._digest.update(chunk)
                self.size += len(chunk)
        self._advance(self.size - self.blob.here)

    def append(self, chunk: bytes) -> None:
        if self.size + len(chunk) > self.blob.size:
            raise Torn("the hub sends more bytes than it announced")
        view = memoryview(chunk)
        while view:
            try:
                written = self._file.write(view)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise no_room(self.blob.name) from error
                raise
            self._digest.update(view[:written])
            self.size += written
            self._advance(written)
            view = view[written:]

    def restart(self) -> None:
        self._file.truncate(0)
        self._advance(-self.size)
        self.size, self._digest = 0, self._fresh_digest()

    def seal(self, whole: Path) -> None:
        """Verify, make durable, and give the blob its name; raises `Torn` when the digest is another."""
        if self._digest.hexdigest() != self.blob.etag:
            raise Torn("its checksum is not the one that the hub announced")
        os.fsync(self._file.fileno())
        self.path.replace(whole)
        folder = os.open(whole.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        self._file.close()
