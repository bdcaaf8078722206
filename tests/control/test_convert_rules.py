"""Whether to convert, and with which command line: the rules, as tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlxctl.control.convert import (
    Conversion,
    convert_argv,
    looks_preconverted,
    needs_conversion,
)
from mlxctl.core.errors import UsageError
from mlxctl.core.settings import load_settings

SEED = load_settings({})
"""The seed's defaults: mlx-community, mlx and ml-explore; the hint mlx."""


@pytest.mark.parametrize(
    ("repo", "told"),
    [
        ("mlx-community/Qwen3-8B-4bit", True),
        ("ml-explore/anything", True),
        ("mlx/anything", True),
        ("MLX-Community/Qwen3-8B", True),
        ("lmstudio-community/gpt-oss-20b-MLX-8bit", True),
        ("org/mlx-thing", True),
        ("org/somemlxthing", True),
        ("local/base-mlx", True),
        ("meta-llama/Llama-3.1-8B", False),
        ("mlx-community-fork/Qwen3-8B", False),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", False),
        ("Qwen3-8B", False),
        ("", False),
    ],
)
def test_looks_preconverted(repo: str, told: bool) -> None:
    assert looks_preconverted(repo, SEED.preconverted_orgs, SEED.preconverted_hints) is told


def test_the_lists_are_settings() -> None:
    given = load_settings({"MLX_PRECONVERTED_ORGS": "Mine, ours", "MLX_PRECONVERTED_HINTS": "READY"})
    for repo, told in (("mine/a", True), ("ours/a", True), ("org/a-ready", True), ("mlx-community/a", False)):
        assert looks_preconverted(repo, given.preconverted_orgs, given.preconverted_hints) is told


class Case(NamedTuple):
    asked: dict[str, Any]
    named: bool
    written: bool
    converts: bool


CASES = {
    "an ordinary model": Case({}, False, False, True),
    "its name says that it is MLX": Case({}, True, False, False),
    "its files say so": Case({}, False, True, False),
    "both": Case({}, True, True, False),
    "forced": Case({"convert": "force"}, True, True, True),
    "skipped": Case({"convert": "skip"}, False, False, False),
    "said to be converted": Case({"preconverted": "yes"}, False, False, False),
    "said not to be": Case({"preconverted": "no"}, True, True, True),
    "force beats the name's word": Case({"convert": "force", "preconverted": "yes"}, True, True, True),
    "skip beats it, too": Case({"convert": "skip", "preconverted": "no"}, False, False, False),
    "another precision": Case({"dtype": "float16"}, True, True, True),
    "fewer bits": Case({"bits": 4}, True, True, True),
    "quantised": Case({"quantize": True}, True, True, True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_needs_conversion(case: Case) -> None:
    assert needs_conversion(Conversion(**case.asked).check(), case.named, case.written) is case.converts


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        ({}, []),
        ({"quantize": True}, ["--quantize"]),
        ({"bits": 4}, ["--quantize", "--q-bits", "4"]),
        ({"group_size": 32}, ["--quantize", "--q-group-size", "32"]),
        ({"dtype": "float32"}, ["--dtype", "float32"]),
        (
            {"quantize": True, "bits": 8, "group_size": 64, "dtype": "bfloat16"},
            ["--quantize", "--q-bits", "8", "--q-group-size", "64", "--dtype", "bfloat16"],
        ),
    ],
)
def test_flags_are_mlx_lms(asked: dict[str, Any], flags: list[str]) -> None:
    assert Conversion(**asked).flags() == flags


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"convert": "maybe"}, "--convert 'maybe' is not known"),
        ({"preconverted": "true"}, "--preconverted 'true' is not known"),
        ({"dtype": "int8"}, "--dtype 'int8' is not known"),
        ({"convert": "skip", "bits": 4}, "--convert skip leaves nothing"),
        ({"convert": "skip", "dtype": "float16"}, "--convert skip leaves nothing"),
    ],
)
def test_flags_that_make_no_sense(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        Conversion(**asked).check()
    assert (caught.value.code, caught.value.exit_code) == ("bad_flag", 2)


SRC, DEST = Path("/models/a folder/src"), Path("/hub/x's/dest")


@pytest.mark.parametrize(
    ("template", "argv"),
    [
        (
            None,
            [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", str(SRC), "--mlx-path", str(DEST), "--quantize"],
        ),
        ("conv {src} {dest}", ["conv", str(SRC), str(DEST), "--quantize"]),
        ("conv --id={repo} --to={dest}", ["conv", "--id=org/a", f"--to={DEST}", "--quantize"]),
        ("'my conv' \"{src}\"", ["my conv", str(SRC), "--quantize"]),
        ("conv {src} {src}", ["conv", str(SRC), str(SRC), "--quantize"]),
        ("conv {{src}} {dest}", ["conv", "{src}", str(DEST), "--quantize"]),
        ("conv", ["conv", "--quantize"]),
    ],
)
def test_convert_argv(template: str | None, argv: list[str]) -> None:
    assert convert_argv(template, "org/a", SRC, DEST, ["--quantize"]) == argv


@pytest.mark.parametrize(
    "template", ["conv {model}", "conv {0}", "conv {}", "conv {src", "conv 'unclosed {src}", "conv {src!z}", "conv }"]
)
def test_a_convert_command_that_cannot_be_understood(template: str) -> None:
    with pytest.raises(UsageError, match="MLX_CONVERT_CMD cannot be understood") as caught:
        convert_argv(template, "org/a", SRC, DEST, [])
    assert (caught.value.code, caught.value.exit_code) == ("bad_setting", 2)
    assert "{repo}, {src} and {dest}" in caught.value.hint
