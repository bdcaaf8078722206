"""What a model's folder says of itself: whole or not, how long a context, how heavy, and who wrote it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control.weights import (
    INDEX,
    context_length,
    folder_bytes,
    indexed_shards,
    is_mlx,
    model_family,
    problems_of,
    read_config,
    read_shard,
    require_whole,
    weight_bytes,
)
from mlxctl.core.errors import NotReady
from mlxctl.core.registry import DEFAULT_CONTEXT_LENGTH
from tests.fakes.models import write_model, write_shard

SHARD = "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, DEFAULT_CONTEXT_LENGTH),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "model_max_length": 8192}, 8192),
        ({"n_positions": 1024}, 1024),
        ({"max_sequence_length": 2048}, 2048),
        ({"max_seq_len": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 131072}}, 131072),
        ({"max_position_embeddings": 4096, "text_config": {"max_position_embeddings": 131072}}, 131072),
        ({"max_position_embeddings": 131072, "text_config": {"max_position_embeddings": 4096}}, 131072),
        ({"text_config": "none"}, DEFAULT_CONTEXT_LENGTH),
        ({"vision_config": {"max_position_embeddings": 577}}, DEFAULT_CONTEXT_LENGTH),
        ({"model_max_length": 1e30}, DEFAULT_CONTEXT_LENGTH),
        ({"model_max_length": 1e30, "max_position_embeddings": 4096}, 4096),
        ({"model_max_length": float("inf")}, DEFAULT_CONTEXT_LENGTH),
        ({"model_max_length": float("nan")}, DEFAULT_CONTEXT_LENGTH),
        ({"max_position_embeddings": 10_485_760}, 10_485_760),
        ({"max_position_embeddings": 4096.0}, 4096),
        ({"max_position_embeddings": 0}, DEFAULT_CONTEXT_LENGTH),
        ({"max_position_embeddings": -1}, DEFAULT_CONTEXT_LENGTH),
        ({"max_position_embeddings": True}, DEFAULT_CONTEXT_LENGTH),
        ({"max_position_embeddings": "4096"}, DEFAULT_CONTEXT_LENGTH),
        ({"max_position_embeddings": None}, DEFAULT_CONTEXT_LENGTH),
        ({"max_position_embeddings": [4096]}, DEFAULT_CONTEXT_LENGTH),
    ],
)
def test_context_length(config: dict[str, Any], length: int) -> None:
    assert context_length(config) == length


@pytest.mark.parametrize(
    ("config", "family"), [({"model_type": "gpt_oss"}, "gpt_oss"), ({}, ""), ({"model_type": None}, "")]
)
def test_model_family(config: dict[str, Any], family: str) -> None:
    assert model_family(config) == family


def cut(path: Path, to: int) -> None:
    path.write_bytes(path.read_bytes()[:to])


def header(path: Path, value: object, length: int | None = None) -> None:
    text = json.dumps(value).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    "a torn config": (lambda f: cut(f / "config.json", 9), r"config\.json cannot be read"),
    "a config that is no text": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe"),
        r"config\.json cannot be read",
    ),
    "a config that is no object": (lambda f: (f / "config.json").write_text("[]"), r"is not a JSON object"),
    "a config that is a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        r"config\.json cannot be read",
    ),
    "a missing shard": (lambda f: (f / SHARD).unlink(), rf"{SHARD} is missing, though {INDEX} lists it"),
    "a shard whose link leads nowhere": (
        lambda f: ((f / SHARD).unlink(), (f / SHARD).symlink_to(f / "blob")),
        rf"{SHARD} is missing",
    ),
    "no shard at all": (lambda f: [path.unlink() for path in f.glob("*.safetensors")], r"00001-of-00003.* is missing"),
    "a torn shard": (lambda f: cut(f / SHARD, -10), r"is torn: 10 bytes are missing"),
    "a shard cut in its header": (lambda f: cut(f / SHARD, 20), rf"{SHARD} cannot be read"),
    "an empty shard": (lambda f: cut(f / SHARD, 0), r"is no safetensors file, or only its beginning"),
    "a shard that is text": (lambda f: (f / SHARD).write_text("version https://git-lfs"), r"is no safetensors file"),
    "a header that is a list": (lambda f: header(f / SHARD, []), r"cannot be read"),
    "a tensor without offsets": (lambda f: header(f / SHARD, {"w": {}}), r"cannot be read"),
    "a header without end": (lambda f: header(f / SHARD, {}, 1 << 62), r"is no safetensors file"),
    "a torn index": (lambda f: cut(f / INDEX, 9), rf"{INDEX} cannot be read"),
    "an index without a map": (lambda f: (f / INDEX).write_text("{}"), rf"{INDEX} cannot be read"),
    "an index that is a list": (lambda f: (f / INDEX).write_text("[]"), rf"{INDEX} cannot be read"),
    "an index whose map is a list": (
        lambda f: (f / INDEX).write_text('{"weight_map": []}'),
        rf"{INDEX} cannot be read",
    ),
}


@pytest.mark.parametrize(("breaks", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_a_folder_that_is_not_whole(tmp_path: Path, breaks: Callable[[Path], object], told: str) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    require_whole(folder)
    breaks(folder)
    with pytest.raises(NotReady, match=told) as caught:
        require_whole(folder)
    assert caught.value.code == "bad_model"
    assert "mlxctl ensure" in caught.value.hint
    assert str(folder) in caught.value.message


def test_every_problem_is_told_not_only_the_first(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    (folder / "config.json").unlink()
    (folder / SHARD).unlink()
    cut(folder / "model-00003-of-00003.safetensors", -1)
    assert [problem.message.split(": ")[0].split("/")[-1] for problem in problems_of(folder)] == [
        "model has no config.json",
        f"{SHARD} is missing, though {INDEX} lists it",
        "model-00003-of-00003.safetensors is torn",
    ]


@pytest.mark.parametrize("kind", ["absent", "a file"])
def test_what_is_no_folder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    if kind == "a file":
        path.write_text("")
    (problem,) = problems_of(path)
    assert problem.message == f"the model's folder {path} does not exist"


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (problem,) = problems_of(folder)
    assert problem.message == f"{folder} holds no safetensors weights"


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    """A snapshot of the hub cache holds links to blobs; what weighs is the blob."""
    real = write_model(tmp_path / "blobs", shards=2, payload=5000)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in real.iterdir():
        (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
    assert list(problems_of(snapshot)) == []
    assert weight_bytes(snapshot) == weight_bytes(real) == sum(p.stat().st_size for p in real.glob("*.safetensors"))
    assert folder_bytes(snapshot) == folder_bytes(real) > weight_bytes(real) > 10_000


def test_what_a_single_file_weighs(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(bytes(123))
    assert weight_bytes(tmp_path / "model.gguf") == 123
    assert weight_bytes(tmp_path) == 0
    assert folder_bytes(tmp_path / "absent") == 0


def test_a_shard_tells_its_size_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_shard(path, payload=100, metadata={"format": "pt"})
    shard = read_shard(path)
    assert (shard.size, shard.missing_bytes, dict(shard.metadata)) == (path.stat().st_size, 0, {"format": "pt"})
    header(path, {})
    assert (read_shard(path).missing_bytes, dict(read_shard(path).metadata)) == (0, {})


def test_an_index_names_each_shard_once(tmp_path: Path) -> None:
    folder = write_model(tmp_path, shards=3)
    assert len(indexed_shards(folder)) == 3
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": SHARD, "b": SHARD}}))
    assert indexed_shards(folder) == {SHARD}
    (folder / INDEX).unlink()
    assert indexed_shards(folder) == set()


@pytest.mark.parametrize(
    ("mlx", "config", "told"),
    [
        (True, {}, True),
        (False, {}, False),
        (False, {"quantization": {"group_size": 64, "bits": 4}}, True),
        (False, {"quantization": {"method": "gptq"}}, False),
        (False, {"quantization_config": {"quant_method": "awq", "group_size": 128}}, False),
        (False, {"quantization": "q4"}, False),
    ],
)
def test_whether_mlx_wrote_it(tmp_path: Path, mlx: bool, config: dict[str, Any], told: bool) -> None:
    folder = write_model(tmp_path, mlx=mlx, **config)
    assert is_mlx(folder, read_config(folder)) is told


def test_a_folder_without_shards_was_not_written_by_mlx(tmp_path: Path) -> None:
    assert not is_mlx(tmp_path, {})
