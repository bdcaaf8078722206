"""Probing finds out what each template takes."""

from __future__ import annotations

import dataclasses

import pytest

from mlxctl.worker.adapters.takes import Takes, Tools, probe
from mlxctl.worker.chat_template import template_text
from tests.contract.prompts import NAMES
from tests.fakes.dialects import DIALECTS, template


@pytest.mark.parametrize("name", DIALECTS)
def test_what_a_template_takes(name: str) -> None:
    text, takes = DIALECTS[name]
    assert probe(template(text)) == takes


SHIPPED = {name: Takes(developer=True) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_templates_take_everything(name: str) -> None:
    assert probe(template(template_text(name))) == SHIPPED[name]


@pytest.mark.parametrize(
    ("text", "differs"),
    [
        ("{{ raise_exception('never') }}", {"system", "repeated_roles", "calls", "tools"}),
        ("always the same", {"system", "calls", "tools"}),
        ("{{ messages[-1].content }}", {"system", "calls", "tools"}),
        ("{{ messages | tojson }}{{ tools | tojson }}", set()),
        ("{% for m in messages %}{{ m }}{% endfor %}{{ tools }}", {"object_arguments"}),
    ],
)
def test_templates_that_nobody_would_write(text: str, differs: set[str]) -> None:
    found = dataclasses.asdict(probe(template(text)))
    whole = dataclasses.asdict(Takes())
    assert differs <= {name for name, value in found.items() if value != whole[name]}


def test_python_written_for_json_is_no_form_of_a_call() -> None:
    wants_text = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    wants_text += "{{ c.function.arguments }}{% endfor %}{% endfor %}{{ tools | tojson }}"
    found = probe(template(wants_text))
    assert found.calls and not found.object_arguments
    assert found.tools is Tools.ARGUMENT


def test_json_within_json_is_none_either() -> None:
    wants_objects = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}"
    wants_objects += "{% endfor %}{% endfor %}{{ tools | tojson }}"
    found = probe(template(wants_objects))
    assert found.calls and found.object_arguments
