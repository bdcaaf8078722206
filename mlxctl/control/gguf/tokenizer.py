"""A vocabulary as the files of a Hugging Face tokenizer: tokenizer.json, tokenizer_config.json, special tokens.

transformers has a reader of its own for GGUF vocabularies, but it imports torch and splits text wrongly for SmolLM.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from mlxctl.control.gguf.header import torn, unsupported
from mlxctl.control.gguf.vocabulary import CONTROL, NORMAL, SENTENCEPIECE, USER_DEFINED, Vocabulary

SPACE = "\u2581"
"""How sentencepiece writes a space."""

WORDS_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
WORDS_LLAMA3 = _CONTRACTED + r"|\p{N}{1,3}" + _TAIL
WORDS_QWEN2 = _CONTRACTED + r"|\p{N}" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORDS_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "smaug-bpe", "dbrx"): (WORDS_LLAMA3,),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "minerva-7b"): (r"\p{N}", WORDS_GPT2),
    ("gpt-2", "mpt", "olmo", "jais", "trillion", "mellum", "gigachat"): (WORDS_GPT2,),
    ("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"): (WORDS_QWEN2,),
    ("tekken",): (WORDS_TEKKEN,),
    ("deepseek-coder",): (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
    ("default",): (r"[\p{P}\$\+<=>\^~\|]+", WORDS_GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
"""By the names in `tokenizer.ggml.pre`: the patterns that cut text into words, one after the other."""

WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken")
"""Pre-tokenizers of vocabularies that take a word which is a token as it is, whatever the merges say."""


def build_tokenizer(path: Path, vocabulary: Vocabulary) -> Tokenizer:
    """Raises NotReady: "unsupported_format" for an unknown pre-tokenizer, "bad_model" for merges of absent tokens."""
    build = _sentencepiece if vocabulary.model == SENTENCEPIECE else _byte_level
    tokenizer = build(path, vocabulary)
    named = (vocabulary.bos, vocabulary.eos, vocabulary.unknown, vocabulary.padding)
    special = dict.fromkeys(vocabulary.of_kind(CONTROL))
    special.update(dict.fromkeys(vocabulary.tokens[index] for index in named if index is not None))
    plain = [token for token in vocabulary.of_kind(USER_DEFINED) if token not in special]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])
    bos = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
    eos = [vocabulary.eos] if vocabulary.add_eos and vocabulary.eos is not None else []
    if bos or eos:
        before, after = ([vocabulary.tokens[index] for index in side] for side in (bos, eos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *before, "$B", *after],
            special_tokens=[(vocabulary.tokens[index], index) for index in (*bos, *eos)],
        )
    return tokenizer


def render_tokenizer_config(vocabulary: Vocabulary, context: int) -> dict[str, Any]:
    """`tokenizer_config.json`. The class is the plain one, since any other builds a tokenizer anew and differently."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.add_bos and vocabulary.bos is not None,
        "add_eos_token": vocabulary.add_eos and vocabulary.eos is not None,
        **render_special_tokens(vocabulary),
    }


def render_special_tokens(vocabulary: Vocabulary) -> dict[str, str]:
    """`special_tokens_map.json`."""
    roles = {
        "bos_token": vocabulary.token(vocabulary.bos),
        "eos_token": vocabulary.token(vocabulary.eos),
        "unk_token": vocabulary.token(vocabulary.unknown),
        "pad_token": vocabulary.token(vocabulary.padding),
    }
    return {role: token for role, token in roles.items() if token is not None}


def _byte_level(path: Path, vocabulary: Vocabulary) -> Tokenizer:
    splits = next((patterns for names, patterns in SPLITS.items() if vocabulary.pre in names), None)
    if splits is None:
        raise unsupported(path, f"how its tokenizer {vocabulary.pre!r} cuts words is not known")
    tokenizer = _bpe(
        path, vocabulary, list(vocabulary.merges), ignore_merges=vocabulary.pre in WHOLE_WORDS_FIRST, fuse_unk=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in splits),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(path: Path, vocabulary: Vocabulary) -> Tokenizer:
    tokenizer = _bpe(
        path,
        vocabulary,
        merges_by_score(vocabulary),
        unk_token=vocabulary.token(vocabulary.unknown),
        fuse_unk=True,
        byte_fallback=True,
    )
    prefix: list[normalizers.Normalizer] = [normalizers.Prepend(SPACE)] if vocabulary.space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    strip: list[decoders.Decoder] = [decoders.Strip(" ", left=1)] if vocabulary.space_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def merges_by_score(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The merges that a sentencepiece BPE implies, best first: each token, out of every two tokens it consists of."""
    ranked = sorted(
        (index for index, kind in enumerate(vocabulary.kinds) if kind in (NORMAL, USER_DEFINED)),
        key=lambda index: -vocabulary.scores[index],
    )
    ids = {vocabulary.tokens[index]: index for index in ranked}
    merges: list[tuple[str, str]] = []
    for index in ranked:
        token = vocabulary.tokens[index]
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [cut for cut in cuts if cut[0] in ids and cut[1] in ids]
        merges += sorted(known, key=lambda cut: (ids[cut[0]], ids[cut[1]]))
    return merges


def _bpe(path: Path, vocabulary: Vocabulary, merges: list[tuple[str, str]], **options: Any) -> Tokenizer:
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    parts = {part for left, right in merges for part in (left, right, left + right)}
    absent = sorted(parts - ids.keys())
    if absent:
        raise torn(path, f"its merges need tokens that it does not have, such as {absent[0]!r}")
    return Tokenizer(BPE(vocab=ids, merges=merges, **options))
