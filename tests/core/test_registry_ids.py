"""Model ids: which repository or name becomes which id, and that an id never becomes another."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxctl.core.errors import UsageError
from mlxctl.core.ports import Ports
from mlxctl.core.registry import ModelEntry, Registry, broken_invariants, model_id_from_name, model_id_of, slug

PATTERN = re.compile(r"mlx-[a-z0-9]+(-[a-z0-9]+)*")
NAMES = st.text(max_size=24) | st.text("abMLX019-._/ \n", max_size=24)
PIECES = st.lists(st.sampled_from(["mlx", "MLX", "a", "Q4", "-", "--", ".", "_", "/", " "]), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("repo_id", "model_id"),
    [
        # the boot ensembles of the seed
        ("mlx-community/gpt-oss-120b-MXFP4-Q4", "mlx-gpt-oss-120b-mxfp4-q4"),
        ("mlx-community/gemma-3-27b-it-qat-4bit", "mlx-gemma-3-27b-it-qat-4bit"),
        ("mlx-community/gpt-oss-20b-MXFP4-Q4", "mlx-gpt-oss-20b-mxfp4-q4"),
        ("mlx-community/Qwen3-Next-80B-A3B-Instruct-MXFP4", "mlx-qwen3-next-80b-a3b-instruct-mxfp4"),
        # mlx is not said twice, at either end; within the name it stays
        ("lmstudio-community/Qwen3-4B-MLX-4bit", "mlx-qwen3-4b-mlx-4bit"),
        ("org/mlx-gemma", "mlx-gemma"),
        ("org/Gemma-MLX", "mlx-gemma"),
        ("org/mlx_gemma.mlx", "mlx-gemma"),
        ("org/gemma-mlx-mlx", "mlx-gemma"),
        ("org/mlxgemma", "mlx-mlxgemma"),
        ("org/mlx", "mlx-mlx"),
        # what is not a letter, a digit or a dash
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "mlx-smollm2-135m-instruct"),
        ("org/Llama-3.2_1B", "mlx-llama-3-2-1b"),
        ("org/a__b..c--d", "mlx-a-b-c-d"),
        ("org/-a-", "mlx-a"),
        ("org/größe", "mlx-gre"),
        ("local/my model", "mlx-my-model"),
        ("no-organisation", "mlx-no-organisation"),
        ("org/sub/name", "mlx-name"),
    ],
)
def test_the_id_of_a_repository(repo_id: str, model_id: str) -> None:
    assert model_id_of(repo_id) == model_id
    assert model_id_of(model_id) == model_id


@pytest.mark.parametrize("repo_id", ["", "org/", "org/---", "org/...", "org/模型", "/"])
def test_a_repository_without_letters_asks_for_a_name(repo_id: str) -> None:
    with pytest.raises(UsageError, match="no letters or digits") as caught:
        model_id_of(repo_id)
    assert caught.value.code == "bad_name"
    assert "--name" in caught.value.hint


@given(NAMES | PIECES)
def test_the_id_of_an_id_is_the_id(name: str) -> None:
    try:
        model_id = model_id_of(name)
    except UsageError as error:
        assert error.code == "bad_name"
        return
    assert PATTERN.fullmatch(model_id)
    assert model_id_of(model_id) == model_id == model_id_from_name(model_id)


@pytest.mark.parametrize(
    ("name", "model_id"),
    [("mine", "mlx-mine"), ("mlx-mine", "mlx-mine"), ("a-1", "mlx-a-1"), ("mlx", "mlx-mlx"), ("8120", "mlx-8120")],
)
def test_a_name_that_somebody_typed(name: str, model_id: str) -> None:
    assert model_id_from_name(name) == model_id


@pytest.mark.parametrize(
    "name", ["", "-", "mlx-", "Mine", "MLX-mine", "a_b", "a.b", "a--b", "-a", "a-", "a b", "a/b", "a\n", "ä"]
)
def test_a_typed_name_is_refused_rather_than_bent(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        model_id_from_name(name)
    assert caught.value.code == "bad_name"
    assert repr(name) in caught.value.message


@given(NAMES | PIECES)
def test_a_typed_name_becomes_a_valid_id_or_an_error(name: str) -> None:
    try:
        model_id = model_id_from_name(name)
    except UsageError as error:
        assert error.code == "bad_name"
        return
    assert PATTERN.fullmatch(model_id)
    assert model_id_from_name(model_id) == model_id


@given(st.text(max_size=40))
def test_a_slug_is_its_own_slug(name: str) -> None:
    made = slug(name)
    assert re.fullmatch(r"([a-z0-9]+(-[a-z0-9]+)*)?", made)
    assert slug(made) == made


# --- one port, one model ----------------------------------------------------------------------------------------

IDS = [f"mlx-{letter}" for letter in "abcde"]
PORTS = Ports()
ASSIGNMENTS = st.tuples(st.sampled_from(IDS), st.sampled_from(list(PORTS)[:4]))
UNASSIGNMENTS = st.tuples(st.none(), st.sampled_from(list(PORTS)[:4]))


@given(st.lists(ASSIGNMENTS | UNASSIGNMENTS, max_size=30))
def test_no_sequence_of_assignments_puts_two_models_on_a_port(steps: list[tuple[str | None, int]]) -> None:
    registry = Registry({name: ModelEntry(repo_id=f"o/{name}", model_id=name, cache_path="/m") for name in IDS})
    expected: dict[int, str] = {}
    for model_id, port in steps:
        before = registry
        if model_id is None:
            registry = registry.unassign(port)
            expected.pop(port, None)
        else:
            registry = registry.assign(model_id, port)
            expected = {p: owner for p, owner in expected.items() if owner != model_id} | {port: model_id}
        assert broken_invariants(registry, PORTS) == []
        assert {p: owner.model_id for p, owner in registry.assigned.items()} == expected
        assert list(registry.models) == list(before.models) == IDS
