"""`mlxctl verify`: each thing that can be wrong with a registered model is told; nothing is written unless asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control.commands.verify import verify
from mlxctl.core.errors import RegistryUnreadable
from tests.fakes.home import Home


def edit(home: Home, **changes: Any) -> None:
    """Change fields of mlx-a in the registry's file as somebody with an editor would; None removes one."""
    document = json.loads(home.registry_path.read_text())
    entry = document["models"]["mlx-a"]
    for name, value in changes.items():
        entry.pop(name, None)
        if value is not None:
            entry[name] = value
    home.registry_path.write_text(json.dumps(document))


def torn(folder: Path) -> None:
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])


BREAK_FILES: list[tuple[Callable[[Path], object], str, str]] = [
    (lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(), "bad_model", "is missing, though"),
    (torn, "bad_model", "5 bytes are missing"),
    (lambda folder: (folder / "model-00001-of-00003.safetensors").write_bytes(b"xx"), "bad_model", "00001"),
    (lambda folder: (folder / "config.json").unlink(), "bad_model", "config.json"),
    (lambda folder: (folder / "config.json").write_text("[]"), "bad_model", "not a JSON object"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "bad_model", "index"),
    (lambda folder: folder.rename(folder.with_name("gone")), "bad_model", "does not exist"),
]


@pytest.mark.parametrize(("spoil", "code", "word"), BREAK_FILES)
def test_every_flaw_of_the_files(home: Home, spoil: Callable[[Path], object], code: str, word: str) -> None:
    folder = home.model("a", shards=3)
    home.model("b")
    assert verify(home.site()).exit_code == 0
    spoil(folder)
    before = home.registry_path.read_bytes()
    told = verify(home.site())
    assert told.exit_code == 3
    assert {problem.code for problem in told.errors} == {code}
    assert any(word in problem.message for problem in told.errors)
    assert all(problem.message.startswith("mlx-a: ") and problem.hint for problem in told.errors)
    assert told.data["checked"] == 2
    assert home.registry_path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"chat_template": "nowhere.jinja"}, "bad_template", "nowhere.jinja does not exist"),
        ({"chat_template": "broken.jinja"}, "bad_template", "does not parse: line 2"),
        ({"context_length": None}, "registry_invalid", "context_length is not set"),
        ({"max_output_tokens": None}, "registry_invalid", "max_output_tokens is not set"),
        ({"max_output_tokens": 9999}, "registry_invalid", "max_output_tokens exceeds context_length"),
        ({"context_length": 0}, "registry_invalid", "models.mlx-a.context_length"),
        ({"priority": "urgent"}, "registry_invalid", "models.mlx-a.priority"),
        ({"engine": "vllm"}, "registry_invalid", "models.mlx-a.engine"),
    ],
)
def test_every_flaw_of_an_entry(home: Home, changes: dict[str, Any], code: str, word: str) -> None:
    folder = home.model("a")
    (folder / "broken.jinja").write_text("{{ a }}\n{% if %}")
    edit(home, **changes)
    before = home.registry_path.read_bytes()
    told = verify(home.site())
    assert told.exit_code == 3
    assert [(problem.code, word in problem.message) for problem in told.errors] == [(code, True)]
    assert told.data["problems"] == [problem.to_json() for problem in told.errors]
    assert home.registry_path.read_bytes() == before


def test_base_weights_that_are_what_is_served(home: Home) -> None:
    folder = home.model("a")
    edit(home, og_path=str(folder))
    (problem,) = verify(home.site()).errors
    assert "og_path is the folder that is served" in problem.message


def test_a_template_that_mlxctl_accepts(home: Home) -> None:
    folder = home.model("a")
    (folder / "good.jinja").write_text("{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% endfor %}")
    for value in ("good.jinja", str(folder / "good.jinja")):
        edit(home, chat_template=value)
        assert verify(home.site()).errors == ()


def test_every_flaw_at_once(home: Home) -> None:
    folder = home.model("a", shards=2)
    home.model("b")
    (folder / "model-00001-of-00002.safetensors").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    edit(home, chat_template="nowhere", context_length=None)
    told = home.run("verify", "--json")
    assert told.code == 3
    assert not told.json["ok"]
    assert [error["code"] for error in told.json["errors"]] == [
        "bad_model",
        "bad_model",
        "bad_template",
        "registry_invalid",
    ]


def test_all_is_well(home: Home) -> None:
    assert verify(home.site()).messages == ("0 models checked: all is well",)
    assert not home.registry_path.exists()
    home.model("a")
    told = verify(home.site())
    assert (told.messages, told.exit_code) == (("1 models checked: all is well",), 0)


def test_fix_defaults_sets_what_is_missing_and_nothing_else(home: Home) -> None:
    home.model("a", max_position_embeddings=2048)
    edit(home, context_length=None, max_output_tokens=None, note="mine", temperature=0.5)
    told = verify(home.site(), fix_defaults=True)
    assert (told.data["fixed"], told.exit_code) == (["mlx-a"], 0)
    entry = json.loads(home.registry_path.read_text())["models"]["mlx-a"]
    assert (entry["context_length"], entry["max_output_tokens"]) == (2048, 2048)
    assert (entry["note"], entry["temperature"]) == ("mine", 0.5)
    before = home.registry_path.read_bytes()
    assert verify(home.site(), fix_defaults=True).data["fixed"] == []
    assert home.registry_path.read_bytes() == before


def test_fix_defaults_keeps_what_somebody_set(home: Home) -> None:
    home.model("a", max_position_embeddings=2048)
    edit(home, context_length=1000, max_output_tokens=None)
    verify(home.site(), fix_defaults=True)
    entry = home.registry().models["mlx-a"]
    assert (entry.context_length, entry.max_output_tokens) == (1000, 1000)


def test_fix_defaults_gives_gpt_oss_its_harmony_fields(home: Home) -> None:
    folder = home.model("a", model_type="gpt_oss")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    verify(home.site(), fix_defaults=True)
    entry = home.registry().models["mlx-a"]
    assert (entry.tool_call_parser, entry.reasoning_parser) == ("harmony", "harmony")
    assert entry.chat_template == str(folder / "chat_template.jinja")


def test_a_model_without_a_config_is_left_and_the_others_are_fixed(home: Home) -> None:
    home.model("b")
    folder = home.model("a")
    edit(home, context_length=None)
    (folder / "config.json").unlink()
    told = verify(home.site(), fix_defaults=True)
    assert (told.data["fixed"], told.exit_code) == ([], 3)


def test_a_registry_that_cannot_be_parsed_is_no_list_of_flaws(home: Home) -> None:
    home.registry_path.write_text("{")
    with pytest.raises(RegistryUnreadable) as caught:
        verify(home.site())
    assert caught.value.exit_code == 9


def test_broken_invariants_are_listed(home: Home) -> None:
    home.model("a", port=home.base)
    home.model("b")
    document = json.loads(home.registry_path.read_text())
    document["models"]["mlx-b"]["port"] = home.base
    home.registry_path.write_text(json.dumps(document))
    before = home.registry_path.read_bytes()
    told = verify(home.site())
    assert told.exit_code == 3
    assert f"port {home.base} belongs to both mlx-a and mlx-b" in [problem.message for problem in told.errors]
    assert home.registry_path.read_bytes() == before
