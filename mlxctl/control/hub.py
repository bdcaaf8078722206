"""Downloads a model from the Hugging Face hub into the cache, resuming what an earlier run left."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

import mlxctl
from mlxctl.control.blobs import NO_ROOM, RESUMES, Blob, BlobStore, no_room
from mlxctl.control.fetch import Fetch, HTTPError, Patience, TransportError, first_line, is_transient
from mlxctl.control.hub_library import finish, silence
from mlxctl.control.memory import human_bytes
from mlxctl.control.snapshots import (
    Snapshot,
    check_snapshot,
    file_size,
    find_snapshot,
    has_weights,
    link,
    plan_files,
    repo_folder,
    write_listing,
    write_ref,
)
from mlxctl.core.errors import MlxctlError, NotFound, NotReady, Refused, Upstream
from mlxctl.core.report import Reporter, SilentTask, Task

__all__ = ["Patience", "Snapshot", "check_snapshot", "download"]

DISK_MARGIN = 10**9
"""Bytes that a download leaves free."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where from, and as whom. None leaves `endpoint` and `token` to huggingface_hub."""

    repo_id: str
    revision: str | None
    token: str | None
    endpoint: str | None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it. `etag` names its blob: the SHA-256 when `lfs`, else git's blob id."""

    name: str
    size: int
    etag: str
    lfs: bool


def download(
    repo_id: str,
    hub_cache: Path,
    reporter: Reporter,
    *,
    revision: str | None = None,
    offline: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    allow_patterns: Sequence[str] | None = None,
    patience: Patience | None = None,
) -> Snapshot:
    """Bring a model into the cache and return its snapshot, whole and verified.

    `allow_patterns` are globs over file names; None means what `plan_files` takes a text model to need. Raises NotFound
    `unknown_repo`, NotReady `bad_model`, Refused `disk_full`, Conflict `model_busy`, and Upstream `gated_repo`,
    `hub_failed`, `hub_offline` or `hub_checksum`. Ctrl-C leaves partials for the next run.
    """
    silence()
    patience = patience or Patience()
    source = Source(repo_id, revision, token, endpoint)
    cached = find_snapshot(hub_cache, repo_id, revision, allow_patterns)
    if offline or constants.is_offline_mode():
        if cached is None:
            raise Upstream(
                "hub_offline",
                f"{repo_id} is not complete in the cache, and the network may not be used",
                "unset HF_HUB_OFFLINE, or download it where there is a network",
            )
        return cached
    try:
        sha, files = _listing(source, patience, tries=1 if cached else patience.tries)
    except (HfHubHTTPError, TransportError, ValueError, KeyError) as error:
        named = as_mlxctl_error(error, source)
        if cached is None:
            raise named from error
        reporter.note(f"{named.message}; using the copy in the cache")
        return cached
    wanted = plan_files([file.name for file in files], allow_patterns)
    if allow_patterns is None and not has_weights(wanted):
        raise NotReady("bad_model", f"{repo_id} holds no safetensors or GGUF weights", "name a repository that does")
    chosen = tuple(file for file in files if file.name in wanted)
    order = _Order(source, sha, chosen, {file.name: file.size for file in files}, hub_cache, patience)
    try:
        return _bring(order, reporter)
    except HTTPError as error:
        raise as_mlxctl_error(error, source) from error
    except LocalEntryNotFoundError as error:
        # huggingface_hub's word for "neither in the cache nor to be had"; the reason is its cause
        raise as_mlxctl_error(error.__cause__ or error, source) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(repo_id) from error
        raise MlxctlError("unexpected", f"the cache cannot be written: {error}", f"look at {hub_cache}") from error


def _listing(source: Source, patience: Patience, tries: int) -> tuple[str, tuple[RemoteFile, ...]]:
    """(commit, files) of the wanted revision, in one request."""
    api = HfApi(endpoint=source.endpoint, token=source.token, library_name="mlxctl", library_version=mlxctl.__version__)
    for failures in range(1, tries + 1):
        try:
            info = api.model_info(source.repo_id, revision=source.revision, files_metadata=True, timeout=patience.stall)
            break
        except (HfHubHTTPError, TransportError) as error:
            if failures == tries or not is_transient(error):
                raise
            time.sleep(patience.pause(failures))
    files = []
    for sibling in info.siblings or ():
        lfs = sibling.lfs
        etag = lfs.sha256 if lfs else sibling.blob_id
        if etag is None or sibling.size is None or info.sha is None:
            raise ValueError(f"the hub's listing does not describe {sibling.rfilename}")
        files.append(RemoteFile(sibling.rfilename, lfs.size if lfs else sibling.size, etag, lfs is not None))
    return str(info.sha), tuple(files)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be had: these files of this commit, into this cache. `listed` are the bytes of all files it has."""

    source: Source
    sha: str
    files: tuple[RemoteFile, ...]
    listed: Mapping[str, int]
    hub_cache: Path
    patience: Patience

    @property
    def snapshot(self) -> Snapshot:
        folder = repo_folder(self.hub_cache, self.source.repo_id)
        return Snapshot(self.source.repo_id, folder / "snapshots" / self.sha, self.sha, folder)

    @property
    def store(self) -> BlobStore:
        folder = self.snapshot.repo_folder
        return BlobStore(folder / "blobs", self.hub_cache / ".locks" / folder.name)


def _bring(order: _Order, reporter: Reporter) -> Snapshot:
    snapshot, store = order.snapshot, order.store
    missing = {f.etag: f for f in order.files if file_size(snapshot.path / f.name) != f.size}
    missing = {etag: f for etag, f in missing.items() if not store.has(etag, f.size)}
    blobs = [_blob(order, file) for file in missing.values() if file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE]
    # plain HTTP does not serve files this large; huggingface_hub fetches them in chunks, without resuming
    left = sum(file.size for file in missing.values() if file.size > constants.MAX_HTTP_DOWNLOAD_SIZE)
    needed = left + sum(blob.size - blob.here for blob in blobs)
    check_disk(order.hub_cache, needed)
    if here := sum(blob.here for blob in blobs):
        reporter.note(f"resuming: {human_bytes(here)} of {human_bytes(needed + here)} already here")
    store.blobs.mkdir(parents=True, exist_ok=True)
    store.remove_strays({file.etag for file in order.files})
    task = reporter.task(f"Downloading {snapshot.repo_id}", total=needed, unit="bytes") if needed else SilentTask()
    try:
        if blobs:
            Fetch(store, _headers(order.source), reporter, task, order.patience).run(blobs)
        # before the first link, so that a kill from here on leaves nothing that passes for whole
        write_listing(snapshot.repo_folder, order.sha, order.listed)
        link(snapshot.repo_folder, order.sha, {file.name: file.etag for file in order.files})
        if any(file_size(snapshot.path / file.name) != file.size for file in order.files):
            _finish(order, task, left)
    finally:
        task.finish()
    check_snapshot(snapshot.path, {file.name: file.size for file in order.files})
    write_ref(snapshot.repo_folder, order.source.revision or constants.DEFAULT_REVISION, order.sha)
    return snapshot


def _finish(order: _Order, task: Task, left: int) -> None:
    """Hand the rest to huggingface_hub: what plain HTTP does not serve, and on a disk without links a second copy."""
    source = order.source
    finish(
        source.repo_id,
        order.sha,
        [file.name for file in order.files],
        order.hub_cache,
        task,
        left=left,
        token=source.token,
        endpoint=source.endpoint,
        silence_s=order.patience.metadata_s,
    )


def _blob(order: _Order, file: RemoteFile) -> Blob:
    source = order.source
    url = hf_hub_url(source.repo_id, file.name, revision=order.sha, endpoint=source.endpoint)
    return Blob(file.name, url, file.size, file.etag, file.lfs, file_size(order.store.partial(file.etag)) or 0)


def _headers(source: Source) -> dict[str, str]:
    return build_hf_headers(token=source.token, library_name="mlxctl", library_version=mlxctl.__version__)


def check_disk(hub_cache: Path, needed: int) -> None:
    """Raise `Refused("disk_full")` unless `needed` bytes and a margin are free where the cache lies."""
    if not needed:
        return
    hub_cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(hub_cache).free
    if free < needed + DISK_MARGIN:
        raise Refused(
            "disk_full",
            f"the download needs {human_bytes(needed)} (and {human_bytes(DISK_MARGIN)} to spare), "
            f"but {human_bytes(free)} are free",
            f"free some space at {hub_cache}, or point HF_HUB_CACHE to another disk",
        )


def as_mlxctl_error(error: BaseException, source: Source) -> MlxctlError:
    """What the hub's answer, or its silence, means for the user."""
    repo = source.repo_id
    if isinstance(error, HFValidationError):
        return NotFound("unknown_repo", f"{repo!r} is no repository's name", "write it as owner/name")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RevisionNotFoundError):
        return NotFound("unknown_repo", f"{repo} has no revision {source.revision}", "look at its branches and tags")
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        hint = "check the spelling; a private repository needs a token in HF_TOKEN"
        return NotFound("unknown_repo", f"the hub has no repository {repo}", hint)
    if isinstance(error, (GatedRepoError, DisabledRepoError)) or status in (401, 403):
        page = f"{(source.endpoint or constants.ENDPOINT).rstrip('/')}/{repo}"
        hint = f"accept the licence at {page}, and set HF_TOKEN to a token that may read it"
        return Upstream("gated_repo", f"the hub does not hand out {repo} without permission", hint)
    return Upstream("hub_failed", f"the hub did not give {repo}: {first_line(error)}", RESUMES)
