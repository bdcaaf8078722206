"""Keeps mlx-lm from lowering how many files and connections this process may have open."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def open_files_kept() -> Iterator[None]:
    """To be around the first import of mlx-lm, which sets the limits to 2048 and 4096: the second for good."""
    own = resource.setrlimit

    def set_others(which: int, limits: Any) -> None:
        if which != resource.RLIMIT_NOFILE:
            own(which, limits)

    resource.setrlimit = set_others
    try:
        yield
    finally:
        resource.setrlimit = own
