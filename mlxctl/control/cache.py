"""The models that the Hugging Face cache holds, as huggingface_hub's own scan tells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlxctl.control.snapshots import check_snapshot, has_weights
from mlxctl.core.errors import NotReady

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model's newest usable snapshot. `path` is `snapshots/<sha>`; `size_bytes` counts that snapshot's files once."""

    repo_id: str
    path: Path
    sha: str
    repo_folder: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CacheScan:
    """Models by name. A warning tells of a repository that is in the cache but cannot be used, and why."""

    models: tuple[CachedModel, ...] = ()
    warnings: tuple[str, ...] = ()


def scan(hub_cache: Path) -> CacheScan:
    """Every model repository with a config and weights, or with GGUF. A cache folder that is not there holds none."""
    from huggingface_hub import scan_cache_dir

    hub_cache = hub_cache.expanduser().resolve()
    if not hub_cache.is_dir():
        return CacheScan()
    try:
        found = scan_cache_dir(hub_cache)
    except (OSError, ValueError) as error:
        return CacheScan(warnings=(f"{hub_cache} cannot be scanned: {error}",))
    unfinished = _unfinished(hub_cache)
    # the registry and other files share this folder; only what is named like a model can be a broken one
    warnings = [
        str(warning)
        for warning in found.warnings
        if f"{hub_cache}/models--" in str(warning) and not any(str(folder) in str(warning) for folder in unfinished)
    ]
    warnings += [f"{repo_id}: its download did not finish; run it again, it resumes" for repo_id in unfinished.values()]
    models = []
    for repo in found.repos:
        if repo.repo_type == "model":
            model, flaws = newest_model(repo)
            warnings += flaws
            models += [model] if model else []
    return CacheScan(tuple(sorted(models, key=lambda model: model.repo_id)), tuple(sorted(warnings)))


def newest_model(repo: CachedRepoInfo) -> tuple[CachedModel | None, list[str]]:
    """(the snapshot that `main` names, else the newest, that can be used; what is wrong with those passed over)."""
    flaws = []
    for revision in sorted(repo.revisions, key=lambda r: ("main" in r.refs, r.last_modified), reverse=True):
        if not _is_model(revision):
            continue
        try:
            check_snapshot(revision.snapshot_path, {})
        except NotReady as error:
            flaws.append(error.message)
            continue
        path, size = revision.snapshot_path, revision.size_on_disk
        return CachedModel(repo.repo_id, path, revision.commit_hash, repo.repo_path, size), flaws
    return None, flaws


def _is_model(revision: CachedRevisionInfo) -> bool:
    names = {file.file_path.relative_to(revision.snapshot_path).as_posix() for file in revision.files}
    return any(name.endswith(".gguf") for name in names) or ("config.json" in names and has_weights(names))


def _unfinished(hub_cache: Path) -> dict[Path, str]:
    """Model folders in which a download began but nothing is complete yet, and the repositories' names."""
    folders = (partial.parent.parent for partial in hub_cache.glob("models--*/blobs/*.incomplete"))
    return {
        folder: folder.name.removeprefix("models--").replace("--", "/")
        for folder in sorted(folders)
        if not (folder / "snapshots").is_dir()
    }
