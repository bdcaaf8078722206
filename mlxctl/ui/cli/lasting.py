"""Standard error that outlives its reader: a closed SSH session must not break the rollback that it causes."""

from __future__ import annotations

import os
from typing import Any, TextIO


class LastingStream:
    """`stream`, but what can no longer be written is dropped, now and when the interpreter ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """Point the descriptor at nothing, so that what is still buffered can go there."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
