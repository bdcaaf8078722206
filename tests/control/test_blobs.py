"""A partial file under odd writes, and the names in a blob folder."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxctl.control.blobs import Blob, BlobStore, Partial, Torn
from mlxctl.core.errors import Refused

CONTENT = b"0123456789"


def blob_of(content: bytes, *, lfs: bool = True, here: int = 0) -> Blob:
    digest = hashlib.sha256(content) if lfs else hashlib.sha1(b"blob %d\0" % len(content) + content)
    return Blob("weights", "http://127.0.0.1/none", len(content), digest.hexdigest(), lfs, here)


@pytest.fixture
def steps() -> list[int]:
    return []


@pytest.fixture
def partial(tmp_path: Path, steps: list[int]) -> Iterator[Partial]:
    partial = Partial(tmp_path / "p", blob_of(CONTENT), steps.append)
    yield partial
    partial.close()


class Narrow:
    """A file on a disk that takes `width` bytes a write and is full after `room`."""

    def __init__(self, room: int, width: int, code: int = errno.ENOSPC) -> None:
        self.content = b""
        self.room, self.width, self.code = room, width, code

    def write(self, view: memoryview) -> int:
        if len(self.content) >= self.room:
            raise OSError(self.code, "no")
        taken = bytes(view[: min(self.width, self.room - len(self.content))])
        self.content += taken
        return len(taken)

    def close(self) -> None:
        """Nothing is open."""


def test_every_appended_byte_is_on_disk_at_once(partial: Partial, steps: list[int]) -> None:
    partial.append(CONTENT[:4])
    assert partial.path.read_bytes() == CONTENT[:4], "before any flush or close"
    partial.append(CONTENT[4:])
    assert (partial.size, steps) == (10, [4, 6])


def test_short_writes_are_carried_on(partial: Partial, steps: list[int]) -> None:
    partial.close()
    partial._file = narrow = Narrow(room=99, width=3)
    partial.append(CONTENT)
    assert (narrow.content, steps) == (CONTENT, [3, 3, 3, 1])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_refused_and_counts_what_fitted(partial: Partial, steps: list[int], code: int) -> None:
    partial.close()
    partial._file = Narrow(room=7, width=5, code=code)
    with pytest.raises(Refused, match="weights") as caught:
        partial.append(CONTENT)
    assert (caught.value.code, sum(steps), partial.size) == ("disk_full", 7, 7)
    assert "resumes" in caught.value.hint


def test_another_failure_of_the_disk_keeps_its_name(partial: Partial) -> None:
    partial.close()
    partial._file = Narrow(room=0, width=1, code=errno.EIO)
    with pytest.raises(OSError, match="no") as caught:
        partial.append(CONTENT)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("lfs", [True, False])
@pytest.mark.parametrize("left", [b"", CONTENT[:7], CONTENT])
def test_what_is_sealed_is_what_was_announced(tmp_path: Path, steps: list[int], lfs: bool, left: bytes) -> None:
    (tmp_path / "p").write_bytes(left)
    partial = Partial(tmp_path / "p", blob_of(CONTENT, lfs=lfs, here=2), steps.append)
    partial.reread(lambda: None)
    partial.append(CONTENT[len(left) :])
    partial.seal(tmp_path / "whole")
    partial.close()
    assert (tmp_path / "whole").read_bytes() == CONTENT
    assert not (tmp_path / "p").exists()
    assert sum(steps) == len(CONTENT) - 2, "progress starts from what the plan counted"


@pytest.mark.parametrize("wrong", [b"012345678X", b"01234"])
def test_other_bytes_are_not_sealed(partial: Partial, tmp_path: Path, wrong: bytes) -> None:
    partial.append(wrong)
    with pytest.raises(Torn):
        partial.seal(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    partial.restart()
    partial.append(CONTENT)
    partial.seal(tmp_path / "whole")


def test_more_bytes_than_announced_are_not_written(partial: Partial, steps: list[int]) -> None:
    partial.append(CONTENT)
    with pytest.raises(Torn, match="more bytes"):
        partial.append(b"!")
    assert partial.path.read_bytes() == CONTENT
    partial.restart()
    assert (partial.path.read_bytes(), partial.size, sum(steps)) == (b"", 0, 0)


def test_rereading_can_be_stopped(partial: Partial) -> None:
    class Enough(Exception):
        pass

    def stop() -> None:
        raise Enough

    partial.append(CONTENT)
    with pytest.raises(Enough):
        partial.reread(stop)


def test_names_in_a_blob_folder(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", tmp_path / "locks")
    store.blobs.mkdir()
    assert (store.whole("e").name, store.partial("e").name, store.lock("e").name) == (
        "e",
        "e.mlxctl.incomplete",
        "e.lock",
    )
    assert (store.has("e", 3), store.written("e")) == (False, 0)
    store.partial("e").write_bytes(b"12")
    (store.blobs / "e.0a1b2c3d.incomplete").write_bytes(b"345")
    (store.blobs / "f.0a1b2c3d.incomplete").write_bytes(b"6")
    assert store.written("e") == 5
    store.whole("e").write_bytes(b"123")
    assert (store.has("e", 3), store.has("e", 4)) == (True, False)
