"""The tokenizer of a folder: loading, BOS once, special tokens, the bytes of a token, and text that comes in pieces."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.errors import InvalidRequest
from mlxctl.worker.tokenizer import Tokenizer
from tests.fakes.tokenizer_folders import CORPUS, byte_level_folder, marked_folder

SPECIAL = ("<|channel|>", "<｜end▁of▁sentence｜>")
TEXTS = [*CORPUS, "", " ", "  two", "<s>", "a</s>b </s> c", "日本", "🙂", "\n\n\t", "e\u0301", "<tool> x"]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(byte_level_folder(tmp_path_factory.mktemp("bytes"), SPECIAL, added=["<tool>"]))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(marked_folder(tmp_path_factory.mktemp("marks"), SPECIAL, added=["▁▁▁"]))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(marked_folder(tmp_path_factory.mktemp("kept"), strip=False))


@pytest.fixture(params=["byte_level", "marked", "kept"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


def test_special_adds_the_first_token_once(tokenizer: Tokenizer) -> None:
    bos = tokenizer.token_id("<s>")
    plain = tokenizer.encode("Hello", special=False)
    assert bos not in plain
    assert tokenizer.encode("Hello", special=True) == [bos, *plain]
    assert tokenizer.encode("<s>Hello", special=True) == tokenizer.encode("<s>Hello", special=False)
    assert tokenizer.encode("<s><s>", special=False) == [bos, bos]


def test_a_rendered_chat_keeps_its_special_tokens(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("<s>Hello<|channel|>x</s>", special=False)
    assert [ids[0], ids[-1]] == [byte_level.token_id("<s>"), byte_level.token_id("</s>")]
    assert byte_level.token_id("<|channel|>") in ids


@pytest.mark.parametrize(
    ("piece", "known"), [("<s>", True), ("<tool>", True), ("<｜end▁of▁sentence｜>", True), ("The", False), ("", False)]
)
def test_only_special_and_added_tokens_are_found_by_spelling(byte_level: Tokenizer, piece: str, known: bool) -> None:
    found = byte_level.token_id(piece)
    assert (found is not None) == known
    if found is not None:
        assert byte_level.piece(found) == piece


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_the_bytes_of_all_tokens_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, special=False)
    joined = b"".join(tokenizer.piece_bytes(token) for token in ids).decode()
    if tokenizer.detokenizer().push(ids[0]) != tokenizer.piece(ids[0]):
        joined = joined.removeprefix(" ")  # sentencepiece puts a space of its own before every text
    assert joined == library_text(tokenizer, ids)


@pytest.mark.parametrize(("build", "letter"), [("byte_level", "Ġ"), ("marked", "▁"), ("kept", "▁")])
def test_a_leading_space_is_part_of_the_token(build: str, letter: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(build)
    spaced = [token for piece, token in tokenizer.fast.get_vocab().items() if piece.startswith(letter)]
    assert spaced
    for token in spaced:
        assert tokenizer.piece_bytes(token).startswith(b" ")


@pytest.mark.parametrize("token", [-1, 10**6])
def test_an_id_beyond_the_vocabulary_has_no_bytes(tokenizer: Tokenizer, token: int) -> None:
    assert tokenizer.piece_bytes(token) == b""
    assert tokenizer.decode([token]) == ""


def test_single_bytes_are_exact_and_shown_as_replacements(marked: Tokenizer) -> None:
    ids = marked.encode("日", special=False)[1:]
    assert [marked.piece_bytes(token) for token in ids] == [b"\xe6", b"\x97", b"\xa5"]
    assert {marked.piece(token) for token in ids} == {"\ufffd"}


def library_text(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.fast.backend_tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_says_what_the_library_says_of_the_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, special=True)
    assert tokenizer.decode(ids) == library_text(tokenizer, ids)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tokens_of_a_byte_level_vocabulary(byte_level: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, byte_level.vocab_size + 2), max_size=24))
    assert byte_level.decode(ids) == library_text(byte_level, ids)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("build", ["marked", "kept"])
def test_any_tokens_of_sentencepiece_as_long_as_bytes_make_characters(
    build: str, data: st.DataObject, request: pytest.FixtureRequest
) -> None:
    """The library shows a run of bytes with one that is wrong as wrong throughout, which no stream can know."""
    tokenizer = request.getfixturevalue(build)
    vocabulary = tokenizer.fast.get_vocab()
    words = st.sampled_from([[token] for piece, token in vocabulary.items() if not piece.startswith("<0x")])
    letters = st.characters(exclude_categories=["Cs"]).map(
        lambda letter: [vocabulary[f"<0x{byte:02X}>"] for byte in letter.encode()]
    )
    ids = [token for part in data.draw(st.lists(words | letters, max_size=16)) for token in part]
    special = {tokenizer.token_id("<｜end▁of▁sentence｜>")}
    assert tokenizer.decode(ids) == library_text(tokenizer, ids) or special & set(ids)


def test_half_a_character_is_held_back_and_shown_as_wrong_at_the_end(marked: Tokenizer) -> None:
    first, second, third = marked.encode("日", special=False)[1:]
    stream = marked.detokenizer()
    assert [stream.push(first), stream.push(second), stream.push(third)] == ["", "", "日"]
    assert stream.finish() == ""
    cut = marked.detokenizer()
    assert [cut.push(first), cut.push(second), cut.finish()] == ["", "", "\ufffd"]


def test_special_tokens_come_as_they_are_spelled_at_once(byte_level: Tokenizer) -> None:
    stream = byte_level.detokenizer()
    for piece in SPECIAL:
        token = byte_level.token_id(piece)
        assert token is not None
        assert stream.push(token) == piece


def test_added_runs_of_spaces_are_spaces(marked: Tokenizer) -> None:
    token = marked.token_id("▁▁▁")
    assert token is not None
    assert marked.piece(token) == "   "


@pytest.mark.parametrize(
    ("build", "continues", "text"),
    [("marked", False, "Hi"), ("marked", True, " Hi"), ("kept", False, " Hi"), ("byte_level", False, " Hi")],
)
def test_the_first_space(build: str, continues: bool, text: str, request: pytest.FixtureRequest) -> None:
    """Sentencepiece begins every text with a space of its own; going on from a prompt, it is a real one."""
    tokenizer = request.getfixturevalue(build)
    ids = tokenizer.encode("Hi" if build == "marked" else " Hi", special=False)
    stream = tokenizer.detokenizer(continues=continues)
    assert "".join(stream.push(token) for token in ids) + stream.finish() == text


def test_streams_do_not_disturb_each_other(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("日本語 Paris", special=False)
    one, two = byte_level.detokenizer(), byte_level.detokenizer()
    told = [(one.push(token), two.push(token)) for token in ids]
    assert ["".join(each) for each in zip(*told, strict=True)] == ["日本語 Paris"] * 2


EOS_STORIES: list[tuple[dict[str, object], set[int]]] = [
    ({}, {1}),
    ({"generation_config": {"eos_token_id": [2, 3]}}, {1, 2, 3}),
    ({"generation_config": {"eos_token_id": 5}, "config": {"eos_token_id": 6}}, {1, 5, 6}),
    ({"config": {"text_config": {"eos_token_id": [7]}, "eos_token_id": None}}, {1, 7}),
    ({"generation_config": {"eos_token_id": True}, "config": {"eos_token_id": "x"}}, {1}),
    ({"generation_config": [1]}, {1}),
]


@pytest.mark.parametrize(("files", "ids"), EOS_STORIES)
def test_all_that_ends_a_text(files: dict[str, object], ids: set[int], tmp_path: Path) -> None:
    assert Tokenizer.load(byte_level_folder(tmp_path, **files)).eos_ids == ids


def test_a_vocabulary_without_an_end(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(byte_level_folder(tmp_path, bos=None, eos=None))
    assert tokenizer.eos_ids == frozenset()
    assert tokenizer.encode("Hi", special=True) == tokenizer.encode("Hi", special=False)


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, None),
        ({"chat_template": "{{ messages }}"}, "{{ messages }}"),
        ({"tokenizer_config": {"chat_template": "{{ 1 }}"}}, "{{ 1 }}"),
        (
            {"tokenizer_config": {"chat_template": [{"name": n, "template": n} for n in ("default", "tool_use")]}},
            {"default": "default", "tool_use": "tool_use"},
        ),
        ({"chat_template": {"chat_template": "{{ 2 }}"}}, "{{ 2 }}"),
        ({"chat_template": {"chat_template": 5}}, None),
    ],
)
def test_the_template_of_a_folder(files: dict[str, object], template: object, tmp_path: Path) -> None:
    assert Tokenizer.load(byte_level_folder(tmp_path, **files)).chat_template == template


def test_special_tokens_by_their_names(byte_level: Tokenizer) -> None:
    assert byte_level.special == {"bos_token": "<s>", "eos_token": "</s>"}


def test_limits_in_the_file_do_not_cut_or_fill_a_prompt(tmp_path: Path) -> None:
    path = byte_level_folder(tmp_path) / "tokenizer.json"
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None}
    fill |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation": cut, "padding": fill}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode(CORPUS[0], special=False)) == CORPUS[0]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate at character") as caught:
        tokenizer.encode(text, special=False, param="messages")
    assert caught.value.param == "messages"


def test_only_a_folder_is_ever_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        Tokenizer.load(tmp_path / "HuggingFaceTB" / "SmolLM2-135M-Instruct")
    with pytest.raises((ValueError, OSError)):
        Tokenizer.load(tmp_path)


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    auto_map = {"AutoTokenizer": [None, "mine.Mine"]}
    folder = byte_level_folder(tmp_path, tokenizer_config={"tokenizer_class": "Mine", "auto_map": auto_map})
    ran = tmp_path / "ran"
    (folder / "mine.py").write_text(
        "from pathlib import Path\nfrom transformers import PreTrainedTokenizerFast as Mine\n"
        f"Path({str(ran)!r}).touch()\n"
    )
    with pytest.raises(ValueError, match="trust_remote_code"):
        Tokenizer.load(folder)
    assert not ran.exists()


def test_many_threads_at_once(byte_level: Tokenizer) -> None:
    text = " ".join(CORPUS)
    expected = byte_level.encode(text, special=True)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(30):
            ids = byte_level.encode(text, special=True)
            if ids != expected or byte_level.decode(ids) != "<s>" + text:
                wrong.append(ids)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("model_type", "version", "mended"),
    [("mistral3", "4.50.0", True), ("mistral", None, True), ("mistral3", "5.1.0", False), ("llama", "4.50.0", False)],
)
def test_a_tekken_vocabulary_saved_with_the_wrong_words_is_mended(
    model_type: str, version: str | None, mended: bool, tmp_path: Path
) -> None:
    folder = byte_level_folder(tmp_path, config={"model_type": model_type, "transformers_version": version})
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = {"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [words, content["pre_tokenizer"]]}
    content["model"]["vocab"] |= {f"zq{number}": 1000 + number for number in range(100_000)}
    path.write_text(json.dumps(content))
    cutting = Tokenizer.load(folder).fast.backend_tokenizer.pre_tokenizer
    assert ("\\p{Lu}" in repr(cutting)) == mended


@pytest.mark.parametrize(
    ("build", "named", "leading"),
    [
        (marked_folder, "LlamaTokenizer", "drop one"),
        (marked_folder, "CodeLlamaTokenizer", "drop one"),
        (marked_folder, "GemmaTokenizer", "keep"),
        (byte_level_folder, "Qwen2Tokenizer", "keep"),
        (byte_level_folder, "GPT2Tokenizer", "keep"),
        (byte_level_folder, "LlamaTokenizer", "keep"),
    ],
)
def test_the_classes_of_transformers_that_build_their_own(
    build: Callable[..., Path], named: str, leading: str, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(build(tmp_path, tokenizer_config={"tokenizer_class": named}))
    ids = tokenizer.encode("The capital of 日本 ", special=True)
    assert ids.count(tokenizer.fast.bos_token_id) == 1
    assert tokenizer.decode(ids) == library_text(tokenizer, ids)
    spaced = next(token for token in ids if tokenizer.piece(token).startswith(" "))
    assert tokenizer.detokenizer().push(spaced).startswith(" ") == (leading == "keep")
