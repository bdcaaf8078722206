"""From tokens to text, one token at a time: the bytes of every token, and streams that hold back half a character."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

SPACE_MARK = "\u2581"
"""What sentencepiece writes for a space."""
_HELD_TOKENS = 8
"""A character has at most four bytes; more held tokens than this are no character."""


class Detokenizer(Protocol):
    """One choice's text. All pushes and the finish together are the text of the whole."""

    def push(self, token: int) -> str:
        """The text that `token` completes, special tokens as they are spelled; empty within a character."""
        ...

    def finish(self) -> str:
        """What was held back; an incomplete character becomes U+FFFD."""
        ...


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a vocabulary writes bytes. `leading`: what happens to spaces at the very start of a text."""

    alphabet: Literal["bytes", "marks", "marks and bytes"]
    leading: Literal["keep", "drop one", "drop in first token"] = "keep"

    def bytes_of(self, spelled: str) -> bytes:
        """The bytes of a token that is spelled so in the vocabulary, with its leading space."""
        if self.alphabet == "bytes":
            table = _byte_alphabet()
            try:
                return bytes(table[char] for char in spelled)
            except KeyError:
                return spelled.encode("utf-8", "replace")
        if self.alphabet == "marks and bytes" and len(spelled) == 6 and spelled.startswith("<0x") and spelled[5] == ">":
            try:
                return bytes([int(spelled[3:5], 16)])
            except ValueError:
                pass
        return spelled.replace(SPACE_MARK, " ").encode("utf-8", "replace")


def spelling_of(decoder: bytes | None) -> Spelling | None:
    """The spelling that a tokenizer's decoder undoes, from its JSON. None: one that is not known here."""
    state = json.loads(decoder) if decoder else None
    if not isinstance(state, dict):
        return None
    parts = state["decoders"] if state.get("type") == "Sequence" else [state]
    kinds = [part["type"] for part in parts]
    if kinds in (["ByteLevel"], ["ByteLevel", "Fuse"]):
        return Spelling("bytes")
    if kinds == ["Metaspace"] and parts[0].get("replacement") == SPACE_MARK:
        return Spelling("marks", "keep" if parts[0].get("prepend_scheme") == "never" else "drop in first token")
    strips = _leading_strip(parts[-1])
    body = parts[:-1] if strips else parts
    if [part["type"] for part in body] not in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback"]):
        return None
    if (strips and body[-1]["type"] != "Fuse") or not _marks_to_spaces(body[0]):
        return None
    return Spelling("marks and bytes", "drop one" if strips else "keep")


def _leading_strip(part: Mapping[str, Any]) -> bool:
    return part["type"] == "Strip" and (part["content"], part["start"], part["stop"]) == (" ", 1, 0)


def _marks_to_spaces(part: Mapping[str, Any]) -> bool:
    return bool(part["pattern"] == {"String": SPACE_MARK} and part["content"] == " ")


@cache
def _byte_alphabet() -> dict[str, int]:
    """The printable stand-in of each byte: printable Latin-1 for itself, the rest from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(rest)}


class ByteDetokenizer:
    """For vocabularies whose tokens are bytes: constant time a token."""

    __slots__ = ("_bytes_of", "_decoder", "_leading")

    def __init__(self, bytes_of: Callable[[int], bytes], leading: str = "keep") -> None:
        self._bytes_of = bytes_of
        self._leading = leading
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        piece = self._bytes_of(token)
        if self._leading != "keep" and piece:
            piece = piece.removeprefix(b" ") if self._leading == "drop one" else piece.replace(b" ", b"")
            self._leading = "keep"
        return self._decoder.decode(piece)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any other tokenizer: decodes the last few tokens with and without the new ones."""

    __slots__ = ("_decode", "_read", "_window")

    def __init__(self, decode: Callable[[list[int]], str], before: Iterable[int] = ()) -> None:
        self._decode = decode
        self._window = list(before)
        self._read = len(self._window)

    def push(self, token: int) -> str:
        self._window.append(token)
        held = len(self._window) - self._read
        return self._take(incomplete=held > _HELD_TOKENS)

    def finish(self) -> str:
        return self._take(incomplete=True)

    def _take(self, *, incomplete: bool) -> str:
        """What the window says beyond its read part. `incomplete`: also when it ends within a character."""
        known = self._decode(self._window[: self._read])
        whole = self._decode(self._window)
        if not incomplete and (len(whole) <= len(known) or whole.endswith("\ufffd")):
            return ""
        # the tokens of this turn are the context of the next one: a word decodes differently at the start of a text
        del self._window[: self._read]
        self._read = len(self._window)
        return whole[len(known) :]
