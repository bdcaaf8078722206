"""Byte-level tokenizers of some three hundred tokens, with the special tokens and the chat template of a family."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MERGES = (
    *("t h", "th e", "Ġ th", "Ġth e", "i n", "a n", "e r", "o n", "r e", "Ġ a", "e n", "o r", "Ġ w", "i s", "a t"),
    *("Ġ s", "i t", "o u", "e s", "n d", "Ġ o", "Ġ t", "in g", "an d", "Ġ b", "Ġ f", "Ġ m", "h e", "l l", "Ġo f"),
    *("Ġt o", "c h", "Ġ i", "Ġ c", "Ġ p", "Ġ d", "Ġ h", "Ġ l", "e d", "s t"),
)
"""Ġ is how byte-level vocabularies write a blank."""


@dataclass(frozen=True, slots=True)
class Family:
    """`special` tokens are left out of decoded text, `added` ones stay in it. `stops`: what may end an answer."""

    special: tuple[str, ...]
    bos: str
    eos: str
    stops: tuple[str, ...]
    template: str
    added: tuple[str, ...] = ()
    pad: str = ""


LLAMA = Family(
    special=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ),
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    template=(
        "{{ bos_token }}"
        "{%- if tools %}<|start_header_id|>system<|end_header_id|>\n\nTools: {{ tools | tojson }}<|eot_id|>{% endif -%}"
        "{%- for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor -%}"
        "{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif -%}"
    ),
)
GPT_OSS = Family(
    special=(
        "<|startoftext|>",
        "<|endoftext|>",
        "<|return|>",
        "<|constrain|>",
        "<|channel|>",
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|call|>",
    ),
    bos="<|startoftext|>",
    eos="<|return|>",
    stops=("<|return|>", "<|endoftext|>", "<|call|>"),
    pad="<|endoftext|>",
    template=(
        "<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}\n\n"
        "# Valid channels: analysis, commentary, final.<|end|>"
        "{%- if tools %}<|start|>developer<|message|># Tools\n\n{{ tools | tojson }}<|end|>{% endif -%}"
        "{%- for m in messages -%}"
        "{%- if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
        "{%- else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt %}<|start|>assistant{% endif -%}"
    ),
)
GEMMA3 = Family(
    special=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    bos="<bos>",
    eos="<eos>",
    stops=("<eos>", "<end_of_turn>"),
    pad="<pad>",
    template=(
        "{{ bos_token }}"
        "{%- for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor -%}"
        "{%- if add_generation_prompt %}<start_of_turn>model\n{% endif -%}"
    ),
)
QWEN = Family(
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    added=("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
    bos="<|endoftext|>",
    eos="<|im_end|>",
    stops=("<|im_end|>", "<|endoftext|>"),
    pad="<|endoftext|>",
    template=(
        "{%- if tools %}<|im_start|>system\n# Tools\n<tools>\n"
        "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>\n"
        'Answer a call as <tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call><|im_end|>\n{% endif -%}'
        "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor -%}"
        "{%- if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
        "{%- endif -%}"
    ),
)
FAMILIES: dict[str, Family] = {"llama": LLAMA, "gpt_oss": GPT_OSS, "gemma3": GEMMA3, "qwen3_next": QWEN}


def write_tokenizer(family: Family, folder: Path) -> dict[str, int]:
    """Write tokenizer.json and tokenizer_config.json; returns every token's id, without a hole from 0 up."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.added])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": family.bos,
        "eos_token": family.eos,
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "chat_template": family.template,
        **({"pad_token": family.pad} if family.pad else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return dict(tokenizer.get_vocab(with_added_tokens=True))
