"""The head of a GGUF file, read only as far as `general.architecture`, and the errors that every reader here shares."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from mlxctl.core.errors import NotReady

FAMILIES = ("llama",)
"""The values of `general.architecture` that `dequantize` accepts."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)

STRING, ARRAY = 8, 9
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Size of each scalar value, by the format's type number."""


def torn(path: Path, why: str) -> NotReady:
    return NotReady(
        "bad_model",
        f"{path.name} is not a readable GGUF file: {why}",
        "download the file again; an interrupted copy is the usual cause",
    )


def unsupported(path: Path, why: str, hint: str = "") -> NotReady:
    return NotReady(
        "unsupported_format",
        f"{path.name} cannot be converted: {why}",
        hint or "convert from the model's original repository (safetensors) instead of the GGUF file",
    )


def read_family(gguf: Path) -> str:
    """`general.architecture` of the file, such as "llama".

    Raises NotReady("bad_model") when the file is missing, torn, or no GGUF file.
    """
    try:
        with gguf.open("rb") as file:
            return _Head(gguf, file).family()
    except OSError as error:
        raise torn(gguf, error.strerror or "it cannot be opened") from error


def require_known_family(gguf: Path) -> None:
    """Raises NotReady("unsupported_format") for a family that is not in `FAMILIES`."""
    family = read_family(gguf)
    if family not in FAMILIES:
        raise unsupported(gguf, f"its family is {family!r}, and the known families are: {', '.join(FAMILIES)}")


class _Head:
    """A cursor that refuses to run past the end of the file, whatever lengths a torn file claims."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.left = os.fstat(file.fileno()).st_size

    def family(self) -> str:
        if self.left < len(MAGIC) or self._take(len(MAGIC)) != MAGIC:
            raise torn(self.path, "it does not begin with the letters GGUF")
        version = self._number("<I")
        if version not in VERSIONS:
            raise torn(self.path, f"format version {version} is not one of {VERSIONS}")
        self._number("<Q")
        for _ in range(self._number("<Q")):
            key = self._take(self._number("<Q"))
            kind = self._number("<I")
            if key == b"general.architecture" and kind == STRING:
                return self._take(self._number("<Q")).decode("utf-8", "replace")
            self._skip_value(kind)
        raise torn(self.path, "it does not say its architecture")

    def _take(self, length: int) -> bytes:
        self._spend(length)
        return self.file.read(length)

    def _number(self, layout: str) -> int:
        return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])

    def _spend(self, length: int) -> None:
        if length > self.left:
            raise torn(self.path, "it ends too early")
        self.left -= length

    def _skip(self, length: int) -> None:
        self._spend(length)
        self.file.seek(length, os.SEEK_CUR)

    def _skip_value(self, kind: int) -> None:
        if kind == STRING:
            self._skip(self._number("<Q"))
        elif kind == ARRAY:
            item, count = self._number("<I"), self._number("<Q")
            if item in SCALAR_BYTES:
                self._skip(SCALAR_BYTES[item] * count)
                return
            for _ in range(count):
                self._skip_value(item)
        elif kind in SCALAR_BYTES:
            self._skip(SCALAR_BYTES[kind])
        else:
            raise torn(self.path, f"a value has the unknown type {kind}")
