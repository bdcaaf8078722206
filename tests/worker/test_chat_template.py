"""Chat templates: what a name means, rendering as transformers does it, the sandbox, and complaints as API errors."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mlxctl.worker import chat_template
from mlxctl.worker.chat_template import ChatTemplate, template_names, template_text
from mlxctl.worker.errors import InvalidRequest
from tests.contract.prompts import BUS, CONVERSATIONS, NAMES, PROMPTS, TODAY

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
HI = [{"role": "user", "content": "Hi."}]


def rendered(text: str, messages: list[dict[str, Any]] = HI, tools: Any = None, **given: Any) -> str:
    return ChatTemplate(text, SPECIAL).render(messages, tools, **given)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("story", CONVERSATIONS)
def test_the_shipped_templates_say_what_they_say_elsewhere(name: str, story: str) -> None:
    messages, tools = CONVERSATIONS[story]
    assert ChatTemplate(template_text(name), {}).render(messages, tools, current_date=TODAY) == PROMPTS[name][story]


FEATURES = [
    ("what is given", "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ add_generation_prompt }}"),
    ("tools", "{{ tools | tojson }}|{{ tools[0].function.name }}"),
    ("documents are not given", "{{ documents is none }}"),
    ("unknown names are undefined", "[{{ unknown }}]{{ unknown is defined }}"),
    ("JSON as it is", "{{ {'a': '<é & \\'x\\'>', 'b': [1, none, true]} | tojson }}"),
    ("JSON with an indent", "{{ tools | tojson(indent=2) }}"),
    (
        "JSON in other ways",
        "{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}",
    ),
    (
        "blocks take their line",
        "{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\nend\n",
    ),
    (
        "loop controls",
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}"
        "{% endfor %}",
    ),
    ("generation", "a{% generation %}{% set x = 1 %}{{ x }}b{% endgeneration %}c{{ x is defined }}"),
    ("generation with signs", "a {%- generation -%} b {%- endgeneration -%} c"),
    ("namespaces", "{% set ns = namespace(n=1) %}{% for m in 'abc' %}{% set ns.n = ns.n * 2 %}{% endfor %}{{ ns.n }}"),
    ("namespaces of an object", "{% set ns = namespace({'n': 1}, self=2) %}{{ ns.n }}{{ ns.self }}"),
    ("objects", "{% set d = dict(a=1, b=2) %}{{ d.items() | list }}{{ dict([('x', 3)]).x }}{{ {} | length }}"),
    ("methods of text", "{{ messages[0].content.split('.')[0].upper().strip() }}{{ 'x' in 'xyz' }}"),
    ("macros", "{% macro say(x, y='!') %}{{ x }}{{ y }}{% endmacro %}{{ say('a') }}{{ say('b', '?') }}"),
    (
        "filters",
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ ' x ' | trim }}{{ [3] | first }}",
    ),
    ("no escaping", "{{ '<b>&' }}{{ '<b>' | e }}"),
    ("the year", "{{ strftime_now('%Y') }}"),
]


@pytest.mark.parametrize("text", [text for _, text in FEATURES], ids=[name for name, _ in FEATURES])
def test_it_renders_as_transformers_does(text: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    expected, _ = render_jinja_template([HI], tools=[BUS], chat_template=text, add_generation_prompt=True, **SPECIAL)
    assert [rendered(text, tools=[BUS])] == expected


def test_the_clock() -> None:
    assert rendered("{{ strftime_now('%d %b %Y') }}") == datetime.now().strftime("%d %b %Y")


def test_what_is_given_by_name_comes_before_the_special_tokens() -> None:
    assert rendered("{{ bos_token }}{{ x }}{{ enable_thinking }}", bos_token="<first>", x=5, enable_thinking=False) == (
        "<first>5False"
    )


def test_no_tools_are_none() -> None:
    assert rendered("{{ tools is none }}", tools=[]) == rendered("{{ tools is none }}") == "True"


REFUSED = [
    (
        "{{ raise_exception('Roles must alternate!') }}",
        "the chat template refuses these messages: Roles must alternate!",
    ),
    (
        "{% for m in messages %}{{ m.content + 5 }}{% endfor %}",
        "cannot render these messages: can only concatenate str",
    ),
    ("{{ messages[7].content }}", "has no element 7"),
    ("{{ unknown.field }}", "'unknown' is undefined"),
    ("{{ 1 // 0 }}", "cannot render these messages"),
    ("{{ {}.x.y }}", "has no attribute 'x'"),
    ("{{ messages | tojson(indent=messages) }}", "cannot render these messages"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ("{{ 'a'.encode('nope') }}", "nope"),
    ("{{ range(10 ** 9) | list | length }}", "Range too big"),
]


@pytest.mark.parametrize(("text", "complaint"), REFUSED)
def test_a_complaint_of_the_template_is_one_about_the_messages(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        rendered(text)
    assert complaint in caught.value.message
    assert (caught.value.param, caught.value.status) == ("messages", 400)


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ dict.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ '%s' | format(messages.__class__) }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ (namespace(_x=1))._x }}",
    "{% set ns = namespace() %}{% set ns._Namespace__attrs = 1 %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages.clear() }}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_a_template_gets_out_of_the_sandbox_nowhere_and_changes_nothing(text: str) -> None:
    messages = [{"role": "user", "content": "Hi."}]
    try:
        shown = rendered(text, messages)
    except InvalidRequest as refused:
        assert refused.param == "messages"
    else:
        assert shown == ""
    assert messages == HI


@pytest.mark.parametrize("name", sorted(chat_template.RESERVED - {"messages", "tools"}))
def test_some_names_cannot_be_given(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        rendered("x", **{name: 1})
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("limit", "value", "word"), [("MAX_CHARACTERS", 10, "more than 10"), ("MAX_SECONDS", -1, "longer")]
)
def test_a_template_that_writes_without_end_is_stopped(
    limit: str, value: int, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, limit, value)
    with pytest.raises(InvalidRequest, match=word):
        rendered("{% for i in range(99999) %}{{ i }}{% endfor %}")


@pytest.mark.parametrize(("text", "line"), [("{% if %}", 1), ("ok\n\n{% endfor %}", 3), ("{{ 1 | nope }}", 1)])
def test_a_template_that_does_not_parse(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"does not parse: line {line}:"):
        ChatTemplate(text, {})


def test_many_threads_at_once() -> None:
    template = ChatTemplate(template_text("llama3"), {})
    wrong: list[str] = []

    def work(number: int) -> None:
        for _ in range(50):
            shown = template.render([{"role": "user", "content": f"I am {number}."}])
            if f"I am {number}." not in shown:
                wrong.append(shown)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_shipped_name_a_file_and_the_text_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("mine", encoding="utf-8")
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "own.jinja").write_text("own", encoding="utf-8")
    (inside / "llama3").write_text("a file of a shipped name", encoding="utf-8")
    assert template_text("llama3", inside).startswith("{#-")
    assert template_text("own.jinja", inside) == "own"
    assert template_text(str(tmp_path / "mine.jinja"), inside) == "mine"
    assert template_text("./llama3", inside) == "a file of a shipped name"
    for text in ("{{ messages }}", "{% if x %}{% endif %}", "two\nlines"):
        assert template_text(text, inside) == text


@pytest.mark.parametrize("value", ["nowhere", "nowhere.jinja", "/nowhere/x.jinja", "../llama3", "x" * 5000, "a\0b"])
def test_a_template_that_is_none(value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither a file nor one of chatml, codellama, deepseek|cannot be read|null"):
        template_text(value, tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="cannot be read"):
        template_text("mine.jinja", tmp_path)


def test_the_shipped_names() -> None:
    assert tuple(template_names()) == NAMES
