"""Fetches blobs over HTTP: four at a time, asking again when the hub falters, and stopping at once on Ctrl-C."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # documented there, not marked as exported

from mlxctl.control.blobs import RESUMES, Blob, BlobStore, Partial, Torn
from mlxctl.core.errors import Conflict, MlxctlError, Upstream
from mlxctl.core.report import Reporter, Task

_HTTP = next(sys.modules[kind.__module__] for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
"""The HTTP library that huggingface_hub speaks: httpx in its releases 1.x, httpx2 since 2."""
HTTPError: type[Exception] = _HTTP.HTTPError
TransportError: type[Exception] = _HTTP.TransportError

THREADS = 4
GRACE_S = 0.5
"""How long a thread may take to notice a stop; one that waits for the network is left behind, and writes no more."""
PROGRESS = 1 << 20
"""Bytes after which a broken connection counts as a first failure again."""


class Stopped(Exception):
    """Another thread failed, or the user pressed Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the hub is waited for, in seconds, and how often it is asked again."""

    stall_s: float | None = None
    tries: int = 5
    backoff_s: float = 0.5
    backoff_max_s: float = 8.0
    lock_s: float = 600.0
    metadata_s: float = 60.0

    @property
    def stall(self) -> float:
        """Silence after which a connection is given up; by default what HF_HUB_DOWNLOAD_TIMEOUT says."""
        return constants.HF_HUB_DOWNLOAD_TIMEOUT if self.stall_s is None else self.stall_s

    def pause(self, failures: int) -> float:
        return min(self.backoff_max_s, self.backoff_s * 2.0 ** (failures - 1))


def is_transient(error: Exception) -> bool:
    """Whether asking again may help: the network, a busy hub, a hub that is down for a moment."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, TransportError)


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Fetch:
    """One download under way: its threads, its progress, and the flag that ends it."""

    def __init__(
        self, store: BlobStore, headers: Mapping[str, str], reporter: Reporter, task: Task, patience: Patience
    ) -> None:
        self.store = store
        self.patience = patience
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._reporter = reporter
        self._task = task
        self._stop = threading.Event()
        self._shown = threading.Lock()

    def run(self, blobs: Sequence[Blob]) -> None:
        """Fetch all, or raise the first failure: Upstream `hub_failed` or `hub_checksum`, Refused `disk_full`, Conflict
        `model_busy`, or the hub's own HfHubHTTPError. Partials stay, whatever ends it, Ctrl-C included.
        """
        waiting: SimpleQueue[Blob] = SimpleQueue()
        outcomes: SimpleQueue[Exception | None] = SimpleQueue()
        for blob in blobs:
            waiting.put(blob)
        # daemons: a thread that sits in a stalled read must not hold up the end of the process
        threads = [
            threading.Thread(target=self._work, args=(waiting, outcomes), daemon=True)
            for _ in range(min(THREADS, len(blobs)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in blobs:
                if error := outcomes.get():
                    raise error
        finally:
            self._stop.set()
            deadline = time.monotonic() + GRACE_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, waiting: SimpleQueue[Blob], outcomes: SimpleQueue[Exception | None]) -> None:
        while not self._stop.is_set():
            try:
                blob = waiting.get_nowait()
            except Empty:
                return
            # stands when an error comes that nobody named below: the caller must not wait for ever
            outcome: Exception | None = MlxctlError("unexpected", f"the download of {blob.name} broke off")
            try:
                self._fetch(blob)
                outcome = None
            except (MlxctlError, OSError, HTTPError, Stopped) as error:
                outcome = error
            finally:
                outcomes.put(outcome)

    def _fetch(self, blob: Blob) -> None:
        with self._locked(blob):
            if self.store.has(blob.etag, blob.size):
                self._advance(blob.size - blob.here)
                return
            partial = Partial(self.store.partial(blob.etag), blob, self._advance)
            try:
                partial.reread(self._check_stop)
                try:
                    self._complete(partial)
                except Torn as error:
                    self._note(f"{blob.name}: {error}; fetching it again from the start")
                    partial.restart()
                    self._complete(partial)
            except Torn as error:
                partial.path.unlink(missing_ok=True)
                raise Upstream(
                    "hub_checksum",
                    f"{blob.name}: {error}, twice",
                    "try again later, or ask the repository's owner; nothing of this file was kept",
                ) from error
            finally:
                partial.close()

    def _complete(self, partial: Partial) -> None:
        blob, failures = partial.blob, 0
        while partial.size < blob.size:
            before, cause = partial.size, None
            try:
                self._stream(partial)
            except (TransportError, HfHubHTTPError) as error:
                if not is_transient(error):
                    raise
                cause = error
            if partial.size < blob.size:
                failures = 1 if partial.size - before >= PROGRESS else failures + 1
                if failures >= self.patience.tries:
                    told = first_line(cause) if cause else "the connection ended early"
                    raise Upstream("hub_failed", f"the hub broke off {blob.name}: {told}", RESUMES) from cause
                self._stop.wait(self.patience.pause(failures))
                self._check_stop()
        partial.seal(self.store.whole(blob.etag))

    def _stream(self, partial: Partial) -> None:
        """One request for the bytes that are missing; returns when the hub has no more to say."""
        blob = partial.blob
        headers = {**self._headers, "Range": f"bytes={partial.size}-"} if partial.size else self._headers
        with get_session().stream("GET", blob.url, headers=headers, timeout=self.patience.stall) as response:
            if response.status_code == 416:
                raise Torn("the hub has fewer bytes than it announced")
            hf_raise_for_status(response)
            start, total = body_extent(response.status_code, response.headers)
            if total not in (None, blob.size):
                raise Torn(f"the hub announced {blob.size} bytes but has {total}")
            if start == 0 and partial.size:
                partial.restart()
            elif start != partial.size:
                raise Torn("the hub sends another part of the file than was asked for")
            for chunk in response.iter_bytes():
                self._check_stop()
                partial.append(chunk)

    @contextmanager
    def _locked(self, blob: Blob) -> Iterator[None]:
        """Hold the blob's lock; who holds it may take its time as long as its file grows."""
        path = self.store.lock(blob.etag)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: BaseFileLock = FileLock(path, mode=0o664)
        seen, deadline = -1, time.monotonic() + self.patience.lock_s
        while not lock.is_locked:
            self._check_stop()
            try:
                lock.acquire(timeout=0.2)
            except NotImplementedError:
                lock = SoftFileLock(path, mode=0o664)  # a network folder without flock
            except Timeout as error:
                if seen < 0:
                    self._note(f"another download fetches {blob.name}; waiting for it")
                if (written := self.store.written(blob.etag)) != seen:
                    seen, deadline = written, time.monotonic() + self.patience.lock_s
                elif time.monotonic() > deadline:
                    raise Conflict(
                        "model_busy",
                        f"another download holds {blob.name} but makes no progress",
                        f"end the process that holds {path}",
                    ) from error
        try:
            yield
        finally:
            lock.release()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _advance(self, amount: int) -> None:
        with self._shown:
            self._task.advance(amount)

    def _note(self, message: str) -> None:
        with self._shown:
            self._reporter.note(message)


def body_extent(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """(offset in the file at which the body starts, size of the whole file or None when the answer does not tell)."""
    if status == 206:
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if told is None:
            raise Torn("the hub sends a part of the file without saying which")
        return int(told[1]), None if told[2] == "*" else int(told[2])
    if "Content-Encoding" in headers or "Content-Length" not in headers:
        return 0, None
    return 0, int(headers["Content-Length"])
