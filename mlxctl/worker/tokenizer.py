"""The model's tokenizer: loaded from its folder alone, text to tokens and back, its special tokens and its template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxctl.worker.detokenizer import ByteDetokenizer, Detokenizer, Spelling, WindowDetokenizer, spelling_of
from mlxctl.worker.errors import InvalidRequest

__all__ = ["Detokenizer", "Tokenizer"]


class Tokenizer:
    """Every method may be called from any thread."""

    def __init__(self, fast: Any, folder: Path) -> None:
        self.fast = fast
        """The transformers object; `fast.backend_tokenizer` is the one of `tokenizers`, where it has one."""
        self.folder = folder
        self._backend = getattr(fast, "backend_tokenizer", None) if fast.is_fast else None
        if self._backend is not None:
            # a tokenizer.json may bring both, and they would cut or fill a prompt in silence
            self._backend.no_truncation()
            self._backend.no_padding()
        decoder = getattr(self._backend, "decoder", None)
        self._spelling = spelling_of(decoder.__getstate__()) if decoder is not None else None
        self._added: dict[int, tuple[str, bool]] = {
            token: (str(added.content), bool(added.special)) for token, added in fast.added_tokens_decoder.items()
        }
        self._ids = {spelled: token for token, (spelled, _) in self._added.items()}
        self._pieces: dict[int, bytes] = {}
        self.vocab_size: int = max([*fast.get_vocab().values(), *self._added], default=-1) + 1
        self.eos_ids: frozenset[int] = _eos_ids(fast.eos_token_id, folder)
        self.special: dict[str, str] = dict(fast.special_tokens_map)
        """`bos_token`, `eos_token` and the like, as templates know them."""
        self.chat_template: str | dict[str, str] | None = fast.chat_template or _processor_template(folder)

    @classmethod
    def load(cls, folder: Path, *, trust_remote_code: bool = False) -> Tokenizer:
        """Read the tokenizer in `folder`; nothing is ever fetched.

        Raises `ValueError` or `OSError` where there is none, or where it wants code of its own and may not bring it.
        """
        from transformers import AutoTokenizer

        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder with a tokenizer in it")

        # a Tekken vocabulary saved with the wrong way to cut words is mended; transformers sees which one it is
        options = {"local_files_only": True, "trust_remote_code": trust_remote_code, "fix_mistral_regex": True}
        return cls(AutoTokenizer.from_pretrained(str(folder), **options), folder)

    def encode(self, text: str, *, special: bool, param: str = "prompt") -> list[int]:
        """Tokens of `text`. `special`: with what the tokenizer puts around a text (BOS), but never twice.

        Raises `InvalidRequest` naming `param` for text that is no Unicode.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"the text has a lone surrogate at character {error.start}; it is not Unicode", param=param
            ) from error
        if self._backend is not None:
            ids: list[int] = self._backend.encode(text, add_special_tokens=special).ids
        else:
            ids = list(self.fast.encode(text, add_special_tokens=special))
        bos = self.fast.bos_token_id
        return ids[1:] if special and bos is not None and ids[:2] == [bos, bos] else ids

    def token_id(self, piece: str) -> int | None:
        """The special or added token that is spelled so; None for ordinary text."""
        return self._ids.get(piece)

    def piece(self, token: int) -> str:
        """The text of one token; bytes that are no character alone become U+FFFD."""
        return self.piece_bytes(token).decode("utf-8", "replace")

    def piece_bytes(self, token: int) -> bytes:
        """The exact bytes of one token, with its leading space; none for an id beyond the vocabulary."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._spell(token)
        return known

    def is_special(self, token: int) -> bool:
        """Whether the tokenizer's files call it so: markup, not text."""
        added = self._added.get(token)
        return added is not None and added[1]

    def _spell(self, token: int) -> bytes:
        spelling = self._spelling
        added = self._added.get(token)
        if added is not None and (added[1] or not _has_marks(spelling)):
            return added[0].encode("utf-8", "replace")
        if spelling is None or self._backend is None:
            return self._decode([token]).encode("utf-8", "replace") if 0 <= token < self.vocab_size else b""
        spelled = self._backend.id_to_token(token) if token >= 0 else None
        return spelling.bytes_of(spelled) if spelled is not None else b""

    def detokenizer(self, *, continues: bool = False) -> Detokenizer:
        """A fresh stream. `continues`: the text goes on from a prompt, so that its leading space is meant."""
        if self._spelling is not None:
            return ByteDetokenizer(self.piece_bytes, "keep" if continues else self._spelling.leading)
        before = self.encode("a", special=False) if continues else []
        return WindowDetokenizer(self._decode, before)

    def decode(self, tokens: list[int]) -> str:
        """The text of a whole answer, special tokens as they are spelled."""
        stream = self.detokenizer()
        return "".join([*(stream.push(token) for token in tokens), stream.finish()])

    def _decode(self, tokens: list[int]) -> str:
        """The library's own decoding, for vocabularies whose spelling is not known here."""
        known = [token for token in tokens if 0 <= token < self.vocab_size]
        decode: Callable[..., str] = self.fast.decode if self._backend is None else self._backend.decode
        return decode(known, skip_special_tokens=False) if known else ""


def _has_marks(spelling: Spelling | None) -> bool:
    """Whether an added token that is not special may be spaces in disguise, as Gemma's runs of them are."""
    return spelling is not None and spelling.alphabet != "bytes"


def _eos_ids(own: int | None, folder: Path) -> frozenset[int]:
    """The tokenizer's end of text, and those that generation_config.json and config.json name."""
    config = _read(folder / "config.json")
    named = [own, _read(folder / "generation_config.json").get("eos_token_id"), config.get("eos_token_id")]
    nested = config.get("text_config")
    if isinstance(nested, dict):
        named.append(nested.get("eos_token_id"))
    flat = [token for one in named for token in (one if isinstance(one, list) else [one])]
    return frozenset(token for token in flat if isinstance(token, int) and not isinstance(token, bool))


def _processor_template(folder: Path) -> str | None:
    """Vision models keep theirs in a file of its own."""
    text = _read(folder / "chat_template.json").get("chat_template")
    return text if isinstance(text, str) and text else None


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
