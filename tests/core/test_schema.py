"""The full check that every write passes: each field's allowed values, each wrong one told by its name."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from mlxctl.control import launch
from mlxctl.core.registry import KNOWN_FIELDS, ModelEntry
from mlxctl.core.schema import ENGINES, EntrySchema, invalid_fields
from tests.core.registries import entry, parsed, registry_of, seed

SOUND = entry("mlx-a", 8100)


def test_the_schema_knows_the_fields_that_the_registry_knows() -> None:
    assert tuple(EntrySchema.model_fields) == KNOWN_FIELDS
    assert {*KNOWN_FIELDS, "raw"} == {field.name for field in fields(ModelEntry)}


def test_a_seed_registry_with_unknown_fields_is_valid() -> None:
    assert invalid_fields(parsed(seed())) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("format", ["mlx", "gguf"]),
        ("port", [None, 8100, 8139]),
        ("context_length", [None, 1, 1 << 20]),
        ("max_output_tokens", [None, 1]),
        ("request_params", [None, {}, {"a": "low", "b": 1, "c": 0.5, "d": True, "e": None}]),
        ("engine", [None, *ENGINES]),
        ("priority", [None, "high", "normal", "low"]),
        ("idle_timeout_s", [None, 0, 300]),
        ("pinned", [None, True, False]),
        ("boot", [None, True, False]),
        ("quantization", [None, {"bits": 4, "group_size": 64, "layers": {"a": {"bits": 8}}}]),
        ("last_known_good", [None, {"port": 8100}]),
    ],
)
def test_a_value_that_a_field_takes(name: str, values: list[Any]) -> None:
    for value in values:
        assert invalid_fields(registry_of(replace(SOUND, **{name: value}))) == [], value


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("repo_id", ""),
        ("cache_path", ""),
        ("format", "safetensors"),
        ("format", ""),
        ("port", 0),
        ("port", 65536),
        ("port", True),
        ("context_length", 0),
        ("context_length", -1),
        ("context_length", True),
        ("max_output_tokens", 0),
        ("max_output_tokens", "4096"),
        ("request_params", {"stop": ["a"]}),
        ("request_params", {"nested": {}}),
        ("engine", "vllm"),
        ("engine", ""),
        ("priority", "urgent"),
        ("idle_timeout_s", -1),
        ("pinned", 1),
        ("boot", "true"),
        ("quantization", [4]),
    ],
)
def test_a_wrong_value_is_one_line_that_names_model_and_field(name: str, wrong: Any) -> None:
    lines = invalid_fields(registry_of(replace(SOUND, **{name: wrong})))
    assert lines
    assert all(line.startswith(f"models.mlx-a.{name}") for line in lines)


def test_every_wrong_field_of_every_model_is_told() -> None:
    lines = invalid_fields(
        registry_of(entry("mlx-a", priority="urgent", engine="vllm"), entry("mlx-b"), entry("mlx-c", context_length=0))
    )
    assert [line.split(":")[0] for line in lines] == [
        "models.mlx-a.engine",
        "models.mlx-a.priority",
        "models.mlx-c.context_length",
    ]


def test_engines_are_the_ones_that_can_be_launched() -> None:
    assert launch.ENGINES == ENGINES
