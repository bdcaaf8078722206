"""What a GGUF file's metadata say of its vocabulary: tokens, their kinds, merges or scores, and special ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from mlxctl.control.gguf.header import torn, unsupported
from mlxctl.control.gguf.source import Source

T = TypeVar("T")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""The values of `tokenizer.ggml.token_type`."""

SENTENCEPIECE, BYTE_LEVEL = "llama", "gpt2"
"""The values of `tokenizer.ggml.model` that the llama family uses."""

BOS_BY_DEFAULT = ("llama3", "llama-v3", "llama-bpe", "tekken")
"""Pre-tokenizers whose models want a BOS where the file does not say; sentencepiece vocabularies do too."""

TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>")
"""Control tokens that end an answer even where the metadata name only another one, as old Llama 3 files do."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...]
    merges: tuple[tuple[str, str], ...]
    bos: int | None
    eos: int | None
    unknown: int | None
    padding: int | None
    ends: tuple[int, ...]
    """Ids that end an answer, `eos` first."""
    add_bos: bool
    add_eos: bool
    space_prefix: bool

    def token(self, index: int | None) -> str | None:
        return None if index is None else self.tokens[index]

    def of_kind(self, kind: int) -> list[str]:
        return [token for token, its in zip(self.tokens, self.kinds, strict=True) if its == kind]


def read_vocabulary(source: Source) -> Vocabulary:
    """Raises NotReady: "bad_model" for lists that do not fit together, "unsupported_format" for another tokenizer."""
    model = source.text("tokenizer.ggml.model", "")
    if model not in (SENTENCEPIECE, BYTE_LEVEL):
        raise unsupported(source.path, f"its tokenizer {model!r} is not one of {SENTENCEPIECE!r} and {BYTE_LEVEL!r}")
    tokens = tuple(source.items("tokenizer.ggml.tokens", str))
    if not tokens:
        raise torn(source.path, "its metadata lack tokenizer.ggml.tokens")
    pre = source.text("tokenizer.ggml.pre", "default")
    sentencepiece = model == SENTENCEPIECE
    eos = _id(source, "eos", len(tokens), 2 if sentencepiece else None)
    kinds = _as_long_as(source, "tokenizer.ggml.token_type", len(tokens), NORMAL)
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tokens,
        kinds=kinds,
        scores=_as_long_as(source, "tokenizer.ggml.scores", len(tokens), 0.0) if sentencepiece else (),
        merges=() if sentencepiece else _merges(source),
        bos=_id(source, "bos", len(tokens), 1 if sentencepiece else None),
        eos=eos,
        unknown=_id(source, "unknown", len(tokens), 0 if sentencepiece else None),
        padding=_id(source, "padding", len(tokens), None),
        ends=_ends(source, tokens, kinds, eos),
        add_bos=bool(source.metadata.get("tokenizer.ggml.add_bos_token", sentencepiece or pre in BOS_BY_DEFAULT)),
        add_eos=bool(source.metadata.get("tokenizer.ggml.add_eos_token", False)),
        space_prefix=bool(source.metadata.get("tokenizer.ggml.add_space_prefix", True)),
    )


def _id(source: Source, role: str, count: int, default: int | None) -> int | None:
    key = f"tokenizer.ggml.{role}_token_id"
    if key not in source.metadata:
        return default if default is None or default < count else None
    index = int(source.number(key))
    if not 0 <= index < count:
        raise torn(source.path, f"{key} is {index}, but there are {count} tokens")
    return index


def _as_long_as(source: Source, key: str, count: int, default: T) -> tuple[T, ...]:
    values = source.items(key, type(default))
    if values and len(values) != count:
        raise torn(source.path, f"{key} has {len(values)} entries for {count} tokens")
    return tuple(values) if values else (default,) * count


def _merges(source: Source) -> tuple[tuple[str, str], ...]:
    pairs = tuple(merge.partition(" ") for merge in source.items("tokenizer.ggml.merges", str))
    if not pairs:
        raise torn(source.path, "its metadata lack tokenizer.ggml.merges")
    return tuple((left, right) for left, _, right in pairs)


def _ends(source: Source, tokens: tuple[str, ...], kinds: tuple[int, ...], eos: int | None) -> tuple[int, ...]:
    named = [eos, *(_id(source, role, len(tokens), None) for role in ("eot", "eom"))]
    known = [index for index, token in enumerate(tokens) if kinds[index] == CONTROL and token in TURN_ENDS]
    return tuple(dict.fromkeys(index for index in (*named, *known) if index is not None))
