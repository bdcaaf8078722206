"""The chat templates that mlxctl ships: conversations in, exact prompts out, as the engines render them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxctl.assets import asset
from mlxctl.control.template import check_template, template_names
from tests.contract.prompts import (
    ASKED,
    BUS,
    CONVERSATIONS,
    NAMES,
    PLAIN,
    PROMPTS,
    RESULT,
    TODAY,
    TURNS,
    called,
    render,
    said,
)


def test_the_shipped_names_are_these() -> None:
    assert tuple(template_names()) == NAMES == tuple(sorted(PROMPTS))


def test_the_readme_beside_them_names_each() -> None:
    told = (asset("templates") / "README.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in told] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("story", CONVERSATIONS)
def test_prompt(name: str, story: str) -> None:
    messages, tools = CONVERSATIONS[story]
    assert render(name, messages, tools) == PROMPTS[name][story]


ENDS = ("Hello.", "<|end|>", "<|im_end|>", "<|eot_id|>", "</s>", "<end_of_turn>", "<｜end▁of▁sentence｜>")


@pytest.mark.parametrize("name", NAMES)
def test_without_a_generation_prompt_the_conversation_just_ends(name: str) -> None:
    shown = render(name, TURNS[:2], add_generation_prompt=False)
    whole = render(name, TURNS[:2])
    assert whole.startswith(shown)
    assert shown.rstrip().endswith(ENDS)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_may_be_text_as_the_api_sends_them(name: str) -> None:
    call = said("assistant", None, reasoning_content="Look it up.", tool_calls=[called('{"stop": "Elm"}')])
    assert render(name, [*ASKED, call, RESULT[-1]], [BUS]) == PROMPTS[name]["result"]


@pytest.mark.parametrize("name", NAMES)
def test_content_may_come_in_parts_and_instructions_from_the_developer(name: str) -> None:
    parts = [{"type": "text", "text": "Bus at "}, {"type": "text", "text": "Elm?"}]
    assert render(name, [said("developer", "Be brief."), said("user", parts)], [BUS]) == PROMPTS[name]["tools"]


@pytest.mark.parametrize("name", NAMES)
def test_text_beyond_ascii_and_markup_is_not_escaped(name: str) -> None:
    assert "Grüße, <b>'Zoë'</b> & 日本" in render(name, [said("user", "Grüße, <b>'Zoë'</b> & 日本")])


@pytest.mark.parametrize("name", ["chatml", "qwen"])
@pytest.mark.parametrize(("thinking", "end"), [(False, "assistant\n<think>\n\n</think>\n\n"), (True, "assistant\n")])
def test_the_thinking_can_be_ended_before_it_begins(name: str, thinking: bool, end: str) -> None:
    assert render(name, PLAIN, enable_thinking=thinking) == f"<|im_start|>user\nHi.<|im_end|>\n<|im_start|>{end}"


@pytest.mark.parametrize(
    ("thinking", "end"), [(True, "<think>\n"), (False, "<think>\n\n</think>\n\n"), (None, ""), ("", "")]
)
def test_deepseek_opens_or_ends_the_thinking_when_told_to(thinking: bool | str | None, end: str) -> None:
    told = render("deepseek", PLAIN, enable_thinking=thinking)
    assert told == f"<｜begin▁of▁sentence｜><｜User｜>Hi.<｜Assistant｜>{end}"


@pytest.mark.parametrize(("name", "before"), [("qwen", "<|im_start|>assistant\n"), ("deepseek", "<｜Assistant｜>")])
def test_thoughts_within_an_earlier_answer_are_left_out(name: str, before: str) -> None:
    told = render(name, [*PLAIN, said("assistant", "<think>A greeting.</think>\n\nHello."), said("user", "Bye.")])
    assert f"{before}Hello.<" in told
    assert "greeting" not in told


def test_deepseek_puts_results_that_follow_each_other_in_one_block_and_answers_behind_it() -> None:
    calls = said("assistant", "", tool_calls=[called({}, "a"), called({}, "b")])
    told = render("deepseek", [*PLAIN, calls, said("tool", "1"), said("tool", "2"), said("assistant", "Both.")], [BUS])
    call = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>next_bus\n```json\n{}\n```<｜tool▁call▁end｜>"
    assert told.endswith(
        f"<｜User｜>Hi.<｜Assistant｜><｜tool▁calls▁begin｜>{call}\n{call}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>1<｜tool▁output▁end｜>"
        "<｜tool▁output▁begin｜>2<｜tool▁output▁end｜><｜tool▁outputs▁end｜>Both.<｜end▁of▁sentence｜><｜Assistant｜>"
    )


def test_codellama_begins_each_question_anew_and_says_the_system_once() -> None:
    told = render("codellama", [said("system", "Be brief."), *TURNS])
    assert told == ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi. [/INST] Hello. </s><s>[INST] Bye. [/INST]")


def test_phi_mini_has_several_calls_in_one_list() -> None:
    calls = said("assistant", "Two.", tool_calls=[called({}, "a"), called({}, "b")])
    assert render("phi4_mini", [*PLAIN, calls], [BUS, BUS]).endswith(
        '<|assistant|>Two.<|tool_call|>[{"name": "next_bus", "arguments": {}}, '
        '{"name": "next_bus", "arguments": {}}]<|/tool_call|><|end|><|assistant|>'
    )


@pytest.mark.parametrize("name", ["chatml", "qwen"])
def test_chatml_results_that_follow_each_other_share_a_turn(name: str) -> None:
    calls = said("assistant", "Two.", tool_calls=[called({"stop": "Elm"}, "a"), called({"stop": "Oak"}, "b")])
    told = render(name, [*PLAIN, calls, said("tool", "1"), said("tool", "2")], [BUS])
    assert told.endswith(
        '<|im_start|>assistant\nTwo.\n<tool_call>\n{"name": "next_bus", "arguments": {"stop": "Elm"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "next_bus", "arguments": {"stop": "Oak"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_mistral_shows_tools_before_the_last_question_only_and_several_calls_in_one_list() -> None:
    calls = said("assistant", "", tool_calls=[called({}, "a"), called({}, "b")])
    told = render("mistral", [*TURNS, calls], [BUS])
    assert told.startswith("<s>[INST]Hi.[/INST]Hello.</s>[AVAILABLE_TOOLS][")
    assert told.count("[AVAILABLE_TOOLS]") == told.count("[TOOL_CALLS]") == 1
    assert told.endswith(
        '[TOOL_CALLS][{"name": "next_bus", "arguments": {}, "id": "a"}, '
        '{"name": "next_bus", "arguments": {}, "id": "b"}]</s>'
    )


def test_llama_shows_the_date_that_it_is_given() -> None:
    told = render("llama3", PLAIN, date_string="26 Jul 2024")
    assert told.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    )


@pytest.mark.parametrize(("name", "token"), [("llama3", "bos_token"), ("mistral", "bos_token"), ("gemma", "bos_token")])
def test_the_tokenizers_own_first_token_is_used_once(name: str, token: str) -> None:
    told = render(name, PLAIN, **{token: "<first>"})
    assert told.startswith("<first>") and told.count("<first>") == 1


PARSERS = {
    **dict.fromkeys(("chatml", "codellama", "generic", "phi4", "qwen"), "json_tools"),
    "mistral": "mistral",
}


@pytest.mark.parametrize("name", NAMES)
def test_mlx_lm_finds_the_tool_parser_of_a_template(name: str) -> None:
    """`mlx_lm.server` has no flag for a parser: it looks for words in the template, so these must stay in them."""
    from mlx_lm.tokenizer_utils import _infer_tool_parser

    class Tokenizer:
        chat_template = check_template(asset("templates") / f"{name}.jinja")

        def get_vocab(self) -> dict[str, int]:
            return {}

    assert _infer_tool_parser(Tokenizer()) == PARSERS.get(name)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_renders_the_same(name: str) -> None:
    """The engines render through transformers, whose sandbox is not ours."""
    from transformers.utils.chat_template_utils import render_jinja_template

    text = check_template(asset("templates") / f"{name}.jinja")
    for story, (messages, tools) in CONVERSATIONS.items():
        shown, _ = render_jinja_template(
            [messages], tools=tools, chat_template=text, add_generation_prompt=True, current_date=TODAY
        )
        assert shown == [PROMPTS[name][story]]


def test_the_wheel_and_the_checkout_find_the_same_folder() -> None:
    assert asset("templates") == Path(__file__).parents[2] / "templates"
