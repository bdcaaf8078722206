"""Which file a `chat_template` means, whether it parses, and what harmony models get without being asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxctl.control.template import (
    HARMONY,
    check_template,
    default_parser,
    default_template,
    template_names,
    template_path,
)
from mlxctl.core.errors import NotReady
from tests.fakes.home import Home


def test_the_shipped_templates_are_found_by_name_and_parse(tmp_path: Path) -> None:
    assert HARMONY in template_names()
    for name in template_names():
        path = template_path(name, tmp_path)
        assert path.name == f"{name}.jinja"
        assert check_template(path) == path.read_text(encoding="utf-8")


def test_what_a_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    for place in (folder / "sub", elsewhere):
        place.mkdir(parents=True)
        (place / "own.jinja").write_text("x")
    (folder / "chat_template.jinja").write_text("x")
    (folder / HARMONY).write_text("a file of that name does not hide what we ship")
    monkeypatch.setenv("HOME", str(elsewhere))
    for value, expected in (
        ("chat_template.jinja", folder / "chat_template.jinja"),
        ("sub/own.jinja", folder / "sub" / "own.jinja"),
        (str(elsewhere / "own.jinja"), elsewhere / "own.jinja"),
        ("~/own.jinja", elsewhere / "own.jinja"),
    ):
        assert template_path(value, folder) == expected
    assert template_path(HARMONY, folder).parent != folder


@pytest.mark.parametrize("value", ["no-such-template", "sub/none.jinja", "/no/such/file.jinja", "sub", "../etc"])
def test_a_template_that_does_not_exist(tmp_path: Path, value: str) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(NotReady, match=f"the chat template {value} does not exist") as caught:
        template_path(value, tmp_path)
    assert caught.value.code == "bad_template"
    assert HARMONY in caught.value.hint


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"{% for m in messages %}", 1),
        (b"hello\n\n{{ messages[ }}", 3),
        (b"{% frobnicate %}", 1),
        (b"{% if x %}\n{% endfor %}", 2),
        (b"{% generation %}{% if %}{% endgeneration %}", 1),
    ],
)
def test_a_template_that_does_not_parse_names_its_line(tmp_path: Path, text: bytes, line: int) -> None:
    path = tmp_path / "chat.jinja"
    path.write_bytes(text)
    with pytest.raises(NotReady, match=rf"{path} does not parse: line {line}: ") as caught:
        check_template(path)
    assert caught.value.code == "bad_template"


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NotReady, match="cannot be read"):
        check_template(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{{ messages[0]['content'] }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}",
        "{% generation %}{{ x }}{% endgeneration %}",
        "{%- generation %}{{ x }}{%- endgeneration %}",
        "{% generation -%}{{ x }}{%- endgeneration -%}",
        "{{ raise_exception('no') }}{{ strftime_now('%Y') }}{{ x | tojson(indent=2) }}",
        "{% set ns = namespace(found=false) %}{% macro f(x) -%}{{ x }}{%- endmacro %}",
    ],
)
def test_what_models_use_parses(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(text)
    assert check_template(path) == text


@pytest.mark.parametrize(
    ("family", "own", "template", "parser"),
    [
        ("gpt_oss", False, HARMONY, HARMONY),
        ("gpt_oss", True, "chat_template.jinja", HARMONY),
        ("llama", False, None, None),
        ("llama", True, None, None),
        ("", False, None, None),
    ],
)
def test_what_a_new_entry_gets(
    tmp_path: Path, family: str, own: bool, template: str | None, parser: str | None
) -> None:
    if own:
        (tmp_path / "chat_template.jinja").write_text("x")
    given = default_template(tmp_path, family)
    assert (Path(given).name if given else given) == template
    assert default_parser(family) == parser


@pytest.mark.parametrize(("text", "told"), [(None, "does not exist"), ("{% if %}", "does not parse: line 1")])
def test_a_bad_template_is_found_before_anything_is_started(home: Home, text: str | None, told: str) -> None:
    home = home.with_engine()
    folder = home.model("a")
    if text is not None:
        (folder / "mine.jinja").write_text(text)
    home = Home(home.root, home.base, {**home.environ, "MLX_CHAT_TEMPLATE": "mine.jinja"})
    refused = home.run("load", "mlx-a", "auto", "--json")
    assert (refused.code, refused.error["code"]) == (7, "bad_template")
    assert told in refused.error["message"]
    assert home.site().states.known() == {}, "no process was started"
