"""Reads the log of a port, across its rotation; the shim alone writes it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

TAIL_BLOCK = 1 << 16


def last_lines(path: Path, count: int) -> tuple[str, ...]:
    """The last `count` lines, reaching back into the rotated file where the newest is short."""
    text = b""
    for file in (path, path.with_name(path.name + ".1")):
        text = _tail(file, count - text.count(b"\n")) + text
        if text.count(b"\n") >= count:
            break
    return tuple(line.decode(errors="replace") for line in text.splitlines()[-count:]) if count > 0 else ()


def _tail(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            text = b""
            while end > 0 and text.count(b"\n") <= count:
                begin = max(0, end - TAIL_BLOCK)
                file.seek(begin)
                text = file.read(end - begin) + text
                end = begin
            return text
    except OSError:
        return b""


def follow(path: Path, poll_s: float = 0.2) -> Iterator[str]:
    """Lines as they are written, for ever; goes on with the new file when the log is rotated."""
    file = path.open("rb")
    file.seek(0, 2)
    rest = b""
    try:
        while True:
            # asked before reading: what a rotated file holds by then is all that it will ever hold
            rotated = _inode(path) not in (None, os.fstat(file.fileno()).st_ino)
            chunk = file.read()
            if chunk:
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            elif rotated:
                file.close()
                file = path.open("rb")
            else:
                time.sleep(poll_s)
    finally:
        file.close()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        # between the two renames of a rotation
        return None
