"""Small templates with the manners of real ones: what each refuses, leaves out, or wants in another form."""

from __future__ import annotations

from typing import Any

from mlxctl.worker.adapters.takes import Takes, Tools
from mlxctl.worker.chat_template import ChatTemplate

ANY_ROLE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's: knows no tools, and shows the words of any role."""

STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma's first: no system, strict turns."""

SHORT_IDS = (
    "{% set ns = namespace(i=0) %}{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('Only the first may be system') }}{% endif %}"
    "{% if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}"
    "{% if (m.role == 'user') != (ns.i % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% set ns.i = ns.i + 1 %}{% endif %}"
    "{% if m.role == 'user' %}"
    "{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' if loop.last and tools }}"
    "{{ '[INST]' + m.content + '[/INST]' }}"
    "{% elif m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('Tool call IDs should be alphanumeric with length 9') }}{% endif %}"
    "{{ c.function | tojson + ':' + c.id }}{{ ', ' if not loop.last }}{% endfor %}{{ ']</s>' }}"
    "{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}"
)
"""Mistral's: strict turns beside calls, ids of nine letters, tools beside the last question."""

SHORT_IDS = SHORT_IDS.replace("if loop.last and tools", "if tools")

ONE_CALL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls at once!') }}"
    "{% endif %}{% set c = m.tool_calls[0].function %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>' }}"
    "{{ '{\"name\": \"' + c.name + '\", \"parameters\": ' }}{{ c.arguments | tojson }}{{ '}<|eot_id|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>' + m.content + '<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""Llama 3.1's."""

FIRST_CALL_ONLY = ONE_CALL.replace("{% if m.tool_calls | length != 1 %}", "{% if false %}")
"""gpt-oss's: leaves further calls out in silence."""

TEXT_ARGUMENTS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' and m.content is none %}{% for c in m.tool_calls %}"
    "{{ '<｜tool▁calls▁begin｜>' + c.function.name + '\n' + c.function.arguments }}{% endfor %}"
    "{% elif m.role == 'tool' %}{{ '<｜tool▁output▁begin｜>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' + m.content + eos_token }}"
    "{% elif m.role == 'system' %}{{ m.content }}"
    "{% else %}{{ '<｜User｜>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
"""DeepSeek's: a call is known by its missing content, and its arguments are text."""

FIELD_OF_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and m.tools %}"
    "{{ '<|system|>' + m.content + '<|tool|>' + m.tools + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Phi-4-mini's."""

BESIDE_SYSTEM = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
    "{% if m.role == 'system' and tools %}{{ tools | tojson }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{{ m.role + ': ' }}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
)
"""Of a vision model that knows lists of parts alone."""

NO_WORDS_BESIDE_THOUGHTS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.tool_calls %}"
    "{% if m.content and m.thinking %}{{ raise_exception('content and thinking, but not both') }}{% endif %}"
    "{{ '<think>' + (m.thinking or m.content or '') + '</think>' }}"
    "{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "{% else %}{{ m.role + ': ' + m.content + '\n' }}{% endif %}{% endfor %}"
)

WHOLE = Takes(tools=Tools.ARGUMENT)
NO_CALLS: dict[str, Any] = {"calls": False, "several_calls": False}

DIALECTS: dict[str, tuple[str, Takes]] = {
    "any role": (ANY_ROLE, Takes(tools=Tools.TOLD, **NO_CALLS)),
    "strict": (
        STRICT,
        Takes(system=False, late_system=False, repeated_roles=False, tools=Tools.TOLD, **NO_CALLS),
    ),
    "short ids": (SHORT_IDS, Takes(late_system=False, repeated_roles=False, short_ids=True)),
    "one call": (ONE_CALL, Takes(several_calls=False)),
    "first call only": (FIRST_CALL_ONLY, Takes(several_calls=False)),
    "text arguments": (TEXT_ARGUMENTS, Takes(object_arguments=False, null_content=True)),
    "field of system": (FIELD_OF_SYSTEM, Takes(tools=Tools.FIELD_OF_SYSTEM, **NO_CALLS)),
    "beside system": (BESIDE_SYSTEM, Takes(tools=Tools.ARGUMENT_BESIDE_SYSTEM, **NO_CALLS)),
    "parts": (PARTS, Takes(parts=True, tools=Tools.TOLD, **NO_CALLS)),
    "no words beside thoughts": (NO_WORDS_BESIDE_THOUGHTS, Takes(words_beside_thoughts=False)),
}


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"})
