"""What is left to huggingface_hub's own download, kept away from the terminal and from waiting for ever."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from glob import escape
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import XetDownloadError

from mlxctl.control.blobs import RESUMES
from mlxctl.control.fetch import THREADS, HTTPError, first_line
from mlxctl.core.errors import MlxctlError, Upstream
from mlxctl.core.report import Task


def silence() -> None:
    """huggingface_hub logs and warns to the terminal, which is the reporter's; what matters comes as an exception."""
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"huggingface_hub\.")


def finish(
    repo_id: str,
    sha: str,
    names: Sequence[str],
    hub_cache: Path,
    task: Task,
    *,
    left: int,
    token: str | None,
    endpoint: str | None,
    silence_s: float,
) -> None:
    """Let huggingface_hub fetch those of `names` that are not linked yet (`left` bytes).

    Raises Upstream `hub_failed` after `silence_s` seconds without a byte: the library's listing request would wait for
    ever. Other failures are the library's own (OSError, HTTPError) or Upstream `hub_failed`.
    """
    bars = _Bars(task)
    call = partial(
        snapshot_download,
        repo_id,
        revision=sha,
        cache_dir=hub_cache,
        endpoint=endpoint,
        token=token,
        allow_patterns=[escape(name) for name in names],
        max_workers=THREADS,
        tqdm_class=bars,
    )
    outcome: SimpleQueue[Exception | None] = SimpleQueue()
    threading.Thread(target=_told, args=(call, outcome), daemon=True).start()
    while True:
        try:
            error = outcome.get(timeout=silence_s)
            break
        except Empty:
            if not bars.stirred():
                raise Upstream("hub_failed", f"the hub fell silent over {repo_id}", RESUMES) from None
    if error is not None:
        raise error
    task.advance(left - bars.written)


def _told(call: Callable[[], object], outcome: SimpleQueue[Exception | None]) -> None:
    error: Exception | None = MlxctlError("unexpected", "huggingface_hub broke off")
    try:
        call()
        error = None
    except (OSError, HTTPError) as caught:
        error = caught
    except (ValueError, RuntimeError, XetDownloadError) as caught:
        error = Upstream("hub_failed", f"huggingface_hub: {first_line(caught)}", RESUMES)
    finally:
        outcome.put(error)


class _Bars:
    """Stands in for tqdm's class: shows nothing, and passes on the bytes that huggingface_hub fetches itself."""

    def __init__(self, task: Task) -> None:
        self.written = 0
        self._task = task
        self._stirred = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, items: Iterable[object] = (), **options: Any) -> _Bar:
        # "Reconstructing (incomplete total...)", in releases 1.x "Downloading (incomplete total...)", counts what
        # reaches the disk; the others count files, or what crosses the network
        return _Bar(self, items, "(incomplete total" in str(options.get("desc", "")), options.get("total"))

    def get_lock(self) -> threading.Lock:
        """Releases 1.x hand the lock of tqdm's class to their threads, and set it again afterwards."""
        return self._lock

    def set_lock(self, lock: threading.Lock) -> None:
        self._lock = lock

    def stir(self, amount: int, on_disk: bool) -> None:
        self._stirred.set()
        if on_disk:
            with self._lock:
                self.written += amount
                self._task.advance(amount)

    def stirred(self) -> bool:
        """Whether anything came since the last question."""
        stirred = self._stirred.is_set()
        self._stirred.clear()
        return stirred


class _Bar:
    def __init__(self, bars: _Bars, items: Iterable[object], on_disk: bool, total: int | None) -> None:
        self.n = 0
        self.total = total
        self.format_dict: dict[str, Any] = {}
        self._bars = bars
        self._items = items
        self._on_disk = on_disk

    def update(self, amount: float | None = 1) -> None:
        self.n += int(amount or 0)
        if amount:
            self._bars.stir(int(amount), self._on_disk)

    def __iter__(self) -> Iterator[object]:
        """The files as they are done, which older releases of tqdm let the bar walk through."""
        return iter(self._items)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was shown."""

    def silent(self, *args: Any, **options: Any) -> None:
        """Every way to draw, none of which draws."""

    refresh = close = set_description = set_description_str = set_postfix_str = silent
