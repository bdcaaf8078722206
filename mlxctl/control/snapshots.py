"""The Hugging Face cache as it lies on disk: the files a model wants, whether a snapshot has them all, links, refs.

Nothing here touches the network.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mlxctl.control.weights import INDEX
from mlxctl.core.errors import NotReady

SMALL_FILES = ("*.json", "*.jsonl", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py")
WEIGHTS = ("*.safetensors", "*.gguf")
GGUF_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
EXACTNESS = (
    "bf16",
    "f16",
    "f32",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q5_k_s",
    "q5_1",
    "q5_0",
    "q4_k_m",
    "q4_k_s",
    "q4_1",
    "q4_0",
)
"""How GGUF files are named by quantisation, the most exact first; f32 is f16 twice as large."""
COMMIT = re.compile(r"[0-9a-f]{40}")
OUR_LISTING, LIBRARY_LISTING = 0, 1
"""Versions of `trees/<sha>.json`. huggingface_hub 2 writes one, releases 1.x none. It passes over ours, which lacks
what it needs to fetch a file, and puts its own there."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a model in the cache. `path` is `snapshots/<sha>`, `repo_folder` the `models--org--name` above."""

    repo_id: str
    path: Path
    sha: str
    repo_folder: Path


def repo_folder(hub_cache: Path, repo_id: str) -> Path:
    return hub_cache / f"models--{repo_id.replace('/', '--')}"


def plan_files(names: Iterable[str], allow_patterns: Sequence[str] | None = None) -> tuple[str, ...]:
    """The files to have. Without patterns: what a text model needs, and one set of weights.

    Repositories carry copies of their weights in other layouts (`original/`, `consolidated.safetensors`, GGUF next to
    safetensors) that would double the download; the first layout that mlx-lm reads wins.
    """
    every = sorted(names)
    if allow_patterns is not None:
        return tuple(name for name in every if _fits(name, allow_patterns))
    top = [name for name in every if "/" not in name]
    layouts = (
        [name for name in top if fnmatchcase(name, "model*.safetensors")],
        [name for name in top if fnmatchcase(name, "*.safetensors")],
        [name for name in every if fnmatchcase(name, "*.safetensors")],
        choose_gguf(name for name in every if fnmatchcase(name, "*.gguf")),
    )
    weights = next((layout for layout in layouts if layout), [])
    return tuple(name for name in every if name in weights or _fits(name, SMALL_FILES))


def choose_gguf(names: Iterable[str]) -> list[str]:
    """Of a repository's quantisations, the one to convert, with all of its parts: the most exact, since it is made
    whole again anyway.
    """
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        if "mmproj" not in name.lower():
            parts.setdefault(GGUF_PART.sub(".gguf", name), []).append(name)
    if not parts:
        return []
    return parts[min(parts, key=lambda whole: (_exactness(whole), whole))]


def _exactness(name: str) -> int:
    """The place of a quantisation in `EXACTNESS`; names that tell none come last."""
    words = re.split(r"[^a-z0-9_]+", Path(name).stem.lower())
    return min((EXACTNESS.index(word) for word in words if word in EXACTNESS), default=len(EXACTNESS))


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern + "*" if pattern.endswith("/") else pattern) for pattern in patterns)


def has_weights(names: Iterable[str]) -> bool:
    return any(_fits(name, WEIGHTS) for name in names)


def check_snapshot(path: Path, sizes: Mapping[str, int]) -> None:
    """Raise `NotReady("bad_model")` unless every file of `sizes` (bytes, as the hub tells) and every shard that the
    index names is there in full.
    """
    wrong = [name for name, size in sizes.items() if file_size(path / name) != size]
    wrong += [name for name in _indexed_shards(path) if name not in sizes and not (path / name).is_file()]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise NotReady(
            "bad_model",
            f"{path.parent.parent.name}: {sorted(wrong)[0]}{more} is missing or not whole",
            "download the model again: what is already here is kept",
        )


def _indexed_shards(path: Path) -> set[str]:
    index = path / INDEX
    if not index.is_file():
        return set()
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return {str(shard) for shard in shards}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotReady("bad_model", f"{INDEX} cannot be read: {error}", "download the model again") from error


def file_size(path: Path) -> int | None:
    """Bytes of a regular file, links followed; None when there is none."""
    return path.stat().st_size if path.is_file() else None


def find_snapshot(
    hub_cache: Path, repo_id: str, revision: str | None = None, allow_patterns: Sequence[str] | None = None
) -> Snapshot | None:
    """The complete snapshot of a revision in the cache; where none is named, of `main`, else the newest."""
    folder = repo_folder(hub_cache, repo_id)
    for sha in _commits(folder, revision):
        path = folder / "snapshots" / sha
        if path.is_dir() and is_complete(hub_cache, repo_id, sha, allow_patterns):
            return Snapshot(repo_id, path, sha, folder)
    return None


def _commits(folder: Path, revision: str | None) -> list[str]:
    if revision is not None and COMMIT.fullmatch(revision):
        return [revision]
    ref, snapshots = folder / "refs" / (revision or "main"), folder / "snapshots"
    commits = [ref.read_text(encoding="utf-8").strip()] if ref.is_file() else []
    if revision is None and snapshots.is_dir():
        newest = sorted(snapshots.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        commits += [path.name for path in newest if path.name not in commits]
    return [commit for commit in commits if COMMIT.fullmatch(commit)]


def is_complete(hub_cache: Path, repo_id: str, sha: str, allow_patterns: Sequence[str] | None = None) -> bool:
    """Whether a snapshot has what `plan_files` asks for.

    Judged by the listing of the commit; a cache without one must show weights and a config.
    """
    folder = repo_folder(hub_cache, repo_id)
    path, listed = folder / "snapshots" / sha, read_listing(folder, sha)
    names = [item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file()]
    sizes = {name: listed[name] for name in plan_files(listed, allow_patterns)}
    if not listed and not ("config.json" in names or any(_fits(name, ("*.gguf",)) for name in names)):
        return False
    if (not listed or allow_patterns is None) and not has_weights(sizes or names):
        return False
    try:
        check_snapshot(path, sizes)
    except NotReady:
        return False
    return True


def read_listing(folder: Path, sha: str) -> dict[str, int]:
    """Bytes of every file of a commit, as `write_listing` or huggingface_hub noted them; empty when neither did."""
    try:
        noted = json.loads(_listing_path(folder, sha).read_bytes())
        if noted["format_version"] not in (OUR_LISTING, LIBRARY_LISTING):
            return {}
        return {str(name): int(file["size"]) for name, file in noted["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_listing(folder: Path, sha: str, sizes: Mapping[str, int]) -> None:
    """Note all files of a commit (bytes by name), those that nobody wants included, unless they are noted already."""
    if read_listing(folder, sha):
        return
    noted = {"format_version": OUR_LISTING, "files": {name: {"size": size} for name, size in sorted(sizes.items())}}
    _replace(_listing_path(folder, sha), json.dumps(noted, indent=1))


def _listing_path(folder: Path, sha: str) -> Path:
    return folder / "trees" / f"{sha}.json"


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def link(folder: Path, sha: str, etags: Mapping[str, str]) -> None:
    """Put the blobs `etags` (file name to blob name) into a snapshot; `config.json` last, as it tells a model."""
    for name in sorted(etags, key=lambda name: name == "config.json"):
        blob, pointer = folder / "blobs" / etags[name], folder / "snapshots" / sha / name
        if not blob.exists() or (pointer.exists() and pointer.samefile(blob)):
            continue
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP):
                raise
            # exFAT and the like have no links; huggingface_hub moves the blob there too
            blob.replace(pointer)


def write_ref(folder: Path, revision: str, sha: str) -> None:
    """Let a branch or tag name a commit. Called last, so that a ref only ever leads to a whole snapshot."""
    ref = folder / "refs" / revision
    if revision == sha or (ref.is_file() and ref.read_text(encoding="utf-8") == sha):
        return
    _replace(ref, sha)
