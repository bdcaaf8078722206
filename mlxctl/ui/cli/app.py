"""The command line: every command and flag, declared. Command modules are imported when their command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlxctl import __version__
from mlxctl.core.errors import Interrupted, UsageError
from mlxctl.core.result import Result
from mlxctl.ui.cli.edge import execute, show
from mlxctl.ui.cli.flags import (
    Bits,
    Convert,
    Dtype,
    EngineFlag,
    Force,
    GroupSize,
    Json,
    Model,
    Name,
    NoOffload,
    NoSync,
    PortOrModel,
    Preconverted,
    Quantize,
    load_flags,
)
from mlxctl.ui.cli.registry import registry_app
from mlxctl.ui.cli.worker import worker as worker_command

if TYPE_CHECKING:
    from mlxctl.control.site import Site

app = typer.Typer(
    name="mlxctl",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serve language models on fixed ports, 8100-8139: one model, one process, one port.",
    epilog="First time here? Try `mlxctl quickstart`. Exit codes and every flag: docs/cli.md.",
)
app.add_typer(registry_app, name="registry")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mlxctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    _local: Annotated[
        bool, typer.Option("--local", help="Act on this host, never forward the command to another.")
    ] = False,
) -> None:
    pass


@app.command()
def init(as_json: Json = False) -> int:
    """Register every model of the hub cache that is not registered yet."""
    from mlxctl.control.commands.init import init as command

    return execute("init", as_json, command)


@app.command("list")
def list_models(as_json: Json = False) -> int:
    """Show registered models and their ports."""
    from mlxctl.control.commands.list import list_models as command

    return execute("list", as_json, command)


@app.command()
def status(as_json: Json = False) -> int:
    """Show what really is on each of the forty ports."""
    from mlxctl.control.commands.status import status as command

    return execute("status", as_json, command)


@app.command()
def load(
    model: Model,
    port: Annotated[
        str, typer.Argument(metavar="PORT|auto", help="A port 8100-8139, or the lowest free one from 8120.")
    ],
    engine: EngineFlag = None,
    convert: Convert = "auto",
    preconverted: Preconverted = "auto",
    quantize: Quantize = False,
    bits: Bits = None,
    group_size: GroupSize = None,
    dtype: Dtype = None,
    name: Name = None,
    no_offload_og: NoOffload = False,
    force: Force = False,
    no_sync: NoSync = False,
    as_json: Json = False,
) -> int:
    """Start a model on a port. Downloads and converts it when needed; replaces what is on the port."""
    from mlxctl.control.commands.load import load as command

    flags = load_flags(
        engine, convert, preconverted, quantize, bits, group_size, dtype, name, no_offload_og, force, no_sync
    )
    return execute("load", as_json, lambda site: command(site, model, port, flags))


@app.command()
def ensure(
    model: Annotated[str, typer.Argument(metavar="REPO|PATH", help="ORG/NAME, a folder, or a .gguf file.")],
    convert: Convert = "auto",
    preconverted: Preconverted = "auto",
    quantize: Quantize = False,
    bits: Bits = None,
    group_size: GroupSize = None,
    dtype: Dtype = None,
    name: Name = None,
    load: Annotated[bool, typer.Option("--load", help="Start it, too.")] = False,
    port: Annotated[str, typer.Option("--port", metavar="PORT|auto", help="Where --load starts it.")] = "auto",
    engine: EngineFlag = None,
    no_offload_og: NoOffload = False,
    force: Force = False,
    no_sync: NoSync = False,
    as_json: Json = False,
) -> int:
    """Download, convert and register a model, without starting it."""
    from mlxctl.control.commands.ensure import ensure as command

    flags = load_flags(
        engine, convert, preconverted, quantize, bits, group_size, dtype, name, no_offload_og, force, no_sync
    )
    return execute("ensure", as_json, lambda site: command(site, model, flags, start=load, port=port))


@app.command()
def unload(target: PortOrModel, no_sync: NoSync = False, as_json: Json = False) -> int:
    """Stop a model and free its port."""
    from mlxctl.control.commands.unload import unload as command

    return execute("unload", as_json, lambda site: command(site, target, no_sync=no_sync))


@app.command()
def unload_all(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    no_sync: NoSync = False,
    as_json: Json = False,
) -> int:
    """Stop every model and free every port."""
    from mlxctl.control.commands.unload import unload_all as command
    from mlxctl.ui.cli.ask import confirmed

    def run_all(site: Site) -> Result:
        if not (yes or confirmed("Stop every model on this host?")):
            return Result("unload-all", {"unloaded": []}, ("nothing was changed",))
        return command(site, no_sync=no_sync)

    return execute("unload-all", as_json, run_all)


@app.command()
def reconcile(
    apply: Annotated[bool, typer.Option("--apply", help="Take models that do not run off their ports.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Start models that should run and do not.")] = False,
    no_sync: NoSync = False,
    as_json: Json = False,
) -> int:
    """Show where registry and ports disagree; change nothing unless told to."""
    from mlxctl.control.commands.reconcile import reconcile as command

    return execute("reconcile", as_json, lambda site: command(site, apply=apply, heal=restart, no_sync=no_sync))


@app.command()
def verify(
    fix_defaults: Annotated[
        bool, typer.Option("--fix-defaults", help="Set limits and harmony fields that are missing.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Check every registered path, shard, template, limit and id. Exit code 3 when something is wrong."""
    from mlxctl.control.commands.verify import verify as command

    return execute("verify", as_json, lambda site: command(site, fix_defaults=fix_defaults))


@app.command()
def logs(
    target: PortOrModel,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    as_json: Json = False,
) -> int:
    """Show the log of a port."""
    from mlxctl.control.commands.logs import logs as command

    if not follow:
        return execute("logs", as_json, lambda site: command(site, target, lines))
    from mlxctl.ui.cli.stream import follow_log

    return follow_log(target, lines, as_json)


@app.command()
def chat(
    target: PortOrModel,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="One question; without it, a conversation.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told first.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Length of an answer at most.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = None,
    as_json: Json = False,
) -> int:
    """Talk to a loaded model. Answers stream as they come."""
    from mlxctl.ui.cli.stream import ChatFlags, converse

    return converse(target, prompt, ChatFlags(system=system, max_tokens=max_tokens, temperature=temperature), as_json)


@app.command()
def quickstart(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    question: Annotated[str | None, typer.Option("--question", help="What to ask the model.")] = None,
    as_json: Json = False,
) -> int:
    """Fetch a small real model, serve it, and ask it a question."""
    from mlxctl.control.commands.quickstart import plan_quickstart

    if dry_run:
        return execute("quickstart", as_json, plan_quickstart)
    from mlxctl.ui.cli.stream import quickstart as command

    return command(question, as_json)


@app.command()
def config(as_json: Json = False) -> int:
    """Show every setting, its value, and where it came from."""
    from mlxctl.control.commands.config import config as command

    return execute("config", as_json, command)


app.command("worker")(worker_command)


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code; errors of usage are shown in the same shape as all others."""
    try:
        outcome = app(args=argv, prog_name="mlxctl", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return Interrupted.exit_code
    except typer.TyperException as error:
        told = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
        if not told:
            # a group without a command: typer has shown its help
            return UsageError.exit_code
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "mlxctl"
        wrong = UsageError("bad_flag", told, f"see `{path} --help`")
        return show(Result.failed(path.removeprefix("mlxctl "), wrong), "--json" in argv)
    return outcome if isinstance(outcome, int) else 0
