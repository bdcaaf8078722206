"""A byte-level BPE tokenizer that learnt from JSON, so that its tokens straddle quotes, colons and blanks."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, OTHER_END, TURN = 0, 1, 2
SPECIAL = ["<|end|>", "<|other_end|>", "<|turn|>"]


@cache
def small_tokenizer() -> Any:
    """Some 500 tokens; ids 0 and 1 end an answer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    people = [
        {"name": f"Ann {n}", "age": n, "tags": ["red", "blue"][: n % 3], "ok": n % 2 == 0, "pet": None}
        for n in range(40)
    ]
    texts = [json.dumps(one, indent=indent) for one in people for indent in (None, 2)]
    tokenizer.train_from_iterator([*texts, *[" " * n for n in range(1, 20)], "\n\n \n" * 9], trainer)
    return tokenizer
