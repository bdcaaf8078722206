"""The trial at load: may this model run many rows at once, and may its cache be cut into blocks?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from mlxctl.worker.engine.capture import capture, restore
from mlxctl.worker.engine.decoder import Decoder, PaddedDecoder, SingleDecoder
from mlxctl.worker.engine.grouped import GroupedDecoder
from mlxctl.worker.engine.layout import Layout, arrays_of, new_caches
from mlxctl.worker.errors import MODEL_ERRORS
from mlxctl.worker.kv.blocks import BlockStore

PROMPT_LENGTHS = (21, 1, 9)
STEPS = 4
BLOCK_TOKENS = 8
TOLERANCE_FLOAT32, TOLERANCE_HALF = 5e-3, 0.12
"""Root mean square of the difference in logits, in standard deviations of the logits. Half precision rounds otherwise
in a batch than alone; a wrong cache is off by far more."""
PASSED = "passed"

MakeDecoder = Callable[[], Decoder]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fastest decoder that gave the right answers, whether blocks may be restored, and what each trial said."""

    make_decoder: MakeDecoder
    decoder: str
    prefix_cache: bool
    report: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reference:
    """One prompt run alone: its tokens, those drawn greedily after it, and the logits [steps, vocabulary] of each."""

    tokens: list[int]
    drawn: list[int]
    logits: np.ndarray[Any, Any]


def try_model(model: Any, layout: Layout, vocab_size: int, *, batching: bool = True) -> Verdict:
    """Run a few uneven rows in every way, the best first, until one agrees with what each row gives alone."""
    tolerance = TOLERANCE_FLOAT32 if _is_float32(model) else TOLERANCE_HALF
    references = [_run_alone(model, prompt) for prompt in _prompts(vocab_size)]
    report: dict[str, str] = {}
    makers: dict[str, MakeDecoder] = {}
    if batching:
        makers["grouped"] = lambda: GroupedDecoder(model, layout)
        makers["padded"] = lambda: PaddedDecoder(model)
    makers["single"] = lambda: SingleDecoder(model)
    chosen = "single"
    for name, make in makers.items():
        report[name] = _outcome(lambda make=make: _try_batch(model, make(), references, tolerance))  # type: ignore[misc]
        if report[name] == PASSED:
            chosen = name
            break
    report["restore"] = _outcome(lambda: _try_restore(model, layout, makers[chosen](), references[0], tolerance))
    return Verdict(makers[chosen], chosen, report["restore"] == PASSED, report)


def _outcome(trial: Callable[[], float]) -> str:
    try:
        error = trial()
    except MODEL_ERRORS as raised:
        return f"{type(raised).__name__}: {raised}"
    return PASSED if error == 0.0 else f"logits differ by {error:.3g} standard deviations from those of single runs"


def _try_batch(model: Any, decoder: Decoder, references: Sequence[Reference], tolerance: float) -> float:
    """Rows join one after the other, and leave while others go on. 0.0, or the worst difference over `tolerance`."""
    at: dict[int, int] = {}
    worst = 0.0
    for turn in range(STEPS + len(references) - 1):
        if turn < len(references):
            decoder.admit(turn, _prefill(model, references[turn].tokens), len(references[turn].tokens) - 1)
            at[turn] = 0
        worst = max(worst, _step(decoder, references, at))
        for number in [number for number, step in at.items() if step == STEPS]:
            decoder.remove(number)
            del at[number]
    return worst if worst > tolerance else 0.0


def _try_restore(model: Any, layout: Layout, decoder: Decoder, reference: Reference, tolerance: float) -> float:
    """Preempt a row in mid-answer: its cache goes into blocks, comes back from them, and it goes on."""
    if not layout.divisible:
        raise ValueError("this model's caches cannot be cut into blocks")
    size = max(BLOCK_TOKENS, -(-max(layout.windows, default=0) // 64))
    store = BlockStore(
        block_tokens=size, budget_bytes=1 << 40, window_tokens=layout.window, needs_state=layout.has_state
    )
    at, half = {0: 0}, STEPS // 2
    caches, parent = new_caches(model), None
    tokens = [*reference.tokens[:-1], *_fed(reference)][: len(reference.tokens) - 1 + half]
    for start in range(0, len(reference.tokens) - 1, size):
        end = min(start + size, len(reference.tokens) - 1)
        _feed(model, caches, reference.tokens[start:end])
        if end - start == size:
            parent = _seal(store, layout, caches, parent, tokens[start:end], start)
    decoder.admit(0, caches, len(reference.tokens) - 1)
    worst = max(_step(decoder, [reference], at) for _ in range(half))
    caches = decoder.extract(0)
    decoder.remove(0)
    sealed = parent.end if parent else 0
    while sealed < len(tokens):
        end = min(sealed + size, len(tokens))
        parent = _seal(store, layout, caches, parent, tokens[sealed:end], sealed)
        sealed = end
    match = store.match(tokens, len(tokens))
    if match.length < len(tokens):
        raise ValueError(f"only {match.length} of {len(tokens)} tokens came back from the block store")
    decoder.admit(0, restore(layout, model, match), match.length)
    worst = max(worst, *(_step(decoder, [reference], at) for _ in range(STEPS - half)))
    return worst if worst > tolerance else 0.0


def _seal(store: BlockStore, layout: Layout, caches: Sequence[Any], parent: Any, tokens: list[int], start: int) -> Any:
    payload = capture(layout, caches, start, start + len(tokens), state=True)
    if payload is None:
        raise ValueError(f"the cache does not hold tokens {start} to {start + len(tokens)}")
    return store.seal(parent, tokens, payload)


def _step(decoder: Decoder, references: Sequence[Reference], at: dict[int, int]) -> float:
    """One step of all rows in `at`, each fed what its reference drew; the worst difference of their logits."""
    rows = list(decoder.rows)
    logits = decoder.forward(mx.array([_fed(references[row])[at[row]] for row in rows]))
    told = np.array(logits.astype(mx.float32))
    worst = 0.0
    for place, row in enumerate(rows):
        expected = references[row].logits[at[row]]
        difference = float(np.sqrt(np.mean((told[place] - expected) ** 2)) / (np.std(expected) + 1e-9))
        worst = max(worst, difference if np.isfinite(difference) else np.inf)
        at[row] += 1
    return worst


def _fed(reference: Reference) -> list[int]:
    """What each step is fed: the prompt's last token, then what was drawn."""
    return [reference.tokens[-1], *reference.drawn]


def _run_alone(model: Any, prompt: list[int]) -> Reference:
    caches = _prefill(model, prompt)
    token, drawn, told = prompt[-1], [], []
    for _ in range(STEPS):
        logits = model(mx.array([[token]]), cache=caches)[0, -1].astype(mx.float32)
        told.append(np.array(logits))
        token = int(told[-1].argmax())
        drawn.append(token)
    return Reference(prompt, drawn, np.stack(told))


def _prefill(model: Any, prompt: list[int]) -> list[Any]:
    caches = new_caches(model)
    if len(prompt) > 1:
        _feed(model, caches, prompt[:-1])
    return caches


def _feed(model: Any, caches: Sequence[Any], tokens: list[int]) -> None:
    model(mx.array([tokens]), cache=caches)
    mx.eval(arrays_of(caches))


def _prompts(vocab_size: int) -> list[list[int]]:
    # fixed, and spread over the vocabulary: real words are not needed to tell right from wrong
    draw = np.random.default_rng(2026)
    return [draw.integers(1, max(2, vocab_size), size=length).tolist() for length in PROMPT_LENGTHS]


def _is_float32(model: Any) -> bool:
    logits = model(mx.array([[1]]))
    kept = {array.dtype for _, array in _parameters(model)}
    return bool(logits.dtype == mx.float32 and mx.uint32 not in kept)


def _parameters(model: Any) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return list(tree_flatten(model.parameters()))
