"""Conversations, and the exact prompt that each shipped chat template makes of them."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlxctl.assets import asset
from mlxctl.control.template import check_template

NAMES = (
    "chatml",
    "codellama",
    "deepseek",
    "gemma",
    "generic",
    "harmony",
    "llama3",
    "mistral",
    "phi4",
    "phi4_mini",
    "qwen",
)
TODAY = "2026-02-03"

BUS = {
    "type": "function",
    "function": {
        "name": "next_bus",
        "description": "When the next bus leaves.",
        "parameters": {
            "type": "object",
            "properties": {
                "stop": {"type": "string", "description": "Name of the stop"},
                "line": {"type": "integer", "default": 7},
            },
            "required": ["stop"],
        },
    },
}
BUS_JSON = json.dumps(BUS)


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def called(arguments: Any, call_id: str = "call00001") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "next_bus", "arguments": arguments}}


PLAIN = [said("user", "Hi.")]
SYSTEM = [said("system", "Be brief."), said("user", "Hi.")]
TURNS = [said("user", "Hi."), said("assistant", "Hello.", reasoning_content="A greeting."), said("user", "Bye.")]
ASKED = [said("system", "Be brief."), said("user", "Bus at Elm?")]
CALL = said("assistant", None, reasoning_content="Look it up.", tool_calls=[called({"stop": "Elm"})])
RESULT = [*ASKED, CALL, said("tool", '{"at": "10:15"}', tool_call_id="call00001")]


def environment(trim: bool) -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up (`trim`), or as it comes: a template must not depend on which."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=trim, lstrip_blocks=trim, extensions=["jinja2.ext.loopcontrols"], keep_trailing_newline=not trim
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    made.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    made.globals["raise_exception"] = refuse
    return made


def render(name: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, **given: Any) -> str:
    text = check_template(asset("templates") / f"{name}.jinja")
    variables = {"add_generation_prompt": True, "current_date": TODAY, **given}
    prompts = {
        environment(trim).from_string(text).render(messages=messages, tools=tools, **variables)
        for trim in (True, False)
    }
    assert len(prompts) == 1
    return prompts.pop()


HARMONY_HEAD = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    f"Current date: {TODAY}\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
HARMONY_TOOLS = f"""{HARMONY_HEAD}
Calls to these tools must go to the commentary channel: 'functions'.<|end|><|start|>developer<|message|># Instructions

Be brief.

# Tools

## functions

namespace functions {{

// When the next bus leaves.
type next_bus = (_: {{
// Name of the stop
stop: string,
line?: number, // default: 7
}}) => any;

}} // namespace functions<|end|><|start|>user<|message|>Bus at Elm?<|end|>"""

CHATML_TOOLS = f"""<|im_start|>system
Be brief.

# Tools

You can call functions. Each is described by one line of JSON:
<tools>
{BUS_JSON}
</tools>

To call one, write its name and its arguments as JSON, in these tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call><|im_end|>
<|im_start|>user
Bus at Elm?<|im_end|>
"""

TOOLS_IN_TAGS = CHATML_TOOLS.removeprefix("<|im_start|>system\nBe brief.\n\n").split("<|im_end|>")[0]

QWEN_TOOLS = f"""<|im_start|>system
Be brief.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{BUS_JSON}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call><|im_end|>
<|im_start|>user
Bus at Elm?<|im_end|>
"""

PHI_TOOLS = (
    f"<|im_start|>system<|im_sep|>Be brief.\n\n{TOOLS_IN_TAGS}<|im_end|><|im_start|>user<|im_sep|>Bus at Elm?<|im_end|>"
)

PHI_MINI_TOOLS = f"<|system|>Be brief.<|tool|>[{json.dumps(BUS['function'])}]<|/tool|><|end|><|user|>Bus at Elm?<|end|>"

CODELLAMA_TOOLS = f"<s>[INST] <<SYS>>\nBe brief.\n\n{TOOLS_IN_TAGS}\n<</SYS>>\n\nBus at Elm? [/INST]"

DEEPSEEK_TOOLS = (
    "<｜begin▁of▁sentence｜>Be brief.\n\n## Tools\n\nYou can call functions. Each is described by one line of JSON:\n\n"
    f"{BUS_JSON}\n\nTo call one, write exactly this:\n"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>function-name\n```json\n"
    "args-json-object\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜User｜>Bus at Elm?"
)

LLAMA_TOOLS = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n\n"
    "You can call functions. To call one, answer with nothing but JSON of this form:\n"
    '{"name": <function name>, "parameters": <object of argument names and values>}\n\nThe functions:\n\n'
    f"{json.dumps(BUS, indent=4)}\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBus at Elm?<|eot_id|>"
)

MISTRAL_TOOLS = (
    "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT]"
    f"[AVAILABLE_TOOLS][{BUS_JSON}][/AVAILABLE_TOOLS][INST]Bus at Elm?[/INST]"
)

GEMMA_TOOLS = (
    "<bos><start_of_turn>user\nBe brief.\n\n"
    "You can call functions. To call one, answer with nothing but JSON of this form:\n"
    '{"name": <function name>, "parameters": <object of argument names and values>}\n\n'
    f"The functions:\n{BUS_JSON}\n\nBus at Elm?<end_of_turn>\n"
)

GENERIC_TOOLS = (
    "System: You can call functions. To call one, write "
    '<tool_call>{"name": <function name>, "arguments": <object>}</tool_call>. The functions:\n'
    f"{BUS_JSON}\n\nSystem: Be brief.\n\nUser: Bus at Elm?\n\n"
)

PROMPTS: dict[str, dict[str, str]] = {
    "harmony": {
        "plain": f"{HARMONY_HEAD}<|end|><|start|>user<|message|>Hi.<|end|><|start|>assistant",
        "system": (
            f"{HARMONY_HEAD}<|end|><|start|>developer<|message|># Instructions\n\nBe brief.<|end|>"
            "<|start|>user<|message|>Hi.<|end|><|start|>assistant"
        ),
        "turns": (
            f"{HARMONY_HEAD}<|end|><|start|>user<|message|>Hi.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Hello.<|end|>"
            "<|start|>user<|message|>Bye.<|end|><|start|>assistant"
        ),
        "tools": f"{HARMONY_TOOLS}<|start|>assistant",
        "result": (
            f"{HARMONY_TOOLS}<|start|>assistant<|channel|>analysis<|message|>Look it up.<|end|>"
            "<|start|>assistant<|channel|>commentary to=functions.next_bus <|constrain|>json<|message|>"
            '{"stop": "Elm"}<|call|>'
            '<|start|>functions.next_bus to=assistant<|channel|>commentary<|message|>{"at": "10:15"}<|end|>'
            "<|start|>assistant"
        ),
    },
    "chatml": {
        "plain": "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n",
        "system": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n",
        "turns": (
            "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
            "<|im_start|>user\nBye.<|im_end|>\n<|im_start|>assistant\n"
        ),
        "tools": f"{CHATML_TOOLS}<|im_start|>assistant\n",
        "result": (
            f"{CHATML_TOOLS}<|im_start|>assistant\n<think>\nLook it up.\n</think>\n\n"
            '<tool_call>\n{"name": "next_bus", "arguments": {"stop": "Elm"}}\n</tool_call><|im_end|>\n'
            '<|im_start|>user\n<tool_response>\n{"at": "10:15"}\n</tool_response><|im_end|>\n<|im_start|>assistant\n'
        ),
    },
    "qwen": {
        "plain": "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n",
        "system": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n",
        "turns": (
            "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
            "<|im_start|>user\nBye.<|im_end|>\n<|im_start|>assistant\n"
        ),
        "tools": f"{QWEN_TOOLS}<|im_start|>assistant\n",
        "result": (
            f"{QWEN_TOOLS}<|im_start|>assistant\n<think>\nLook it up.\n</think>\n\n"
            '<tool_call>\n{"name": "next_bus", "arguments": {"stop": "Elm"}}\n</tool_call><|im_end|>\n'
            '<|im_start|>user\n<tool_response>\n{"at": "10:15"}\n</tool_response><|im_end|>\n<|im_start|>assistant\n'
        ),
    },
    "phi4": {
        "plain": "<|im_start|>user<|im_sep|>Hi.<|im_end|><|im_start|>assistant<|im_sep|>",
        "system": (
            "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi.<|im_end|>"
            "<|im_start|>assistant<|im_sep|>"
        ),
        "turns": (
            "<|im_start|>user<|im_sep|>Hi.<|im_end|><|im_start|>assistant<|im_sep|>Hello.<|im_end|>"
            "<|im_start|>user<|im_sep|>Bye.<|im_end|><|im_start|>assistant<|im_sep|>"
        ),
        "tools": f"{PHI_TOOLS}<|im_start|>assistant<|im_sep|>",
        "result": (
            f"{PHI_TOOLS}<|im_start|>assistant<|im_sep|>"
            '<tool_call>\n{"name": "next_bus", "arguments": {"stop": "Elm"}}\n</tool_call><|im_end|>'
            '<|im_start|>user<|im_sep|><tool_response>\n{"at": "10:15"}\n</tool_response><|im_end|>'
            "<|im_start|>assistant<|im_sep|>"
        ),
    },
    "phi4_mini": {
        "plain": "<|user|>Hi.<|end|><|assistant|>",
        "system": "<|system|>Be brief.<|end|><|user|>Hi.<|end|><|assistant|>",
        "turns": "<|user|>Hi.<|end|><|assistant|>Hello.<|end|><|user|>Bye.<|end|><|assistant|>",
        "tools": f"{PHI_MINI_TOOLS}<|assistant|>",
        "result": (
            PHI_MINI_TOOLS
            + '<|assistant|><|tool_call|>[{"name": "next_bus", "arguments": {"stop": "Elm"}}]<|/tool_call|><|end|>'
            '<|tool|>{"at": "10:15"}<|end|><|assistant|>'
        ),
    },
    "codellama": {
        "plain": "<s>[INST] Hi. [/INST]",
        "system": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi. [/INST]",
        "turns": "<s>[INST] Hi. [/INST] Hello. </s><s>[INST] Bye. [/INST]",
        "tools": CODELLAMA_TOOLS,
        "result": (
            f"{CODELLAMA_TOOLS} "
            '<tool_call>\n{"name": "next_bus", "arguments": {"stop": "Elm"}}\n</tool_call> </s>'
            '<s>[INST] <tool_response>\n{"at": "10:15"}\n</tool_response> [/INST]'
        ),
    },
    "deepseek": {
        "plain": "<｜begin▁of▁sentence｜><｜User｜>Hi.<｜Assistant｜>",
        "system": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi.<｜Assistant｜>",
        "turns": (
            "<｜begin▁of▁sentence｜><｜User｜>Hi.<｜Assistant｜>Hello.<｜end▁of▁sentence｜><｜User｜>Bye.<｜Assistant｜>"
        ),
        "tools": f"{DEEPSEEK_TOOLS}<｜Assistant｜>",
        "result": (
            f"{DEEPSEEK_TOOLS}<｜Assistant｜>"
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>next_bus\n```json\n"
            '{"stop": "Elm"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
            '<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>{"at": "10:15"}<｜tool▁output▁end｜><｜tool▁outputs▁end｜>'
        ),
    },
    "llama3": {
        "plain": (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        "system": (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        "turns": (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nBye.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        "tools": f"{LLAMA_TOOLS}<|start_header_id|>assistant<|end_header_id|>\n\n",
        "result": (
            f"{LLAMA_TOOLS}<|start_header_id|>assistant<|end_header_id|>\n\n"
            '{"name": "next_bus", "parameters": {"stop": "Elm"}}<|eot_id|>'
            '<|start_header_id|>ipython<|end_header_id|>\n\n{"at": "10:15"}<|eot_id|>'
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
    },
    "mistral": {
        "plain": "<s>[INST]Hi.[/INST]",
        "system": "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hi.[/INST]",
        "turns": "<s>[INST]Hi.[/INST]Hello.</s>[INST]Bye.[/INST]",
        "tools": MISTRAL_TOOLS,
        "result": (
            MISTRAL_TOOLS + '[TOOL_CALLS][{"name": "next_bus", "arguments": {"stop": "Elm"}, "id": "call00001"}]</s>'
            '[TOOL_RESULTS]call00001[TOOL_CONTENT]{"at": "10:15"}[/TOOL_RESULTS]'
        ),
    },
    "gemma": {
        "plain": "<bos><start_of_turn>user\nHi.<end_of_turn>\n<start_of_turn>model\n",
        "system": "<bos><start_of_turn>user\nBe brief.\n\nHi.<end_of_turn>\n<start_of_turn>model\n",
        "turns": (
            "<bos><start_of_turn>user\nHi.<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
            "<start_of_turn>user\nBye.<end_of_turn>\n<start_of_turn>model\n"
        ),
        "tools": f"{GEMMA_TOOLS}<start_of_turn>model\n",
        "result": (
            f"{GEMMA_TOOLS}<start_of_turn>model\n"
            '{"name": "next_bus", "parameters": {"stop": "Elm"}}<end_of_turn>\n'
            '<start_of_turn>user\nResult of the call:\n{"at": "10:15"}<end_of_turn>\n<start_of_turn>model\n'
        ),
    },
    "generic": {
        "plain": "User: Hi.\n\nAssistant:",
        "system": "System: Be brief.\n\nUser: Hi.\n\nAssistant:",
        "turns": "User: Hi.\n\nAssistant: Hello.\n\nUser: Bye.\n\nAssistant:",
        "tools": f"{GENERIC_TOOLS}Assistant:",
        "result": (
            GENERIC_TOOLS + 'Assistant: <tool_call>{"name": "next_bus", "arguments": {"stop": "Elm"}}</tool_call>\n\n'
            'Result: {"at": "10:15"}\n\nAssistant:'
        ),
    },
}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "plain": (PLAIN, None),
    "system": (SYSTEM, None),
    "turns": (TURNS, None),
    "tools": (ASKED, [BUS]),
    "result": (RESULT, [BUS]),
}
