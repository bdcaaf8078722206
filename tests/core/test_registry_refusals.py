"""What a registry may not be: a corrupt shape, a later version, or one that breaks an invariant."""

from __future__ import annotations

from typing import Any

import pytest

from mlxctl.core.errors import RegistryUnreadable
from mlxctl.core.ports import Ports
from mlxctl.core.registry import ModelEntry, Registry, broken_invariants, check_invariants, parse_registry
from tests.core.registries import PATH, entry, parsed, registry_of, seed_entry

PORTS = Ports()

# --- refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"models"',
        "{}",
        '{"version": 1}',
        '{"version": 1, "models": []}',
        '{"version": 1, "models": null}',
        '{"models": {}}',
        '{"version": "1", "models": {}}',
        '{"version": true, "models": {}}',
        '{"version": 1.0, "models": {}}',
        '{"version": 0, "models": {}}',
        '{"version": -1, "models": {}}',
        '{"version": 1, "models": {"mlx-a": null}}',
        '{"version": 1, "models": {"mlx-a": "x"}}',
        '{"version": 1, "models": {}} trailing',
        pytest.param("[" * 100_000, id="nested a hundred thousand times"),
    ],
)
def test_a_corrupt_shape_is_refused_with_a_way_back(text: str) -> None:
    with pytest.raises(RegistryUnreadable) as caught:
        parse_registry(text, PATH)
    assert caught.value.code == "registry_corrupt"
    assert PATH in caught.value.message
    assert "mlxctl registry restore" in caught.value.hint


TEXT_FIELDS = ("source_path", "og_path", "chat_template", "tool_call_parser", "reasoning_parser", "engine", "priority")
COUNT_FIELDS = ("port", "context_length", "max_output_tokens", "idle_timeout_s")
OBJECT_FIELDS = ("request_params", "quantization", "last_known_good")
WRONG: list[tuple[str, Any]] = [
    *((name, wrong) for name in ("repo_id", "model_id", "cache_path", "format") for wrong in (None, 1, True, [])),
    *((name, wrong) for name in TEXT_FIELDS for wrong in (1, True, [])),
    # bool is an int to Python: true must not become port 1 or a context of one token
    *((name, wrong) for name in COUNT_FIELDS for wrong in (True, False, 8100.0, "8100", {})),
    *((name, wrong) for name in ("pinned", "boot") for wrong in (0, 1, "true")),
    *((name, wrong) for name in OBJECT_FIELDS for wrong in (True, "x", [])),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_a_field_of_the_wrong_type_is_named(name: str, wrong: Any) -> None:
    document = {"version": 1, "models": {"mlx-a": {"repo_id": "o/a", "cache_path": "/a", name: wrong}}}
    with pytest.raises(RegistryUnreadable, match=f"models.mlx-a.{name} has the value") as caught:
        parsed(document)
    assert caught.value.code == "registry_corrupt"


@pytest.mark.parametrize("name", ["repo_id", "cache_path"])
def test_a_missing_field_is_named(name: str) -> None:
    raw = seed_entry()
    del raw[name]
    with pytest.raises(RegistryUnreadable, match=f"{name} is missing"):
        parsed({"version": 1, "models": {"mlx-a": raw}})


@pytest.mark.parametrize(
    "rest", [{"models": {}}, {"models": [1]}, {}, {"models": {"mlx-a": {"another": "shape"}}}], ids=str
)
def test_a_future_version_is_refused_whatever_else_it_holds(rest: dict[str, Any]) -> None:
    with pytest.raises(RegistryUnreadable, match="version 2; this mlxctl knows version 1") as caught:
        parsed({"version": 2, **rest})
    assert (caught.value.code, caught.value.exit_code) == ("registry_newer", 9)
    assert "upgrade mlxctl" in caught.value.hint


# --- invariants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "words"),
    [
        pytest.param([entry("mlx-a", 8100), entry("mlx-b", 8100)], ["8100", "mlx-a", "mlx-b"], id="two on one port"),
        pytest.param([entry("mlx-a", 8099)], ["8099", "8100-8139"], id="below the range"),
        pytest.param([entry("mlx-a", 8140)], ["8140", "8100-8139"], id="above the range"),
        pytest.param([entry("gpt")], ["models.gpt", "not a valid id"], id="no prefix"),
        pytest.param([entry("mlx-")], ["models.mlx-", "not a valid id"], id="nothing but the prefix"),
        pytest.param([entry("mlx-A")], ["not a valid id"], id="capital"),
        pytest.param([entry("mlx-a--b")], ["not a valid id"], id="double dash"),
        pytest.param([entry("mlx-a.b")], ["not a valid id"], id="dot"),
        pytest.param([entry("mlx-a\n")], ["not a valid id"], id="end of line"),
    ],
)
def test_a_broken_invariant_is_one_line_that_names_it(models: list[ModelEntry], words: list[str]) -> None:
    registry = registry_of(*models)
    broken = broken_invariants(registry, PORTS)
    assert len(broken) == 1
    assert all(word in broken[0] for word in words)
    with pytest.raises(RegistryUnreadable) as caught:
        check_invariants(registry, PORTS, PATH)
    assert caught.value.code == "registry_invalid"
    assert broken[0] in caught.value.message


def test_an_entry_under_another_s_name_is_told() -> None:
    broken = broken_invariants(Registry({"mlx-a": entry("mlx-b")}), PORTS)
    assert broken == ["models.mlx-a says that its model_id is mlx-b"]


def test_all_that_is_broken_is_told_at_once() -> None:
    registry = registry_of(entry("mlx-a", 8100), entry("mlx-b", 8100), entry("mlx-c", 8100), entry("mlx-d", 1))
    assert len(broken_invariants(registry, PORTS)) == 3


@pytest.mark.parametrize(
    "models", [[], [entry("mlx-a")], [entry("mlx-a"), entry("mlx-b")], [entry("mlx-a", 8100), entry("mlx-b", 8139)]]
)
def test_a_sound_registry_passes(models: list[ModelEntry]) -> None:
    registry = registry_of(*models)
    assert broken_invariants(registry, PORTS) == []
    check_invariants(registry, PORTS, PATH)
