"""One request through an adapter: the exact prompt, whether thoughts are open, and the parser that reads the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxctl.worker.adapters.base import Adapter, Prompt
from mlxctl.worker.adapters.choose import choose_adapter
from mlxctl.worker.chat_template import template_text
from mlxctl.worker.errors import InvalidRequest
from mlxctl.worker.parsers.base import Content, Reasoning, ToolCall
from mlxctl.worker.tokenizer import Tokenizer
from tests.contract.prompts import ASKED, BUS, CONVERSATIONS, PLAIN, PROMPTS, RESULT, TODAY, said
from tests.fakes import dialects
from tests.fakes.tokenizer_folders import byte_level_folder, marked_folder

SPELLINGS: dict[str, tuple[str, ...]] = {
    "harmony": tuple(f"<|{word}|>" for word in ("start", "channel", "message", "constrain", "end", "return", "call")),
    "chatml": ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    "qwen": ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]", "[TOOL_CALLS]"),
    "gemma": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folders")


def adapter_of(folders: Path, template: str, special: tuple[str, ...] = (), **given: Any) -> Adapter:
    """An adapter with a shipped template by name, or the text of one."""
    folder = folders / str(abs(hash((template, special))))
    if not folder.exists():
        byte_level_folder(folder, special or SPELLINGS.get(template, ()), bos=None, eos=None)
    model_type = "qwen3" if template == "qwen" else "llama"
    return choose_adapter(Tokenizer.load(folder), {"model_type": model_type}, chat_template=template, **given)


def text_of(adapter: Adapter, prompt: Prompt) -> str:
    return adapter.tokenizer.decode(list(prompt.tokens))


@pytest.mark.parametrize("name", sorted(PROMPTS))
@pytest.mark.parametrize("story", CONVERSATIONS)
def test_the_prompt_of_a_shipped_template(name: str, story: str, folders: Path) -> None:
    adapter = adapter_of(folders, name)
    messages, tools = CONVERSATIONS[story]
    prompt = adapter.prompt(messages, tools, {"current_date": TODAY})
    assert text_of(adapter, prompt) == PROMPTS[name][story]
    assert not prompt.inside_reasoning and prompt.opening == ()
    for piece in SPELLINGS.get(name, ()):
        assert prompt.tokens.count(adapter.tokenizer.token_id(piece)) == PROMPTS[name][story].count(piece)


@pytest.mark.parametrize("build", [byte_level_folder, marked_folder])
def test_the_first_token_comes_once(build: Any, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(build(tmp_path))
    for template in ("mistral", "llama3", "generic", "codellama"):
        adapter = choose_adapter(tokenizer, {"model_type": "llama"}, chat_template=template)
        assert adapter.prompt(PLAIN, None, {}).tokens.count(tokenizer.token_id("<s>")) == 1


R1 = dialects.TEXT_ARGUMENTS
QUOTED = [said("user", "What does <think> mean?")]


@pytest.mark.parametrize(
    ("template", "messages", "kwargs", "inside"),
    [
        (R1, PLAIN, {}, True),
        (R1, PLAIN, {"add_generation_prompt": False}, False),
        ("deepseek", PLAIN, {"enable_thinking": True}, True),
        ("deepseek", PLAIN, {"enable_thinking": False}, False),
        ("deepseek", PLAIN, {}, False),
        ("qwen", QUOTED, {}, False),
        ("qwen", QUOTED, {"enable_thinking": False}, False),
        ("llama3", [said("user", "<think>")], {}, False),
    ],
)
def test_whether_thoughts_are_open(
    template: str, messages: list[Any], kwargs: dict[str, Any], inside: bool, folders: Path
) -> None:
    adapter = adapter_of(folders, template, SPELLINGS["deepseek"] if template == R1 else (), reasoning_parser="think")
    assert adapter.prompt(messages, None, kwargs).inside_reasoning == inside


@pytest.mark.parametrize(
    ("template", "kwargs", "end"),
    [
        (R1, {}, "<｜Assistant｜><think>\n\n</think>\n\n"),
        ("qwen", {}, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("qwen", {"enable_thinking": True}, "<|im_start|>assistant\n"),
        ("llama3", {}, "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("harmony", {}, "<|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_an_answer_under_a_grammar_begins_without_thoughts(
    template: str, kwargs: dict[str, Any], end: str, folders: Path
) -> None:
    adapter = adapter_of(folders, template, SPELLINGS["deepseek"] if template == R1 else (), reasoning_parser="think")
    prompt = adapter.prompt(PLAIN, None, kwargs, constrained=True)
    assert text_of(adapter, prompt).endswith(end)
    assert not prompt.inside_reasoning


@pytest.mark.parametrize("name", ["hermes-like", *SPELLINGS])
@pytest.mark.parametrize("function", ["next_bus", None])
def test_a_forced_call_goes_on_from_its_opening(name: str, function: str | None, folders: Path) -> None:
    adapter = adapter_of(folders, "generic" if name == "hermes-like" else name)
    forced = adapter.force([BUS], function)
    prompt = adapter.prompt(ASKED, [BUS], {"current_date": TODAY}, forced.opening)
    shown = text_of(adapter, prompt)
    assert shown.endswith(forced.opening)
    assert shown.startswith(PROMPTS["generic" if name == "hermes-like" else name]["tools"])
    assert not prompt.inside_reasoning


def test_a_forced_call_of_a_model_that_would_think_first(folders: Path) -> None:
    adapter = adapter_of(folders, R1, SPELLINGS["deepseek"], reasoning_parser="think")
    forced = adapter.force([BUS], "next_bus")
    shown = text_of(adapter, adapter.prompt(ASKED, [BUS], {}, forced.opening))
    assert shown.endswith(f"<think>\n\n</think>\n\n{forced.opening}")


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "raise_exception"])
def test_names_that_a_request_may_not_give(name: str, folders: Path) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        adapter_of(folders, "chatml").prompt(PLAIN, None, {name: 1})
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([said("assistant", "I begin.")], "Roles must alternate"),
        ([said("user", "\ud800")], "lone surrogate"),
        ([said("user", [{"type": "image_url"}])], "reads text only"),
    ],
)
def test_what_cannot_be_said_to_a_model_is_an_error_about_the_messages(
    messages: list[Any], words: str, folders: Path
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        adapter_of(folders, dialects.STRICT, SPELLINGS["gemma"]).prompt(messages, None, {})
    assert caught.value.param == "messages"


def answer(
    adapter: Adapter, text: str, tools: Any = None, messages: Any = PLAIN, **given: Any
) -> tuple[str, str, list[tuple[str, Any]]]:
    """Content, reasoning and calls that the adapter reads in `text`, token by token."""
    prompt = adapter.prompt(messages, tools, {}, **given)
    parser = adapter.parser(prompt, tools)
    tokenizer = adapter.tokenizer
    ids = tokenizer.encode(text, special=False)
    stop = ids.pop() if ids and ids[-1] in adapter.stop_tokens else None
    stream = tokenizer.detokenizer()
    pieces = [piece for token in ids for piece in parser.push(token, stream.push(token))]
    pieces += parser.finish(stop, stream.finish())
    calls: dict[int, list[str]] = {}
    for piece in pieces:
        if isinstance(piece, ToolCall):
            call = calls.setdefault(piece.index, [piece.name or "", ""])
            call[1] += piece.arguments
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    return content, thought, [(name, json.loads(arguments)) for name, arguments in calls.values()]


ELM = [("next_bus", {"stop": "Elm"})]
CALL = '{"name": "next_bus", "arguments": {"stop": "Elm"}}'
ANSWERS = [
    ("chatml", "Hi <b>you</b>.<|im_end|>", "Hi <b>you</b>.", "", []),
    ("qwen", f"<think>\nLook.\n</think>\n\n<tool_call>\n{CALL}\n</tool_call><|im_end|>", "", "Look.", ELM),
    ("generic", f"<tool_call>{CALL}</tool_call>", "", "", ELM),
    ("mistral", f"[TOOL_CALLS][{CALL}]", "", "", ELM),
    ("llama3", '{"name": "next_bus", "parameters": {"stop": "Elm"}}<|eot_id|>', "", "", ELM),
    ("gemma", '{"name": "next_bus", "parameters": {"stop": "Elm"}}<end_of_turn>', "", "", ELM),
    ("phi4_mini", f"<|tool_call|>[{CALL}]<|/tool_call|>", "", "", ELM),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>next_bus\n```json\n"
        '{"stop": "Elm"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>',
        "",
        "",
        ELM,
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary to=functions.next_bus "
        '<|constrain|>json<|message|>{"stop": "Elm"}<|call|>',
        "",
        "Look.",
        ELM,
    ),
]


@pytest.mark.parametrize(("name", "text", "content", "thought", "calls"), ANSWERS, ids=[one[0] for one in ANSWERS])
def test_what_a_family_writes_is_read(
    name: str, text: str, content: str, thought: str, calls: list[Any], folders: Path
) -> None:
    told = answer(adapter_of(folders, name), text, [BUS], ASKED)
    assert (told[0].strip(), told[1].strip(), told[2]) == (content, thought, calls)


def test_a_call_that_the_template_shows_is_the_call_that_the_parser_reads(folders: Path) -> None:
    """The prompt of a conversation holds the call exactly as the model has to write it."""
    for name, _, _, _, calls in ANSWERS[1:]:
        adapter = adapter_of(folders, name)
        before = text_of(adapter, adapter.prompt(ASKED, [BUS], {"current_date": TODAY}))
        after = text_of(
            adapter, adapter.prompt(RESULT[:-1], [BUS], {"current_date": TODAY, "add_generation_prompt": False})
        )
        assert after.startswith(before), name
        assert answer(adapter, after[len(before) :].removesuffix("\n"), [BUS], ASKED)[2] == calls, name


def test_without_tools_a_call_is_text(folders: Path) -> None:
    text = f"<tool_call>\n{CALL}\n</tool_call>"
    assert answer(adapter_of(folders, "chatml"), text) == (text, "", [])


def test_thoughts_that_the_prompt_opened(folders: Path) -> None:
    adapter = adapter_of(folders, R1, SPELLINGS["deepseek"], reasoning_parser="think")
    content, thought, _ = answer(adapter, "A greeting.\n</think>\n\nHello.")
    assert (content.strip(), thought.strip()) == ("Hello.", "A greeting.")


def test_harmony_under_a_grammar_answers_at_once(folders: Path) -> None:
    adapter = adapter_of(folders, "harmony")
    assert answer(adapter, '{"a": 1}', constrained=True) == ('{"a": 1}', "", [])


def test_harmony_is_read_with_and_without_tools(folders: Path) -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>"
    for tools in (None, [BUS]):
        assert answer(adapter_of(folders, "harmony"), text, tools) == ("Hi.", "Hm.", [])


def test_parsers_of_two_choices_are_apart(folders: Path) -> None:
    adapter = adapter_of(folders, "qwen")
    prompt = adapter.prompt(PLAIN, [BUS], {})
    assert adapter.parser(prompt, [BUS]) is not adapter.parser(prompt, [BUS])
    for _ in range(2):
        assert answer(adapter, "<think>a</think>b", [BUS])[:2] == ("b", "a")


def test_template_text_and_shipped_name_are_one(folders: Path) -> None:
    named, given = adapter_of(folders, "llama3"), adapter_of(folders, template_text("llama3"), SPELLINGS["llama3"])
    assert text_of(named, named.prompt(RESULT, [BUS], {})) == text_of(given, given.prompt(RESULT, [BUS], {}))
