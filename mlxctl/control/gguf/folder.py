"""Writes the folder: plans everything from the opened file, so that what cannot work fails before the first byte."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxctl.core.errors import NotReady, Refused, UsageError
from mlxctl.core.report import Reporter

if TYPE_CHECKING:
    from mlxctl.control.gguf.vocabulary import Vocabulary

DTYPES = ("float16", "bfloat16", "float32")


def dequantize(gguf: Path, dest: Path, reporter: Reporter, *, dtype: str = "float16") -> None:
    """Write the model in `gguf` into the new folder `dest`, in Hugging Face layout, its weights in `dtype`.

    Of a split model any part may be given; the others lie beside it. A failure may leave a partial `dest`: the caller
    gives a temporary name and renames. Raises UsageError for an unknown dtype or an existing `dest`; NotReady
    "bad_model" for a torn file, "unsupported_format" for another family, quantisation or tokenizer,
    "conversion_failed" where `dest` cannot be written or a value exceeds `dtype`; Refused("disk_full").
    """
    from mlxctl.control.gguf import header, llama, source, tokenizer, vocabulary, weights

    if dtype not in DTYPES:
        raise UsageError("bad_flag", f"{dtype!r} is not a type of weights", f"use one of {', '.join(DTYPES)}")
    if dest.exists():
        raise UsageError("bad_flag", f"{dest} exists already", "name a folder that does not exist yet")
    opened = source.open_source(gguf)
    model = llama.read_llama(opened)
    plan = llama.plan_weights(opened, model)
    weights.require_dequantizable(gguf, plan)
    words = vocabulary.read_vocabulary(opened)
    if len(words.tokens) > model.vocabulary:
        raise header.torn(gguf, f"it has {len(words.tokens)} tokens, but embeddings for only {model.vocabulary}")
    if words.pre == "default" and words.model == vocabulary.BYTE_LEVEL:
        reporter.note(f"{gguf.name} does not say how its tokenizer cuts words; llama.cpp's default is used")
    built = tokenizer.build_tokenizer(gguf, words)
    template = opened.text("tokenizer.chat_template", "")
    shards = weights.plan_shards(plan, dtype, weights.SHARD_BYTES)
    total = sum(weights.bytes_of(weight, dtype) for weight in plan)
    task = reporter.task(f"Dequantising {gguf.name}", total, "bytes")
    try:
        with _disk_errors(dest, total):
            dest.mkdir()
            _write_json(dest / "config.json", {**model.config(dtype), **_ids(words)})
            _write_json(dest / "generation_config.json", _ids(words))
            _write_json(dest / "tokenizer_config.json", tokenizer.render_tokenizer_config(words, model.context))
            _write_json(dest / "special_tokens_map.json", tokenizer.render_special_tokens(words))
            (dest / "tokenizer.json").write_text(built.to_str(pretty=True), "utf-8")
            if template:
                (dest / "chat_template.jinja").write_text(template, "utf-8")
            for number, shard in enumerate(shards, start=1):
                weights.write_shard(dest / weights.shard_name(number, len(shards)), shard, dtype, task)
            if len(shards) > 1:
                _write_json(dest / "model.safetensors.index.json", weights.render_index(shards, dtype))
    finally:
        task.finish()


def _ids(words: Vocabulary) -> dict[str, Any]:
    """The special ids as config.json and generation_config.json have them; several ends of an answer make a list."""
    ends: int | list[int] | None = list(words.ends) if len(words.ends) > 1 else next(iter(words.ends), None)
    ids = {"bos_token_id": words.bos, "eos_token_id": ends, "pad_token_id": words.padding}
    return {role: index for role, index in ids.items() if index is not None}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


@contextmanager
def _disk_errors(dest: Path, needed: int) -> Iterator[None]:
    """Refuses work that the disk has no room for, and says so where it runs full all the same."""
    hint = "free some disk space, or move the model cache to a larger disk"
    try:
        free = shutil.disk_usage(dest.parent).free
        if free < needed:
            raise Refused("disk_full", f"{needed:,} bytes have to be written to {dest}, {free:,} are free", hint)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused("disk_full", f"the disk ran full while {dest} was written", hint) from error
        raise NotReady("conversion_failed", f"{dest} cannot be written: {error.strerror}") from error
