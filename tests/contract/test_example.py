"""registry.example.json is a registry that works, and the codes in the source are the codes in the table."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlxctl
from mlxctl.assets import asset
from mlxctl.control.store import RegistryStore
from mlxctl.core import errors
from mlxctl.core.errors import CODES, MlxctlError
from mlxctl.core.ports import Ports
from mlxctl.core.registry import Registry, broken_invariants, model_id_of, output_tokens_for, parse_registry
from mlxctl.core.schema import invalid_fields

EXAMPLE = asset("registry.example.json")
PACKAGE = Path(mlxctl.__file__).parent
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != Path(errors.__file__)]


# --- the example ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> Registry:
    return parse_registry(EXAMPLE.read_text(encoding="utf-8"), str(EXAMPLE))


def test_the_example_is_valid(example: Registry) -> None:
    assert invalid_fields(example) == []
    assert broken_invariants(example, Ports()) == []
    assert json.loads(example.text()) == json.loads(EXAMPLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("port", "repo_id", "is_harmony"),
    [
        (8100, "mlx-community/gpt-oss-120b-MXFP4-Q4", True),
        (8101, "mlx-community/gemma-3-27b-it-qat-4bit", False),
        (8102, "mlx-community/gpt-oss-20b-MXFP4-Q4", True),
    ],
)
def test_the_example_is_the_seed_s_boot_ensemble(example: Registry, port: int, repo_id: str, is_harmony: bool) -> None:
    entry = example.at(port)
    assert entry is not None
    assert (entry.repo_id, entry.model_id, entry.boot) == (repo_id, model_id_of(repo_id), True)
    harmony = "harmony" if is_harmony else None
    assert (entry.chat_template, entry.tool_call_parser, entry.reasoning_parser) == (harmony,) * 3
    assert entry.context_length == 131072
    assert entry.max_output_tokens == output_tokens_for(131072)


def test_the_example_holds_nothing_else(example: Registry) -> None:
    assert sorted(example.assigned) == [8100, 8101, 8102]
    assert len(example.models) == 3


def test_the_example_can_be_put_in_place_and_written_to(example: Registry, tmp_path: Path) -> None:
    store = RegistryStore(tmp_path / "registry.json", Ports())
    store.path.write_bytes(EXAMPLE.read_bytes())
    assert store.read() == example
    assert store.problems() == []
    written = store.update(lambda registry: registry.unassign(8101))
    assert sorted(written.assigned) == [8100, 8102]


# --- codes ------------------------------------------------------------------------------------------------------

ERROR_NAMES = {
    name for name, found in vars(errors).items() if inspect.isclass(found) and issubclass(found, MlxctlError)
} | {"Problem"}


def makers_of_errors() -> set[str]:
    """The error classes, and the package's functions that take a `code` first to make an error of it."""
    functions = (
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    )
    return ERROR_NAMES | {f.name for f in functions if [a.arg for a in f.args.args if a.arg != "self"][:1] == ["code"]}


MAKERS = makers_of_errors()


def codes_in(text: str) -> Iterator[tuple[int, str]]:
    """(line, code) of every error or problem made with a code that stands in the source, or in a name set beside it."""
    tree = ast.parse(text)
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef)]:
        named = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            if ast.unparse(call.func).split(".")[-1] not in MAKERS or not call.args:
                continue
            given = call.args[0]
            given = named.get(given.id, given) if isinstance(given, ast.Name) else given
            yield from ((call.lineno, word) for word in _words(given))


def _words(expression: ast.expr) -> Iterator[str]:
    """What an expression can be: a literal, or either side of a choice between literals."""
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        yield expression.value
    elif isinstance(expression, ast.IfExp):
        yield from _words(expression.body)
        yield from _words(expression.orelse)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_code_in_the_source_is_listed(path: Path) -> None:
    unlisted = [(line, code) for line, code in codes_in(path.read_text(encoding="utf-8")) if code not in CODES]
    assert unlisted == []


def test_every_listed_code_is_used() -> None:
    used = {code for path in SOURCES for _line, code in codes_in(path.read_text(encoding="utf-8"))}
    assert sorted(set(CODES) - used) == []


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ('raise NotFound("a", "x")', ["a"]),
        ('raise errors.Conflict("b", "x") from None', ["b"]),
        ('problems = [Problem("c", "x", "y")]', ["c"]),
        ('NotReady("d" if late else "e", "x")', ["d", "e"]),
        ('def f():\n  code = "f" if busy else "g"\n  raise Conflict(code, "x")', ["f", "g"]),
        ('raise self.gave_up("h", "did not answer")', ["h"]),
        ('raise ValueError("i")', []),
        ("Problem(error.code, error.message)", []),
    ],
)
def test_the_walk_finds_codes(text: str, codes: list[str]) -> None:
    assert sorted({code for _line, code in codes_in(text)}) == codes
