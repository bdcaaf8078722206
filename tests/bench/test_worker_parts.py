"""What the benchmark stands on: prompts that share nothing, runs of an engine, paused processes, its command line."""

from __future__ import annotations

import select
import sys
from pathlib import Path

import pytest

from bench.worker.cli import arguments, wanted
from bench.worker.inprocess import SPARE_TOKENS, latency, run
from bench.worker.model import layer
from bench.worker.process import Process, SideFailed, environment
from bench.worker.prompts import Prompts
from tests.fakes.tiny_models import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("model"))


def test_prompts_are_the_same_for_a_seed_and_no_two_begin_alike(model: Path) -> None:
    first, second = Prompts(model, 1), Prompts(model, 1)
    drawn = [first.short() for _ in range(50)]
    assert drawn == [second.short() for _ in range(50)]
    assert len({messages[0]["content"] for messages in drawn}) == 50
    assert Prompts(model, 2).short() != drawn[0]


@pytest.mark.parametrize("tokens", [80, 800, 1500])
def test_a_text_has_the_tokens_that_were_asked_for(model: Path, tokens: int) -> None:
    from transformers import AutoTokenizer

    text = Prompts(model, 3).text(tokens)
    assert tokens - 2 <= len(AutoTokenizer.from_pretrained(model).encode(text, add_special_tokens=False)) <= tokens
    task = Prompts(model, 3).task(tokens)
    assert tokens - 4 <= len(AutoTokenizer.from_pretrained(model).encode(task, add_special_tokens=False)) <= tokens
    assert task.endswith("these words.")
    ids = Prompts(model, 3).ids(tokens, 303)
    assert len(ids) == tokens and all(0 <= number < 303 for number in ids)


class Clockwork:
    """An engine that gives every row a token a step, one unit of time apart; `late` steps go by before a row begins."""

    def __init__(self, late: int = 2) -> None:
        self.late, self.now = late, 0.0
        self.rows: dict[int, tuple[float, int]] = {}
        self.log: list[str] = []

    def add(self, number: int, prompt: list[int], max_tokens: int) -> None:
        self.rows[number] = (self.now + self.late, max_tokens)
        self.log.append(f"add {number} of {len(prompt)} at {self.now:g}")

    def step(self) -> list[tuple[int, float]]:
        self.now += 1
        return [(n, self.now) for n, (begin, most) in self.rows.items() if begin < self.now <= begin + most]

    def kv_bytes(self) -> int:
        return 100 * len(self.rows)

    def clear(self) -> None:
        self.rows.clear()
        self.log.append("clear")

    def facts(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        self.log.append("close")


def test_a_group_waits_until_the_one_before_has_begun_and_all_rows_are_counted_together() -> None:
    engine = Clockwork()
    said = run(engine, [[[1] * 9], [[1], [2]]], 5, 0)
    assert engine.log == ["add 0 of 9 at 0", "add 1 of 1 at 3", "add 2 of 1 at 3", "clear"]
    assert [row[0] for row in said["times"]] == [3, 6, 6]
    assert {row[-1] for row in said["times"]} == {11}, "five more after the last one began"
    assert said["kv_bytes"] == 300


def test_a_row_that_ends_before_it_was_counted_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="spare tokens are too few"):
        run(Clockwork(late=SPARE_TOKENS + 10), [[[1]], [[2]]], 5, 0)


def test_one_by_one_each_prompt_is_answered_before_the_next_is_handed_in() -> None:
    engine = Clockwork()
    said = latency(engine, [[1], [2, 3]])
    assert len(said["seconds"]) == 2
    assert engine.log == ["add 0 of 1 at 0", "clear", "add 0 of 2 at 3", "clear"]


TICK = "import sys,time\nprint('up', flush=True)\nfor line in sys.stdin: print(line.strip() * 2, flush=True)"


def test_a_paused_process_is_silent_and_goes_on_where_it_was(tmp_path: Path) -> None:
    process = Process(
        [sys.executable, "-c", TICK], environment(tmp_path, 1, preload=False), tmp_path / "log", talks=True
    )
    try:
        assert process.stdout.readline() == "up\n"
        process.pause()
        print("ab", file=process.stdin, flush=True)
        assert not select.select([process.stdout], [], [], 0.2)[0], "it says nothing while it is paused"
        process.resume()
        assert process.stdout.readline() == "abab\n"
        process.check()
        process.pause()
    finally:
        process.stop()
    with pytest.raises(SideFailed, match="exited with"):
        process.check()


def test_what_a_process_said_last_is_told_when_it_is_gone(tmp_path: Path) -> None:
    code = "import sys; sys.exit('no model here')"
    process = Process([sys.executable, "-c", code], environment(tmp_path, 1, preload=False), tmp_path / "log")
    process.wait(10)
    with pytest.raises(SideFailed, match="exited with 1: no model here"):
        process.check()
    process.stop()


@pytest.mark.parametrize(
    ("words", "threads", "peers"),
    [
        ([], None, "mlx-lm,vllm-mlx,mlx-openai-server,batch-generator"),
        (["--threads", "3", "--peers", "mlx-lm"], 3, "mlx-lm"),
    ],
)
def test_the_command_line(words: list[str], threads: int | None, peers: str) -> None:
    asked = arguments(words)
    assert asked.peers == peers and asked.threads == (threads or asked.threads) and asked.reps == 5


@pytest.mark.parametrize("words", [["--peers", "ollama"], ["--only", "nothing"]])
def test_words_it_does_not_know_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert words[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("figure", "scenes", "is_wanted"),
    [
        ("even-1", ["even-1"], True),
        ("even-16", ["even-1"], False),
        ("even-1-whole", ["even-1"], True),
        ("join-seed", ["join"], True),
        ("skew-kv", ["join", "skew"], True),
        ("skew", ["join"], False),
    ],
)
def test_only_the_rows_of_scenes_that_were_played_are_shown(figure: str, scenes: list[str], is_wanted: bool) -> None:
    assert wanted(figure, scenes) is is_wanted


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("model.layers.7.mlp.up_proj.weight", 7),
        ("model.layers.12.input_layernorm.weight", 12),
        ("model.norm.weight", -1),
    ],
)
def test_the_cut_keeps_the_layers_from_the_bottom(name: str, number: int) -> None:
    assert layer(name) == number
