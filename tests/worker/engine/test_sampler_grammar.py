"""Sampler and grammars together: bound rows beside free ones, with a small tokenizer and a real one if it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import mlx.core as mx
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from mlxctl.worker.engine.sampler import Sampler
from mlxctl.worker.grammar import GrammarCompiler
from mlxctl.worker.types import Sampling
from tests.fakes.json_tokenizer import END, OTHER_END, small_tokenizer
from tests.fakes.sampling import Row

REAL = Path(__file__).parents[3] / ".test-cache/hub-root/HuggingFaceTB/SmolLM2-135M-Instruct/tokenizer.json"


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(pattern="^[A-Z][a-z]{2,9}$")]
    people: Annotated[int, Field(ge=0, le=9999)]
    rivers: Annotated[list[Annotated[str, Field(max_length=5)]], Field(max_length=2)]


class Vocabulary:
    def __init__(self, file: Path | None) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(file)) if file else small_tokenizer()
        self.ends = {0, 2} if file else {END, OTHER_END}
        self.width = self.tokenizer.get_vocab_size() + 128
        self.compiler = GrammarCompiler(self.tokenizer, self.width, self.ends)


@pytest.fixture(
    scope="module", params=[None, *([REAL] if REAL.exists() else [])], ids=lambda file: "real" if file else "small"
)
def vocabulary(request):
    return Vocabulary(request.param)


BOUND = [
    Sampling(temperature=0.0),
    Sampling(temperature=1.5),
    Sampling(top_p=0.95),
    Sampling(top_k=200, temperature=3.0),
]


@pytest.mark.parametrize("seed", range(3))
def test_bound_rows_write_json_beside_a_free_one(vocabulary, seed):
    """Random logits, of which the padding is likeliest: only the masks make JSON of them."""
    grammar, rng = vocabulary.compiler.json_schema(City.model_json_schema()), np.random.default_rng(seed)
    bound = [Row(rules, draw_seed=seed * 10 + place, matcher=grammar.matcher()) for place, rules in enumerate(BOUND)]
    free = Row(Sampling(temperature=0.0))
    rows, sampler, finished = [bound[0], free, *bound[1:]], Sampler(), []
    for _ in range(120):
        logits = rng.normal(0, 2, (len(rows), vocabulary.width)).astype(np.float32)
        logits[:, -128:] += 20.0
        drawn = sampler.draw(mx.array(logits), rows).read()
        assert drawn[rows.index(free)][0] == logits[rows.index(free)].argmax()
        for row, (token, _) in zip(list(rows), drawn, strict=True):
            if row.matcher is None:
                continue
            assert row.matcher.accept(token), "a token was drawn that the grammar refuses"
            if token not in vocabulary.ends:
                row.tokens.append(token)
            if row.matcher.is_done:
                rows.remove(row)
                finished.append(row)
        if len(rows) == 1:
            break
    assert len(finished) == len(BOUND)
    for row in finished:
        City.model_validate_json(vocabulary.tokenizer.decode(row.tokens[1:]), strict=True)


def test_a_wish_stays_visible_through_the_mask(vocabulary):
    """The likeliest allowed token is taken, so a model that knows what it wants gets to say it."""
    wanted = '{"name": "Ulm", "people": 130, "rivers": ["Blau"]}'
    ids = vocabulary.tokenizer.encode(wanted).ids
    row = Row(Sampling(temperature=0.0), matcher=vocabulary.compiler.json_schema(City.model_json_schema()).matcher())
    sampler = Sampler()
    for token in ids:
        logits = np.zeros((1, vocabulary.width), dtype=np.float32)
        logits[0, token], logits[0, -1] = 5.0, 9.0
        ((drawn, _),) = sampler.draw(mx.array(logits), [row]).read()
        assert drawn == token
        assert row.matcher.accept(drawn)
        row.tokens.append(drawn)
    assert row.matcher.is_done
    assert json.loads(wanted) == json.loads(vocabulary.tokenizer.decode(row.tokens[1:]))
