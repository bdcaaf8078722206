"""Grammars that a request's answer must follow, compiled with llguidance: JSON, a JSON schema, or Lark text."""

from __future__ import annotations

import copy
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from mlxctl.worker.errors import InvalidRequest

MAX_TEXT_BYTES = 64 * 1024
KEPT_GRAMMARS = 64
TRIAL_STEPS = 8
MAX_MESSAGE = 300
DEFAULT_PARAM = "response_format"
BLANKS = r" |\n[ \t]{0,20}"
"""What may stand between two JSON tokens: one space, or one line break with its indent. Never more, so that no answer
can run on in blanks."""

_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": BLANKS, "coerce_one_of": True, "lenient": False}
# Errors go to the client: they must tell what is wrong, not dump the parser. A state of the lexer is 1-2 kB.
_LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def bounded(schema: dict[str, Any], *, param: str = DEFAULT_PARAM) -> str:
    """The schema as JSON text with our rules on blanks in it; in Lark it stands after `%json`.

    oneOf is read as anyOf. Raises `InvalidRequest` for what JSON cannot hold.
    """
    try:
        return json.dumps({**schema, "x-guidance": _OPTIONS}, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The JSON schema is not valid: {error}", param=param) from error


class TokenMatcher:
    """One choice's walk through a grammar; satisfies `types.Matcher`."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self._matcher = matcher
        self._words = words

    def accept(self, token: int) -> bool:
        """False: not allowed, or already at the end. A matcher that has said False stays so."""
        return not self._matcher.is_stopped() and self._matcher.consume_token(token)

    def fill_mask(self, row: NDArray[np.int32]) -> None:
        """Set the bits of the tokens that may come next. `row` may have more or fewer words than the vocabulary.

        At the grammar's end, and after an error, only the end tokens are set.
        """
        if row.size == self._words and row.flags.c_contiguous:
            self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            return
        own = np.zeros(self._words, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(own.ctypes.data, own.nbytes)
        common = min(row.size, self._words)
        row[:common] = own[:common]
        row[common:] = 0

    @property
    def is_done(self) -> bool:
        """The answer is whole, and nothing but an end token can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def error(self) -> str:
        """Why the grammar broke off: a token was refused, or a step went past the limits. Empty while all is well."""
        return _told(self._matcher.get_error())


class CompiledGrammar:
    """Satisfies `types.Grammar`. The first mask is already computed; a matcher is a copy, made in microseconds."""

    def __init__(self, first: LLMatcher, words: int) -> None:
        self._first = first
        self._words = words

    def matcher(self) -> TokenMatcher:
        return TokenMatcher(self._first.deep_copy(), self._words)


class GrammarCompiler:
    """Compiles for one tokenizer, and keeps what it compiled last. Every method may be called from any thread.

    tokenizer: the text of a tokenizer.json, its path, or a fast Hugging Face tokenizer. vocab_size: the width of the
    model's logits. end_tokens: the ids that end an answer; they are allowed exactly where the grammar may end.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, end_tokens: Iterable[int]) -> None:
        self._source = tokenizer
        self._vocab_size = vocab_size
        self._end_tokens = sorted(set(end_tokens))
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[tuple[str, str], CompiledGrammar] = OrderedDict()

    def json_object(self) -> CompiledGrammar:
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: dict[str, Any], *, param: str = DEFAULT_PARAM) -> CompiledGrammar:
        """Raises `InvalidRequest` for a schema that is invalid, too large, or uses keywords that cannot be enforced."""
        if not isinstance(schema, dict):
            raise InvalidRequest("The JSON schema must be an object.", param=param)
        return self._compiled("JSON schema", bounded(schema, param=param), LLMatcher.grammar_from_json_schema, param)

    def lark(self, text: str, *, param: str = DEFAULT_PARAM) -> CompiledGrammar:
        """Raises `InvalidRequest` for text that is no grammar."""
        return self._compiled("grammar", text, LLMatcher.grammar_from_lark, param)

    def _compiled(self, kind: str, text: str, read: Callable[[str], str], param: str) -> CompiledGrammar:
        with self._lock:
            kept = self._kept.get((kind, text))
            if kept is not None:
                self._kept.move_to_end((kind, text))
                return kept
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > MAX_TEXT_BYTES:
            raise InvalidRequest(f"The {kind} is too large: {size} bytes, the limit is {MAX_TEXT_BYTES}.", param=param)
        tokenizer = self._opened_tokenizer(param)
        try:
            first = LLMatcher(tokenizer, read(text), log_level=0, limits=_LIMITS)
        except ValueError as error:
            raise InvalidRequest(f"The {kind} is not valid: {_told(str(error))}", param=param) from error
        trouble = _trial(first, tokenizer.eos_tokens)
        if trouble:
            raise InvalidRequest(f"The {kind} is not supported: {trouble}", param=param)
        compiled = CompiledGrammar(first, -(-tokenizer.vocab_size // 32))
        with self._lock:
            self._kept[(kind, text)] = compiled
            while len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        return compiled

    def _opened_tokenizer(self, param: str) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                ends = [token for token in self._end_tokens if 0 <= token < self._vocab_size]
                try:
                    self._tokenizer = LLTokenizer(_tokenizer_text(self._source), eos_token=ends or None)
                except (ValueError, OSError) as error:
                    message = f"This model's tokenizer cannot hold answers to a grammar: {error}"
                    raise InvalidRequest(message, param=param) from error
            return self._tokenizer


def _tokenizer_text(source: Any) -> str:
    if isinstance(source, Path) or (isinstance(source, str) and not source.lstrip().startswith("{")):
        return Path(source).read_text(encoding="utf-8")
    if isinstance(source, str):
        return source
    fast = getattr(source, "backend_tokenizer", source)
    if not hasattr(fast, "to_str"):
        raise ValueError("it is not a fast tokenizer")
    # padding and truncation belong to somebody's last call, not to the vocabulary
    own = copy.copy(fast)
    own.no_padding()
    own.no_truncation()
    text: str = own.to_str()
    return text


def _trial(first: LLMatcher, end_tokens: list[int]) -> str:
    """What goes wrong in the first steps, if anything: limits are only met in walking, and here nobody waits for us."""
    walk = first
    for _ in range(TRIAL_STEPS):
        words = np.frombuffer(walk.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(words, bitorder="little")
        bits[end_tokens] = 0
        if walk.is_error() or not bits.any():
            break
        # the first mask is kept for all matchers; the steps are taken on a copy
        walk = first.deep_copy() if walk is first else walk
        if not walk.consume_token(int(bits.argmax())) or walk.is_stopped():
            break
    return _told(walk.get_error()) if walk.is_error() else ""


def _told(message: str) -> str:
    message = " ".join(message.removesuffix("<non-verbose/>").split())
    return message.replace("NoExtensionBias", "no answer can satisfy it")[:MAX_MESSAGE]
