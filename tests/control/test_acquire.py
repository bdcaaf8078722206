"""From a word to a registered model: ids, repositories, folders and what a second time keeps."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlxctl.control.acquire import Acquired, acquire, gguf_of
from mlxctl.control.convert import Conversion
from mlxctl.control.weights import problems_of
from mlxctl.core.errors import MlxctlError
from mlxctl.core.registry import DEFAULT_CONTEXT_LENGTH, ModelEntry
from tests.fakes.home import Home
from tests.fakes.hub import Hub
from tests.fakes.hub_faults import Private
from tests.fakes.models import write_model

ROOT = Path(__file__).parents[2]
FAKE = f"{sys.executable} -m tests.fakes.converter {{src}} {{dest}}"


@pytest.fixture
def hub(home: Home) -> Iterator[Hub]:
    with Hub(home.root / "hub-root") as hub:
        yield hub


@pytest.fixture
def world(home: Home, hub: Hub) -> Home:
    """A home whose hub is the fake one and whose converter is the fake one."""
    return Home(home.root, home.base, {"HF_ENDPOINT": hub.url, "MLX_CONVERT_CMD": FAKE, "PYTHONPATH": str(ROOT)})


def publish(hub: Hub, repo: str, **facts: object) -> Path:
    return write_model(hub.root / repo, **facts)  # type: ignore[arg-type]


def get(world: Home, word: str | Path, name: str | None = None, **asked: object) -> Acquired:
    return acquire(world.site(), str(word), Conversion(**asked), name)  # type: ignore[arg-type]


def refused(world: Home, word: str | Path, name: str | None = None, **asked: object) -> MlxctlError:
    before = world.registry().text()
    with pytest.raises(MlxctlError) as caught:
        get(world, word, name, **asked)
    assert world.registry().text() == before
    assert caught.value.hint
    return caught.value


def test_a_repository_is_downloaded_converted_and_registered(world: Home, hub: Hub) -> None:
    publish(hub, "org/Some_Model.v2", mlx=False, shards=2, max_position_embeddings=32768)
    got = get(world, "org/Some_Model.v2")
    assert (got.created, got.converted) == (True, True)
    entry = got.entry
    cached = world.hub_cache / "models--org--Some_Model.v2"
    assert entry == ModelEntry(
        repo_id="org/Some_Model.v2",
        model_id="mlx-some-model-v2",
        cache_path=str(world.hub_cache / "converted--mlx-some-model-v2"),
        source_path=str(cached / "snapshots" / hub.sha("org/Some_Model.v2")),
        og_path=str(cached),
        context_length=32768,
        max_output_tokens=32768,
    )
    assert world.registry().models == {"mlx-some-model-v2": entry}
    assert list(problems_of(Path(entry.cache_path))) == []


@pytest.mark.parametrize(
    ("repo", "mlx", "asked", "converted"),
    [
        ("mlx-community/a-4bit", False, {}, False),
        ("org/a", True, {}, False),
        ("org/a", False, {"convert": "skip"}, False),
        ("org/a", False, {"preconverted": "yes"}, False),
        ("org/a", False, {}, True),
        ("mlx-community/a", True, {"convert": "force"}, True),
        ("mlx-community/a", True, {"preconverted": "no"}, True),
    ],
)
def test_whether_a_repository_is_converted(
    world: Home, hub: Hub, repo: str, mlx: bool, asked: dict[str, object], converted: bool
) -> None:
    publish(hub, repo, mlx=mlx)
    got = get(world, repo, **asked)
    assert got.converted is converted
    snapshot = world.hub_cache / f"models--{repo.replace('/', '--')}" / "snapshots" / hub.sha(repo)
    assert got.entry.cache_path == str(world.hub_cache / f"converted--{got.entry.model_id}" if converted else snapshot)
    assert (got.entry.og_path is not None) is converted


@pytest.mark.parametrize("again", ["mlx-a", "org/a"])
def test_what_is_there_already_is_neither_fetched_nor_converted_again(world: Home, hub: Hub, again: str) -> None:
    publish(hub, "org/a", mlx=False)
    first = get(world, "org/a").entry
    hub.break_with()
    second = get(world, again)
    assert (second.entry, second.created, second.converted) == (first, False, False)
    assert hub.requests() == ()


@pytest.mark.parametrize("lost", ["the conversion", "the download", "both"])
def test_what_is_gone_is_made_again_and_what_people_set_is_kept(world: Home, hub: Hub, lost: str) -> None:
    publish(hub, "org/a", mlx=False)
    entry = get(world, "org/a").entry
    mine = {"context_length": 2048, "max_output_tokens": 100, "chat_template": "chatml", "request_params": {"top_k": 5}}
    kept = replace(entry, port=world.base + 20, pinned=True, boot=True, priority="high", engine="mlx-lm", **mine)
    world.site().store.update(lambda registry: registry.with_entry(kept))
    if lost != "the download":
        shutil.rmtree(entry.cache_path)
    if lost != "the conversion":
        shutil.rmtree(world.hub_cache / "models--org--a")
    hub.break_with()
    got = get(world, "mlx-a")
    assert got.converted is (lost != "the download")
    assert bool(hub.sent("*.safetensors")) is (lost == "both")
    assert got.entry == kept
    assert list(problems_of(Path(kept.cache_path))) == []


def test_force_converts_again(world: Home, hub: Hub) -> None:
    publish(hub, "org/a", mlx=False)
    entry = get(world, "org/a").entry
    config = Path(entry.cache_path, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "mark": "spoilt"}))
    got = get(world, "mlx-a", convert="force")
    assert (got.converted, got.created, got.entry) == (True, False, entry)
    assert json.loads(config.read_text())["mark"] == ""


GPT_OSS = {"model_type": "gpt_oss", "max_position_embeddings": 131072}


def test_gpt_oss_gets_harmony_without_being_asked(world: Home, hub: Hub) -> None:
    publish(hub, "mlx-community/gpt-oss-20b-MXFP4-Q4", **GPT_OSS)
    entry = get(world, "mlx-community/gpt-oss-20b-MXFP4-Q4").entry
    assert entry.model_id == "mlx-gpt-oss-20b-mxfp4-q4"
    assert (entry.chat_template, entry.tool_call_parser, entry.reasoning_parser) == ("harmony",) * 3
    assert (entry.context_length, entry.max_output_tokens) == (131072, 65536)


def test_gpt_oss_with_a_template_of_its_own_uses_that(world: Home) -> None:
    folder = world.model("gpt-oss", register=False, **GPT_OSS)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    entry = get(world, folder).entry
    assert entry.chat_template == str(folder / "chat_template.jinja")
    assert entry.tool_call_parser == "harmony"


@pytest.mark.parametrize(
    ("config", "length", "output"),
    [
        ({"max_position_embeddings": 2048}, 2048, 2048),
        ({"max_position_embeddings": None, "text_config": {"max_position_embeddings": 131072}}, 131072, 65536),
        ({"max_position_embeddings": None}, DEFAULT_CONTEXT_LENGTH, 65536),
    ],
)
def test_limits_are_written(world: Home, config: dict[str, object], length: int, output: int) -> None:
    entry = get(world, world.model("a", register=False, **config)).entry
    assert (entry.context_length, entry.max_output_tokens) == (length, output)


def test_quantisation_is_noted(world: Home) -> None:
    quantization = {"group_size": 64, "bits": 4}
    assert get(world, world.model("a", register=False, quantization=quantization)).entry.quantization == quantization
    assert get(world, world.model("b", register=False, quantization="q4")).entry.quantization is None


def test_a_local_folder_is_served_from_where_it_is(world: Home) -> None:
    folder = world.model("My Model", register=False)
    got = get(world, folder)
    assert got.entry.model_id == "mlx-my-model"
    assert (got.entry.repo_id, got.entry.cache_path, got.entry.og_path) == ("local/My Model", str(folder), None)
    again = get(world, str(folder) + "/../My Model")
    assert (again.entry, again.created, again.converted) == (got.entry, False, False)


def test_a_local_folder_is_converted_once_and_again_only_when_asked(world: Home) -> None:
    folder = world.model("a", register=False, mlx=False)
    assert [get(world, folder).converted for _ in range(2)] == [True, False]
    assert not get(world, folder, dtype="float16").converted
    assert get(world, folder, convert="force").converted
    shutil.rmtree(world.hub_cache / "converted--mlx-a")
    assert get(world, folder).converted
    assert get(world, "mlx-a").entry.source_path == str(folder)


@pytest.mark.parametrize("flags", [{"bits": 4}, {"quantize": True}, {"group_size": 32}], ids=str)
def test_a_model_that_is_quantised_otherwise_is_no_silent_match(world: Home, flags: dict[str, object]) -> None:
    folder = world.model("a", register=False)
    get(world, folder)
    for word in (folder, "mlx-a", "local/a"):
        error = refused(world, word, **flags)
        assert (error.code, error.exit_code) == ("bad_flag", 2)
        assert "--convert force" in error.hint
    four_bits = write_model(world.root / "models" / "q", quantization={"bits": 4, "group_size": 64})
    get(world, four_bits)
    assert not get(world, four_bits, bits=4).converted
    assert "4 bits" in refused(world, "mlx-q", bits=8).message


def test_a_torn_model_that_cannot_be_fetched_again_is_told_as_torn(world: Home, hub: Hub) -> None:
    publish(hub, "org/a")
    entry = get(world, "org/a").entry
    shard = next(Path(entry.cache_path).glob("*.safetensors"))
    whole = shard.resolve().read_bytes()
    shard.resolve().write_bytes(whole[:-4])
    hub.break_with(Private("*"))
    error = refused(world, "mlx-a")
    assert (error.code, error.exit_code) == ("bad_model", 7)
    assert "4 bytes are missing" in error.message and "downloading it again failed" in error.hint


def test_another_folder_of_the_same_name_collides(world: Home) -> None:
    first = world.model("a", register=False)
    second = write_model(world.root / "elsewhere" / "a")
    assert get(world, first).entry.cache_path == str(first)
    error = refused(world, second)
    assert (error.code, error.exit_code) == ("name_collision", 5)
    assert str(first) in error.message and str(second) in error.message


def test_a_name_of_ones_own(world: Home, hub: Hub) -> None:
    publish(hub, "org/a")
    first = get(world, "org/a").entry
    second = get(world, "org/a", name="other").entry
    assert (first.model_id, second.model_id) == ("mlx-a", "mlx-other")
    assert get(world, "mlx-a", name="mlx-a").entry == first
    assert refused(world, "org/a").code == "ambiguous_model"
    assert refused(world, "org/b", name="Not An Id").code == "bad_name"


def test_two_repositories_whose_ids_collide(world: Home, hub: Hub) -> None:
    publish(hub, "org/Some.Model")
    publish(hub, "other/some_model")
    get(world, "org/Some.Model")
    hub.break_with()
    error = refused(world, "other/some_model")
    assert (error.code, error.exit_code) == ("name_collision", 5)
    assert "org/Some.Model already has that id" in error.message and "--name" in error.hint
    assert hub.requests() == (), "nothing is downloaded for an id that is taken"
    assert get(world, "other/some_model", name="second").entry.model_id == "mlx-second"


@pytest.mark.parametrize(
    ("word", "code", "exit_code"),
    [
        ("nothing", "unknown_model", 4),
        ("mlx-nothing", "unknown_model", 4),
        ("local/a", "unknown_model", 4),
        ("./no/such/folder", "unknown_model", 4),
        ("org/none", "unknown_repo", 4),
        ("org/a/b", "unknown_model", 4),
        ("", "unknown_model", 4),
    ],
)
def test_words_that_mean_nothing(world: Home, hub: Hub, word: str, code: str, exit_code: int) -> None:
    error = refused(world, word)
    assert (error.code, error.exit_code) == (code, exit_code)


def test_a_near_miss_is_pointed_out(world: Home) -> None:
    world.model("gpt-oss-20b")
    assert "did you mean mlx-gpt-oss-20b?" in refused(world, "gpt-oss").hint


def test_a_file_that_is_no_model(world: Home) -> None:
    path = world.root / "model.bin"
    path.write_bytes(b"")
    assert refused(world, path).code == "bad_flag"


@pytest.mark.parametrize("lost", ["model-00002-of-00003.safetensors", "config.json"])
@pytest.mark.parametrize("mlx", [True, False])
def test_a_folder_that_is_not_whole_is_refused(world: Home, lost: str, mlx: bool) -> None:
    folder = world.model("a", register=False, shards=3, mlx=mlx)
    (folder / lost).unlink()
    error = refused(world, folder)
    assert (error.code, error.exit_code) == ("bad_model", 7)
    assert lost in error.message
    assert not list(world.hub_cache.glob("converted--*"))


def test_a_shard_that_is_torn_is_refused_at_load(world: Home) -> None:
    home = world.with_engine()
    folder = world.model("a", register=False, shards=2)
    assert get(world, folder).created
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    failed = home.run("load", "mlx-a", "auto", "--json")
    assert (failed.code, failed.error["code"]) == (7, "bad_model")
    assert "is torn: 1 bytes are missing" in failed.error["message"]
    assert home.site().states.known() == {}, "no process was started"


def test_a_gguf_file_is_never_served_as_it_is(world: Home) -> None:
    path = world.root / "tiny.gguf"
    path.write_bytes(b"GGUF")
    assert refused(world, path, convert="skip").code == "unsupported_format"


def test_the_gguf_of_a_folder(tmp_path: Path) -> None:
    assert gguf_of(tmp_path) is None
    (tmp_path / "sub").mkdir()
    for name in ("a.Q4_K_M.gguf", "sub/a.Q8_0.gguf", "mmproj-a.F32.gguf"):
        (tmp_path / name).write_bytes(b"")
    assert gguf_of(tmp_path / "a.Q4_K_M.gguf") == tmp_path / "a.Q4_K_M.gguf"
    assert gguf_of(tmp_path) == tmp_path / "sub" / "a.Q8_0.gguf", "the most exact one that is a model"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert gguf_of(tmp_path) is None


def test_offline_nothing_is_asked_of_the_hub(world: Home, hub: Hub) -> None:
    publish(hub, "org/a")
    offline = Home(world.root, world.base, {**world.environ, "HF_HUB_OFFLINE": "1"})
    assert refused(offline, "org/a").code == "hub_offline"
    assert hub.requests() == ()
    get(world, "org/a")
    shutil.rmtree(world.root / "state")
    world.registry_path.unlink()
    assert get(offline, "org/a").created
