"""Files as the Hugging Face hub describes them: git blob ids, LFS ids, the rows of its listings, and requests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

LFS_SUFFIXES = (".safetensors", ".gguf", ".bin")
LFS_ABOVE = 1_000_000
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file as the hub lists it. `oid` is git's blob id, `sha256` the LFS id, and None for a file that git keeps."""

    name: str
    path: Path
    size: int
    oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(slots=True)
class Request:
    """One request and how far it was answered; `sent` counts bytes of the body that were handed to the network."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0


def chunks(path: Path, start: int, end: int, marks: list[int]) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) from start to end; no chunk runs over a mark, so that a fault strikes at its byte exactly."""
    with path.open("rb") as file:
        file.seek(start)
        at = start
        while at < end:
            upto = min([end, at + CHUNK, *(mark for mark in marks if mark > at)])
            yield at, file.read(upto - at)
            at = upto


def flipped(chunk: bytes, at: int) -> bytes:
    return chunk[:at] + bytes([chunk[at] ^ 0xFF]) + chunk[at + 1 :]


def repo_file(name: str, path: Path) -> RepoFile:
    stat = path.stat()
    oid, sha256 = _digests(path, stat.st_size, stat.st_mtime_ns)
    lfs = name.endswith(LFS_SUFFIXES) or stat.st_size > LFS_ABOVE
    return RepoFile(name, path, stat.st_size, oid, sha256 if lfs else None)


@lru_cache(maxsize=4096)
def _digests(path: Path, size: int, mtime_ns: int) -> tuple[str, str]:
    """(git blob id, SHA-256); size and time are in the key so that an edited file is read again."""
    git, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    for _, chunk in chunks(path, 0, size, []):
        git.update(chunk)
        sha256.update(chunk)
    return git.hexdigest(), sha256.hexdigest()


def tree_row(file: RepoFile, size: int) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": file.name, "size": size, "oid": file.oid}
    if file.sha256:
        row["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": 134}
    return row


def sibling(file: RepoFile, size: int) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": file.name, "size": size, "blobId": file.oid}
    if file.sha256:
        row["lfs"] = {"sha256": file.sha256, "size": size, "pointerSize": 134}
    return row
