"""Folders with small tokenizers of the two usual builds, trained in milliseconds: bytes, and sentencepiece's marks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

CORPUS = [
    "The capital of France is Paris. What is the capital of Germany? It is Berlin.",
    "call functions with arguments: name, stop, line, user, system, assistant, tool",
    '{"name": "next_bus", "arguments": {"stop": "Elm"}} def f(x):\n    return x ** 2\n',
    "naïve café über straße 日本語のテキスト 한국어 🙂🙂  two spaces",
]
BOS, EOS = "<s>", "</s>"


def byte_level_folder(
    folder: Path,
    special: Iterable[str] = (),
    *,
    added: Iterable[str] = (),
    bos: str | None = BOS,
    eos: str | None = EOS,
    **files: Any,
) -> Path:
    """A vocabulary of bytes, as Llama 3, Qwen and gpt-oss have it. `added` tokens are not special.

    `files` are further files by their stem: JSON, or text for `chat_template`.
    """
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=[piece for piece in dict.fromkeys((bos, eos, *special)) if piece is not None],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_tokens([AddedToken(piece, normalized=False) for piece in added])
    return _written(made, folder, bos, eos, files)


def marked_folder(
    folder: Path, special: Iterable[str] = (), *, added: Iterable[str] = (), strip: bool = True, **files: Any
) -> Path:
    """Sentencepiece with byte fallback, as Llama 2, Mistral and (without `strip`) Gemma have it."""
    trained = Tokenizer(BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(CORPUS[:3], trainers.BpeTrainer(vocab_size=150, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", BOS, EOS, *special, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in learned["merges"]]
    made = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    head = [normalizers.Prepend("▁")] if strip else []
    made.normalizer = normalizers.Sequence([*head, normalizers.Replace(" ", "▁")])
    tail = [decoders.Strip(" ", 1, 0)] if strip else []
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    made.add_special_tokens([AddedToken(piece, normalized=False) for piece in ("<unk>", BOS, EOS, *special)])
    made.add_tokens([AddedToken(piece, normalized=False) for piece in added])
    return _written(made, folder, BOS, EOS, files)


def _written(made: Tokenizer, folder: Path, bos: str | None, eos: str | None, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made.token_to_id(bos))]
        )
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {name: piece for name, piece in (("bos_token", bos), ("eos_token", eos)) if piece is not None}
    files = {"config": {"model_type": "llama"}, **files}
    files["tokenizer_config"] = config | files.get("tokenizer_config", {})
    for stem, content in files.items():
        if isinstance(content, str):
            (folder / f"{stem}.jinja").write_text(content, encoding="utf-8")
        else:
            (folder / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
