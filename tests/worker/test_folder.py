"""What is read from a model's folder before the model is loaded."""

from __future__ import annotations

import json

import pytest

from mlxctl.core.errors import NotFound, NotReady
from mlxctl.worker.folder import USUAL_TEMPERATURE, read_config, read_sampling


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20}, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ({"do_sample": True, "temperature": 1.0, "eos_token_id": 2}, {"temperature": 1.0}),
        ({"do_sample": False, "temperature": 0.6}, {}),
        ({"repetition_penalty": 1.05, "transformers_version": "4.40"}, {"repetition_penalty": 1.05}),
        ({"temperature": "hot", "top_p": 7, "top_k": None, "min_p": -1}, {}),
        ([], {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_the_makers_of_a_model_say_how_its_tokens_are_drawn(told, taken, tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(told))
    assert read_sampling(tmp_path) == {"temperature": USUAL_TEMPERATURE} | taken


@pytest.mark.parametrize("text", [None, "{", "\xff"])
def test_makers_who_say_nothing_that_can_be_read_say_nothing(text, tmp_path):
    if text is not None:
        (tmp_path / "generation_config.json").write_text(text, encoding="latin-1")
    assert read_sampling(tmp_path) == {"temperature": USUAL_TEMPERATURE}


@pytest.mark.parametrize(
    ("text", "complaint"), [(None, "has no config.json"), ("{", "cannot be read"), ("[]", "is not a JSON object")]
)
def test_a_folder_without_a_readable_config_is_not_a_model(text, complaint, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(NotReady, match=complaint):
        read_config(tmp_path)


def test_a_folder_that_is_not_there_is_told_from_one_that_is_no_model(tmp_path):
    with pytest.raises(NotFound, match="there is no folder"):
        read_config(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read_config(tmp_path) == {"model_type": "llama"}
