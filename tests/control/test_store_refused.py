"""The registry on a disk that refuses: nothing changes, one clear error, and no rubbish."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control.store import RegistryStore
from mlxctl.core.ports import Ports
from tests.fakes.stores import add, everything_below, refused


@pytest.fixture
def store(tmp_path: Path) -> RegistryStore:
    return RegistryStore(tmp_path / "hub" / "registry.json", Ports())


@pytest.fixture
def read_only(store: RegistryStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryStore]:
    """A folder that nobody can write: by its mode; for root by a flag of the file system, or by an injected error."""
    add(store, "a", "b")
    folder = store.path.parent
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield store
        folder.chmod(0o700)
        return
    targets = [str(path) for path in (folder, store.backups, *folder.rglob("*"))]
    if subprocess.run(["chattr", "+i", *targets], capture_output=True, check=False).returncode != 0:
        monkeypatch.setattr(tempfile, "mkstemp", FailingCall(tempfile.mkstemp, 1, errno.EROFS, for_ever=True))
        yield store
        return
    yield store
    subprocess.run(["chattr", "-i", *targets], capture_output=True, check=True)


def test_a_folder_that_cannot_be_written(read_only: RegistryStore) -> None:
    before = everything_below(read_only.path.parent)
    assert set(read_only.read().models) == {"mlx-a", "mlx-b"}
    error = refused(lambda: add(read_only, "c"))
    assert (error.code, error.exit_code) == ("registry_read_only", 9)
    assert str(read_only.path) in error.message and "nothing was changed" in error.hint
    assert refused(lambda: read_only.restore(None)).code == "registry_read_only"
    assert everything_below(read_only.path.parent) == before


class FailingCall:
    """Stands in for one function of `os` or `tempfile` and raises at its N-th call, or from then on."""

    def __init__(self, real: Callable[..., Any], at: int, number: int, for_ever: bool = False) -> None:
        self.real, self.left, self.number, self.for_ever = real, at, number, for_ever

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left == 0 or (self.for_ever and self.left < 0):
            raise OSError(self.number, os.strerror(self.number), "registry.json")
        return self.real(*given, **named)


WRITING = [(tempfile, "mkstemp", 1), (tempfile, "mkstemp", 2), (os, "replace", 1), (os, "replace", 2), (os, "fsync", 1)]
"""A save's calls: a generation is staged and renamed, then the registry staged, put on the disk and renamed."""


@pytest.mark.parametrize(("module", "name", "at"), WRITING, ids=[f"{name} {at}" for _, name, at in WRITING])
@pytest.mark.parametrize(
    ("number", "code", "exit_code"),
    [
        (errno.ENOSPC, "disk_full", 6),
        (errno.EDQUOT, "disk_full", 6),
        (errno.EROFS, "registry_read_only", 9),
        (errno.EIO, "registry_read_only", 9),
        (errno.EACCES, "registry_read_only", 9),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) and value > 10 else "",
)
def test_a_disk_that_refuses_a_call(
    store: RegistryStore,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    at: int,
    number: int,
    code: str,
    exit_code: int,
) -> None:
    add(store, "a", "b")
    before = store.path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(module, name, FailingCall(getattr(module, name), at, number))
        error = refused(lambda: add(store, "c"))
    assert (error.code, error.exit_code) == (code, exit_code)
    assert store.path.read_bytes() == before
    assert not list(store.path.parent.rglob(".*")), "no temporary file stays"
    add(store, "c")
    assert set(store.read().models) == {"mlx-a", "mlx-b", "mlx-c"}


def test_a_folder_that_cannot_be_put_on_the_disk_is_written_all_the_same(
    store: RegistryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename has happened and everybody reads the new content: an error would have callers undo what stays."""
    add(store, "a")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", FailingCall(os.fsync, 2, errno.EIO))
        add(store, "b")
    assert set(store.read().models) == {"mlx-a", "mlx-b"}
