"""Where a command meets the process: settings are read, signals mapped, every error caught once, one Result shown."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlxctl.core.errors import EXIT_OK, Interrupted, MlxctlError, UsageError
from mlxctl.core.result import Result
from mlxctl.ui.cli.lasting import LastingStream

if TYPE_CHECKING:
    from mlxctl.control.site import Site

DEBUG_VARIABLE = "MLXCTL_DEBUG"


def read_sources() -> tuple[dict[str, str], str]:
    """What settings are made of, the environment and the text of config.toml: nobody else reads them."""
    from mlxctl.core.settings import config_path

    environ = dict(os.environ)
    path = config_path(environ, sys.platform)
    try:
        return environ, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return environ, ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("bad_setting", f"{path} cannot be read: {error}", "mend or remove the file") from error


def open_site(as_json: bool) -> Site:
    """The site of this process."""
    from mlxctl.control.site import Site
    from mlxctl.core.settings import load_settings

    environ, toml = read_sources()
    settings = load_settings(environ, toml, platform=sys.platform)
    if as_json:
        return Site(settings, environ)
    from mlxctl.ui.cli.progress import TerminalReporter

    return Site(settings, environ, reporter=TerminalReporter())


def execute(name: str, as_json: bool, command: Callable[[Site], Result]) -> int:
    """Run `command`, show its Result, and return the exit code. The one broad catch of the command line is here."""
    if not isinstance(sys.stderr, LastingStream):
        sys.stderr = LastingStream(sys.stderr)
    try:
        with_signals()
        result = command(open_site(as_json))
    except MlxctlError as error:
        result = Result.failed(name, error)
    except KeyboardInterrupt as interruption:
        result = Result.failed(name, interrupted(interruption))
    except BrokenPipeError:
        _drop_output()
        return EXIT_OK
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        unexpected = MlxctlError(
            "unexpected",
            f"{type(error).__name__}: {error}",
            f"this is a defect: {DEBUG_VARIABLE}=1 shows where it happened",
        )
        result = Result.failed(name, unexpected)
    return show(result, as_json)


def show(result: Result, as_json: bool) -> int:
    try:
        if as_json:
            print_json(result.to_json())
        else:
            from mlxctl.ui.cli.render import render

            render(result)
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return result.exit_code


def print_json(document: dict[str, Any]) -> None:
    """One object on one line of standard output; in ASCII, so that no locale and no odd file name can break it."""
    print(json.dumps(document), flush=True)


def interrupted(interruption: KeyboardInterrupt) -> Interrupted:
    """Its notes, written by who cleaned up, say what became of what was there before."""
    notes = getattr(interruption, "__notes__", ())
    return Interrupted(
        "interrupted",
        "interrupted; nothing is left half done",
        "; ".join([*notes, "`mlxctl status` shows what serves, and the same command begins again"]),
    )


def with_signals() -> None:
    """A closed SSH session or a SIGTERM rolls back as Ctrl-C does; a second signal does not stop the rollback."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # nohup ignores SIGHUP on purpose
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]

    def interrupt(_number: int, _frame: object) -> None:
        for number in heeded:
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    for number in heeded:
        signal.signal(number, interrupt)


def _drop_output() -> None:
    """Who reads our output has gone (`mlxctl list | head`): nothing more to say, and no traceback at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
