"""Which spelling a decoder undoes, the bytes of a spelled token, and streams for vocabularies of other kinds."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel, WordPiece

from mlxctl.worker.detokenizer import ByteDetokenizer, Spelling, WindowDetokenizer, spelling_of

MARKS = decoders.Replace("▁", " ")
FALLBACK, FUSE, STRIP = decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)

DECODERS: list[tuple[Any, Spelling | None]] = [
    (decoders.ByteLevel(), Spelling("bytes")),
    (decoders.Sequence([decoders.ByteLevel()]), Spelling("bytes")),
    (decoders.Sequence([decoders.ByteLevel(), FUSE]), Spelling("bytes")),
    (decoders.Sequence([MARKS, FALLBACK, FUSE, STRIP]), Spelling("marks and bytes", "drop one")),
    (decoders.Sequence([MARKS, FALLBACK, FUSE]), Spelling("marks and bytes")),
    (decoders.Sequence([MARKS, FALLBACK]), Spelling("marks and bytes")),
    (decoders.Metaspace(), Spelling("marks", "drop in first token")),
    (decoders.Metaspace(prepend_scheme="never"), Spelling("marks")),
    (decoders.Metaspace(replacement="_"), None),
    (decoders.Sequence([decoders.Replace("_", " "), FALLBACK, FUSE]), None),
    (decoders.Sequence([decoders.Replace("▁", "-"), FALLBACK, FUSE]), None),
    (decoders.Sequence([MARKS, FALLBACK, STRIP]), None),
    (decoders.Sequence([MARKS, FALLBACK, FUSE, decoders.Strip(" ", 2, 0)]), None),
    (decoders.Sequence([MARKS, FUSE]), None),
    (decoders.WordPiece(), None),
    (decoders.CTC(), None),
]


@pytest.mark.parametrize(("decoder", "spelling"), DECODERS, ids=lambda one: str(one)[:60])
def test_the_spelling_of_a_decoder(decoder: Any, spelling: Spelling | None) -> None:
    assert spelling_of(decoder.__getstate__()) == spelling


@pytest.mark.parametrize("state", [None, b"", b"null", b"[]"])
def test_no_decoder_is_no_known_spelling(state: bytes | None) -> None:
    assert spelling_of(state) is None


BYTES, BOTH, MARKED = Spelling("bytes"), Spelling("marks and bytes"), Spelling("marks")


@pytest.mark.parametrize(
    ("spelling", "spelled", "meant"),
    [
        (BYTES, "Ġthe", b" the"),
        (BYTES, "ĊĊ", b"\n\n"),
        (BYTES, "æĹ", b"\xe6\x97"),
        (BYTES, "<｜x｜>", "<｜x｜>".encode()),
        (BYTES, "two words", b"two words"),
        (BOTH, "▁the", b" the"),
        (BOTH, "▁▁", b"  "),
        (BOTH, "<0xE6>", b"\xe6"),
        (BOTH, "<0x0a>", b"\n"),
        (BOTH, "<0xZZ>", b"<0xZZ>"),
        (BOTH, "<0xE6", b"<0xE6"),
        (MARKED, "<0xE6>", b"<0xE6>"),
        (MARKED, "日本", "日本".encode()),
    ],
)
def test_the_bytes_of_a_token(spelling: Spelling, spelled: str, meant: bytes) -> None:
    assert spelling.bytes_of(spelled) == meant


def test_the_alphabet_of_bytes_is_that_of_the_library() -> None:
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for letter in (chr(code) for code in (*range(0x80), 0xE9, 0x20AC, 0x65E5, 0x1F642)):
        ((spelled, _),) = cut.pre_tokenize_str(letter)
        assert BYTES.bytes_of(spelled) == letter.encode()


def test_every_byte_has_a_letter_of_its_own() -> None:
    assert len(pre_tokenizers.ByteLevel.alphabet()) == 256
    assert {BYTES.bytes_of(letter) for letter in pre_tokenizers.ByteLevel.alphabet()} == {
        bytes([byte]) for byte in range(256)
    }


PIECES = [b" a", b" ", b"", b"  b", b"\xe6\x97", b"\xa5", b"\xff", b"\n"]


@pytest.mark.parametrize(
    ("leading", "tokens", "told"),
    [
        ("keep", [0, 0], [" a", " a", ""]),
        ("drop one", [0, 0], ["a", " a", ""]),
        ("drop one", [1, 0], ["", " a", ""]),
        ("drop one", [2, 3], ["", " b", ""]),
        ("drop in first token", [3, 0], ["b", " a", ""]),
        ("keep", [4, 5], ["", "日", ""]),
        ("keep", [4, 0], ["", "\ufffd a", ""]),
        ("keep", [4], ["", "\ufffd"]),
        ("keep", [6, 6, 7], ["\ufffd", "\ufffd", "\n", ""]),
        ("keep", [], [""]),
    ],
)
def test_a_stream_of_bytes(leading: str, tokens: list[int], told: list[str]) -> None:
    stream = ByteDetokenizer(PIECES.__getitem__, leading)
    assert [*(stream.push(token) for token in tokens), stream.finish()] == told


@settings(max_examples=100, deadline=None)
@given(text=st.text(), cuts=st.data())
def test_text_cut_anywhere_comes_back(text: str, cuts: st.DataObject) -> None:
    whole = text.encode()
    places = sorted(cuts.draw(st.sets(st.integers(0, len(whole)))) | {0, len(whole)})
    pieces = [whole[start:end] for start, end in itertools.pairwise(places)]
    stream = ByteDetokenizer(pieces.__getitem__)
    assert "".join(stream.push(index) for index in range(len(pieces))) + stream.finish() == text


def other(kind: str) -> Tokenizer:
    """Vocabularies whose decoders are not known to us."""
    if kind == "word pieces":
        pieces = ["[UNK]", "the", "capital", "of", "##ly", "##s", "France", ".", "<x>"]
        made = Tokenizer(WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        made.decoder = decoders.WordPiece(cleanup=False)
    elif kind == "words":
        made = Tokenizer(WordLevel({piece: i for i, piece in enumerate(["a", "b", "c", "[UNK]"])}, unk_token="[UNK]"))
    else:
        pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "_a", "_b", "c"]
        made = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
        made.decoder = decoders.Sequence([decoders.Replace("_", " "), FALLBACK, FUSE, STRIP])
    return made


@settings(max_examples=80, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["word pieces", "words", "other marks"])
def test_a_stream_by_windows_says_what_the_library_says_of_the_whole(kind: str, data: st.DataObject) -> None:
    made = other(kind)
    words = st.integers(256 if kind == "other marks" else 0, made.get_vocab_size() - 1).map(lambda token: [token])
    letters = st.characters(exclude_categories=["Cs"]).map(lambda letter: list(letter.encode()))
    parts = data.draw(st.lists(words | letters if kind == "other marks" else words, max_size=20))
    ids = [token for part in parts for token in part]
    stream = WindowDetokenizer(lambda tokens: made.decode(tokens, skip_special_tokens=False))
    told = "".join(stream.push(token) for token in ids) + stream.finish()
    assert told.replace("\ufffd", "") == made.decode(ids, skip_special_tokens=False).replace("\ufffd", "")


def test_a_window_holds_half_a_character_back_but_never_for_long() -> None:
    made = other("other marks")
    stream = WindowDetokenizer(lambda tokens: made.decode(tokens, skip_special_tokens=False))
    assert [stream.push(byte) for byte in "日".encode()] == ["", "", "日"]
    told = [stream.push(0xE6) for _ in range(30)]
    assert told[0] == "" and "\ufffd" in "".join(told)
    assert stream.push(258).endswith("c")


def test_a_window_stays_small_and_goes_on_from_what_was_before() -> None:
    made = other("word pieces")
    decoded: list[int] = []

    def decode(tokens: list[int]) -> str:
        decoded.append(len(tokens))
        return made.decode(tokens, skip_special_tokens=False)

    stream = WindowDetokenizer(decode, [1])
    assert [stream.push(token) for token in (2, 4, 3)] == [" capital", "ly", " of"]
    for _ in range(200):
        stream.push(2)
    assert max(decoded) <= 3


def test_tokens_without_any_text_do_not_pile_up() -> None:
    lengths: list[int] = []

    def silent(tokens: list[int]) -> str:
        lengths.append(len(tokens))
        return ""

    stream = WindowDetokenizer(silent)
    assert {stream.push(token) for token in range(200)} == {""}
    assert stream.finish() == ""
    assert max(lengths) < 40


def test_the_state_of_a_decoder_is_json() -> None:
    """What `spelling_of` reads is the library's pickled form; should it change, this says so."""
    assert json.loads(decoders.ByteLevel().__getstate__())["type"] == "ByteLevel"
