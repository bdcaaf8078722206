"""Bad input through the real command line: exit code, one clear line, what to do next, and nothing changed by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxctl.core.errors import CODES
from tests.fakes.home import Home, Ran, free_base
from tests.fakes.story import assigned, bring_up, serving, state, stranger

PYTHON = [sys.executable, "-c"]


def made_busy(home: Home) -> Home:
    """mlx-a serves on the first port, mlx-b is registered; the hub may not be asked."""
    home = home.with_engine(HF_HUB_OFFLINE="1")
    home.model("a")
    home.model("b")
    bring_up(home, "mlx-a", 0)
    return home


@pytest.fixture
def busy(home: Home) -> Home:
    return made_busy(home)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One for all the commands that are not to change it."""
    home = Home(tmp_path_factory.mktemp("untouched"), free_base())
    home.hub_cache.mkdir()
    yield made_busy(home)
    home.stop_everything()


def expect(home: Home, told: Ran, code: int, error: str, word: str) -> None:
    """One JSON error of this code, and the registry as it was."""
    assert told.code == code, told
    assert told.out.count("\n") == 1, "one object, one line"
    assert (told.json["schema"], told.json["ok"]) == (1, False)
    assert told.error["code"] == error, told.error
    assert error in CODES
    assert word in told.error["message"] + told.error["hint"]
    assert told.error["hint"], "what to do next"
    assert "\n" not in told.error["message"]
    assert serving(home) == {0: "mlx-a"}
    assert assigned(home) == {0: "mlx-a"}


BAD_WORDS: list[tuple[str, int, str, str]] = [
    # what is typed ({base}: the first port), exit code, error code, a word of the message or the hint
    ("load qwerty-asdf auto", 4, "unknown_model", "mlxctl list"),
    ("load mlx-aa auto", 4, "unknown_model", "did you mean mlx-a"),
    ("load Org_Name auto", 4, "unknown_model", "organisation/name"),
    ("load nobody/nothing auto", 8, "hub_offline", "nobody/nothing"),
    ("load ../etc/passwd auto", 4, "unknown_model", "passwd"),
    ("load mlx-b {before}", 2, "bad_port", "{before}"),
    ("load mlx-b {after}", 2, "bad_port", "{after}"),
    ("load mlx-b abc", 2, "bad_port", "'abc'"),
    ("load mlx-b -1", 2, "bad_flag", "-1"),
    ("load mlx-b {base}.0", 2, "bad_port", "{base}.0"),
    ("load mlx-b 99999999999999999999999999", 2, "bad_port", "{base}"),
    ("load mlx-b ٨١٢٠", 2, "bad_port", "auto"),
    ("load mlx-b 0x1fb8", 2, "bad_port", "auto"),
    ("load mlx-b AUTO", 2, "bad_port", "`auto`"),
    ("load mlx-b", 2, "bad_flag", "--help"),
    ("load", 2, "bad_flag", "--help"),
    ("load {base} mlx-b", 2, "bad_port", "mlx-b"),
    ("load mlx-b {base} --engine vllm", 2, "bad_flag", "mlx-lm"),
    ("load mlx-b {base} --engine mlx-openai-server", 7, "no_engine", "--engine worker"),
    ("worker --port {base} --model /no/such/folder", 4, "unknown_model", "/no/such/folder"),
    ("load mlx-b {base} --convert maybe", 2, "bad_flag", "force"),
    ("load mlx-b {base} --preconverted maybe", 2, "bad_flag", "yes"),
    ("load mlx-b {base} --bits 99", 2, "bad_flag", "--bits"),
    ("load mlx-b {base} --dtype int4", 2, "bad_flag", "float16"),
    ("load mlx-b {base} --convert skip --bits 4", 2, "bad_flag", "skip"),
    ("load org/new auto --name Bad_Name", 2, "bad_name", "lower-case"),
    ("load mlx-b {base} --frobnicate", 2, "bad_flag", "--frobnicate"),
    ("frobnicate", 2, "bad_flag", "frobnicate"),
    ("unload {idle}", 4, "nothing_on_port", "{idle}"),
    ("unload {before}", 2, "bad_port", "{before}"),
    ("unload mlx-b", 4, "nothing_on_port", "mlx-b"),
    ("unload mlx-nobody", 4, "unknown_model", "mlx-nobody"),
    ("unload-all", 2, "needs_yes", "--yes"),
    ("reconcile --apply --restart", 2, "bad_flag", "--restart"),
    ("logs {idle}", 4, "no_log", "{idle}"),
    ("logs mlx-nobody", 4, "unknown_model", "mlx-nobody"),
    ("logs {base} -n -5", 2, "bad_flag", "--lines"),
    ("chat mlx-b hello", 4, "not_serving", "mlxctl load mlx-b auto"),
    ("chat {idle} hello", 4, "not_serving", "{idle}"),
    ("ensure mlx-nobody", 4, "unknown_model", "mlx-nobody"),
    ("ensure org/b --load --port abc", 2, "bad_port", "abc"),
    ("registry restore 99", 4, "no_backup", "99"),
    ("registry frobnicate", 2, "bad_flag", "frobnicate"),
]


@pytest.mark.parametrize(("line", "code", "error", "word"), BAD_WORDS, ids=[row[0] for row in BAD_WORDS])
def test_bad_words(untouched: Home, line: str, code: int, error: str, word: str) -> None:
    busy = untouched
    ports = {"base": busy.base, "before": busy.base - 1, "after": busy.base + 40, "idle": busy.base + 9}
    before = busy.registry_path.read_bytes(), state(busy, 0)
    told = busy.run(*line.format(**ports).split(), "--json")
    expect(busy, told, code, error, word.format(**ports))
    assert (busy.registry_path.read_bytes(), state(busy, 0)) == before


@pytest.mark.parametrize(
    "line", ["load mlx-nobody auto", "load mlx-b abc", "unload 1", "unload-all", "load", "reconcile --apply --restart"]
)
def test_people_see_one_error_and_one_next_step(untouched: Home, line: str) -> None:
    told = untouched.run(*line.split())
    assert told.out == ""
    starts = [text.split(":")[0] for text in told.err.splitlines()]
    assert starts == ["error", "next"], told.err
    assert "\x1b" not in told.err
    assert "Traceback" not in told.err


def test_a_port_that_a_stranger_holds(busy: Home) -> None:
    with stranger(busy.base + 1) as listener:
        for argv in (("load", "mlx-b"), ("load", "--force", "mlx-b"), ("load", "mlx-a")):
            told = busy.run(*argv, str(busy.base + 1), "--json")
            expect(busy, told, 5, "port_taken", f"(pid {os.getpid()})")
        expect(busy, busy.run("unload", str(busy.base + 1), "--json"), 5, "port_taken", f"(pid {os.getpid()})")
        assert busy.run("unload-all", "--yes", "--json").code == 0
        assert listener.fileno() > 0


def test_two_folders_of_one_name(busy: Home) -> None:
    """The second is not taken for the first: that would silently serve other weights under its id."""
    first = busy.model("one/same", register=False)
    second = busy.model("two/same", register=False)
    assert busy.run("ensure", str(first), "--json").code == 0
    expect(busy, busy.run("ensure", str(second), "--json"), 5, "name_collision", "--name")
    assert busy.registry().models["mlx-same"].cache_path == str(first)
    named = busy.run("ensure", str(second), "--name", "same-two", "--json")
    assert (named.code, named.data["model"]["model_id"]) == (0, "mlx-same-two")
    assert busy.run("ensure", str(first), "--json").data["created"] is False


def test_a_model_with_a_missing_shard(busy: Home) -> None:
    folder = busy.model("torn", register=False, shards=2)
    assert busy.run("ensure", str(folder), "--json").code == 0
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    expect(busy, busy.run("load", "mlx-torn", str(busy.base), "--json"), 7, "bad_model", shard.name)


@pytest.mark.parametrize(
    ("template", "word"), [("nowhere.jinja", "does not exist"), ("broken.jinja", "does not parse: line 1")]
)
def test_a_chat_template_that_is_of_no_use(busy: Home, template: str, word: str) -> None:
    (busy.root / "models" / "b" / "broken.jinja").write_text("{% if %}")
    document = json.loads(busy.registry_path.read_text())
    document["models"]["mlx-b"]["chat_template"] = template
    busy.registry_path.write_text(json.dumps(document))
    expect(busy, busy.run("load", "mlx-b", str(busy.base), "--json"), 7, "bad_template", word)


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("MLX_ROUTE_VIA_OPTILLM", "maybe", "MLX_ROUTE_VIA_OPTILLM"),
        ("MLXCTL_PORT_BASE", "many", "MLXCTL_PORT_BASE"),
        ("MLXCTL_PORT_BASE", "70000", "port"),
        ("MLXCTL_READY_TIMEOUT_S", "nan", "MLXCTL_READY_TIMEOUT_S"),
        ("MLXCTL_STOP_GRACE_S", "soon", "MLXCTL_STOP_GRACE_S"),
    ],
)
def test_a_setting_of_the_wrong_form(untouched: Home, variable: str, value: str, word: str) -> None:
    expect(untouched, untouched.run("status", "--json", **{variable: value}), 2, "bad_setting", word)


@pytest.mark.parametrize("value", ["python 'unbalanced", "   "])
def test_a_launch_command_that_is_no_command(busy: Home, value: str) -> None:
    told = busy.run("load", "mlx-b", str(busy.base), "--engine", "command", "--json", MLX_LAUNCH_CMD=value)
    assert told.code in (2, 7)
    assert told.error["code"] in ("bad_setting", "no_engine")
    assert "MLX_LAUNCH_CMD" in told.error["message"] + told.error["hint"]
    assert serving(busy) == {0: "mlx-a"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("engine = ", "config.toml"),
        ("colour = 'red'", "colour"),
        ("lock_timeout_s = 'x'", "lock_timeout_s"),
        ("[paths]", "paths"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_broken_config_file(untouched: Home, text: str | bytes, word: str) -> None:
    busy = untouched
    path = busy.root / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for argv in (["list"], ["load", "mlx-b", "auto"]):
        expect(busy, busy.run(*argv, "--json", MLXCTL_CONFIG=str(path)), 2, "bad_setting", word)


def edited(home: Home, change: str) -> bytes:
    """The registry's file after somebody's edit, or after a crash of something else."""
    document = json.loads(home.registry_path.read_text())
    if change == "two models on one port":
        document["models"]["mlx-b"]["port"] = home.base
    elif change == "a port outside":
        document["models"]["mlx-b"]["port"] = 80
    elif change == "another id":
        document["models"]["mlx-b"]["model_id"] = "mlx-c"
    elif change == "a newer version":
        document["version"] = 2
    content = json.dumps(document).encode()
    return {"half a file": content[:100], "nothing": b"", "no text": b"\x80\x81"}.get(change, content)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("half a file", "registry_corrupt"),
        ("nothing", "registry_corrupt"),
        ("no text", "registry_corrupt"),
        ("a newer version", "registry_newer"),
        ("two models on one port", "registry_invalid"),
        ("a port outside", "registry_invalid"),
        ("another id", "registry_invalid"),
    ],
)
def test_a_registry_that_cannot_be_used(busy: Home, change: str, code: str) -> None:
    good, content = busy.registry_path.read_bytes(), edited(busy, change)
    busy.registry_path.write_bytes(content)
    for argv in (["list"], ["load", "mlx-b", "auto"], ["unload", "mlx-a"], ["init"]):
        told = busy.run(*argv, "--json")
        assert (told.code, told.error["code"]) == (9, code), argv
        assert str(busy.registry_path) in told.error["message"]
        assert told.error["hint"]
        assert busy.registry_path.read_bytes() == content, argv
    assert busy.run("registry", "restore").code == 0
    assert content in [path.read_bytes() for path in busy.hub_cache.rglob("*") if path.is_file()], "and is kept"
    busy.registry_path.write_bytes(good)
    assert serving(busy) == {0: "mlx-a"}


DROP = (
    "import ctypes, os, sys\n"
    "# root may write everywhere until it gives up CAP_DAC_OVERRIDE\n"
    "if os.geteuid() == 0: assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'mlxctl', *sys.argv[1:]])\n"
)


def run_bound_by_permissions(home: Home, *argv: str) -> Ran:
    done = subprocess.run(
        [*PYTHON, DROP, *argv], env=home.env(), capture_output=True, text=True, timeout=60, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_a_registry_that_cannot_be_written(busy: Home) -> None:
    before = busy.registry_path.read_bytes()
    pid = state(busy, 0).pid
    busy.hub_cache.chmod(0o555)
    try:
        told = run_bound_by_permissions(busy, "load", "mlx-b", str(busy.base), "--json")
        listed = run_bound_by_permissions(busy, "list", "--json")
    finally:
        busy.hub_cache.chmod(0o755)
    expect(busy, told, 9, "registry_read_only", str(busy.registry_path))
    assert busy.registry_path.read_bytes() == before
    assert "mlx-a serves on port" in told.error["hint"] or state(busy, 0).pid == pid
    assert listed.code == 0, "reading needs no lock"


@pytest.mark.parametrize("folder", ["state", "state/ports", "state/locks", "state/logs"])
def test_a_state_folder_that_cannot_be_written(busy: Home, folder: str) -> None:
    path: Path = busy.root / folder
    path.chmod(0o555)
    try:
        told = run_bound_by_permissions(busy, "load", "mlx-b", str(busy.base + 1), "--json")
        listed = run_bound_by_permissions(busy, "status", "--json")
    finally:
        path.chmod(0o755)
    assert listed.code == 0
    if folder == "state":
        # everything below it is there already and can be written
        assert told.code in (0, 9)
        return
    expect(busy, told, 9, "registry_read_only", str(path))
