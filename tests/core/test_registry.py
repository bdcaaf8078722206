"""The registry's file: what is read, what is written back, and how a model is found in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mlxctl.core.errors import Conflict, NotFound
from mlxctl.core.registry import KNOWN_FIELDS, ModelEntry, Registry, output_tokens_for, parse_registry
from tests.core.registries import PATH, entry, parsed, registry_of, seed, seed_entry

# --- read and written back --------------------------------------------------------------------------------------


def test_a_seed_registry_comes_back_as_it_was() -> None:
    text = json.dumps(seed(), indent=2, ensure_ascii=False) + "\n"
    assert parse_registry(text, PATH).text() == text


def test_known_fields_arrive() -> None:
    read = parsed(seed()).models["mlx-gpt-oss-120b-mxfp4-q4"]
    assert (read.repo_id, read.port, read.max_output_tokens) == ("mlx-community/gpt-oss-120b-MXFP4-Q4", 8100, 64000)
    assert read.request_params == {"reasoning_effort": "low"}
    assert (read.og_path, read.engine, read.boot) == (None, None, None)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: r.unassign(8100), id="unassign"),
        pytest.param(lambda r: r.assign("mlx-b", 8100), id="assign"),
        pytest.param(lambda r: r.with_entry(entry("mlx-c", 8121)), id="another entry"),
    ],
)
def test_a_change_keeps_what_is_unknown_and_its_order(change: Any) -> None:
    before = seed()
    after = change(parsed(before)).to_json()
    assert list(after) == list(before)
    assert (after["comment"], after["lanes"]) == (before["comment"], before["lanes"])
    for model_id, raw in before["models"].items():
        written = after["models"][model_id]
        assert list(written) == list(raw)
        assert {**written, "port": None} == {**raw, "port": None}


def test_a_field_that_is_set_anew_comes_last_and_one_that_is_cleared_stays_as_null() -> None:
    read = parsed(seed()).models["mlx-gpt-oss-120b-mxfp4-q4"]
    written = replace(read, boot=True, request_params=None).to_json()
    assert list(written) == [*seed_entry(), "boot"]
    assert (written["boot"], written["request_params"], written["og_path"]) == (True, None, None)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"repo_id": "o/a", "cache_path": "/a"}, {"repo_id": "o/a", "cache_path": "/a", "model_id": "mlx-a"}),
        ({"repo_id": "o/a", "cache_path": "/a", "pinned": False}, {"pinned": False}),
        ({"repo_id": "o/a", "cache_path": "/a", "idle_timeout_s": 0}, {"idle_timeout_s": 0}),
    ],
)
def test_a_sparse_entry_gets_its_id_its_format_and_its_port(given: dict[str, Any], written: dict[str, Any]) -> None:
    shown = parsed({"version": 1, "models": {"mlx-a": given}}).to_json()["models"]["mlx-a"]
    assert shown == {**shown, **given, **written, "format": "mlx", "port": None}
    assert set(shown) == {*given, "model_id", "format", "port"}


def test_an_empty_registry_has_a_version_and_no_models() -> None:
    assert json.loads(Registry().text()) == {"version": 1, "models": {}}
    assert parse_registry(Registry().text(), PATH) == Registry()


def test_every_known_field_survives_a_round() -> None:
    full = ModelEntry(
        repo_id="o/a",
        model_id="mlx-a",
        cache_path="/c",
        format="gguf",
        port=8105,
        source_path="/s",
        og_path="/og",
        chat_template="harmony",
        tool_call_parser="t",
        reasoning_parser="r",
        context_length=1,
        max_output_tokens=1,
        request_params={"a": 1},
        engine="worker",
        pinned=False,
        boot=True,
        priority="low",
        idle_timeout_s=0,
        quantization={"bits": 4},
        last_known_good={"port": 8105},
    )
    assert set(full.to_json()) == set(KNOWN_FIELDS)
    assert parse_registry(registry_of(full).text(), PATH).models["mlx-a"] == full


# --- looking a model up -----------------------------------------------------------------------------------------

KNOWN = registry_of(
    entry("mlx-gpt-oss-20b", 8102, repo_id="mlx-community/gpt-oss-20b"),
    entry("mlx-gpt-oss-120b", 8100, repo_id="mlx-community/gpt-oss-120b"),
    entry("mlx-gemma-3-27b", repo_id="google/gemma-3-27b"),
    entry("mlx-twin-a", repo_id="org/twin"),
    entry("mlx-twin-b", repo_id="org/twin"),
)


@pytest.mark.parametrize(
    ("word", "model_id"),
    [
        ("mlx-gpt-oss-20b", "mlx-gpt-oss-20b"),
        ("mlx-community/gpt-oss-20b", "mlx-gpt-oss-20b"),
        ("mlx-twin-b", "mlx-twin-b"),
        ("gpt-oss-20b", None),
        ("MLX-gpt-oss-20b", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_its_id_or_its_repository(word: str, model_id: str | None) -> None:
    found = KNOWN.find(word)
    assert (found.model_id if found else None) == model_id


def test_a_repository_that_is_registered_twice_asks_for_an_id() -> None:
    with pytest.raises(Conflict, match="mlx-twin-a, mlx-twin-b") as caught:
        KNOWN.find("org/twin")
    assert caught.value.code == "ambiguous_model"


@pytest.mark.parametrize(
    ("word", "hinted", "unhinted"),
    [
        ("gpt-oss", ["mlx-gpt-oss-20b", "mlx-gpt-oss-120b"], ["gemma"]),
        ("GPT_OSS.20b", ["did you mean mlx-gpt-oss-20b?"], ["120b"]),
        ("mlx-gemma-3-72b", ["did you mean mlx-gemma-3-27b"], ["twin"]),
        ("zzzzzzzz", ["mlxctl list"], ["did you mean"]),
        ("///", ["mlxctl list"], ["did you mean"]),
    ],
)
def test_an_unknown_model_gets_the_names_that_are_near(word: str, hinted: list[str], unhinted: list[str]) -> None:
    with pytest.raises(NotFound) as caught:
        KNOWN.require(word)
    assert caught.value.code == "unknown_model"
    assert repr(word) in caught.value.message
    assert all(part in caught.value.hint for part in hinted)
    assert not any(part in caught.value.hint for part in unhinted)


def test_who_is_on_a_port() -> None:
    assert KNOWN.assigned == {8102: KNOWN.models["mlx-gpt-oss-20b"], 8100: KNOWN.models["mlx-gpt-oss-120b"]}
    assert KNOWN.at(8102) is KNOWN.models["mlx-gpt-oss-20b"]
    assert KNOWN.at(8103) is None


@pytest.mark.parametrize(("context", "output"), [(131072, 65536), (65536, 65536), (65537, 65536), (4096, 4096), (1, 1)])
def test_output_is_bounded_by_the_context_and_the_cap(context: int, output: int) -> None:
    assert output_tokens_for(context) == output
