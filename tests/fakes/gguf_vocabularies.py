"""Small vocabularies for tiny GGUF files, trained in milliseconds, each beside the library that is right about it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

CORPUS = (
    "The capital of France is Paris. The capital of Germany is Berlin, and Rome is Italy's.",
    "don't can't we'll they've I'm it's 12 123 1234 12345 2024-01-31 3.14159",
    "def f(x):\n    return x ** 2\n\n\nif __name__ == '__main__':\n\tprint(f(10))",
    "naïve café über straße 日本語のテキスト 日本 한국어 🙂🙂 e\u0301",
    "    four    spaces    and\n\n  newlines  !!! ??? ... ((())) ",
)

ODD_TEXTS = (
    "The capital of France is Paris.",
    "  two spaces before, one after ",
    "don't WE'LL they'VE 's",
    "1 12 123 1234 12345 123456789 3.14159e-10 ½ Ⅷ ٣٤ ３４",
    "\n\n\n\t tabs\r\n and  lines  \n",
    "naïve café ÜBER straße ŉ e\u0301",
    "日本語のテキスト、한국어。مرحبا שלום",
    "🙂👩‍👩‍👧‍👦🇩🇪\ufeff\u200b",
    "$x^2 + y~|z` <= (a&&b) !!!???...",
    "\u00a0\u2003\u3000\u2028 wide spaces",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|im_end|> c<|im_end",
    "<tool>x</tool> <tool> y",
    " ",
    "a",
    "x" * 70,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_TOKENS = ("<tool>", "</tool>")

UPSTREAM_WORDS = {
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""The pattern in the tokenizer.json of a model that llama.cpp gives this name."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`metadata` as a GGUF file has them; `reference` encodes as the original model does."""

    metadata: dict[str, Any]
    reference: Any

    @property
    def size(self) -> int:
        return len(self.metadata["tokenizer.ggml.tokens"])


@lru_cache
def byte_level_vocabulary(pre: str = "smollm") -> Vocabulary:
    """A byte-level BPE, its reference built in the layout of the tokenizer.json of SmolLM, GPT-2 or Llama 3."""
    reference = Tokenizer(BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    reference.pre_tokenizer = _upstream_words(pre)
    reference.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    reference.train_from_iterator(CORPUS * 3, trainer)
    reference.add_tokens([AddedToken(token, normalized=False) for token in USER_TOKENS])
    tokens = [reference.id_to_token(index) for index in range(reference.get_vocab_size())]
    kinds = [3 if token in CONTROL_TOKENS else 4 if token in USER_TOKENS else 1 for token in tokens]
    return Vocabulary(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.merges": _merges(reference),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.padding_token_id": 2,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.chat_template": CHAT_TEMPLATE,
        },
        reference,
    )


@lru_cache
def sentencepiece_vocabulary(space_prefix: bool = True) -> Vocabulary:
    """A BPE of sentencepiece with byte fallback, as Llama 2 and Mistral have it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=space_prefix,
        user_defined_symbols=list(USER_TOKENS),
        hard_vocab_limit=False,
        minloglevel=2,
    )
    reference = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(reference.get_piece_size())
    return Vocabulary(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": [reference.id_to_piece(index) for index in ids],
            "tokenizer.ggml.scores": [reference.get_score(index) for index in ids],
            "tokenizer.ggml.token_type": [_kind(reference, index) for index in ids],
            "tokenizer.ggml.add_space_prefix": space_prefix,
        },
        reference,
    )


def _upstream_words(pre: str) -> Any:
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = pre_tokenizers.Split(Regex(UPSTREAM_WORDS[pre]), behavior="isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _merges(reference: Tokenizer) -> list[str]:
    return [" ".join(pair) for pair in json.loads(reference.to_str())["model"]["merges"]]


def _kind(reference: Any, index: int) -> int:
    if reference.is_unknown(index):
        return 2
    if reference.is_control(index):
        return 3
    if reference.is_byte(index):
        return 6
    return 4 if reference.id_to_piece(index) in USER_TOKENS else 1
