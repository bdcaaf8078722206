"""`mlxctl init`: what a hub cache holds, as the library's own layout has it, and what of it becomes an entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxctl.control.commands.init import init
from mlxctl.control.hub import download
from tests.fakes.home import Home
from tests.fakes.hub import Hub
from tests.fakes.models import write_model
from tests.fakes.reporter import Recorder

SHA = "0123456789abcdef0123456789abcdef01234567"


def cached(home: Home, repo: str, *, sha: str = SHA, ref: str = "main", **facts: Any) -> Path:
    """A repository in the cache as the library leaves it: blobs, links in a snapshot, and a ref."""
    folder = home.hub_cache / f"models--{repo.replace('/', '--')}"
    written = write_model(home.root / "written" / repo / sha, **facts)
    snapshot = folder / "snapshots" / sha
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for number, file in enumerate(sorted(written.iterdir())):
        blob = folder / "blobs" / f"{sha[:8]}{number}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / ref).write_text(sha)
    return snapshot


def test_every_complete_model_is_registered(home: Home) -> None:
    cached(home, "org/Tiny.One", max_position_embeddings=2048)
    cached(home, "mlx-community/Gemma-3_4bit", model_type="gemma3", text_config={"max_position_embeddings": 131072})
    told = init(home.site())
    assert told.data["added"] == ["mlx-gemma-3-4bit", "mlx-tiny-one"]
    assert told.exit_code == 0
    models = home.registry().models
    tiny = models["mlx-tiny-one"]
    assert (tiny.repo_id, tiny.context_length, tiny.max_output_tokens, tiny.port) == ("org/Tiny.One", 2048, 2048, None)
    assert Path(tiny.cache_path).name == SHA
    gemma = models["mlx-gemma-3-4bit"]
    assert (gemma.context_length, gemma.max_output_tokens) == (131072, 65536)


def test_a_second_init_adds_nothing_and_keeps_what_was_set(home: Home) -> None:
    cached(home, "org/a")
    init(home.site())
    home.site().store.update(lambda registry: registry.assign("mlx-a", home.base))
    before = home.registry_path.read_bytes()
    told = init(home.site())
    assert (told.data["added"], told.data["known"]) == ([], ["mlx-a"])
    assert told.messages == (f"no new model in {home.hub_cache}",)
    assert home.registry_path.read_bytes() == before


def test_two_models_of_one_id_ask_for_a_name_and_the_rest_is_registered(home: Home) -> None:
    cached(home, "one/Same-Name")
    cached(home, "two/same_name")
    cached(home, "org/other")
    told = home.run("init", "--json")
    assert (told.code, told.error["code"]) == (5, "name_collision")
    assert "--name" in told.error["hint"]
    assert "two/same_name" in told.error["message"]
    assert "one/Same-Name" in told.error["message"]
    assert set(home.registry().models) == {"mlx-same-name", "mlx-other"}
    assert home.registry().models["mlx-same-name"].repo_id == "one/Same-Name"


def test_half_downloads_are_told_and_are_no_failure(home: Home) -> None:
    whole = cached(home, "org/whole")
    torn = cached(home, "org/torn", shards=2)
    (torn / "model-00002-of-00002.safetensors").unlink()
    partial = home.hub_cache / "models--org--begun" / "blobs"
    partial.mkdir(parents=True)
    (partial / "abc.incomplete").write_bytes(b"x")
    told = init(home.site())
    assert told.data["added"] == ["mlx-whole"]
    assert told.exit_code == 0
    said = " ".join([*told.messages, *(problem.message for problem in told.errors)])
    assert "org/begun" in said
    assert "torn" in said
    assert Path(home.registry().models["mlx-whole"].cache_path) == whole


def test_a_shard_that_is_shorter_than_its_header_says(home: Home) -> None:
    snapshot = cached(home, "org/short")
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-7])
    told = init(home.site())
    assert told.data["added"] == []
    assert any("7 bytes are missing" in problem.message for problem in told.errors)


def test_gpt_oss_gets_its_harmony_fields(home: Home) -> None:
    snapshot = cached(home, "openai/gpt-oss-20b", model_type="gpt_oss")
    (snapshot / "chat_template.jinja").write_text("{{ messages }}")
    init(home.site())
    entry = home.registry().models["mlx-gpt-oss-20b"]
    assert (entry.tool_call_parser, entry.reasoning_parser) == ("harmony", "harmony")
    assert entry.chat_template == str(Path(entry.cache_path) / "chat_template.jinja")


def test_what_is_no_model_is_passed_over(home: Home) -> None:
    (home.hub_cache / "datasets--org--data" / "snapshots").mkdir(parents=True)
    (home.hub_cache / "notes.txt").write_text("mine")
    (home.hub_cache / ".locks").mkdir()
    told = init(home.site())
    assert (told.data["added"], told.errors) == ([], ())


def test_a_cache_that_does_not_exist_yet(home: Home) -> None:
    away = Home(home.root, home.base, {"HF_HUB_CACHE": str(home.root / "nowhere")})
    told = away.run("init", "--json")
    assert (told.code, told.data["added"]) == (0, [])


def test_what_the_real_client_downloaded(home: Home) -> None:
    write_model(home.root / "served" / "acme" / "tiny", shards=2, max_position_embeddings=512)
    with Hub(home.root / "served") as hub:
        snapshot = download("acme/tiny", home.hub_cache, Recorder(), endpoint=hub.url)
    told = init(home.site())
    assert told.data["added"] == ["mlx-tiny"]
    entry = home.registry().models["mlx-tiny"]
    assert Path(entry.cache_path).resolve() == snapshot.path.resolve()
    assert entry.context_length == 512
    assert json.loads(home.registry_path.read_text())["version"] == 1
