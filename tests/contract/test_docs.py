"""The pages say what the program does: every command, flag, setting and code is there, and every command line works."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import typer.main

from mlxctl.core import errors
from mlxctl.core.options import CONTROL, WORKER, options
from mlxctl.ui.cli.app import app
from tests.contract.pages import (
    PAGES,
    ROOT,
    anchors,
    blocks,
    broken_links,
    command_lines,
    mentions,
    missing_paths,
    name_of,
    prose,
)

README_LINES = 150
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "docs" / "cli_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = generator()
COMMANDS: list[tuple[str, Any]] = list(REFERENCE.commands())


def setting_row(name: str) -> str:
    return next((line for line in SETTINGS.splitlines() if line.startswith(f"| `{name}` |")), "")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


# --- what the program knows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["cli.md", "settings.md"])
def test_generated_parts_are_what_the_program_says_now(page: str) -> None:
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == REFERENCE.render(page), "run `make docs`"


def test_the_generator_writes_what_is_stale_and_only_looks_with_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for page, text in (("cli.md", CLI), ("settings.md", SETTINGS)):
        stale = text.replace("| exit code | meaning |", "| stale |").replace("| `bind` |", "| stale |")
        (tmp_path / page).write_text(stale)
    monkeypatch.setattr(REFERENCE, "DOCS", tmp_path)
    assert REFERENCE.main(["--check"]) == errors.EXIT_DRIFT
    assert "| stale |" in (tmp_path / "cli.md").read_text()
    assert REFERENCE.main([]) == 0
    assert (tmp_path / "cli.md").read_text() == CLI
    assert (tmp_path / "settings.md").read_text() == SETTINGS
    assert REFERENCE.main(["--check"]) == 0
    assert capsys.readouterr().out.count("written") == 2


@pytest.mark.parametrize("marks", ["", "<!-- generated: settings -->\n", "<!-- end of settings -->\n"])
def test_the_generator_refuses_a_page_without_its_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks: str
) -> None:
    (tmp_path / "settings.md").write_text(marks)
    monkeypatch.setattr(REFERENCE, "DOCS", tmp_path)
    with pytest.raises(ValueError, match="marks of 'settings'"):
        REFERENCE.render("settings.md")


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_every_command_and_flag_is_in_the_reference(words: str, command: Any) -> None:
    section = re.search(rf"^### `{words}(?: [^`]+)?`\n(.*?)(?=^##|^<!--)", CLI, re.MULTILINE | re.DOTALL)
    assert section is not None
    flags = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")}
    assert {flag for flag in flags if f"`{flag}`" not in section[1]} == set()
    assert command.help in section[1]


def test_the_walk_finds_every_command() -> None:
    found = {words for words, _ in COMMANDS}
    assert {"mlxctl load", "mlxctl unload-all", "mlxctl registry backup list", "mlxctl registry restore"} <= found
    assert len(found) == 17


def test_the_data_of_every_command_is_described() -> None:
    rows = set(re.findall(r"^\| `([a-z -]+)` \|", CLI, re.MULTILINE))
    assert {words.removeprefix("mlxctl ") for words, _ in COMMANDS} <= rows


@pytest.mark.parametrize("entry", options(), ids=lambda entry: entry.name)
def test_every_setting_and_variable_is_in_its_table(entry: Any) -> None:
    row = setting_row(entry.name)
    assert [name for name in entry.metadata["env"] if f"`{name}`" not in row] == []
    assert entry.metadata["meaning"] in row
    assert ("********" in row) is entry.metadata["secret"]


@pytest.mark.parametrize("name", ["bind", "hf_home", "port_base", "convert_cmd"])
def test_a_setting_that_has_an_effect_is_not_called_unused(name: str) -> None:
    assert REFERENCE.is_used(name)
    assert "not used yet" not in setting_row(name)


def test_a_setting_of_a_part_that_exists_and_that_nothing_reads_is_called_unused() -> None:
    unused = {entry.name for entry in options() if "not used yet" in setting_row(entry.name)}
    existing = {entry.name for entry in options() if entry.metadata["part"] in (CONTROL, WORKER)}
    assert unused == {name for name in existing if not REFERENCE.is_used(name)}
    assert {"enable_batching", "max_batch_size", "drain_timeout_s"} & unused == set()
    assert not REFERENCE.is_used("no_such_setting")


@pytest.mark.parametrize("number", errors.EXIT_CODES)
def test_every_exit_code_is_in_the_table(number: int) -> None:
    assert f"| {number} | {errors.EXIT_CODES[number]} |" in CLI


@pytest.mark.parametrize("code", errors.CODES)
def test_every_error_code_is_in_the_table(code: str) -> None:
    assert f"| `{code}` | {REFERENCE.error_groups()[code]} | " in CLI


def raised_codes() -> list[tuple[str, str, int]]:
    """(file, code, exit code) of every error that is raised with a code written out."""
    classes = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    found = []
    for path in sorted((ROOT / "mlxctl").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and classes.get(call.func.id)
            if not named or not issubclass(named, errors.MlxctlError) or not call.args:
                continue
            words = [part.value for part in ast.walk(call.args[0]) if isinstance(part, ast.Constant)]
            found += [(name_of(path), word, named.exit_code) for word in words if word in errors.CODES]
    return found


def test_the_table_names_the_exit_code_with_which_a_code_really_ends() -> None:
    groups = REFERENCE.error_groups()
    assert set(groups) == set(errors.CODES)
    raised = raised_codes()
    assert len(raised) > 60
    assert [one for one in raised if groups[one[1]] != one[2]] == []


# --- command lines ----------------------------------------------------------------------------------------------


def parse(words: list[str]) -> None:
    """Parse a command line as `mlxctl` would, without running it. Raises typer's error when it would refuse it."""
    command: Any = typer.main.get_command(app)
    info, rest, parent = "mlxctl", list(words), None
    while True:
        context = command.make_context(info, rest, parent=parent)
        if not hasattr(command, "commands"):
            return
        info, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        parent = context


def every_line(find: Callable[[str], Iterator[list[str]]]) -> list[Any]:
    found = [(name_of(page), words) for page in PAGES for words in find(page.read_text(encoding="utf-8"))]
    return [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in found]


@pytest.mark.parametrize("words", every_line(command_lines))
def test_command_lines_of_the_pages_are_understood(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", every_line(mentions))
def test_commands_in_running_text_are_understood(words: list[str]) -> None:
    """There arguments may be left out; nothing else may be wrong."""
    try:
        parse(words)
    except typer.TyperException as error:
        assert type(error).__name__ == "MissingParameter", error


def test_the_pages_show_every_command() -> None:
    lines = [param.values[0] for find in (command_lines, mentions) for param in every_line(find)]
    assert len(lines) > 60
    shown = {" ".join(words[:length]) for words in lines for length in (1, 2, 3)}
    assert {words.removeprefix("mlxctl ") for words, _ in COMMANDS} <= shown


@pytest.mark.parametrize(
    "wrong", ["lod x auto", "load x", "load x auto --fast", "registry mend", "logs 8120 -n x", "list 8120"]
)
def test_a_wrong_command_line_is_seen(wrong: str) -> None:
    with pytest.raises(typer.TyperException):
        parse(wrong.split())


# --- the pages themselves ---------------------------------------------------------------------------------------

FOREIGN = {
    "a path of a machine": re.compile(r"/(?:home|Users|work|root|tmp)/(?!\.)[a-z]\w+"),
    "a package host": re.compile(r"(?:pypi|pythonhosted|index-url|find-links)[\w.-]*\.\w+|--index", re.IGNORECASE),
    "an address that is not the loopback": re.compile(r"\b(?!127\.0\.0\.1\b|0\.0\.0\.0\b)\d{1,3}(?:\.\d{1,3}){3}\b"),
    "a mark for later": re.compile(r"\b(?:TODO|FIXME|TBD|XXX)\b"),
    "an emoji": re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]"),
}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_lead_somewhere_and_nothing_foreign_is_in_a_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert broken_links(page) == []
    assert missing_paths(text) == []
    assert {what: found for what, pattern in FOREIGN.items() if (found := pattern.findall(text))} == {}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_begins_with_its_title_and_its_lines_are_not_endless(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    running = [line for line in prose(text).splitlines() if not line.startswith(("|", "#"))]
    assert [line for line in running if len(line) > 140] == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            named = re.findall(r"\(([\w./-]+\.md)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8"))
            waiting += [found for name in named if (found := (page.parent / name).resolve()) in PAGES]
    assert [name_of(page) for page in PAGES if page not in reached] == []


# --- the checks themselves --------------------------------------------------------------------------------------


def test_command_lines_are_found_where_people_copy_them_from() -> None:
    shell = "ssh studio mlxctl list --json    # all\n.venv/bin/mlxctl status\necho mlxctl\n"
    text = f"Use `mlxctl load X PORT\\|auto`, `mlxctl registry restore [N]`.\n```sh\n{shell}```\n"
    assert list(command_lines(text)) == [["list", "--json"], ["status"]]
    assert list(mentions(text)) == [["load", "X", "PORT|auto"], ["registry", "restore"]]


def test_a_broken_link_a_missing_path_and_a_foreign_word_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](gone.md) [y](page.md#a-b) [z](page.md#c) [w](https://example.org)\n")
    assert broken_links(page) == ["gone.md", "page.md#c"]
    assert missing_paths("see mlxctl/core/errors.py, control/gone.py and docs/cli.md") == ["control/gone.py"]
    assert anchors("# A b, c!\n```\n# no\n```\n") == {"a-b-c"}
    assert [block.language for block in blocks("```sh\na\n```\n\n```\nb\n```\n")] == ["sh", ""]
    assert FOREIGN["a path of a machine"].search("in /home/somebody/x")
    assert FOREIGN["an address that is not the loopback"].search("http://192.168.1.2:80")
