"""A GGUF file, or all parts of a split one, opened: its metadata as plain values, its tensors as views of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gguf import GGUFReader, ReaderTensor

from mlxctl.control.gguf.header import require_known_family, torn, unsupported
from mlxctl.core.errors import NotReady

T = TypeVar("T")

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class Source:
    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, ReaderTensor]

    def __post_init__(self) -> None:
        if not self.tensors:
            raise torn(self.path, "it holds no tensors")

    def number(self, key: str, default: float | None = None) -> float:
        """A factor or id of the metadata. Raises NotReady("bad_model") where it is absent and has no default."""
        value = self.metadata.get(key, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, list):
            raise unsupported(self.path, f"{key} differs from layer to layer")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise torn(self.path, f"its metadata lack {key}" if value is None else f"{key} is not a number")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """As `number`, but a whole number above 0, such as a width or a length."""
        value = self.number(key, default)
        if not isinstance(value, int) or value < 1:
            raise torn(self.path, f"{key} is {value}, not a whole number above 0")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise torn(self.path, f"{key} is not a text")
        return value

    def items(self, key: str, kind: type[T]) -> list[T]:
        """An array of the metadata, each entry of `kind`; empty where it is absent."""
        value = self.metadata.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise torn(self.path, f"{key} is not an array of {kind.__name__}")
        return value


def open_source(gguf: Path) -> Source:
    """Open the file and, if it is one part of several, the other parts beside it.

    Raises NotReady: "unsupported_format" for an unknown family or quantisation, "bad_model" for a torn file or an
    absent part.
    """
    parts = parts_of(gguf)
    require_known_family(parts[0])
    readers = [_read(part) for part in parts]
    try:
        metadata = {key: field.contents() for key, field in readers[0].fields.items()}
    except UnicodeDecodeError as error:
        raise torn(gguf, "a text of its metadata is not UTF-8") from error
    declared = metadata.get("split.count", 1)
    if declared not in (len(parts), 0):
        raise torn(gguf, f"it is one of {declared} parts, but is not named NAME-00001-of-{declared:05}.gguf")
    return Source(gguf, metadata, {tensor.name: tensor for reader in readers for tensor in reader.tensors})


def parts_of(gguf: Path) -> list[Path]:
    """The file itself or, by its name, every part of the split model that it belongs to, first part first."""
    match = PART.fullmatch(gguf.name)
    if match is None:
        return [gguf]
    count = int(match["count"])
    parts = [gguf.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    absent = [part.name for part in parts if not part.is_file()]
    if absent:
        raise NotReady(
            "bad_model",
            f"{len(absent)} of the {count} parts of {match['stem']} are missing: {', '.join(absent[:3])}",
            "put all parts into one folder, under the names they were downloaded with",
        )
    return parts


def _read(part: Path) -> GGUFReader:
    try:
        return GGUFReader(part)
    except OSError as error:
        raise torn(part, error.strerror or "it cannot be opened") from error
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        if "GGMLQuantizationType" in str(error):
            raise unsupported(part, f"it uses an unknown quantisation ({error})") from error
        raise torn(part, "its header and its length do not agree") from error
