"""Prompts of a given length that share nothing with each other, so that no cache helps where none is meant to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

Messages = list[dict[str, str]]

LEXICON = (
    "river lantern copper meadow winter harbour sparrow granite orchard thunder velvet compass island candle "
    "garden mirror bridge forest pepper saddle window anchor cotton hammer marble needle ribbon shadow timber "
    "valley whistle basket castle feather kettle ladder market oyster pillow quarry rocket silver tunnel "
    "village wagon yellow zebra apple bottle cloud desert engine flower guitar honey iron jacket kitchen lemon"
)
WORDS = tuple(LEXICON.split())
TASK = ". Tell a long story with all of these words."


class Prompts:
    """Draws from one seed: the same seed gives the same prompts, and no two of them begin alike."""

    def __init__(self, model: Path, seed: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._random = random.Random(seed)

    def short(self) -> Messages:
        """Some thirty tokens with the template, and a question whose answer goes on and on."""
        first, second = self._random.sample(WORDS, 2)
        return [
            {"role": "system", "content": self._tag()},
            {"role": "user", "content": f"Tell a very long story about a {first} and a {second}."},
        ]

    def sized(self, tokens: int) -> Messages:
        """A user's message of `tokens` tokens; the template comes on top."""
        return [{"role": "system", "content": self._tag()}, {"role": "user", "content": self.task(tokens)}]

    def task(self, tokens: int) -> str:
        """`tokens` tokens or a few less, that ask for something at their end: words alone may get an empty answer."""
        asked = len(self._tokenizer.encode(TASK, add_special_tokens=False).ids)
        return self.text(tokens - asked) + TASK

    def text(self, tokens: int) -> str:
        """Random words, `tokens` tokens long or one or two less."""
        words = [self._tag(), *(self._random.choice(WORDS) for _ in range(tokens))]
        encoded = self._tokenizer.encode(" ".join(words), add_special_tokens=False)
        return str(self._tokenizer.decode(encoded.ids[:tokens]))

    def ids(self, tokens: int, vocabulary: int) -> list[int]:
        """For an engine in process, to which one token is as good as another."""
        return [self._random.randrange(vocabulary // 8, vocabulary) for _ in range(tokens)]

    def pause(self, least_s: float, most_s: float) -> float:
        return self._random.uniform(least_s, most_s)

    def seed(self) -> int:
        return self._random.randrange(2**31)

    def _tag(self) -> str:
        return f"{self._random.randrange(16**6):06x}"
