"""The families of chat models: by which marks each is known, which shipped template is its own, what ends a turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """`marks`: of these sets of words, one stands whole in its templates. `tokens`: its vocabulary has all of these.

    `types`: beginnings of its `model_type`. `ends`: tokens that end a turn, where the vocabulary has them.
    """

    name: str
    template: str
    tool_parser: str
    ends: tuple[str, ...]
    marks: tuple[tuple[str, ...], ...] = ()
    tokens: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


FAMILIES = (
    Family(
        "harmony",
        "harmony",
        "harmony",
        ("<|return|>", "<|call|>"),
        (("<|channel|>", "<|start|>"),),
        ("<|start|>", "<|channel|>", "<|message|>", "<|call|>"),
        ("gpt_oss",),
    ),
    Family(
        "deepseek",
        "deepseek",
        "deepseek",
        ("<｜end▁of▁sentence｜>",),
        (("<｜Assistant｜>",), ("<｜tool▁calls▁begin｜>",)),
        ("<｜User｜>", "<｜Assistant｜>"),
        ("deepseek",),
    ),
    Family(
        "llama3",
        "llama3",
        "llama3",
        ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
        (("<|start_header_id|>",),),
        ("<|start_header_id|>", "<|eot_id|>"),
    ),
    Family(
        "phi4",
        "phi4",
        "hermes",
        ("<|im_end|>", "<|endoftext|>"),
        (("<|im_sep|>",),),
        ("<|im_start|>", "<|im_sep|>"),
    ),
    Family(
        "phi4_mini",
        "phi4_mini",
        "phi4",
        ("<|end|>", "<|endoftext|>"),
        (("<|end|>", "<|assistant|>"),),
        ("<|user|>", "<|assistant|>", "<|end|>"),
        ("phi3", "phimoe", "phi4"),
    ),
    Family(
        "gemma",
        "gemma",
        "gemma",
        ("<end_of_turn>", "<eos>"),
        (("<start_of_turn>",),),
        ("<start_of_turn>", "<end_of_turn>"),
        ("gemma",),
    ),
    Family("codellama", "codellama", "hermes", ("</s>",), (("[INST]", "<<SYS>>"),), ("▁<PRE>", "▁<MID>")),
    Family(
        "mistral",
        "mistral",
        "mistral",
        ("</s>",),
        (("[INST]",),),
        ("[INST]", "[/INST]"),
        ("mistral", "mixtral", "ministral", "devstral", "pixtral"),
    ),
    Family("qwen", "qwen", "qwen", ("<|im_end|>", "<|endoftext|>"), (), (), ("qwen",)),
    Family(
        "chatml",
        "chatml",
        "hermes",
        ("<|im_end|>", "<|endoftext|>"),
        (("<|im_start|>",),),
        ("<|im_start|>", "<|im_end|>"),
    ),
)
GENERIC = Family("generic", "generic", "hermes", ())
"""A model without any sign of a format: plain text."""
CHATML_TYPES = {"qwen": "qwen"}
"""ChatML is spoken by many families; by its `model_type` one is known for more than its tags."""

REASONING_MARKS = (
    ("</longcat_think>", "longcat"),
    ("<|think:end|>", "think_colon"),
    ("<channel|>", "gemma4"),
    ("[/THINK]", "magistral"),
    ("</think>", "think"),
    ("<think>", "think"),
)
"""What stands in a template, and the name of the tags around its thoughts; the first that is found counts."""


def family_of_template(text: str, model_type: str) -> Family:
    """Whose template this is."""
    found = next((one for one in FAMILIES if any(all(word in text for word in words) for words in one.marks)), GENERIC)
    return _chatml_of(found, model_type)


def family_of_model(model_type: str, has_token: Callable[[str], bool]) -> Family:
    """The family of a model that brings no template. Its vocabulary tells more than its architecture."""
    by_tokens = (one for one in FAMILIES if one.tokens and all(has_token(token) for token in one.tokens))
    by_type = (one for one in FAMILIES if one.types and model_type.startswith(one.types))
    return _chatml_of(next(by_tokens, None) or next(by_type, GENERIC), model_type)


def _chatml_of(family: Family, model_type: str) -> Family:
    if family.name != "chatml":
        return family
    name = next((name for start, name in CHATML_TYPES.items() if model_type.startswith(start)), family.name)
    return next(one for one in FAMILIES if one.name == name)
