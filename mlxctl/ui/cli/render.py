"""One `Result` as people see it: a table or a few lines on standard output, notices and errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlxctl.control.memory import human_bytes
from mlxctl.core.result import Problem, Result

PHASE_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "draining": "yellow",
    "failed": "bold red",
    "crashloop": "bold red",
    "quarantined": "bold red",
    "backoff": "yellow",
}
MIN_WIDTH_OF_PIPES = 160
"""A pipe has no width; a table in it should not be folded."""


class Page(Console):
    """rich ends the process when a reader has gone; here that is for the command line to say."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def render(result: Result) -> None:
    out = Page(width=None if sys.stdout.isatty() else MIN_WIDTH_OF_PIPES, highlight=False)
    error_out = Page(stderr=True, highlight=False, soft_wrap=True)
    show = VIEWS.get(result.command)
    if show is not None and result.data:
        show(out, result.data)
    for message in result.messages:
        error_out.print(message, style="dim", markup=False)
    for problem in result.errors:
        render_problem(error_out, problem)


def render_problem(console: Console, problem: Problem) -> None:
    for line in problem.detail:
        console.print(f"  {line}", style="dim", markup=False)
    console.print(Text.assemble(("error: ", "bold red"), problem.message))
    if problem.hint:
        console.print(Text.assemble(("next:  ", "bold"), problem.hint))


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(
            column, justify="right" if column in right else "left", no_wrap=column != "NOTES", overflow="ellipsis"
        )
    return shown


def _list(out: Console, data: Mapping[str, Any]) -> None:
    if not data["models"]:
        return
    shown = table("MODEL", "PORT", "CONTEXT", "REPOSITORY", right=("PORT", "CONTEXT"))
    for model in data["models"]:
        length = model.get("context_length")
        shown.add_row(model["model_id"], str(model["port"] or "-"), str(length or "-"), model["repo_id"])
    out.print(shown)


def _status(out: Console, data: Mapping[str, Any]) -> None:
    shown = table("PORT", "RANGE", "PHASE", "MODEL", "ENGINE", "PID", "MEMORY", "UP", right=("PID", "MEMORY", "UP"))
    idle: list[dict[str, Any]] = []
    for port in data["ports"]:
        quiet = port["phase"] == "stopped" and not port["model_id"] and not port["stranger"]
        if idle and (not quiet or port["range"] != idle[0]["range"]):
            _idle_row(shown, idle)
            idle = []
        if quiet:
            idle.append(port)
            continue
        shown.add_row(
            str(port["port"]),
            port["range"],
            Text(
                "stranger" if port["stranger"] else port["phase"],
                style="bold red" if port["stranger"] else PHASE_STYLES.get(port["phase"], ""),
            ),
            port["model_id"] or port["stranger"] or "-",
            port["engine"] or "-",
            str(port["pid"] or "-"),
            human_bytes(port["memory_bytes"]) if port["memory_bytes"] else "-",
            human_seconds(port["uptime_s"]) if port["uptime_s"] is not None else "-",
        )
    if idle:
        _idle_row(shown, idle)
    out.print(shown)


def _idle_row(shown: Table, idle: list[dict[str, Any]]) -> None:
    """Ports without anything on them share a row: forty lines of nothing hide the few that matter."""
    first, last = idle[0]["port"], idle[-1]["port"]
    shown.add_row(str(first) if first == last else f"{first}-{last}", idle[0]["range"], "free", *["-"] * 5, style="dim")


def human_seconds(seconds: float) -> str:
    """14 s, 3 min, 5 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _load(out: Console, data: Mapping[str, Any]) -> None:
    if data["ready_s"]:
        out.print(
            f"{data['model_id']} is ready on port {data['port']} after {data['ready_s']:.1f} s ({data['engine']})"
        )
    out.print(data["base_url"], markup=False, soft_wrap=True)


def _ensure(out: Console, data: Mapping[str, Any]) -> None:
    model = data["model"]
    word = "registered" if data["created"] else "is registered"
    how = ", converted" if data["converted"] else ""
    out.print(f"{model['model_id']} {word}{how}: {model['cache_path']}", markup=False, soft_wrap=True)
    if "load" in data:
        _load(out, data["load"])


def _unload(out: Console, data: Mapping[str, Any]) -> None:
    what = data["model_id"] or "what was left"
    where = "is free" if not data.get("stranger") else "is no longer its port"
    out.print(f"stopped {what}; port {data['port']} {where}")


def _unload_all(out: Console, data: Mapping[str, Any]) -> None:
    for unloaded in data["unloaded"]:
        _unload(out, unloaded)


def _reconcile(out: Console, data: Mapping[str, Any]) -> None:
    if not data["findings"]:
        return
    shown = table("PORT", "FINDING", "MODEL", "DONE", "NOTES", right=("PORT",))
    for found in data["findings"]:
        shown.add_row(str(found["port"]), found["kind"], found["model_id"] or "-", found["action"], found["why"])
    out.print(shown)


def _init(out: Console, data: Mapping[str, Any]) -> None:
    for model_id in data["added"]:
        out.print(f"registered {model_id}")


def _verify(out: Console, data: Mapping[str, Any]) -> None:
    for model_id in data["fixed"]:
        out.print(f"set defaults of {model_id}")


def _logs(out: Console, data: Mapping[str, Any]) -> None:
    for line in data["lines"]:
        out.print(line, markup=False, soft_wrap=True)


def _config(out: Console, data: Mapping[str, Any]) -> None:
    shown = table("SETTING", "VALUE", "FROM", "VARIABLE", "NOTES")
    for setting in data["settings"]:
        value = setting["value"]
        text = (
            "-"
            if value is None
            else ",".join(value)
            if isinstance(value, list)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )
        style = "" if setting["source"] != "default" else "dim"
        shown.add_row(
            setting["name"],
            Text(text or "-", style=style),
            setting["source"],
            setting["variables"][0],
            setting["meaning"],
        )
    out.print(shown)


def _generations(out: Console, data: Mapping[str, Any]) -> None:
    if not data["generations"]:
        return
    shown = table("GENERATION", "WRITTEN", "MODELS", right=("GENERATION", "MODELS"))
    for kept in data["generations"]:
        shown.add_row(str(kept["generation"]), kept["written_at"], str(kept["models"]))
    out.print(shown)


def _restore(out: Console, data: Mapping[str, Any]) -> None:
    out.print(f"generation {data['generation']} ({data['models']} models) is the registry again")


VIEWS: dict[str, Callable[[Console, Mapping[str, Any]], None]] = {
    "list": _list,
    "status": _status,
    "load": _load,
    "ensure": _ensure,
    "unload": _unload,
    "unload-all": _unload_all,
    "reconcile": _reconcile,
    "init": _init,
    "verify": _verify,
    "logs": _logs,
    "config": _config,
    "registry backup list": _generations,
    "registry restore": _restore,
}
